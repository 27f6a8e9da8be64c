"""What a busy process beside a trainer costs, by the number of torch's threads.

Claim: on small networks torch's OpenMP threads meet at a barrier at the end of every operation, and wait there
for whichever of them has lost its core; with one thread, a process that keeps a core busy costs its share.

    python -m budgetloader.bench.threads

How it is measured: the trainer of bench/imagenet_mnv2.py (MobileNetV2 at half width, 64 pixels, batches of 16) in
a process for each way of setting threads, epochs in turn, first on the machine as it is, then beside one process
that keeps a core busy. The first epoch of each is warm-up. Medians over the turns, and the slowest.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetloader.bench.busy import busy
from budgetloader.bench.child import Child, together
from budgetloader.bench.entry import generated, parser_of
from budgetloader.bench.grid import Grid

if TYPE_CHECKING:  # the processes that measure do not need it
    from rich.console import Console

# name → threads of torch (0: as many as it takes), of the loader's engine, environment
WAYS: dict[str, tuple[int, int, dict[str, str]]] = {
    "torch's own": (0, 2, {}),
    "torch's own, waiting passively": (0, 2, {"OMP_WAIT_POLICY": "PASSIVE"}),
    "one thread": (1, 2, {}),
    "one thread, one in the engine": (1, 1, {}),
}
PLACES = ("quiet", "busy")


def trainer(*, beton: str, threads: int, workers: int) -> Callable[..., dict[str, float]]:
    """A function that trains for an epoch and says how long it took."""
    import dataclasses

    import torch

    from budgetloader import BudgetLoader, Dataset, Schedule
    from budgetloader.models import IMAGENET, Trainer, mobilenet_v2

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    schedule = Schedule.full(epochs=1000)
    batches = BudgetLoader(beton, schedule=schedule, batch_size=16, image_size=64, workers=workers)
    classes = 1 + int(Dataset(beton).labels.max())
    recipe = dataclasses.replace(IMAGENET, learning_rate=0.001)
    network = Trainer(mobilenet_v2(classes=classes, width=0.5), recipe=recipe, epochs=schedule.epochs)

    def epoch() -> dict[str, float]:
        record = network.train_epoch(batches, epoch=batches.epoch)
        return {"seconds": record.train_seconds, "waited": record.first_wait_seconds + record.wait_seconds}

    return epoch


def measure(beton: str, *, turns: int, say: Callable[[str], object]) -> list[dict[str, Any]]:
    """One row per way of setting threads."""
    made = (
        Child(
            "budgetloader.bench.threads:trainer",
            name=name,
            arguments={"beton": beton, "threads": threads, "workers": workers},
            environment=environment,
        )
        for name, (threads, workers, environment) in WAYS.items()
    )
    seconds: dict[tuple[str, str], list[float]] = {(name, place): [] for name in WAYS for place in PLACES}
    with together(made) as children:
        for child in children:
            child.ask()
        for place in PLACES:
            with busy(place == "busy"):
                for turn in range(turns):
                    for child in children:
                        seconds[child.name, place].append(child.ask()["seconds"])
                    say(f"{place}: turn {turn + 1} of {turns}")
    rows = []
    for name, (threads, workers, environment) in WAYS.items():
        quiet, loaded = (statistics.median(seconds[name, place]) for place in PLACES)
        rows.append(
            {
                "way": name,
                "torch_threads": threads or None,
                "engine_threads": workers,
                "environment": environment,
                "quiet_epoch_seconds": quiet,
                "busy_epoch_seconds": loaded,
                "busy_per_quiet": loaded / quiet,
                "slowest_per_quiet": max(seconds[name, "busy"]) / quiet,
                "turns": {place: seconds[name, place] for place in PLACES},
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("threads", __doc__)
    parser.add_argument("--images", type=int, default=955, help="JPEGs to generate")
    parser.add_argument("--turns", type=int, default=7, help="epochs of each, quiet and busy")
    parser.add_argument("--out", default="runs/threads")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options, arguments), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from budgetloader.bench import page
    from budgetloader.bench.record import command, environment

    out = Path(options.out)
    data = generated(out / "data", images=options.images, console=console)
    rows = measure(str(data), turns=options.turns, say=console.print)
    results: dict[str, Any] = {
        "environment": environment(),
        "command": command("budgetloader.bench.threads", arguments),
        "options": {"images": options.images, "turns": options.turns},
        "rows": rows,
    }
    page.publish(
        results,
        out,
        console,
        title="A trainer's threads beside other work",
        claim="With one thread, a process that keeps a core busy costs its share, and no more.",
        parts=[grid(results)],
    )
    return 0


def grid(record: dict[str, Any]) -> Grid:
    """The table of a record."""
    cells = [
        (
            row["way"],
            *(f"{row[f'{place}_epoch_seconds']:.2f}" for place in PLACES),
            *(f"{row[name]:.2f}" for name in ("busy_per_quiet", "slowest_per_quiet")),
        )
        for row in record["rows"]
    ]
    return Grid(
        "an epoch's seconds, and how many times as long beside one busy process",
        ("threads", "quiet s", "busy s", "median ×", "slowest ×"),
        cells,
        f"Medians of {record['options']['turns']} epochs; × is in units of the quiet median of the same row.",
    )


if __name__ == "__main__":
    sys.exit(main())
