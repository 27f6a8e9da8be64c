"""`budgetloader serve`."""

from __future__ import annotations

import argparse

from budgetloader.commands.arguments import Add, bytes_of
from budgetloader.limits import MAX_PIXELS

HELP = "decode once for many trainers, which connect by name (needs Ray)"


def add_arguments(add: Add) -> None:
    add(
        "file",
        nargs="+",
        help="the .beton or .shards.json, or its address: s3://bucket/train.beton; several are one set",
    )
    add("--name", required=True, help="what trainers connect to")
    add("--memory", type=bytes_of, default="2GB", help="shared memory for decoded images, such as 500MB or 4GB")
    add("--workers", type=int, help="decoding processes; none: one per core")
    add("--host", default="127.0.0.1", help="to listen at; beyond this machine, trainers need the entry's token")
    add("--verify", action="store_true", help="compare each sample with its checksum when it is read")
    add("--max-pixels", type=int, default=MAX_PIXELS, help="of an image; a file with larger ones is refused")
    add("--cache", metavar="FOLDER", help="on a local disk, for what is fetched from object storage; none: no cache")
    add("--cache-bytes", type=bytes_of, help="the most that it may take; none: as much as it needs")
    add("--metrics-port", type=int, help="of Prometheus metrics and a page, at the loopback; none: neither")


def run(options: argparse.Namespace) -> int:
    from budgetloader.service import commands

    return commands.serve(options)
