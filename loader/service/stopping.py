"""The end of a server: asked for by a signal, and there within seconds, whatever Ray is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

_EARLY = "interrupted while it started; nothing is left of it"
END_SECONDS = 4.0  # from the signal to the end, at most


class Stopping:
    """Whether Ctrl-C or SIGTERM came.

    Attributes:
        started: set it once the service is up: a stop is an orderly one from then on.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self.started = False
        self.number = 0

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def take(self, number: int, _: object) -> None:
        """The signals' handler: while the service starts, whatever is under way is left at once."""
        self.number = number
        self._asked.set()
        if not self.started:
            raise KeyboardInterrupt

    def wait(self, seconds: float) -> bool:
        return self._asked.wait(seconds)

    @property
    def status(self) -> int:
        return 0 if self.started else 128 + self.number


@contextlib.contextmanager
def stopping(*, last: Callable[[], None]) -> Iterator[Stopping]:
    """Signals end this process in order, or 4 seconds later without: its guard clears up behind it.

    The descriptor that signals are written to tells a thread of them even while the main one is deep in Ray, which
    also puts a handler of its own in the place of ours.

    Args:
        last: called before an end without order.
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
                state._asked.set()
                time.sleep(END_SECONDS)
                with contextlib.suppress(Exception):
                    last()
                if not state.started:
                    print(_EARLY, file=sys.stderr, flush=True)
                os._exit(state.status)

    threading.Thread(target=watch, name="stopping", daemon=True).start()
    try:
        yield state
    except BaseException as error:
        stop = isinstance(error, (KeyboardInterrupt, SystemExit))  # ours, or that of Ray's own handler
        if not state.asked or (state.started and not stop):
            raise
        if not state.started:  # whatever was under way broke off in its own way
            print(_EARLY, file=sys.stderr, flush=True)
        raise SystemExit(state.status) from None
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        if not state.asked:
            os.close(writing)  # ends the thread; once asked it stays, in case Ray's own end takes long


def rearm(state: Stopping) -> None:
    """Put our handlers back where Ray put its own."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, state.take)
