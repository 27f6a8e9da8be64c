"""How long a new process takes to the first batch of a file of ImageNet's size.

Claim: beside torch, which a trainer imports anyway, the first batch takes less than a second, with compiled code from
numba's cache.

    python -m budgetloader.bench.starting

How it is measured: a sparse file with an index of 1,281,167 samples, of which those of the first batches have their
bytes. New processes take turns: one that ends with Python's own start, one that imports torch, and one that makes the
first batch, with `torch` imported first. Each tells the time since it was started, and the parts that it took. The
first turn, which compiles, is not counted. Medians.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from budgetloader import beton
from budgetloader.bench.entry import parser_of
from budgetloader.bench.grid import Grid

if TYPE_CHECKING:
    from rich.console import Console

IMAGENET = 1_281_167
KINDS = ("python", "torch", "batch")
PARTS = ("python", "torch", "package", "index", "loader", "batch")  # each behind the one before, seconds
_SHARE_OF_BATCHES = 8  # the first batches whose samples are there


class Sparse(beton.Writer):
    """A file whose samples have places, and no bytes yet."""

    def fill(self, *, sizes: np.ndarray, height: int, width: int, classes: int) -> None:
        """Give places to as many samples as the file holds, one behind the other.

        Args:
            sizes: int64 [D], bytes of each.
            height, width: of all of them, pixels.
            classes: numbers of labels.
        """
        self.count = len(sizes)
        starts = self._end + np.cumsum(sizes) - sizes
        self._samples["f0"]["width"], self._samples["f0"]["height"] = width, height
        self._samples["f0"]["data_ptr"], self._sizes[:] = starts, sizes
        self._samples["f1"] = np.arange(self.count) % classes
        self._end = int(starts[-1] + sizes[-1])


def make(path: Path, jpegs: Sequence[bytes], *, samples: int, height: int, width: int, batch_size: int) -> None:
    """A file of so many samples, of which those of the first batches of the loader that `first_batch` makes are there.

    Args:
        path: the file to make.
        jpegs: images of one size, which its samples take in turn.
        samples: how many.
        height, width: of the images, pixels.
        batch_size: of the loader.
    """
    from budgetloader import Dataset, Schedule
    from budgetloader.plans import Planner

    sizes = np.array([len(data) for data in jpegs])[np.arange(samples) % len(jpegs)]
    writer = Sparse(path, capacity=samples, notes={"classes": [str(i) for i in range(1000)]})
    with writer:
        writer.fill(sizes=sizes, height=height, width=width, classes=1000)
    dataset = Dataset(path)
    planner = Planner(dataset, schedule=Schedule.full(epochs=1), batch_size=batch_size, seed=0)
    steps = range(min(_SHARE_OF_BATCHES, planner.steps[0]))
    with path.open("r+b") as file:
        for plan in planner.plans(0, steps):
            for sample in plan.samples.tolist():
                file.seek(int(dataset.starts[sample]))
                file.write(jpegs[sample % len(jpegs)])


_CHILD = """
import json, sys, time
kind, path, batch_size, started = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
now, marks = time.monotonic, [started, time.monotonic()]
if kind != "python":
    import torch
    marks.append(now())
if kind == "batch":
    import budgetloader
    marks.append(now())
    dataset = budgetloader.Dataset(path)
    marks.append(now())
    schedule = budgetloader.Schedule.full(epochs=1)
    options = {"batch_size": batch_size, "image_size": 224, "engine": "native"}
    with budgetloader.BudgetLoader(dataset, schedule=schedule, **options) as batches:
        marks.append(now())
        images, labels = next(iter(batches))
        marks.append(now())
    assert images.shape == (batch_size, 3, 224, 224)
