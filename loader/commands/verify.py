"""`budgetloader verify`."""

from __future__ import annotations

import argparse
import sys

from budgetloader.commands.arguments import Add
from budgetloader.errors import DatasetError
from budgetloader.limits import MAX_PIXELS

HELP = "decode every image of a .beton file, and compare its bytes with their checksum"


def add_arguments(add: Add) -> None:
    add("file", help="a .beton, or its address: s3://bucket/train.beton")
    add("--max-pixels", type=int, default=MAX_PIXELS, help="of an image; a file with larger ones is refused")
    add("--threads", type=int, help="none: one per core")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from budgetloader.console import bars
    from budgetloader.storage import open_file
    from budgetloader.verify import problems

    dataset = open_file(options.file, max_pixels=options.max_pixels)
    bad = 0
    with bars(Console(stderr=True)) as progress:
        task = progress.add_task("verify", total=len(dataset))
        for sample, why in enumerate(problems(dataset, threads=options.threads)):
            progress.update(task, completed=sample + 1)
            if why:
                bad += 1
                print(f"sample {sample}: {why}", file=sys.stderr)
    if bad:
        raise DatasetError(f"{options.file}: {bad:,} of {len(dataset):,} images are damaged; convert it again")
    sums = ", and have their checksums"
    if dataset.checksums is None:
        sums = "; it has no checksums of them (FFCV wrote it, or version 0.1)"
    print(f"{options.file}: all {len(dataset):,} images decode{sums}")
    return 0
