"""Interrupts a trainer at random moments, as Ctrl-C in a notebook does, and looks at what it gets afterwards."""

from __future__ import annotations

import hashlib
import random
import signal
import threading

import numpy as np


class Interrupted(Exception):
    """What the signal's handler raises."""


def digest(images, ids):
    h = hashlib.sha256(images.contiguous().view(-1).float().numpy().tobytes())
    h.update(np.ascontiguousarray(ids.numpy()).tobytes())
    return h.hexdigest()


def whole_stream(batches):
    """(epoch, step) → digest of every batch of the schedule, without an interrupt."""
    found = {}
    for epoch in range(batches.schedule.epochs):
        batches.set_epoch(epoch)
        for images, _, ids in batches:
            found[epoch, batches.step - 1] = digest(images, ids)
    return found


class _Signals(threading.Thread):
    """Sends this thread a signal at random moments, each when the one before was answered (or was lost in a finalizer).

    Not by an alarm: pytest's own timeout is one.
    """

    def __init__(self, *, seconds, seed):
        super().__init__(daemon=True)
        self._seconds, self._rng = seconds, random.Random(seed)
        self._main = threading.get_ident()
        self.answered, self._over = threading.Event(), threading.Event()
        self._raised = False  # and nothing is raised again before the trainer goes on, however long it takes
        self._before = signal.signal(signal.SIGUSR2, self._handle)

    def _handle(self, *_):
        if not self._raised:
            self._raised = True
            raise Interrupted

    def go_on(self):
        """The trainer has recovered, or has noticed nothing."""
        self._raised = False
        self.answered.set()

    def run(self):
        while not self._over.wait(self._rng.uniform(1e-5, self._seconds)):
            self.answered.clear()
            signal.pthread_kill(self._main, signal.SIGUSR2)
            self.answered.wait(0.1)

    def stop(self):
        """No signal comes any more; may be called again."""
        while self.is_alive():
            try:
                self._raised = True
                self._over.set()
                self.answered.set()
                self.join()
            except Interrupted:
                pass
        if self._before is not None:
            signal.signal(signal.SIGUSR2, self._before)
            self._before = None


LEAST = (
    21  # batches to be compared; where the signals leave fewer, a busy machine's, they are compared after the signals
)


def interrupt(batches, expected, *, times, seconds, seed=0):
    """Go through the schedule again and again until so many signals have come.

    Every batch is compared with the `expected` one of the place that the loader says it stands at; no batch is left
    out, but for one that a signal took from the trainer's hands.

    Args:
        seconds: the longest time between two signals.
    """
    places = sorted(expected)
    came, compared, last, before = 0, 0, None, 0
    signals = _Signals(seconds=seconds, seed=seed)
    batches.set_epoch(0)
    signals.start()
    try:
        while came < times or compared < LEAST:
            if came >= times:
                signals.stop()
            if batches.epoch == batches.schedule.epochs:
                last = None
                batches.set_epoch(0)
            try:
                signals.go_on()
                for images, _, ids in batches:
                    here, found = (batches.epoch, batches.step - 1), digest(images, ids)
                    assert found == expected[here], f"after {came} interrupts another batch came in place of {here}"
                    if last is not None:
                        skipped = places.index(here) - places.index(last) - 1
                        assert 0 <= skipped <= came - before, (last, here, came - before)
                    last, before, compared = here, came, compared + 1
                    signals.go_on()
            except (Interrupted, SystemError):  # the latter is what numba makes of it
                came += 1
                batches.load_state_dict(batches.state_dict())  # go on in the middle of the epoch
    finally:
        signals.stop()
    return compared
