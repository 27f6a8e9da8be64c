"""What targets cost: microseconds per sample for looking them up, as the trainer's thread does for each batch.

    python -m budgetloader.bench.targets

Claim: at most 2 µs per sample for numbers, arrays, text, lists, short JSON and functions of ids.
Batches are of random samples of a file in the page cache, and of an array of ImageNet's length. A figure is the
median over the batches; the least and the largest median of the turns stand beside it.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from budgetloader.bench.entry import parser_of

if TYPE_CHECKING:
    from rich.console import Console

    from budgetloader.targets import Targets

MOST_MICROSECONDS = 2.0
IMAGENET = 1_281_167
BATCHES = 40


def write(path: Path, *, samples: int) -> Path:
    """A file with a field of each kind; its images are not looked at."""
    from budgetloader.beton import Writer
    from budgetloader.fields import Field

    fields = (
        Field("int", "int"),
        Field("float", "float"),
        Field("array", "array", "float32", (40,)),
        Field("text", "text"),
        Field("bytes", "bytes"),
        Field("list", "list", "float32", (4,)),
        Field("json", "json"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with Writer(path, capacity=samples, notes={}, fields=fields, exists="replace") as writer:
        for i in range(samples):
            values = {
                "int": i,
                "float": i / 2,
                "array": np.full(40, i, np.float32),
                "text": f"a caption of some words, number {i}",
                "bytes": bytes(100),
                "list": np.full((i % 8, 4), i, np.float32),
                "json": {"id": i, "words": ["some", "of", "them"]},
            }
            writer.add(b"\xff\xd8" * 500, width=8, height=8, label=i % 10, values=values)
    return path


def cases(path: Path) -> dict[str, tuple[Any, Any]]:
    """What is measured: name → (the dataset, what is asked for)."""
    from budgetloader.dataset import Dataset

    file, large = Dataset(path), _Large()
    array = np.zeros((IMAGENET, 4), np.float32)
    found: dict[str, tuple[Any, Any]] = {name: (file, name) for name in file.fields[1:]}
    found["six of them in a dict"] = (file, {name: name for name in file.fields[1:7]})
    found["an array of ImageNet's length"] = (large, array)
    found["a function of ids"] = (large, lambda ids: array[ids])
    return found


class _Large:
    """A dataset of ImageNet's length, as far as looking up needs one."""

    labels = np.zeros(IMAGENET, np.int64)


def targets_of(dataset: Any, asked: Any, *, batch_size: int) -> Targets:
    """What a loader would look targets up with."""
    from budgetloader.engines.base import Job, Output
    from budgetloader.targets import Targets

    def replacement(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is replaced here")

    output = Output(image_size=8)
    job = Job(dataset, output, batch_size, workers=1, capacity=1, on_corrupt="raise", replacement=replacement)
    return Targets(asked, dataset, job=job)


def microseconds(dataset: Any, asked: Any, *, batch_size: int, seed: int) -> float:
    """Per sample, the median over `BATCHES` batches of random samples."""
    import torch

    from budgetloader.batch import Batch
    from budgetloader.plans import BatchPlan

    look_up = targets_of(dataset, asked, batch_size=batch_size)
    numbers, images = np.random.default_rng(seed), torch.empty(0)
    taken = []
    for _ in range(BATCHES):
        ids = numbers.integers(0, len(dataset.labels), batch_size)
        windows = np.zeros((batch_size, 4), np.int64)
        plan = BatchPlan(0, 0, ids, ids, windows, windows[:, 0] > 0, dataset.labels[ids])
        batch = Batch(images, torch.from_numpy(plan.labels), plan)
        began = time.perf_counter()
        look_up(batch)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) / batch_size * 1e6


def measure(path: Path, *, batch_size: int, turns: int) -> dict[str, list[float]]:
    """Microseconds per sample of each case, one figure for each turn; the first turn is warm-up."""
    found: dict[str, list[float]] = {}
    for turn in range(turns + 1):
        for name, (dataset, asked) in cases(path).items():
            figure = microseconds(dataset, asked, batch_size=batch_size, seed=turn)
            if turn:
                found.setdefault(name, []).append(figure)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("targets", __doc__)
    parser.add_argument("--samples", type=int, default=20_000, help="of the file")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--turns", type=int, default=9, help="counted measurements of each")
    parser.add_argument("--out", default="runs/targets")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, console: Console) -> int:
    from budgetloader.bench.record import environment, write_json

    out = Path(options.out)
    path = write(out / "fields.beton", samples=options.samples)
    turns = measure(path, batch_size=options.batch_size, turns=options.turns)
    medians = {name: statistics.median(figures) for name, figures in turns.items()}
    for name, figures in turns.items():
        console.print(f"{name:>30}: {medians[name]:.2f} µs per sample ({min(figures):.2f} – {max(figures):.2f})")
    over = [name for name, figure in medians.items() if figure > MOST_MICROSECONDS]
    console.print(f"over {MOST_MICROSECONDS:g} µs: {', '.join(over) or 'none'}")
    results = {
        "environment": environment(),
        "options": {**vars(options), "out": None},
        "microseconds_per_sample": medians,
        "turns": turns,
        "over": over,
    }
    write_json(out / "results.json", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