print(json.dumps(marks))
"""


def process(kind: str, path: Path, batch_size: int) -> dict[str, float]:
    """Seconds of the parts of a new process, each behind the one before: one of `KINDS`."""
    started = str(time.monotonic())  # the same clock in every process
    command = [sys.executable, "-c", _CHILD, kind, str(path), str(batch_size), started]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    marks = json.loads(done.stdout)
    return {name: after - before for name, before, after in zip(PARTS, marks, marks[1:], strict=False)}


def measure(path: Path, *, batch_size: int, turns: int, say: Callable[[str], object]) -> dict[str, Any]:
    """Medians of processes in turn, seconds: of each kind in all, of the parts, and of the first batch behind torch."""
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for turn in range(turns + 1):
        for kind in KINDS:
            parts = process(kind, path, batch_size)
            if turn:
                found[kind].append(parts)
        say(f"turn {turn} of {turns}" + ("" if turn else " (warm-up)"))
    totals = {kind: [sum(parts.values()) for parts in rows] for kind, rows in found.items()}
    behind = [batch - torch for batch, torch in zip(totals["batch"], totals["torch"], strict=True)]
    return {
        "seconds": {kind: statistics.median(values) for kind, values in totals.items()},
        "parts": {name: statistics.median(parts[name] for parts in found["batch"]) for name in PARTS},
        "behind_torch": statistics.median(behind),
        "turns": {**totals, "behind torch": behind},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("starting", __doc__)
    parser.add_argument("--samples", type=int, default=IMAGENET, help="of the file's index")
    parser.add_argument("--images", type=int, default=64, help="JPEGs to generate")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", default="runs/starting")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options, arguments), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from budgetloader.bench import page
    from budgetloader.bench.record import command, environment

    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sparse-", dir=out) as folder:  # a copy of it would not be sparse
        path = Path(folder) / "train.beton"
        jpegs, (height, width) = _jpegs(out / "data", images=options.images)
        shape = {"height": height, "width": width, "batch_size": options.batch_size}
        make(path, jpegs, samples=options.samples, **shape)
        measured = measure(path, batch_size=options.batch_size, turns=options.turns, say=console.print)
        size = path.stat().st_size
    results: dict[str, Any] = {
        "environment": environment(),
        "command": command("budgetloader.bench.starting", arguments),
        "options": {name: getattr(options, name) for name in ("samples", "images", "batch_size", "turns")},
        "file_bytes": size,
        **measured,
    }
    page.publish(
        results,
        out,
        console,
        title="The first batch of a new process",
        claim="Beside torch's import, the first batch of a file of ImageNet's size takes less than a second.",
        parts=[grid(results)],
    )
    return 0


def _jpegs(folder: Path, *, images: int) -> tuple[list[bytes], tuple[int, int]]:
    """Generated JPEGs that are all of one size, as they are converted; and height and width."""
    from rich.progress import Progress

    from budgetloader import Dataset
    from budgetloader.prepare import prepare

    prepare(None, evaluation=None, folder=folder, images=images, seed=0, progress=Progress(disable=True))
    dataset = Dataset(folder / "train.beton")
    size = int(dataset.heights[0]), int(dataset.widths[0])
    same = np.flatnonzero((dataset.heights == size[0]) & (dataset.widths == size[1]))
    return [dataset.jpeg(i).tobytes() for i in same.tolist()], size


def grid(record: dict[str, Any]) -> Grid:
    """The table of a record."""
    names = {
        "python": "Python itself",
        "torch": "import torch",
        "package": "import budgetloader",
        "index": "opening the file",
        "loader": "making the loader",
        "batch": "the first batch",
    }
    rows = [(shown, f"{record['parts'][name]:.2f}") for name, shown in names.items()]
    rows += [("in all", f"{record['seconds']['batch']:.2f}"), ("of it behind torch", f"{record['behind_torch']:.2f}")]
    options = record["options"]
    return Grid(
        "seconds to the first batch of a new process",
        ("part", "seconds"),
        rows,
        f"{options['samples']:,} samples in the index, batches of {options['batch_size']} at 224 pixels, medians of "
        f"{options['turns']} processes. Behind torch: less a process that imports torch alone, in the same turn.",
    )


if __name__ == "__main__":
    sys.exit(main())
