"""Some of the samples of a set."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from budgetloader.errors import ScheduleError


class _Selection(Protocol):
    def ids(self, epoch: int, positions: np.ndarray) -> np.ndarray: ...

    def expected_share(self, samples: int) -> float: ...


class Subset:
    """The samples of a subset, in the order that another selection gives to as many.

    Args:
        members: int64 [n], the samples' numbers; see `members_of`.
        order: a selection of n samples.
    """

    def __init__(self, members: np.ndarray, order: _Selection) -> None:
        self.members, self._order, self.size = members, order, len(members)
        self.identity: dict[str, Any] = {
            "samples": digest(members),
            **getattr(order, "identity", {}),
        }

    def expected_share(self, samples: int) -> float:
        """The share of the subset that so many draws of an epoch are expected to see."""
        return self._order.expected_share(samples)

    def ids(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """The samples at `positions` of `epoch`: int64 [n] in, int64 [n] out."""
        return self.members[self._order.ids(epoch, positions)]


def digest(members: np.ndarray) -> str:
    """Tells subsets apart: 16 hex digits."""
    return hashlib.sha256(members.astype("<i8").tobytes()).hexdigest()[:16]


def members_of(samples: ArrayLike, *, size: int) -> np.ndarray:
    """The numbers of the samples that are meant: int64 [n], in the order given.

    Args:
        samples: their numbers, each once, or a boolean mask with an entry per sample.
        size: D, samples of the whole set.

    Raises:
        ScheduleError: none is meant, one twice, one outside the set, or a mask of another length.
    """
    given = np.asarray(samples)
    if given.ndim != 1:
        raise ScheduleError(f"samples of shape {given.shape}: give one row of numbers, or a mask [{size}]")
    if given.dtype == bool:
        if len(given) != size:
            raise ScheduleError(f"the mask has {len(given)} entries, and the set {size} samples; give one for each")
        given = np.flatnonzero(given)
    elif len(given) and not np.issubdtype(given.dtype, np.integer):
        raise ScheduleError(f"samples of dtype {given.dtype}: give integers or booleans")
    if not len(given):
        raise ScheduleError("samples names none; give one at least")
    numbers = given.astype(np.int64)
    outside = (numbers < 0) | (numbers >= size)
    if outside.any():
        raise ScheduleError(f"sample {numbers[outside][0]} is outside the set's {size} (0 … {size - 1})")
    seen = np.zeros(size, bool)
    seen[numbers] = True
    if np.count_nonzero(seen) != len(numbers):
        found, counts = np.unique(numbers, return_counts=True)
        raise ScheduleError(f"sample {found[counts > 1][0]} is there twice; use weights= to draw samples more often")
    return numbers
