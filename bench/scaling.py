"""How much of an image's making is under Python's lock, and on how large a machine that would bind.

Claim: the native engine crops, decodes and resizes a task of rows in compiled calls; what is under the lock per image
is a share of what a task and a batch cost, and without a libjpeg-turbo of the system's the decoder's call.

    python -m budgetloader.bench.scaling

How it is measured: an epoch of one thread, by the processor's clock. The time of the compiled calls, less that of the
same calls with nothing to do, is not under the lock. Nor is what decoding takes longer than the decoding of an 8 × 8
JPEG, all of which is counted as under the lock: so the figure is an upper bound. All else of the process is under it,
planning and handing out included. Then images/s with one thread and with two, in turn. All of it with the system's
libjpeg-turbo, where there is one, and as without it.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetloader.bench.entry import parser_of
from budgetloader.bench.grid import Grid

if TYPE_CHECKING:
    from rich.console import Console

KINDS = ((16, False), (16, True), (64, False), (0, False))  # side (0: as generated), and whether stored as pixels
SMALL_IMAGES = 16_384
_TURN_PIXELS = 20_000_000  # of the images of a turn: of the smallest it takes half a second
_SETTLE_SECONDS = 0.3
_COMPILED = ("crop_rows", "make_rows", "resample_rows")


@dataclass
class Clock:
    """Processor time that a thread spends in some function."""

    seconds: float = 0.0
    calls: int = 0

    def wrap(self, function: Callable) -> Callable:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time_ns()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += (time.thread_time_ns() - began) * 1e-9
                self.calls += 1

        return timed


@contextmanager
def clocks() -> Iterator[dict[str, Clock]]:
    """Time the native engine's compiled calls and its decoder, in one thread."""
    from types import SimpleNamespace

    from budgetloader.engines import rows as module

    rows: Any = module
    kept = {name: getattr(rows, name) for name in (*_COMPILED, "simplejpeg")}
    found = {name: Clock() for name in (*_COMPILED, "simplejpeg")}
    for name in _COMPILED:
        setattr(rows, name, found[name].wrap(kept[name]))
    rows.simplejpeg = SimpleNamespace(decode_jpeg=found["simplejpeg"].wrap(kept["simplejpeg"].decode_jpeg))
    try:
        yield found
    finally:
        for name, function in kept.items():
            setattr(rows, name, function)


def under_the_lock(beton: str, *, image_size: int, batch_size: int = 256, epochs: int = 2) -> dict[str, float]:
    """Microseconds of processor time per image: in all, in each part, and under the lock at the most."""
    from budgetloader import BudgetLoader, Schedule

    schedule = Schedule.full(epochs=epochs + 1)
    options: dict[str, Any] = {"batch_size": batch_size, "image_size": image_size, "dtype": "uint8"}
    with (
        clocks() as parts,
        BudgetLoader(beton, schedule=schedule, engine="native", crop="resized", workers=1, **options) as batches,
    ):
        idle = _idle_call_seconds(batches)
        for _ in batches:  # warm
            pass
        time.sleep(_SETTLE_SECONDS)  # what was begun of the next epoch is made, and not counted
        batches.set_epoch(0)
        for part in parts.values():
            part.seconds, part.calls = 0.0, 0
        began, images = time.process_time(), 0
        for _ in range(epochs + 1):  # all that there are: nothing is begun beyond them
            images += sum(len(labels) for _, labels in batches)
        seconds = time.process_time() - began
    compiled = sum(parts[name].seconds - parts[name].calls * idle[name] for name in _COMPILED)
    decoder = parts["simplejpeg"].seconds - parts["simplejpeg"].calls * _smallest_decode_seconds()
    free = compiled + max(decoder, 0.0)
    scale = 1e6 / images
    return {
        "cpu_us": seconds * scale,
        "compiled_us": compiled * scale,
        "simplejpeg_us": parts["simplejpeg"].seconds * scale,
        "lock_us": (seconds - free) * scale,
        "binds_at_threads": seconds / (seconds - free),
    }


def _idle_call_seconds(batches: Any) -> dict[str, float]:
    """What a compiled call costs that has nothing to do."""
    from budgetloader.engines.rows import RowRenderer

    with clocks() as parts:
        output = batches._job.output
        renderer = RowRenderer(batches._job, output)
        for _ in range(200):
            renderer.compile(output)
    return {name: parts[name].seconds / max(parts[name].calls, 1) for name in _COMPILED}


def _smallest_decode_seconds(turns: int = 2000) -> float:
    """Processor time of decoding a JPEG of 8 × 8 pixels."""
    import numpy as np
    import simplejpeg
    from PIL import Image

    from budgetloader import jpeg_tables

    data = np.frombuffer(jpeg_tables.encode(Image.new("RGB", (8, 8)), quality=90, subsampling="4:2:0"), np.uint8)
    pixels, times = np.empty(192, np.uint8), []
    for _ in range(5):
        began = time.thread_time_ns()
        for _ in range(turns):
            simplejpeg.decode_jpeg(data, buffer=pixels)
        times.append((time.thread_time_ns() - began) * 1e-9 / turns)
    return min(times)


