"""`budgetloader top`."""

from __future__ import annotations

import argparse

from budgetloader.commands.arguments import Add

HELP = "show what a service's trainers are doing"


def add_arguments(add: Add) -> None:
    add("name", help="of the service")
    add("--seconds", type=float, default=1.0, help="between two readings")
    add("--readings", type=int, default=0, help="how many; 0: until Ctrl-C")


def run(options: argparse.Namespace) -> int:
    from budgetloader.service import commands

    return commands.top(options)
