"""`budgetloader throughput`."""

from __future__ import annotations

import argparse
import sys

from budgetloader.commands.arguments import Add, add_work, work_of
from budgetloader.errors import LoaderError

HELP = "measure the installed engines on a .beton file, or a folder or tar of JPEGs, each in a process of its own"


def add_arguments(add: Add) -> None:
    add("file")
    add("--batches", type=int, help="at most, of an epoch; none: all")
    add("--engines", nargs="+", default=["native", "dali", "ffcv"], help="those that are not installed are left out")
    add_work(add)


def run(options: argparse.Namespace) -> int:
    from budgetloader import engines
    from budgetloader.options import open_dataset
    from budgetloader.throughput import measure_apart

    open_dataset(options.file, verify=False, label_field=None)  # so that what is wrong with it is said once
    unknown = [name for name in options.engines if name not in engines.NAMES or name == "auto"]
    if unknown:
        raise LoaderError(f"engine {unknown[0]!r} is not known; give some of {', '.join(engines.NAMES[1:])}")
    failed = 0
    for name in options.engines:
        if not engines.installed(name):
            print(f"{name:>10}: not installed", flush=True)
            continue
        try:
            print(f"{name:>10}: {measure_apart(options.file, engine=name, work=work_of(options))}", flush=True)
        except LoaderError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            failed = 1
    return failed
