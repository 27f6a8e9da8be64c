"""When each sample is needed next: known for as many epochs ahead as it takes, as a schedule's draws are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import numpy as np

_EPOCHS = 4  # that are looked at behind the one under way; what none of them needs goes first
_EPOCH = np.int64(1 << 48)  # in the unit of `next_use`; no epoch has more positions
NEVER = np.int64(1 << 62)
_log = logging.getLogger("budgetloader")

Draws = Callable[[int], "tuple[np.ndarray, np.ndarray] | None"]
"""What an epoch draws: samples and their positions in its order, int64 [n] each; None where that is not known."""


class Oracle:
    """The next use of every sample of a set, from where a trainer stands.

    The uses of an epoch take a pass over its draws, which a thread makes when the epoch begins.

    Args:
        samples: of the set.
        wanted: whether anybody will ask.
    """

    def __init__(self, samples: int, *, wanted: bool) -> None:
        self._samples, self._wanted = samples, wanted
        self._draws: Draws | None = None
        self._lock = threading.Lock()
        self._firsts: dict[int, np.ndarray | None] = {}
        self._here = (-1, 0)

    def follow(self, draws: Draws) -> None:
        """Take the uses from a schedule."""
        with self._lock:
            self._draws, self._firsts, self._here = draws, {}, (-1, 0)

    def at(self, epoch: int, position: int) -> None:
        """The trainer asks for the samples from here on."""
        before, self._here = self._here[0], (epoch, position)
        if self._wanted and epoch != before:
            threading.Thread(target=self.next_use, name="budgetloader-oracle", daemon=True).start()

    def next_use(self) -> np.ndarray | None:
        """When each sample is needed next: int64 [D], growing with time, `NEVER` beyond the epochs that are looked at.

        None where no schedule is known.
        """
        with self._lock:
            epoch, position = self._here
            if self._draws is None or epoch < 0:
                return None
            self._firsts = {known: uses for known, uses in self._firsts.items() if known >= epoch}
            found = np.full(self._samples, NEVER)
            for ahead in range(_EPOCHS, -1, -1):  # what comes sooner overwrites what comes later
                uses = self._first_uses(epoch + ahead)
                if uses is not None:
                    soon = uses >= (position if ahead == 0 else 0)
                    found[soon] = uses[soon] + ahead * _EPOCH
            return found

    def _first_uses(self, epoch: int) -> np.ndarray | None:
        """The position at which each sample stands in an epoch: int64 [D]; −1: nowhere."""
        if epoch not in self._firsts:
            assert self._draws is not None
            uses = None
            try:
                drawn = self._draws(epoch)
            except Exception as error:  # a selection of the user's own that cannot say yet
                _log.debug("the draws of epoch %d are not known: %s", epoch, error)
                drawn = None
            if drawn is not None:
                samples, positions = drawn
                uses = np.full(self._samples, -1, np.int64)
                uses[samples[::-1]] = positions[::-1]  # of a sample that is drawn twice, the first
            self._firsts[epoch] = uses
        return self._firsts[epoch]
