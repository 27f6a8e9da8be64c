"""A hyper-parameter search's loaders: K trainers with private loaders, with the service, with tensorsocket.

Claim: four trainers over the service decode what one does, so that together they get three times the
images that private loaders give them on the same cores.

    python -m budgetloader.bench.sweep                          # 4 trainers that only take batches; that copy them; one
    python -m budgetloader.bench.sweep --parts train            # 4 trainers of different learning rates and ratios

How it is measured: every trainer is a process of its own; all of a kind begin at the same moment, and
the rate is all their images over the time from then until the last has finished. The kinds take turns,
each turn with a seed of its own, so that the service finds nothing in its cache; the first turn is
warm-up and not counted. The service and tensorsocket's producer run only during their own turns.
Medians over the turns, with the interquartile range; ratios are means of the turns' ratios, with Student's
95 % interval.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetloader.bench.child import Child, once, together
from budgetloader.bench.entry import generated, parser_of
from budgetloader.bench.grid import Grid
from budgetloader.bench.serving import serving

if TYPE_CHECKING:  # the processes that measure do not need it
    from rich.console import Console

SETTINGS = (("full", 0.05), ("0.8", 0.02), ("0.618", 0.01), ("R1_0.618", 0.005))  # schedule, learning rate
PARTS = ("take", "copy", "one", "train")
KINDS = ("private", "service", "tensorsocket")
_DOING = {"take": "taking only", "copy": "copying", "one": "taking only", "train": "training"}
_LOADERS = {"private": "private", "service": "the service", "tensorsocket": "tensorsocket"}
NAME = "bench-sweep"
LIMIT_SECONDS = 300.0  # of a turn; a longer one hangs


@contextlib.contextmanager
def trainer(**job: Any) -> Iterator[Callable[..., dict[str, Any] | None]]:
    """A trainer in a process of its own: a function that takes batches, or trains on them, once it is told to go."""
    import torch

    from budgetloader import Schedule

    torch.set_num_threads(1)
    schedule = Schedule.parse(job["schedule"], epochs=job["epochs"])
    with _batches(job, schedule) as batches:
        network = _network(job, schedule) if job["learning_rate"] else None

        def run(*, go: bool) -> dict[str, Any] | None:
            if not go:  # all trainers are made before any of them begins
                return None
            began, images = time.time(), 0
            if job["kind"] == "tensorsocket":
                images = _take_endless(batches, job["samples"] * schedule.epochs)
            for epoch in range(schedule.epochs if not images else 0):
                if network is not None:
                    images += network.train_epoch(batches, epoch=epoch).images
                else:
                    images += _take_epoch(batches, copied=job["copied"])
            return {"began": began, "ended": time.time(), "images": images}

        yield run


def _take_epoch(batches: Any, *, copied: bool) -> int:
    """All images of an epoch: how many; with `copied` to memory of the trainer's own, too."""
    images, copy = 0, None
    for batch, labels in batches:
        images += len(labels)
        if copied:
            copy = batch.clone() if copy is None else copy
            copy[: len(batch)].copy_(batch)
    return images


def _take_endless(batches: Any, least: int) -> int:
    """As many images as were asked for, over as many epochs as that takes: a slow consumer's are shorter."""
    images = 0
    while True:
        for _, labels in batches:
            images += len(labels)
            if images >= least:
                return images


@contextlib.contextmanager
def _batches(job: dict[str, Any], schedule: Any) -> Iterator[Any]:
    if job["kind"] == "tensorsocket":
        from tensorsocket import TensorConsumer

        yield TensorConsumer(batch_size=job["batch_size"])
        return
    from budgetloader import BudgetLoader, connect

    options = {
        "schedule": schedule,
        "batch_size": job["batch_size"],
        "image_size": job["image_size"],
        "seed": job["seed"],
        "dtype": job["dtype"],
    }
    made = connect(NAME, **options) if job["kind"] == "service" else BudgetLoader(job["beton"], **options)
    with made as batches:
        yield batches


def _network(job: dict[str, Any], schedule: Any) -> Any:
    import dataclasses

    import torch

    from budgetloader.models import IMAGENET, Trainer, mobilenet_v2

    torch.manual_seed(0)
    recipe = dataclasses.replace(IMAGENET, learning_rate=job["learning_rate"])
    return Trainer(mobilenet_v2(classes=14, width=0.35), recipe=recipe, epochs=schedule.epochs)


def produce(job: dict[str, Any]) -> int:
    """tensorsocket's side of the loader, in a process of its own: one native loader, sent to all."""
    from tensorsocket import TensorProducer

    from budgetloader import BudgetLoader, Schedule

    options = {"batch_size": job["batch_size"], "image_size": job["image_size"], "seed": job["seed"]}
    schedule = Schedule.parse(job["schedule"], epochs=1000)  # it ends when it is terminated
    with BudgetLoader(job["beton"], schedule=schedule, dtype=job["dtype"], **options) as batches:
        producer = TensorProducer(batches)
        while True:
            for _ in producer:
                pass


@contextlib.contextmanager
def _running(kind: str, job: dict[str, Any], memory: str) -> Iterator[None]:
    """The service or producer that the trainers need."""
    if kind == "service":
        with serving(job["beton"], name=NAME, memory=memory):
            yield
        return
    producer = None
    if kind == "tensorsocket":
        producer = subprocess.Popen(once("budgetloader.bench.sweep:produce", job=job))
    try:
        yield
    finally:
        if producer is not None:
            producer.terminate()
            producer.wait(timeout=60)


