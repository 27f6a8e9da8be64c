"""What the service decodes, caches and hands out: blocks of consecutive positions of an epoch's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:  # the coordinator restarts fast because it imports neither torch nor numba
    from budgetloader.dataset import Dataset
    from budgetloader.joined import JoinedDataset

Spans = Sequence[tuple[int, int]]  # positions, as stretches [start, stop)
BLOCK = 256  # positions
AHEAD = 6  # blocks, at most, that are asked for before a batch needs them; half of them at a time
MOST_SIDE = 65_535  # pixels


@dataclass(frozen=True, slots=True)
class Spec:
    """What an image depends on, apart from its epoch and position.

    The choices are spelled out here, because a trainer's message is checked against them; they are those of
    `budgetloader.resize.Interpolation`, `budgetloader.batch.Crop` and `budgetloader.engines.base.OnCorrupt`.

    Args:
        fingerprint: of the dataset.
        image_size, interpolation, crop, seed, on_corrupt, channels: as in `BudgetLoader`.

    Raises:
        ValueError: an image size or a seed that no loader has.
    """

    fingerprint: str
    image_size: int
    interpolation: Literal["antialias", "linear"]
    crop: Literal["resized", "pad"]
    seed: int
    on_corrupt: Literal["raise", "replace"]
    channels: Literal[1, 3, 4] = 3

    def __post_init__(self) -> None:
        if not 0 < self.image_size <= MOST_SIDE:
            raise ValueError(f"image_size {str(self.image_size)[:20]} is not among 1 … {MOST_SIDE}")
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed {str(self.seed)[:30]} is not among 0 … 2⁶⁴ − 1")

    @property
    def image_bytes(self) -> int:
        return self.image_size * self.image_size * self.channels

    @property
    def block_bytes(self) -> int:
        return BLOCK * self.image_bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """How the dataset is opened.

    Args:
        paths: of the file, or its address, or of a list of shards; of several files, which are one set.
        verify, max_pixels: as in `budgetloader.dataset.Dataset`.
        cache, cache_bytes: of a file in object storage, as in `BudgetLoader`.
    """

    paths: tuple[str, ...]
    verify: bool
    max_pixels: int
    cache: str | None = None
    cache_bytes: float | None = None

    def __str__(self) -> str:
        return " + ".join(self.paths)

    @property
    def in_store(self) -> bool:
        """Whether some of it is in object storage."""
        from budgetloader.storage import is_address

        return any(map(is_address, self.paths))

    def open(self) -> Dataset | JoinedDataset:
        options: Any = {"cache": self.cache, "cache_bytes": self.cache_bytes}
        options |= {"verify": self.verify, "max_pixels": self.max_pixels}
        if len(self.paths) > 1:
            from budgetloader.joined import join

            return join(self.paths, **options)
        from budgetloader.shard_list import open_set

        return open_set(*self.paths, **options)


@dataclass(frozen=True, slots=True)
class Key:
    """Names one block.

    Args:
        spec: what its images depend on.
        epoch: whose order the positions are of.
        number: the block has the positions number·BLOCK … (number + 1)·BLOCK − 1.
        ids: the samples that stand there, as little-endian 64-bit numbers, where a trainer draws from another order
            than that of the whole set (a subset, weights, a selection of its own); b"": those of the whole set's.
            Trainers that draw the same samples share, whatever made them draw these.
    """

    spec: Spec
    epoch: int
    number: int
    ids: bytes = b""

    @property
    def samples(self) -> np.ndarray | None:
        """The samples that stand there: int64 [n]; None: those of the whole set's order."""
        return np.frombuffer(self.ids, "<i8") if self.ids else None


@dataclass(frozen=True, slots=True)
class Content:
    """The decoded rows of a part of a block. Rows are counted from the part's first.

    Attributes:
        images: uint8 [n, image_size, image_size, channels].
        replaced: row → sample, of the rows where another sample stands in for one that does not decode.
        corrupt: row → (message, sample), of the rows that do not decode; their images are black.
        seconds: that decoding took, see `budgetloader.engines.laps`.
        store_seconds: in which it waited for object storage besides.
    """

    images: np.ndarray
    replaced: dict[int, int]
    corrupt: dict[int, tuple[str, int]]
    seconds: float
    store_seconds: float = 0.0


class Part(NamedTuple):
    """A part of a block, decoded in one go.

    A trainer wants the first rows of a block, as many as its budget reaches. Another trainer that wants more rows of
    the same block gets the part that is cached, and the rest as a second part.

    Attributes:
        start, stop: rows of the block.
        content: a `Content`, or a reference to it.
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
    """(block, rows of the block, rows of the batch) for each piece of a stretch that lies in one block."""
    found, row = [], 0
    for start, stop in stretches:
        while start < stop:
            number, first = divmod(start, BLOCK)
            count = min(stop - start, BLOCK - first)
            found.append((number, slice(first, first + count), slice(row, row + count)))
            start, row = start + count, row + count
    return found
