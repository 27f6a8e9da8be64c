"""Plans of an order in blocks: the samples of a pool are asked for together, by few large requests.

A batch has a sample or two of each of many blocks. So the plans of a whole pool are read before the first of them is
given, and its samples are fetched in the order of the file, while those of the pool before it are used up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from budgetloader.plans import BatchPlan

_PORTION_BYTES = 8 << 20  # that are asked for at a time; blocks are not divided
_AHEAD = 1.25  # pools that are held: the next one is asked for before the last quarter of one is used
_LEAST_BYTES = 32 << 20  # the same of small pools: what is on its way, where latency is long
_MOST_POOLS = 4  # of which all plans were read

Ends = Callable[[np.ndarray], np.ndarray]
"""Positions of an epoch's order to the ends of the pools in which they stand: int64 [n] in and out."""


class Held(Protocol):
    """Samples that are fetched, and stay until they are let go."""

    def drop(self, samples: np.ndarray) -> None:
        """Let some of them go: int64 [n]."""

    def release(self) -> None:
        """Let go of the rest."""


class Part(Protocol):
    """A file whose samples are asked for ahead of their use: one in object storage, or one on a slow disk."""

    def __len__(self) -> int: ...

    def hold(self, samples: np.ndarray, held: Any = None) -> Held:
        """Ask for samples, int64 [n], each once; together with others that are held already, or alone."""

    def bytes_of(self, samples: np.ndarray) -> int:
        """The bytes of some samples."""


class _Pool:
    """A pool of which plans were read: its samples in each part, and what holds them."""

    def __init__(self, key: tuple[int, int], parts: int) -> None:
        self.key = key  # epoch, and where it ends in the order
        self.read: list[list[np.ndarray]] = [[] for _ in range(parts)]
        self.held: list[Any] = [None] * parts
        self.bytes, self.plans, self.waiting = 0, 0, 0  # of what was not given; portions that were not asked for yet


