"""Which blocks there are: decoded once, kept under a cap, the least recently wanted ones dropped first.

Nothing here knows Ray: a block is whatever `decode` gives for its key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from loader.service.blocks import Key


@dataclass
class Counts:
    """What was asked for and what it cost, since the start.

    Attributes:
        hits, misses: blocks that were there (or under way) when they were asked for, or were not.
        decoded: samples of the misses.
    """

    hits: int = 0
    misses: int = 0
    decoded: int = 0


@dataclass
class BlockCache:
    """See this module's docstring.

    Args:
        decode: makes a block, or begins to; called once per miss.
        samples: of the dataset.
        capacity_bytes: the most that blocks may have together; at least one is always kept.
    """

    decode: Callable[[Key], Any]
    samples: int
    capacity_bytes: int
    counts: Counts = field(default_factory=Counts)
    used_bytes: int = 0

    def __post_init__(self) -> None:
        self._blocks: OrderedDict[Key, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def take(self, keys: Sequence[Key]) -> tuple[list[Any], int]:
        """The blocks of `keys`, and how many samples had to be decoded for them."""
        found, decoded = [], 0
        for key in keys:
            block = self._blocks.get(key)
            if block is None:
                self._make_room(self._bytes(key))
                block = self._blocks[key] = self.decode(key)
                self.used_bytes += self._bytes(key)
                decoded += key.size(self.samples)
                self.counts.misses += 1
            else:
                self._blocks.move_to_end(key)
                self.counts.hits += 1
            found.append(block)
        self.counts.decoded += decoded
        return found, decoded

    def drop(self, key: Key, block: Any) -> None:
        """Forget a block that turned out to be lost, unless it was made anew since."""
        if self._blocks.get(key) == block:
            del self._blocks[key]
            self.used_bytes -= self._bytes(key)

    def _make_room(self, wanted: int) -> None:
        while self._blocks and self.used_bytes + wanted > self.capacity_bytes:
            key, _ = self._blocks.popitem(last=False)
            self.used_bytes -= self._bytes(key)

    def _bytes(self, key: Key) -> int:
        return key.size(self.samples) * key.spec.image_bytes
