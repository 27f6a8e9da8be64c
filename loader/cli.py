"""The command line, `budgetloader COMMAND`: the parser of the commands in `budgetloader.commands`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from budgetloader import commands
from budgetloader.errors import LoaderError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 1 for what went wrong, 2 for a wrong call, 130 for Ctrl-C, 141 where whoever read the
        output has gone.
    """
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # here, where it can be told that nobody reads it any more
    except BrokenPipeError:
        from budgetloader.console import pipe_closed

        return pipe_closed()


def _run(arguments: Sequence[str] | None) -> int:
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except LoaderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted" + ("; nothing half-written is left" if options.writes else ""), file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    whole = argparse.ArgumentParser(
        prog="budgetloader", description="Datasets, schedules, trainings and services of the budget loader."
    )
    subparsers = whole.add_subparsers(required=True, metavar="COMMAND")
    for name in commands.NAMES:
        command = importlib.import_module(f"budgetloader.commands.{name}")
        examples = getattr(command, "EXAMPLES", None)
        sub = subparsers.add_parser(
            name, help=command.HELP, description=command.HELP, epilog=examples, formatter_class=_Formatter
        )
        sub.set_defaults(run=command.run, writes=getattr(command, "WRITES", False))
        command.add_arguments(sub.add_argument)
    return whole


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and examples as they were written."""
