"""How noisy a machine is: the share of the cores that other processes take, and how much equal work varies."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 2.0  # of measuring
_LOOPS = 40_000  # of a piece of work, a few milliseconds
_QUIET, _BUSY = 0.05, 0.25  # of the cores' time that others take


@dataclass(frozen=True)
class Noise:
    """What was seen.

    Attributes:
        variation: how much longer a piece of work takes at the 95th percentile than at the median, as a share.
        others: the share of all cores' time that other processes took meanwhile; None where the platform does
            not say.
    """

    variation: float
    others: float | None

    def __str__(self) -> str:
        text = f"the same work takes {100 * self.variation:.0f} % longer at its 95th percentile"
        if self.others is not None:
            text += f", other processes take {100 * self.others:.0f} % of the cores"
        return f"{self.word}: {text}"

    @property
    def word(self) -> str:
        """In one word: quiet, noisy or busy."""
        if (self.others or 0.0) > _BUSY:
            return "busy"
        return "quiet" if self.variation < 0.1 and (self.others or 0.0) < _QUIET else "noisy"


def measure(*, seconds: float = _SECONDS) -> Noise:
    """Do the same piece of work again and again."""
    times: list[float] = []
    began = time.perf_counter()
    before = _cpu_seconds()
    while time.perf_counter() - began < seconds or len(times) < 20:
        start = time.perf_counter()
        _work()
        times.append(time.perf_counter() - start)
    after = _cpu_seconds()
    cut = statistics.quantiles(times, n=20)
    return Noise(cut[18] / statistics.median(times) - 1, _others(before, after))


def _work() -> int:
    total = 0
    for i in range(_LOOPS):
        total += i & 7
    return total


def _cpu_seconds() -> tuple[float, float, float] | None:
    """(busy, all) of all cores since the machine started, and this process's own; None where it is not told."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0].split()
        ticks = [int(value) for value in first[1:9]]
        each = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / each, sum(ticks) / each, time.process_time()


def _others(before: tuple[float, float, float] | None, after: tuple[float, float, float] | None) -> float | None:
    if before is None or after is None or after[1] <= before[1]:
        return None
    busy, whole, own = (b - a for a, b in zip(before, after, strict=True))
    return min(max((busy - own) / whole, 0.0), 1.0)
