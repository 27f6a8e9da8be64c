"""A latch that interrupts leave whole, and joining threads within a limit."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

JOIN_SECONDS = 10.0  # that closing an engine takes, at the most
_log = logging.getLogger("budgetloader")


class Latch:
    """Set once, and waited for by one thread.

    Unlike `threading.Event`, it stays whole when a signal's exception falls into the wait: an event's lock may then
    be released by the wrong thread, and the thread that sets the event fails.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._set = False

    def set(self) -> None:
        """May be called twice, from any thread."""
        self._set = True
        with contextlib.suppress(RuntimeError):  # released already
            self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Whether it is set, at the latest after some time."""
        if not self._set:
            self._lock.acquire(timeout=seconds)
        return self._set


def join_soon(threads: Sequence[threading.Thread]) -> None:
    """Wait for threads that were told to end, 10 seconds at most for all of them, and say which do not, and where."""
    deadline = time.monotonic() + JOIN_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if stuck := [f"{thread.name} ({_where(thread)})" for thread in threads if thread.is_alive()]:
        _log.warning("%s did not end within %.0f s, and is left behind", ", ".join(stuck), JOIN_SECONDS)


def _where(thread: threading.Thread) -> str:
    """The line that a thread is at."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return "at an unknown line"
    return f"in {frame.f_code.co_name}, {Path(frame.f_code.co_filename).name} line {frame.f_lineno}"
