"""Several data sets in fixed proportions, exact over every prefix of an epoch."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from budgetloader import rng
from budgetloader.errors import ScheduleError
from budgetloader.order import Permutation, round_keys

_LONGEST = 100_000  # positions after which the pattern of sources begins again


class Mixed:
    """Sources in turn, so that any first n positions hold n·share of each, ±1; each in an order of its own.

    Which source stands at a position is the same in every epoch: the pattern solves the chairman assignment problem
    (R. Tijdeman, Discrete Mathematics 32, 1980), whose deviation stays below 1. Which of its samples: the next one of
    the source's fresh permutation of this epoch; where it is used up, of another one.

    Args:
        sizes: samples of each source; their numbers follow each other in the whole set.
        shares: of each source, above 0, to five digits; they need not add up to 1.
        seed: 0 … 2⁶⁴ − 1.
    """

    def __init__(self, sizes: Sequence[int], shares: Sequence[float | str | Fraction], *, seed: int) -> None:
        exact = _exact(shares)
        if len(sizes) != len(exact):
            raise ScheduleError(f"{len(sizes)} sources and {len(exact)} shares: give one share for each")
        if min(sizes) < 1:
            raise ScheduleError(f"sources of {list(sizes)} samples: each needs one at least")
        self.shares, self.size, self._sizes, self._seed = exact, sum(sizes), np.array(sizes, np.int64), seed
        self._firsts = np.concatenate(([0], np.cumsum(self._sizes)[:-1]))
        self._pattern = pattern(exact)
        self._in_pattern = np.bincount(self._pattern, minlength=len(exact))
        self._before = np.zeros(len(self._pattern), np.int64)  # of the same source, since the pattern began
        for source in range(len(exact)):
            at = np.flatnonzero(self._pattern == source)
            self._before[at] = np.arange(len(at))
        self.identity: dict[str, Any] = {"mixture": [str(share) for share in exact], "sizes": [int(s) for s in sizes]}

    def expected_share(self, samples: int) -> float:
        """The share of all sources' samples that so many positions of an epoch have, to a sample of each source."""
        drawn = np.array([float(share) for share in self.shares]) * samples
        return float(np.minimum(drawn, self._sizes).sum() / self.size)

    def ids(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """The samples at `positions` of `epoch`: int64 [n] in, int64 [n] out."""
        rounds, places = np.divmod(np.asarray(positions, np.int64), len(self._pattern))
        sources = self._pattern[places]
        taken = rounds * self._in_pattern[sources] + self._before[places]
        cycles, inside = np.divmod(taken, self._sizes[sources])
        ids = np.empty_like(taken)
        for source, cycle in sorted(set(zip(sources.tolist(), cycles.tolist(), strict=True))):
            here = (sources == source) & (cycles == cycle)
            number = cycle * len(self.shares) + source
            order = _order(int(self._sizes[source]), self._seed, epoch, number)
            ids[here] = self._firsts[source] + order(inside[here])
        return ids


@lru_cache(maxsize=256)
def _order(size: int, seed: int, epoch: int, number: int) -> Permutation:
    return Permutation(size, key=round_keys(seed, epoch, purpose=rng.MIXTURE_KEY, number=number))


def pattern(shares: Sequence[Fraction]) -> np.ndarray:
    """Which source stands at each position, until it begins again: int64 [n].

    With a slack of 1 − 1/(2m − 2) for m sources, the j-th sample of a source (from 0) may stand at position p once
    (p + 1)·share ≥ j + 1 − slack, and must by p ≤ (j + slack)/share. The one that must come soonest comes.
    """
    length = math.lcm(*(share.denominator for share in shares))
    if length > _LONGEST:
        shown = ", ".join(f"{float(share):g}" for share in shares)
        raise ScheduleError(f"shares {shown}: round them to five digits")
    counts = [int(share * length) for share in shares]  # whole numbers from here on: fractions are slow
    parts = max(2 * len(shares) - 2, 1)
    slack = parts - 1 if len(shares) > 1 else parts  # in parts

    def opens(source: int, taken: int) -> int:
        return -(((slack - (taken + 1) * parts) * length) // (counts[source] * parts)) - 1

    def deadline(source: int, taken: int) -> int:
        return (taken * parts + slack) * length // (counts[source] * parts)

    closed = [(opens(source, 0), source, 0) for source in range(len(shares))]
    heapq.heapify(closed)
    open_: list[tuple[int, int, int]] = []
    found = np.empty(length, np.int64)
    for position in range(length):
        while closed and closed[0][0] <= position:
            _, source, taken = heapq.heappop(closed)
            heapq.heappush(open_, (deadline(source, taken), source, taken))
        _, source, taken = heapq.heappop(open_)
        found[position] = source
        heapq.heappush(closed, (opens(source, taken + 1), source, taken + 1))
    return found


def _exact(shares: Sequence[float | str | Fraction]) -> tuple[Fraction, ...]:
    """Shares that add up to 1, as exact as they were written."""
    try:
        exact = [share if isinstance(share, Fraction) else Fraction(str(share)) for share in shares]
    except (ValueError, ZeroDivisionError):
        raise ScheduleError(f"shares {list(shares)}: give numbers above 0") from None
    if not exact or min(exact) <= 0:
        raise ScheduleError(f"shares {[str(share) for share in shares]}: give numbers above 0")
    return tuple(share / sum(exact) for share in exact)
