"""`budgetloader verify`."""

from __future__ import annotations

import argparse
import sys
from itertools import chain
from typing import Any

from budgetloader.commands.arguments import Add
from budgetloader.errors import DatasetError
from budgetloader.limits import MAX_PIXELS

HELP = "decode every image of a .beton file, and compare its bytes with their checksum"


def add_arguments(add: Add) -> None:
    add("file", help="a .beton or .shards.json, or its address: s3://bucket/train.beton")
    add("--max-pixels", type=int, default=MAX_PIXELS, help="of an image; a file with larger ones is refused")
    add("--threads", type=int, help="none: one per core")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from budgetloader.console import bars
    from budgetloader.shard_list import open_set
    from budgetloader.verify import problems

    opened = open_set(options.file, max_pixels=options.max_pixels)
    parts: Any = getattr(opened, "parts", (opened,))
    bad, count = 0, sum(map(len, parts))
    with bars(Console(stderr=True)) as progress:
        task = progress.add_task("verify", total=count)
        found = chain.from_iterable(problems(part, threads=options.threads) for part in parts)
        for sample, why in enumerate(found):
            progress.update(task, completed=sample + 1)
            if why:
                bad += 1
                print(f"sample {sample}: {why}", file=sys.stderr)
    if bad:
        raise DatasetError(f"{options.file}: {bad:,} of {count:,} images are damaged; convert it again")
    sums = ", and have their checksums"
    if any(part.checksums is None for part in parts):
        sums = "; it has no checksums of them (FFCV wrote it, or version 0.1)"
    print(f"{options.file}: all {count:,} images decode{sums}")
    return 0
