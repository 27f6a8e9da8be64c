"""The cache of blocks: each is decoded once, and the least recently used are dropped where memory is full.

It does not know Ray: a part's content is whatever `decode` gives for its key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from budgetloader.service.blocks import Key, Part


@dataclass
class Counts:
    """What was asked for since the start, and what it cost.

    Attributes:
        hits, misses: blocks that were cached (or being decoded) when they were asked for, or were not.
        decoded: samples of the misses.
    """

    hits: int = 0
    misses: int = 0
    decoded: int = 0


@dataclass
class BlockCache:
    """Blocks under a cap of memory.

    Args:
        decode: makes the rows start … stop of a block, or begins to; called once per miss.
        capacity_bytes: the most that blocks may have together; at least one is always kept.
    """

    decode: Callable[[Key, int, int], Any]
    capacity_bytes: int
    counts: Counts = field(default_factory=Counts)
    used_bytes: int = 0

    def __post_init__(self) -> None:
        self._blocks: OrderedDict[Key, list[Part]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def has(self, key: Key, rows: int) -> bool:
        """Whether so many rows of a block were asked for before."""
        return key in self._blocks and self._blocks[key][-1].stop >= rows

    def take(self, wanted: Sequence[tuple[Key, int]]) -> tuple[list[list[Part]], int]:
        """The first rows of blocks, and how many samples had to be decoded for them.

        Args:
            wanted: blocks, and how many of their rows.

        Returns:
            The parts of each that have a row of these; no row is in two parts.
        """
        found, decoded = [], 0
        for key, _ in wanted:  # what is wanted now is not dropped for something else that is
            if key in self._blocks:
                self._blocks.move_to_end(key)
        for key, rows in wanted:
            cached = self._blocks[key][-1].stop if key in self._blocks else 0
            missing = rows - cached
            if missing > 0:
                self._make_room(missing * key.spec.image_bytes, but=key)
                self._blocks.setdefault(key, []).append(Part(cached, rows, self.decode(key, cached, rows)))
                self.used_bytes += missing * key.spec.image_bytes
                decoded += missing
                self.counts.misses += 1
            else:
                self.counts.hits += 1
            self._blocks.move_to_end(key)
            found.append([part for part in self._blocks[key] if part.start < rows])
        self.counts.decoded += decoded
        return found, decoded

    def drop(self, key: Key, parts: Sequence[Part]) -> None:
        """Forget a block of which a part turned out to be lost, unless it was made anew since."""
        if any(part in self._blocks.get(key, []) for part in parts):
            self._remove(key)

    def _make_room(self, wanted_bytes: int, *, but: Key) -> None:
        if but in self._blocks:
            self._blocks.move_to_end(but)
        while self.used_bytes + wanted_bytes > self.capacity_bytes:
            oldest = next(iter(self._blocks), but)
            if oldest == but:
                return
            self._remove(oldest)

    def _remove(self, key: Key) -> None:
        self.used_bytes -= self._blocks.pop(key)[-1].stop * key.spec.image_bytes