def rates(beton: str, *, image_size: int, threads: Sequence[int], turns: int) -> dict[int, list[float]]:
    """Images/s by the number of threads, one figure per turn; some epochs of each in turn."""
    from budgetloader import BudgetLoader, Dataset, Schedule

    options: dict[str, Any] = {"batch_size": 256, "image_size": image_size, "dtype": "uint8", "crop": "resized"}
    found: dict[int, list[float]] = {count: [] for count in threads}
    repeat = max(1, round(_TURN_PIXELS / (len(Dataset(beton)) * image_size**2)))
    schedule = Schedule.full(epochs=repeat * (turns + 1))
    for turn in range(turns + 1):
        for count in threads:
            with BudgetLoader(beton, schedule=schedule, engine="native", workers=count, **options) as batches:
                batches.set_epoch(repeat * turn)
                next(iter(batches))  # the engine's threads run
                batches.set_epoch(repeat * turn)
                began, images = time.perf_counter(), 0
                for _ in range(repeat):
                    images += sum(len(labels) for _, labels in batches)
                if turn:
                    found[count].append(images / (time.perf_counter() - began))
    return found


@contextmanager
def decoding_by(name: str) -> Iterator[None]:
    """Engines that are made meanwhile decode by "simplejpeg", or as they would."""
    from budgetloader.engines import turbojpeg

    kept: Any = turbojpeg.library
    module: Any = turbojpeg
    module.library = (lambda: None) if name == "simplejpeg" else kept
    try:
        yield
    finally:
        module.library = kept


def decoders() -> tuple[str, ...]:
    """The decoders that there are here: the system's library by its name, and simplejpeg."""
    from budgetloader.engines import turbojpeg

    found = turbojpeg.library()
    return ("simplejpeg",) if found is None else (found.name, "simplejpeg")


def measure(folder: Path, *, images: int, small: int, turns: int, say: Callable[[str], object]) -> list[dict[str, Any]]:
    """One row per size of image and decoder."""
    table = []
    for side, raw in KINDS:
        beton = _data(folder, side=side, raw=raw, images=images, small=small)
        for decoder in ("none",) if raw else decoders():
            with decoding_by(decoder):
                row = _row(beton, image_size=side or 224, turns=turns)
            table.append({"images": f"{side} × {side}" if side else "500 × 375", "decoder": decoder, **row})
            say(f"{table[-1]['images']}, {decoder}: {row['lock_us']:.1f} µs under the lock of {row['cpu_us']:.1f}")
    return table


def _row(beton: str, *, image_size: int, turns: int) -> dict[str, Any]:
    lock = under_the_lock(beton, image_size=image_size)
    speeds = rates(beton, image_size=image_size, threads=(1, 2), turns=turns)
    one, two = (statistics.median(speeds[count]) for count in (1, 2))
    return {
        "image_size": image_size,
        **lock,
        "one_thread": one,
        "two_threads": two,
        "gain": statistics.median(b / a for a, b in zip(speeds[1], speeds[2], strict=True)),
        "turns": {str(count): values for count, values in speeds.items()},
    }


def _data(folder: Path, *, side: int, raw: bool, images: int, small: int) -> str:
    """A .beton of generated images, made smaller to a square where a side is given."""
    from rich.progress import Progress

    from budgetloader.convert.converting import Settings, convert
    from budgetloader.convert.sources import Source, image_folder
    from budgetloader.prepare import prepare

    shape: dict[str, Any] = {"evaluation": None, "images": images, "seed": 0, "progress": Progress(disable=True)}
    prepare(None, folder=folder, **shape)
    if not side:
        return str(folder / "train.beton")
    path = folder / f"{side}-{small}-{raw}.beton"
    if not path.exists():
        source = image_folder(folder / "jpegs" / "train")
        few = [source.load(i).convert("RGB").resize((side, side)) for i in range(min(len(source), 256))]
        names, labels = [str(i) for i in range(small)], [i % 10 for i in range(small)]
        convert(Source(names, labels, (), lambda i: few[i % len(few)]), path, settings=Settings(raw=int(raw)))
    return str(path)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("scaling", __doc__)
    parser.add_argument("--images", type=int, default=1024, help="JPEGs to generate")
    parser.add_argument("--small", type=int, default=SMALL_IMAGES, help="small images of each size")
    parser.add_argument("--turns", type=int, default=7, help="epochs with one thread, and with two")
    parser.add_argument("--out", default="runs/scaling")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options, arguments), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from budgetloader.bench import page
    from budgetloader.bench.record import command, environment

    out = Path(options.out)
    shape = {"images": options.images, "small": options.small, "turns": options.turns}
    table = measure(out / "data", **shape, say=console.print)
    results: dict[str, Any] = {
        "environment": environment(),
        "command": command("budgetloader.bench.scaling", arguments),
        "options": shape,
        "rows": table,
    }
    page.publish(
        results,
        out,
        console,
        title="The native engine under Python's lock",
        claim="What is under the lock per image is a share of what a task and a batch cost, and little more.",
        parts=[grid(results)],
    )
    return 0


def grid(record: dict[str, Any]) -> Grid:
    """The table of a record."""
    cells = [
        (
            row["images"],
            {"none": "none: they are pixels"}.get(row["decoder"], row["decoder"]),
            *(f"{row[name]:,.1f}" for name in ("cpu_us", "compiled_us", "lock_us")),
            f"{row['binds_at_threads']:.1f}",
            *(f"{row[name]:,.0f}" for name in ("one_thread", "two_threads")),
            f"{row['gain']:.2f}",
        )
        for row in record["rows"]
    ]
    return Grid(
        "microseconds of processor time per image, and images/s",
        ("images", "decoder", "in all", "compiled", "lock ≤", "binds at", "1 thread", "2 threads", "gain"),
        cells,
        "lock: at most so much is under Python's lock. binds at: so many threads keep the lock busy all the time; "
        f"gain: two threads by one, median of {record['options']['turns']} pairs.",
    )


if __name__ == "__main__":
    sys.exit(main())
