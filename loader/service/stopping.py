"""Signals end a server within seconds, whatever Ray is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

_EARLY = "interrupted while it started; nothing is left of it"
END_SECONDS = 4.0  # from the signal to the end, at most


class Stopping:
    """Whether Ctrl-C or SIGTERM came.

    Attributes:
        started: set it once the service runs: from then on, a signal ends it in order.
        number: of the signal.
    """

    def __init__(self) -> None:
        self._requested = threading.Event()
        self.started = False
        self.number = 0

    @property
    def requested(self) -> bool:
        return self._requested.is_set()

    def take(self, number: int, _: object) -> None:
        """The signals' handler: while the service starts, it interrupts whatever is being done."""
        self.number = number
        self._requested.set()
        if not self.started:
            raise KeyboardInterrupt

    def wait(self, seconds: float) -> bool:
        return self._requested.wait(seconds)

    @property
    def status(self) -> int:
        return 0 if self.started else 128 + self.number


@contextlib.contextmanager
def stopping() -> Iterator[Stopping]:
    """A signal ends the block in order. If that takes more than 4 seconds, the process exits, and its guard clears up.

    Python writes a signal's number to a descriptor, so that a thread sees it even while the main thread is deep in Ray,
    which also replaces our handlers.
    """
    state = Stopping()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, state.take) for number in numbers}
    descriptor = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch() -> None:
        while data := os.read(reading, 64):
            came = [number for number in data if number in numbers]
            if came:
                state.number = state.number or came[0]
                state._requested.set()
                time.sleep(END_SECONDS)
                if not state.started:
                    print(_EARLY, file=sys.stderr, flush=True)
                os._exit(state.status)

    threading.Thread(target=watch, name="stopping", daemon=True).start()
    try:
        yield state
    except BaseException as error:
        stop = isinstance(error, (KeyboardInterrupt, SystemExit))  # of our handler or of Ray's
        if not state.requested or (state.started and not stop):
            raise
        if not state.started:
            print(_EARLY, file=sys.stderr, flush=True)
            os._exit(state.status)  # as the interpreter ends, a core of Ray's that is half made aborts the process
        raise SystemExit(state.status) from None
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        if not state.requested:
            os.close(writing)  # ends the thread; after a signal it stays, in case Ray's shutdown takes long


def rearm(state: Stopping) -> None:
    """Put our handlers back in place of Ray's."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, state.take)
