"""`budgetloader gather`."""

from __future__ import annotations

import argparse

from budgetloader.commands.arguments import Add

WRITES = True  # whole files, or none: what Ctrl-C is answered with
HELP = "make one set of the shards that `convert --shard` wrote, by a list of them"


def add_arguments(add: Add) -> None:
    add("file", help="the set's name, as `convert` was given it: train.beton, or s3://bucket/train.beton")
    add("of", type=int, help="how many shards there are")
    add("--overwrite", action="store_true", help="replace the list if it exists")


def run(options: argparse.Namespace) -> int:
    from budgetloader.convert.sharding import gather

    place, joined = gather(options.file, options.of, replace=options.overwrite)
    print(f"{place}: {len(joined):,} samples in {len(joined.parts):,} shards; open the set by this name")
    return 0