def turn(kind: str, jobs: list[dict[str, Any]], *, memory: str) -> dict[str, Any]:
    """All trainers of one kind at once: images per second of all together, and of each."""
    made = "budgetloader.bench.sweep:trainer"
    trainers = (Child(made, name=f"trainer {i}", arguments={**job, "kind": kind}) for i, job in enumerate(jobs))
    with _running(kind, jobs[0], memory), together(trainers) as children:
        limit = threading.Timer(LIMIT_SECONDS, _kill, [children])
        limit.start()
        try:
            for one in children:
                one.ask(go=False)
            for one in children:
                one.send(go=True)
            results = [one.answer() for one in children]
        except RuntimeError as error:
            why = f"or it was stopped after {LIMIT_SECONDS:.0f} s, or the machine has too little memory"
            raise RuntimeError(f"{error}, {why}") from None
        finally:
            limit.cancel()
        decoded = _decoded() if kind == "service" else None
    began, ended = min(r["began"] for r in results), max(r["ended"] for r in results)
    images = sum(r["images"] for r in results)
    return {"images_per_second": images / (ended - began), "images": images, "decoded": decoded}


def _kill(children: list[Child]) -> None:
    for one in children:
        one.kill()


def _decoded() -> int:
    from budgetloader.service.client import status

    return status(NAME).decoded


def _jobs(options: argparse.Namespace, part: str, *, beton: Path, seed: int) -> list[dict[str, Any]]:
    common = {
        "beton": str(beton),
        "batch_size": options.batch_size,
        "image_size": options.image_size if part != "train" else 64,
        "dtype": options.dtype if part != "train" else "float32",
        "epochs": options.epochs,
        "samples": options.images,
        "seed": seed,
        "copied": part == "copy",
    }
    if part == "train":
        return [{**common, "schedule": s, "learning_rate": rate} for s, rate in SETTINGS[: options.trainers]]
    count = 1 if part == "one" else options.trainers
    return [{**common, "schedule": "full", "learning_rate": None} for _ in range(count)]


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("sweep", __doc__)
    add = parser.add_argument
    add("--trainers", type=int, default=4)
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="tensorsocket: if it is installed")
    add("--parts", nargs="+", choices=PARTS, default=["take", "copy", "one"])
    add("--images", type=int, default=2048, help="JPEGs to generate")
    add("--epochs", type=int, default=16)
    add("--batch-size", type=int, default=64)
    add("--image-size", type=int, default=224, help="pixels, of trainers that only take")
    add("--dtype", choices=("uint8", "float32"), default="uint8", help="of trainers that only take")
    add("--memory", default="2GB", help="of the service")
    add("--turns", type=int, default=3, help="counted measurements of each")
    add("--out", default="runs/sweep")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options, arguments), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from importlib.util import find_spec

    from budgetloader.bench import page
    from budgetloader.bench.estimate import interquartile_range, mean
    from budgetloader.bench.record import command, environment

    out = Path(options.out)
    os.environ.setdefault("BUDGETLOADER_SERVICES", str((out / "services").resolve()))
    data = generated(out / "data", images=options.images, console=console)
    rows = []
    for part in options.parts:
        # tensorsocket sends every trainer the same batches: it can do nothing but equal schedules.
        able = part == "take" and find_spec("tensorsocket")
        kinds = [kind for kind in options.kinds if kind != "tensorsocket" or able]
        turns: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
        for number in range(options.turns + 1):
            for kind in kinds:
                jobs = _jobs(options, part, beton=data, seed=number)
                measured = turn(kind, jobs, memory=options.memory)
                if number:
                    turns[kind].append(measured)
            console.print(f"{part}: turn {number} of {options.turns}" + ("" if number else " (warm-up)"))
        for kind in kinds:
            rates = [t["images_per_second"] for t in turns[kind]]
            shares = [r / p["images_per_second"] for r, p in zip(rates, turns.get("private", []), strict=False)]
            rows.append(
                {
                    "part": part,
                    "kind": kind,
                    "trainers": 1 if part == "one" else options.trainers,
                    "images_per_second": statistics.median(rates),
                    "spread": interquartile_range(rates),
                    "of_private": mean(shares).value if shares else None,
                    "of_private_half_width": mean(shares).half_width if len(shares) > 1 else None,
                    "turns": turns[kind],
                }
            )
    results: dict[str, Any] = {
        "environment": environment(),
        "command": command("budgetloader.bench.sweep", arguments),
        "options": {**vars(options), "out": None},
        "rows": rows,
    }
    page.publish(
        results,
        out,
        console,
        title="Trainers with private loaders and over a service",
        claim="Trainers over the service decode what one does, and together get more images from the same cores.",
        parts=[grid(results)],
    )
    return 0


def grid(record: dict[str, Any]) -> Grid:
    """The trainers' rates, beside those with private loaders."""
    cells = []
    for row in record["rows"]:
        decoded = [t["decoded"] / t["images"] for t in row["turns"] if t["decoded"] is not None]
        half = row["of_private_half_width"]
        cells.append(
            (
                str(row["trainers"]),
                _DOING[row["part"]],
                _LOADERS[row["kind"]],
                f"{row['images_per_second']:,.0f} ({row['spread']:,.0f})",
                (f"{row['of_private']:.2f}" + (f" ± {half:.2f}" if half else "")) if row["of_private"] else "—",
                f"{statistics.median(decoded):.3f}" if decoded else "—",
            )
        )
    return Grid(
        "images per second of all trainers together",
        ("trainers", "doing", "loaders", "images/s of all", "of private", "decoded for each taken"),
        cells,
        f"Medians of {record['options']['turns']} turns of {record['options']['epochs']} epochs (interquartile range "
        "in brackets), the first of which finds nothing decoded. Of private: mean of the turns' ratios, with Student's "
        "95 % interval.",
    )


if __name__ == "__main__":
    sys.exit(main())