class Pools:
    """An iterator over plans, each given when all samples of its pool were asked for.

    Args:
        parts: the files, each with the number of its first sample.
        plans: in their order.
        ends: of the order's pools.
        most_bytes: that are held ahead of the pool under way.
    """

    def __init__(
        self, parts: list[tuple[int, Any]], plans: Iterator[BatchPlan], *, ends: Ends, most_bytes: int
    ) -> None:
        self._parts, self._plans, self._ends, self._most_bytes = parts, plans, ends, most_bytes
        self._read: deque[BatchPlan] = deque()
        self._next: BatchPlan | None = next(plans, None)
        self._pools: dict[tuple[int, int], _Pool] = {}  # those that are held, the oldest first
        self._whole: set[tuple[int, int]] = set()  # those of which all plans were read
        self._portions: deque[tuple[_Pool, int, np.ndarray]] = deque()
        self._held_bytes, self._largest = 0, 0

    def __iter__(self) -> Pools:
        return self

    @property
    def ready(self) -> bool:
        """Whether the next plan's samples were all asked for; True at the end."""
        self._ask()
        if not self._read and not self._read_pool():
            return True
        return all(self._asked(key) for key in self._keys(self._read[0]))

    def __next__(self) -> BatchPlan:
        if not self._read and not self._read_pool():
            raise StopIteration
        for key in self._keys(self._read[0]):
            while not self._asked(key) and (self._portions or self._read_pool()):
                self._ask_next()
        return self._read.popleft()

    def begun(self, plan: BatchPlan) -> None:
        """A plan's samples are held by whoever was given it: here they are let go."""
        ends = self._ends(plan.positions)
        for key in self._keys(plan):
            pool, rows = self._pools[key], ends == key[1]
            for place, part, own in self._own(plan.samples[rows]):
                pool.held[place].drop(own)
                size = part.bytes_of(own)
                pool.bytes -= size
                self._held_bytes -= size
            pool.plans -= 1
            if not pool.plans and key in self._whole:
                self._forget(pool)
        self._ask()

    def cut(self, epoch: int) -> bool:
        """Drop the plans of an epoch and of those behind it, and end before it; whether any was read."""
        read = [plan for plan in (*self._read, *filter(None, [self._next])) if plan.epoch >= epoch]
        if not read:
            return False
        self._read = deque(plan for plan in self._read if plan.epoch < epoch)
        self._next, self._plans = None, iter(())
        for pool in [pool for key, pool in self._pools.items() if key[0] >= epoch]:
            self._forget(pool)
        self._cut_up()
        return True

    def __del__(self) -> None:
        for pool in list(vars(self).get("_pools", {}).values()):
            self._forget(pool)

    # Reading plans

    def _read_pool(self) -> bool:
        """Read plans until one pool more is whole; whether there was a plan."""
        before, read = len(self._whole), False
        while self._next is not None and len(self._whole) == before:
            plan, read = self._next, True
            self._read.append(plan)
            ends = self._ends(plan.positions)
            for key in self._keys(plan):
                pool = self._pools.setdefault(key, _Pool(key, len(self._parts)))
                pool.plans += 1
                for place, _, own in self._own(plan.samples[ends == key[1]]):
                    pool.read[place].append(own)
            self._next = next(self._plans, None)
            self._cut_up()
        return read

    def _cut_up(self) -> None:
        """Cut up the pools that no later plan has a sample of."""
        following = None if self._next is None else (self._next.epoch, int(self._next.positions.min()))
        for key, pool in self._pools.items():
            if key not in self._whole and (following is None or key <= following):
                self._whole.add(key)
                for place, (_, part) in enumerate(self._parts):
                    samples = np.unique(np.concatenate(pool.read[place])) if pool.read[place] else np.empty(0, np.int64)
                    pool.read[place] = []
                    if len(samples):
                        pool.bytes += part.bytes_of(samples)
                        portions = _portions(samples, part)
                        pool.waiting += len(portions)
                        self._portions.extend((pool, place, portion) for portion in portions)
                self._largest = max(self._largest, pool.bytes)

    def _keys(self, plan: BatchPlan) -> list[tuple[int, int]]:
        return [(plan.epoch, end) for end in np.unique(self._ends(plan.positions)).tolist()]

    def _own(self, samples: np.ndarray) -> Iterator[tuple[int, Any, np.ndarray]]:
        """The samples of each part that has some, each once, by their numbers in it."""
        for place, (first, part) in enumerate(self._parts):
            own = np.unique(samples[(samples >= first) & (samples < first + len(part))]) - first
            if len(own):
                yield place, part, own

    # Asking for samples

    def _asked(self, key: tuple[int, int]) -> bool:
        return key in self._whole and not (key in self._pools and self._pools[key].waiting)

    def _ask(self) -> None:
        """Ask for what comes next, as far as there is room for it."""
        while True:
            if not self._portions and (len(self._whole) >= _MOST_POOLS or not self._read_pool()):
                return
            if self._held_bytes >= min(max(_AHEAD * self._largest, _LEAST_BYTES), self._most_bytes):
                return
            self._ask_next()

    def _ask_next(self) -> None:
        if self._portions:
            pool, place, samples = self._portions.popleft()
            part = self._parts[place][1]
            pool.held[place] = part.hold(samples, pool.held[place])
            pool.waiting -= 1
            self._held_bytes += part.bytes_of(samples)

    def _forget(self, pool: _Pool) -> None:
        waiting = [portion for portion in self._portions if portion[0] is pool]
        if waiting:
            self._portions = deque(portion for portion in self._portions if portion[0] is not pool)
        self._held_bytes -= pool.bytes - sum(self._parts[place][1].bytes_of(own) for _, place, own in waiting)
        for held in filter(None, pool.held):
            held.release()
        del self._pools[pool.key]
        self._whole.discard(pool.key)


def _portions(samples: np.ndarray, part: Any) -> list[np.ndarray]:
    """Samples in their order, cut where neighbours end, into parts of about as many bytes."""
    borders = np.flatnonzero(np.diff(samples) != 1) + 1
    found, first, size = [], 0, 0
    for run in np.split(samples, borders):
        size += part.bytes_of(run)
        if size >= _PORTION_BYTES:
            stop = first + int(np.searchsorted(samples[first:], run[-1], side="right"))
            found.append(samples[first:stop])
            first, size = stop, 0
    if first < len(samples):
        found.append(samples[first:])
    return found
