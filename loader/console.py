"""Consoles, progress bars, error messages and exit statuses of commands and benches."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from subprocess import SubprocessError

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from budgetloader.errors import LoaderError

SHOW_SECONDS = 0.5  # between updates of a progress bar while something is timed
INTERRUPTED = 130  # exit status, as a shell gives it for Ctrl-C
PIPE_CLOSED = 141  # and where the reader of a pipe has gone
_LOG_WIDTH = 150  # of a log file, where no terminal says how wide it is


def wide_console() -> Console:
    """The terminal, or where there is none, a log wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=_LOG_WIDTH)


def guarded(work: Callable[[Console], int], *, interrupted: str = "nothing is lost, the same command goes on") -> int:
    """Run a command's body; its exit status is 0, 1 for bad input, 130 where it was interrupted.

    Args:
        work: takes the console, and returns the status.
        interrupted: what to say where it was.
    """
    try:
        status = work(wide_console())
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        return pipe_closed()
    except (LoaderError, RuntimeError, ValueError, OSError, SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return INTERRUPTED


def pipe_closed() -> int:
    """The exit status where whoever read stdout has gone, as with `| head`; what is still buffered is dropped."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: stdout is no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # or the interpreter's last flush fails with a traceback
        os.close(nowhere)
    return PIPE_CLOSED


def bars(console: Console, *, auto_refresh: bool = True, disable: bool = False) -> Progress:
    """Progress bars with an estimate of the time that is left.

    Args:
        auto_refresh: draw them again ten times a second, in a thread. False where something is timed meanwhile:
            call `refresh` where no clock runs.
        disable: draw nothing.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeLeft())
    return Progress(*columns, console=console, auto_refresh=auto_refresh, disable=disable)


class TimeLeft(ProgressColumn):
    """The time that is left at the mean speed so far; nothing until there is one.

    rich's own column knows no speed, and shows "-:--:--", where steps are more than 30 seconds apart.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first: dict[int, tuple[float, float]] = {}  # task → (seconds, steps) when it was seen first
        self._moved: dict[int, tuple[float, float]] = {}  # the same, once a step was done: warm-up is over

    def render(self, task: Task) -> Text:
        left = self.seconds(task)
        if left is None:
            return Text("")
        minutes, seconds = divmod(round(left), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}", style="progress.remaining")

    def seconds(self, task: Task) -> float | None:
        """Estimated; None while no step was done since the task was seen first."""
        elapsed = task.elapsed
        if task.total is None or elapsed is None:
            return None
        now = (elapsed, task.completed)
        since = self._first.setdefault(task.id, now)
        if task.completed > since[1]:
            moved = self._moved.setdefault(task.id, now)
            since = moved if task.completed > moved[1] else since
        done = task.completed - since[1]
        return (elapsed - since[0]) / done * max(task.total - task.completed, 0) if done > 0 else None


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
