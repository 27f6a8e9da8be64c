"""How benches run on a terminal: as commands do, after a check that their packages are installed."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from budgetloader import console
from budgetloader.bench import extra
from budgetloader.console import INTERRUPTED, SHOW_SECONDS, Every, bars

__all__ = ["INTERRUPTED", "SHOW_SECONDS", "Every", "bars", "guarded"]


def guarded(bench: Callable[[Console], int], *, interrupted: str = "nothing is lost, the same command goes on") -> int:
    """Run a bench's body, if the packages of the extra "bench" are there; see `budgetloader.console.guarded`."""

    def checked(terminal: Console) -> int:
        extra.check()
        return bench(terminal)

    return console.guarded(checked, interrupted=interrupted)
