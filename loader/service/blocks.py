"""What the service decodes, keeps and hands out: blocks of consecutive positions of an epoch's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:  # the coordinator restarts fast as long as it imports neither torch nor numba
    from budgetloader.dataset import Dataset
    from budgetloader.engines.base import OnCorrupt
    from budgetloader.plans import Crop
    from budgetloader.resize import Interpolation

Spans = Sequence[Sequence[int]]  # positions, as stretches [start, stop)
BLOCK = 256  # positions


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
class Reading:
    """How the dataset is opened.

    Args:
        path: of the file.
        verify, max_pixels: as in `budgetloader.dataset.Dataset`.
    """

    path: str
    verify: bool
    max_pixels: int

    def open(self) -> Dataset:
        from budgetloader.dataset import Dataset

        return Dataset(self.path, verify=self.verify, max_pixels=self.max_pixels)


@dataclass(frozen=True, slots=True)
class Key:
    """One block.

    Args:
        spec: see there.
        epoch: of the order.
        number: positions number·BLOCK … (number + 1)·BLOCK of it.
    """

    spec: Spec
    epoch: int
    number: int


class Part(NamedTuple):
    """A part of a block, decoded at once.

    A trainer wants a block's first rows, as many as its budget reaches; another one that wants more of the
    same block gets what is there, and the rest as another part.

    Attributes:
        start, stop: rows of the block.
        content: what has been made of them, or a reference to it.
    """

    start: int
    stop: int
    content: Any


def spans(positions: np.ndarray) -> list[tuple[int, int]]:
    """Positions as stretches [start, stop) of consecutive ones."""
    if not len(positions):
        return []
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    starts, lasts = positions[np.r_[0, breaks]], positions[np.r_[breaks - 1, -1]]
    return list(zip(starts.tolist(), (lasts + 1).tolist(), strict=True))


def runs(stretches: Spans) -> list[tuple[int, slice, slice]]:
    """(block, rows of the block, rows of the batch) for each part of a stretch that lies in one block."""
    found, row = [], 0
    for start, stop in stretches:
        while start < stop:
            number, first = divmod(start, BLOCK)
            count = min(stop - start, BLOCK - first)
            found.append((number, slice(first, first + count), slice(row, row + count)))
            start, row = start + count, row + count
    return found
