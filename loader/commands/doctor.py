"""`budgetloader doctor`."""

from __future__ import annotations

import argparse

from budgetloader.commands.arguments import Add, add_work, work_of

HELP = "say what is installed and works, how fast it is, and what would limit a trainer"


def add_arguments(add: Add) -> None:
    add("file", nargs="?", help="a .beton to measure on; none: images are made for it")
    add("--batches", type=int, default=32, help="at most, of an epoch")
    add("--trainer-rate", type=float, help="images/s that your trainer takes when nothing makes it wait")
    add_work(add)


def run(options: argparse.Namespace) -> int:
    from budgetloader.doctor import examine

    for line in examine(options.file, work=work_of(options), trainer_rate=options.trainer_rate):
        print(line, flush=True)
    return 0
