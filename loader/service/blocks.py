"""What the service decodes, keeps and hands out: blocks of consecutive positions of an epoch's order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the coordinator restarts fast as long as it imports neither torch nor numba
    from loader.batch import Crop
    from loader.engines.base import OnCorrupt
    from loader.resize import Interpolation

BLOCK = 128  # positions; an epoch's end wastes at most one block less one


@dataclass(frozen=True, slots=True)
class Spec:
    """What an image depends on, apart from epoch and position.

    Args:
        fingerprint: of the dataset.
        image_size, interpolation, crop, seed, on_corrupt: as in `BudgetLoader`.
    """

    fingerprint: str
    image_size: int
    interpolation: Interpolation
    crop: Crop
    seed: int
    on_corrupt: OnCorrupt

    @property
    def image_bytes(self) -> int:
        return self.image_size * self.image_size * 3

    @property
    def block_bytes(self) -> int:
        return BLOCK * self.image_bytes


@dataclass(frozen=True, slots=True)
class Key:
    """One block.

    Args:
        spec: see there.
        epoch: of the order.
        number: positions number·BLOCK … of it.
    """

    spec: Spec
    epoch: int
    number: int

    def positions(self, samples: int) -> np.ndarray:
        """int64 [n]: the block's positions in an epoch of `samples`; the last block may be short."""
        return np.arange(self.number * BLOCK, min((self.number + 1) * BLOCK, samples), dtype=np.int64)

    def size(self, samples: int) -> int:
        """How many positions it has."""
        return min(BLOCK, samples - self.number * BLOCK)


def numbers(positions: np.ndarray) -> list[int]:
    """The blocks that positions lie in, each once, in the order in which they are needed."""
    return list(dict.fromkeys((positions // BLOCK).tolist()))


def runs(positions: np.ndarray) -> Iterator[tuple[int, slice, slice]]:
    """(block, rows of the block, rows of the batch) for each stretch of consecutive positions in a block."""
    if not len(positions):
        return
    breaks = np.flatnonzero((np.diff(positions) != 1) | (positions[1:] % BLOCK == 0)) + 1
    for start, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(positions)], strict=True):
        first = int(positions[start])
        offset = first % BLOCK
        yield first // BLOCK, slice(offset, offset + stop - start), slice(start, stop)
