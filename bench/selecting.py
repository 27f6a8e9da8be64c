"""What it costs to choose samples, and how fast ordinary JPEGs are beside a .beton of the same images.

Part "costs": microseconds per sample that `ids` takes, asked for as the planner asks (1,024 positions at a time, or of
few batches), at several sizes D of the set; and seconds for what is done once: tables, a condition, and the scan of an
epoch of which samples are left out. Part "ordinary": images per second of engines from a folder, a tar and a .beton
of the same images, in turns.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from budgetloader.bench.entry import generated, parser_of
from budgetloader.bench.grid import Grid

if TYPE_CHECKING:
    from rich.console import Console

MOST_MICROSECONDS = 3.0  # per sample, that a selection may take
_AT_ONCE = 1024  # as `budgetloader.plans` plans
KINDS = {"whole": "the whole set", "subset": "every tenth sample", "weights": "weights", "mixture": "three files"}
SOURCES = ("folder", "tar", "beton")
_MEMORY_PER_SAMPLE = 14  # bytes that weights of one byte and their table take, and what is passing


def selection(kind: str, samples: int) -> tuple[Any, float]:
    """A selection of a set of so many samples, and the seconds that it took to make."""
    from budgetloader.budget import Budget
    from budgetloader.order import Order
    from budgetloader.schedule import Schedule
    from budgetloader.selections.mixture import Mixed
    from budgetloader.selections.subset import Subset, members_of
    from budgetloader.selections.weighted import Weighted

    def order(size: int) -> Order:
        return Order(Budget(Schedule.full(epochs=10), samples=size, batch_size=256), seed=1)

    began = time.perf_counter()
    if kind == "whole":
        made: Any = order(samples)
    elif kind == "subset":
        members = members_of(np.arange(0, samples, 10), size=samples)
        made = Subset(members, order(len(members)))
    elif kind == "weights":
        made = Weighted(np.resize(np.arange(1, 252, dtype=np.uint8), samples), seed=1)
    elif kind == "mixture":
        made = Mixed([samples // 2, samples // 3, samples // 6], ["0.5", "0.2", "0.3"], seed=1)
    else:
        raise ValueError(f"kind {kind!r} is not known")
    return made, time.perf_counter() - began


def cost(made: Any, samples: int, *, asks: int, at_once: int) -> list[float]:
    """Microseconds per sample of some requests, each for other positions of another epoch."""
    random = np.random.default_rng(0)
    found = []
    for ask in range(asks + 3):
        first = int(random.integers(0, samples - at_once)) if samples > at_once else 0
        positions = np.arange(first, min(first + at_once, samples), dtype=np.int64)
        began = time.perf_counter()
        made.ids(ask % 10, positions)
        seconds = time.perf_counter() - began
        if ask >= 3:  # the first ones are warm-up
            found.append(1e6 * seconds / len(positions))
    return found


def once(samples: int) -> dict[str, float]:
    """Seconds of what is done once per loader or per epoch, at a set of so many samples."""
    from budgetloader.budget import Budget
    from budgetloader.conditions import where
    from budgetloader.order import Order
    from budgetloader.schedule import Schedule
    from budgetloader.selections.filtered import Filtered
    from budgetloader.selections.infobatch import InfoBatch

    budget = Budget(Schedule.full(epochs=10), samples=samples, batch_size=256)
    filtered = Filtered(Order(budget, seed=1), budget, total=samples)
    scores = np.random.default_rng(0).random(samples, dtype=np.float32)

    class Columns:
        labels, heights, widths = (np.arange(samples) % mod + 1 for mod in (1000, 700, 900))

        def __len__(self) -> int:
            return samples

    kept: list[np.ndarray] = []
    return {
        "InfoBatch chooses": _seconds(
            lambda: kept.append(InfoBatch().choose(1, scores, epochs=10, seed=1).kept),
        ),
        "scan of an epoch with samples left out": _seconds(lambda: filtered.keep(1, kept[0])),
        "condition": _seconds(lambda: where(Columns(), "height >= 256 and label in (3, 5, 7) or width % 3 == 0")),
    }


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def costs(options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """A row for each kind and size."""
    rows: list[dict[str, Any]] = []
    for samples in options.samples:
        for kind in KINDS:
            if kind == "weights" and samples * _MEMORY_PER_SAMPLE > options.memory_bytes:
                console.print(f"{kind} of {samples:,}: left out, it may take {samples * _MEMORY_PER_SAMPLE:,} bytes")
                rows.append({"kind": kind, "samples": samples, "left_out": "memory"})
                continue
            made, seconds = selection(kind, samples)
            row = {"kind": kind, "samples": samples, "made_seconds": seconds, "microseconds": {}}
            for at_once in (_AT_ONCE, 256):
                found = cost(made, made.size if kind == "subset" else samples, asks=options.asks, at_once=at_once)
                row["microseconds"][str(at_once)] = {"median": statistics.median(found), "most": max(found)}
            rows.append(row)
            middle = row["microseconds"][str(_AT_ONCE)]["median"]
            console.print(f"{kind} of {samples:,}: {middle:.3f} µs per sample; made in {seconds:.2f} s")
    for samples in options.once_samples:
        for what, seconds in once(samples).items():
            rows.append({"kind": what, "samples": samples, "seconds": seconds})
            console.print(f"{what}, {samples:,} samples: {seconds:.2f} s")
    return rows


def ordinary(options: argparse.Namespace, out: Path, console: Console) -> list[dict[str, Any]]:
    """A row for each engine and source: images per second of each turn."""
    from budgetloader import engines
    from budgetloader.throughput import Work, measure_apart

    data = generated(out / "data", images=options.images, console=console)
    folder = out / "data" / "jpegs" / "train"
    with tarfile.open(out / "data" / "train.tar", "w") as tar:
        tar.add(folder, "train")
    sources = {"folder": folder, "tar": out / "data" / "train.tar", "beton": data}
    rates: dict[tuple[str, str], list[float]] = {}
    for turn in range(options.turns):
        for engine in (name for name in ("native", "dali") if engines.installed(name)):
            for name, path in list(sources.items())[:: (-1) ** turn]:  # who is first changes
                work = Work(image_size=224, epochs=1)
                rates.setdefault((engine, name), []).append(measure_apart(path, engine=engine, work=work).median)
    rows = []
    for (engine, name), found in rates.items():
        console.print(f"{engine}, {name}: {statistics.median(found):,.0f} images/s of {sorted(map(round, found))}")
        rows.append({"engine": engine, "source": name, "images_per_second": found})
    return rows


def costs_grid(record: dict[str, Any]) -> Grid:
    """The table of what selections cost."""
    rows = record["costs"]
    sizes = [row["samples"] for row in rows if row["kind"] == "whole"]
    cells = []
    for kind in KINDS:
        found = {row["samples"]: row for row in rows if row["kind"] == kind}
        shown = [found[size].get("microseconds", {}).get(str(_AT_ONCE), {}).get("median") for size in sizes]
        made = max(row.get("made_seconds", 0.0) for row in found.values())
        cells.append((KINDS[kind], *("not measured" if us is None else f"{us:.2f}" for us in shown), f"{made:.1f}"))
    once_rows = "; ".join(
        f"{row['kind']}, {row['samples']:,} samples: {row['seconds']:.2f} s" for row in rows if "seconds" in row
    )
    return Grid(
        "microseconds per sample, by the size of the set",
        ("drawn", *(f"D = {size:,}" for size in sizes), "made in, at most, s"),
        cells,
        f"Medians of {record['options']['asks']} requests of {_AT_ONCE:,} positions. Once per loader or epoch: "
        f"{once_rows}. The table of weights takes 12 bytes per sample.",
    )


def ordinary_grid(record: dict[str, Any]) -> Grid:
    """The table of ordinary JPEGs beside a .beton of the same images."""
    rates = {(row["engine"], row["source"]): row["images_per_second"] for row in record["ordinary"]}
    names = sorted({engine for engine, _ in rates}, reverse=True)
    cells = [
        (engine, *(f"{statistics.median(rates[engine, source]):,.0f}" for source in SOURCES), *_ratios(rates, engine))
        for engine in names
    ]
    return Grid(
        "images per second",
        ("engine", *SOURCES, "folder / beton", "tar / beton"),
        cells,
        f"Medians of {record['options']['turns']} turns, each an epoch of {record['options']['images']} generated "
        "JPEGs (about 500 × 375) to uint8 224 × 224, after one of warm-up.",
    )


def _ratios(rates: dict[tuple[str, str], list[float]], engine: str) -> list[str]:
    """Turn by turn, how fast ordinary JPEGs are in units of the .beton: the median."""
    return [
        f"{statistics.median(a / b for a, b in zip(rates[engine, source], rates[engine, 'beton'], strict=True)):.2f}"
        for source in SOURCES[:-1]
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("selecting", __doc__)
    parser.add_argument("--parts", nargs="+", choices=("costs", "ordinary"), default=["costs", "ordinary"])
    parser.add_argument("--samples", nargs="+", type=int, default=[1_281_167, 100_000_000, 1_000_000_000])
    parser.add_argument("--once-samples", nargs="+", type=int, default=[1_281_167])
    parser.add_argument("--asks", type=int, default=300, help="of each selection")
    parser.add_argument("--memory-bytes", type=int, default=15 << 30, help="what tables may take")
    parser.add_argument("--images", type=int, default=1024, help="JPEGs to generate")
    parser.add_argument("--turns", type=int, default=3, help="of each engine and source")
    parser.add_argument("--out", default="runs/selecting")
    options = parser.parse_args(arguments)
    options.given = list(sys.argv[1:] if arguments is None else arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, console: Console) -> int:
    from budgetloader.bench.record import command, environment, write_json

    out = Path(options.out)
    results: dict[str, Any] = {
        "command": command("budgetloader.bench.selecting", options.given),
        "environment": environment(),
        "options": {**vars(options), "out": None, "given": None},
    }
    if "costs" in options.parts:
        results["costs"] = costs(options, console)
        measured = [row["microseconds"][str(_AT_ONCE)]["median"] for row in results["costs"] if "microseconds" in row]
        console.print(f"at most {max(measured):.2f} µs per sample (bar: {MOST_MICROSECONDS:g})")
    if "ordinary" in options.parts:
        results["ordinary"] = ordinary(options, out, console)
    write_json(out / "results.json", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
