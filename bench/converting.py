"""Images per second of `convert`, beside FFCV's own writer on the same images, with as many processes.

Claim: a conversion keeps every core at work.

    python -m budgetloader.bench.converting

How it is measured: an ImageFolder of generated JPEGs, listed as often as it takes to have enough of them, is converted
at quality 90, 4:2:0: by `convert`, by `convert` with the standard Huffman tables, and by FFCV's DatasetWriter with
`write_mode="jpg"` and PIL as its reader. They take turns, each in a process of its own, with the start of their worker
processes in the time. The first turn is not counted. Medians, and of ratios 95 % intervals.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetloader.bench.entry import generated, parser_of
from budgetloader.bench.grid import Grid

if TYPE_CHECKING:
    from rich.console import Console

WAYS: dict[str, dict[str, Any] | None] = {
    "convert": {},
    "convert --standard-tables": {"optimize": False},
    "FFCV's writer": None,
}


class Listed:
    """A folder's images as FFCV's writer takes a dataset: (image, label) by number."""

    def __init__(self, folder: str, count: int) -> None:
        from budgetloader.convert.sources import image_folder

        self._files = [str(Path(folder) / name) for name in image_folder(folder).names]
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> tuple[Any, int]:
        from PIL import Image

        with Image.open(self._files[i % len(self._files)]) as image:
            return image.convert("RGB"), i % 10


def converter(*, way: str, folder: str, count: int, threads: int, out: str) -> Callable[[], dict[str, float]]:
    """A function that converts once, in a process of its own, and says how long it took and how large the file is."""
    options = WAYS[way]
    path = Path(out) / f"{len(way)}.beton"

    def ours() -> None:
        import dataclasses

        from budgetloader.convert.converting import Settings, convert
        from budgetloader.convert.sources import Files, image_folder
        from budgetloader.limits import MAX_PIXELS

        source = image_folder(folder)
        assert isinstance(source.read, Files), "a folder has files"
        few = len(source)
        many = dataclasses.replace(
            source,
            names=[source.names[i % few] for i in range(count)],
            labels=[i % 10 for i in range(count)],
            load=lambda i: source.load(i % few),
            read=Files(source.read.paths * (1 + count // few), max_pixels=MAX_PIXELS),
        )
        convert(many, path, settings=Settings(threads=threads, **(options or {})), exists="replace")

    def theirs() -> None:
        from ffcv.fields import IntField, RGBImageField
        from ffcv.writer import DatasetWriter

        fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=90), "label": IntField()}
        DatasetWriter(str(path), fields, num_workers=threads).from_indexed_dataset(Listed(folder, count))

    def convert_once() -> dict[str, float]:
        path.unlink(missing_ok=True)
        began = time.perf_counter()
        (theirs if options is None else ours)()
        seconds = time.perf_counter() - began
        size = os.path.getsize(path)
        path.unlink()
        return {"images_per_second": count / seconds, "bytes": size / count}

    return convert_once


def measure(
    folder: Path, *, count: int, threads: int, turns: int, ways: Sequence[str], say: Callable[[str], object]
) -> list[dict[str, Any]]:
    """One row per way."""
    from budgetloader.bench.child import Child, in_turns

    shape = {"folder": str(folder / "jpegs" / "train"), "count": count, "threads": threads, "out": str(folder)}
    made = (Child("budgetloader.bench.converting:converter", name=way, arguments={"way": way, **shape}) for way in ways)
    found = in_turns(made, turns=turns, say=say)
    rates = {way: [answer["images_per_second"] for answer in answers] for way, answers in found.items()}
    return [
        {
            "way": way,
            "images_per_second": statistics.median(values),
            "kilobytes": found[way][0]["bytes"] / 1000,
            "per_last": statistics.median(a / b for a, b in zip(values, rates[ways[-1]], strict=True)),
            "turns": values,
        }
        for way, values in rates.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    from budgetloader.engines import installed

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("converting", __doc__)
    known = [way for way in WAYS if WAYS[way] is not None or installed("ffcv")]
    parser.add_argument("--images", type=int, default=256, help="JPEGs to generate")
    parser.add_argument("--count", type=int, default=4096, help="images to convert")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=known, default=known)
    parser.add_argument("--out", default="runs/converting")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options, arguments), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from budgetloader.bench import page
    from budgetloader.bench.record import command, environment

    out = Path(options.out)
    generated(out / "data", images=options.images, console=console)
    pace = {"count": options.count, "threads": options.threads, "turns": options.turns}
    rows = measure(out / "data", **pace, ways=options.ways, say=console.print)
    results: dict[str, Any] = {
        "environment": environment(),
        "command": command("budgetloader.bench.converting", arguments),
        "options": pace,
        "rows": rows,
    }
    page.publish(
        results,
        out,
        console,
        title="Converting images",
        claim="A conversion keeps every core at work.",
        parts=[grid(results)],
    )
    return 0


def grid(record: dict[str, Any]) -> Grid:
    """The table of a record."""
    from budgetloader.bench.estimate import mean

    last = record["rows"][-1]

    def ratio(row: dict[str, Any]) -> str:
        half_width = mean([a / b for a, b in zip(row["turns"], last["turns"], strict=True)]).half_width
        shown = f"{row['per_last']:.2f}"
        return f"{shown} ± {half_width:.2f}" if row is not last and math.isfinite(half_width) else shown

    cells = [
        (row["way"], f"{row['images_per_second']:,.0f}", f"{row['kilobytes']:.1f}", ratio(row))
        for row in record["rows"]
    ]
    return Grid(
        "images/s of a conversion, with the start of its processes",
        ("writer", "images/s", "kB an image", f"× {last['way']}"),
        cells,
        f"Medians of {record['options']['turns']} turns of {record['options']['count']:,} images, with "
        f"{record['options']['threads']} processes.",
    )


if __name__ == "__main__":
    sys.exit(main())
