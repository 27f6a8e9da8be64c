"""How long work usually takes, without what other processes took of the time."""

from __future__ import annotations

import bisect
from collections import deque

_WINDOW, _LEAST = 64, 8
_INTERRUPTED = 2.0


class Laps:
    """Counts a lap that took more than twice the median of those before as that median.

    A thread that wakes up may share a core with another one, or wait for a time slice, for longer than its work
    takes. Saturated, when cores are never given up, it does not: such laps say nothing about what an engine can
    deliver. A disk that is slow for most laps moves the median, and counts.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def usual(self, seconds: float, samples: int) -> float:
        """The time that a lap of so many samples counts for: `seconds`, or less."""
        each, counted = seconds / samples, seconds
        if len(self._recent) >= _LEAST:
            median = self._sorted[len(self._sorted) // 2]
            if each > _INTERRUPTED * median:
                counted = median * samples
        self._recent.append(each)
        bisect.insort(self._sorted, each)
        if len(self._recent) > _WINDOW:
            del self._sorted[bisect.bisect_left(self._sorted, self._recent.popleft())]
        return counted
