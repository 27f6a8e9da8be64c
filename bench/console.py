"""What benches share on a terminal: consoles, progress, and how they end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from subprocess import SubprocessError

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from budgetloader.errors import LoaderError

SHOW_SECONDS = 0.5  # between updates of a progress while something is timed
INTERRUPTED = 130  # exit status, as a shell gives it for Ctrl-C
_LOG_WIDTH = 150  # of a log file, where no terminal says how wide it is


def wide_console() -> Console:
    """The terminal, or where there is none, a log wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=_LOG_WIDTH)


def guarded(bench: Callable[[Console], int], *, interrupted: str = "nothing is lost, the same command goes on") -> int:
    """Run a bench's body; its exit status is 0, 1 for bad input, 130 where it was interrupted.

    Args:
        bench: takes the console, and returns the status.
        interrupted: what to say where it was.
    """
    from budgetloader.models import CheckpointError, TrainingError

    try:
        return bench(wide_console())
    except (LoaderError, TrainingError, CheckpointError, RuntimeError, ValueError, OSError, SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return INTERRUPTED


def bars(console: Console, *, auto_refresh: bool = True) -> Progress:
    """Progress with the time that is left.

    Args:
        auto_refresh: draw it again ten times a second, in a thread. False where something is timed meanwhile:
            call `refresh` where no clock runs.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, auto_refresh=auto_refresh)


class Every:
    """True at most once in so many seconds, for displays that need not show each step."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, time.perf_counter()

    def __call__(self) -> bool:
        now = time.perf_counter()
        due = now - self._last >= self._seconds
        if due:
            self._last = now
        return due
