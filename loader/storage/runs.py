"""Samples that nobody announced, as `verify` and engines that hold everything in memory read them: in order."""

from __future__ import annotations

import threading

import numpy as np

from budgetloader.errors import StorageError
from budgetloader.storage.source import Source, Ticket

_FIRST, _MOST, _NEAR = 8, 64, 32  # samples of a run: the first, and the longest; how far one may be from the last
_MOST_BYTES = 16 << 20


class Runs:
    """Reads single samples; where they are read one after the other, the next ones are fetched ahead.

    Args:
        source: of the samples.
    """

    def __init__(self, source: Source) -> None:
        self._source, self._count = source, len(source.starts)
        self._lock = threading.Lock()
        self._last, self._stop, self._length = -1, 0, 0
        self._ahead: list[Ticket] = []

    def read(self, sample: int) -> np.ndarray:
        """A sample's bytes, as `Source.read` gives them."""
        if not self._source.lends(sample):
            self._look_ahead(sample)
        try:
            return self._source.read(sample)
        except StorageError:
            with self._lock:
                ahead, self._ahead = self._ahead, []
            if not ahead:
                raise
        for ticket in ahead:  # where a disk is full, what is fetched ahead may be in the way
            ticket.release()
        return self._source.read(sample)

    def _look_ahead(self, sample: int) -> None:
        with self._lock:
            near = abs(sample - self._last) <= _NEAR and self._last >= 0
            self._last = sample
            if not near:
                self._ahead, self._stop, self._length = [], sample + 1, _FIRST
                return
            if sample + self._length // 2 < self._stop or self._stop >= self._count:
                return  # far enough ahead
            first = max(self._stop, sample)
            sizes = np.cumsum(self._source.sizes[first : first + self._length])
            room = max(1, int(np.searchsorted(sizes, _MOST_BYTES)))
            self._stop = min(first + min(self._length, room), self._count)
            self._length = min(2 * self._length, _MOST)
            self._ahead = [*self._ahead[-2:], self._source.begin(np.arange(first, self._stop))]
