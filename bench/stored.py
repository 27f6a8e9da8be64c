"""Samples stored as pixels: images per second and bytes by their share, beside FFCV's own loader on the same files.

Claim: a window of an image that is stored as pixels needs no decoding, and costs a fraction of one of a JPEG.

    python -m budgetloader.bench.stored

How it is measured: the same generated images, converted with `--raw` 0, 0.25, 0.5 and 1. Our native engine and FFCV's
random-resized-crop loader have a process each for each file, and take turns, one epoch each; the first turn is warm-up.
Medians; ratios are medians of the turns' ratios. The files lie in the page cache.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetloader.bench.entry import parser_of
from budgetloader.bench.grid import Grid

if TYPE_CHECKING:
    from rich.console import Console

SHARES = ("0", "0.25", "0.5", "1")
PLAIN_FFCV = "plain FFCV"


def measure(files: dict[str, Path], *, turns: int, threads: int, batch_size: int, say: Any) -> list[dict[str, Any]]:
    """One row per share of pixels."""
    from budgetloader import Dataset
    from budgetloader.bench.contenders import NEEDS
    from budgetloader.bench.throughput import running
    from budgetloader.bench.work import Work
    from budgetloader.engines import installed

    names = ["native", *([PLAIN_FFCV] if PLAIN_FFCV in NEEDS and installed("ffcv") else [])]
    shape: dict[str, Any] = {"batch_size": batch_size, "image_size": 224, "threads": threads, "dtype": "uint8"}
    works = [
        (name, Work(str(path), "", interpolation="linear" if name == "native" else "area", **shape))
        for path in files.values()
        for name in names
    ]
    found: list[list[float]] = [[] for _ in works]
    with running(works) as children:
        for turn in range(turns + 1):
            for child, values in zip(children, found, strict=True):
                _, epoch = child.ask(ratios=["1", "1"])
                if turn:
                    values.append(epoch["samples"] / epoch["seconds"])
            say(f"turn {turn} of {turns}")
    rows = []
    for place, (share, path) in enumerate(files.items()):
        turns_of = dict(zip(names, found[place * len(names) : (place + 1) * len(names)], strict=True))
        data = Dataset(path)
        row: dict[str, Any] = {"share": share, "kilobytes": float(data.sizes.mean() / 1000), "turns": turns_of}
        row["native"] = statistics.median(turns_of["native"])
        if PLAIN_FFCV in turns_of:
            row["ffcv"] = statistics.median(turns_of[PLAIN_FFCV])
            row["per_ffcv"] = _ratio(turns_of["native"], turns_of[PLAIN_FFCV])
        rows.append(row)
    for row in rows:
        row["per_jpeg"] = _ratio(row["turns"]["native"], rows[0]["turns"]["native"])
    return rows


def _ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, others, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("stored", __doc__)
    parser.add_argument("--images", type=int, default=768, help="JPEGs to generate")
    parser.add_argument("--shares", nargs="+", default=SHARES, help="of the images that are stored as pixels")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", default="runs/stored")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options, arguments), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from budgetloader.bench import page
    from budgetloader.bench.console import bars
    from budgetloader.bench.record import command, environment

    out = Path(options.out)
    with bars(console) as progress:
        files = {share: _file(out / "data", share, options.images, progress) for share in options.shares}
    pace = {"turns": options.turns, "threads": options.threads, "batch_size": options.batch_size}
    rows = measure(files, **pace, say=console.print)
    results: dict[str, Any] = {
        "environment": environment(),
        "command": command("budgetloader.bench.stored", arguments),
        "options": {**pace, "images": options.images},
        "rows": rows,
    }
    page.publish(
        results,
        out,
        console,
        title="Samples stored as pixels",
        claim="A window of an image that is stored as pixels needs no decoding.",
        parts=[grid(results)],
    )
    return 0


def _file(folder: Path, share: str, images: int, progress: Any) -> Path:
    """The generated images with a share of them as pixels."""
    from budgetloader.convert.converting import Settings, convert
    from budgetloader.convert.sources import image_folder
    from budgetloader.prepare import prepare

    prepare(None, evaluation=None, folder=folder, images=images, seed=0, progress=progress)
    path = folder / f"raw-{share.replace('/', '-')}.beton"
    if not path.exists():
        convert(image_folder(folder / "jpegs" / "train"), path, settings=Settings(raw=share))
    return path


def grid(record: dict[str, Any]) -> Grid:
    """The table of a record."""
    cells = [
        (
            row["share"],
            f"{row['kilobytes']:.1f}",
            f"{row['native']:,.0f}",
            f"{row['per_jpeg']:.2f}",
            *((f"{row['ffcv']:,.0f}", f"{row['per_ffcv']:.2f}") if "ffcv" in row else ("–", "–")),
        )
        for row in record["rows"]
    ]
    return Grid(
        "images/s at 224 pixels, by the share that is stored as pixels",
        ("share", "kB an image", "native", "× share 0", "FFCV", "native × FFCV"),
        cells,
        f"Medians of {record['options']['turns']} turns with {record['options']['threads']} threads.",
    )


if __name__ == "__main__":
    sys.exit(main())
