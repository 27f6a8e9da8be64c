"""The order of an epoch: which sample stands at which position, in time that grows with the positions looked up.

An epoch's order is a keyed permutation of the dataset: a generalised Feistel cipher on a grid of
a × b ≥ D cells with cycle walking (J. Black, P. Rogaway, "Ciphers with arbitrary finite domains",
CT-RSA 2002, methods 2 and 3). Nothing of length D is ever stored, and the key does not know the
ratio: a budget is a prefix of the epoch's order.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from budgetloader import rng
from budgetloader.arguments import check_choice, check_seed
from budgetloader.budget import Budget
from budgetloader.errors import ScheduleError

Sampling = str  # one of these words, or "blocks", which is `budgetloader.block_order`'s
OWN_ORDERS = ("independent", "cyclic", "static")
_ROUNDS = 16  # even; at 8 the permutations of 5 elements are measurably uneven, at 12 no longer
_MIX = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))  # MurmurHash3's finaliser
_HALF, _FOLD = np.uint64(32), np.uint64(33)
_MOST_SAMPLES = 1 << 60  # the sides of the grid must stay below 2³¹


class Permutation:
    """A permutation of range(size), determined by its key.

    Args:
        size: D, 1 … 2⁶⁰.
        key: uint64 [16], the rounds' keys.
    """

    def __init__(self, size: int, *, key: np.ndarray) -> None:
        if not 1 <= size <= _MOST_SAMPLES:
            raise ScheduleError(f"size {size} is outside 1 … 2^60")
        self.size = size
        self._columns = math.isqrt(size - 1) + 1
        self._rows = -(-size // self._columns)
        self._key = key

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The elements at `positions`: int64 [n] in, int64 [n] out, both in [0, size)."""
        cells = self._encrypt(np.asarray(positions, dtype=np.uint64))
        outside = np.flatnonzero(cells >= self.size)
        while outside.size:  # at most one row of the grid is outside: rarely more than one turn
            cells[outside] = self._encrypt(cells[outside])
            outside = outside[cells[outside] >= self.size]
        return cells.astype(np.int64)

    def _encrypt(self, cells: np.ndarray) -> np.ndarray:
        columns, rows = np.uint64(self._columns), np.uint64(self._rows)
        right, left = np.divmod(cells, columns)
        for turn in range(0, _ROUNDS, 2):
            left = (left + _scaled_hash(right, self._key[turn], columns)) % columns
            right = (right + _scaled_hash(left, self._key[turn + 1], rows)) % rows
        return right * columns + left


def _scaled_hash(values: np.ndarray, key: np.uint64, bound: np.uint64) -> np.ndarray:
    """A hash of each value on [0, bound)."""
    mixed = (values ^ key) * _MIX[0]
    mixed ^= mixed >> _FOLD
    mixed *= _MIX[1]
    return ((mixed >> _HALF) * bound) >> _HALF


def round_keys(seed: int, epoch: int, *, purpose: int = rng.ORDER_KEY, number: int = 0) -> np.ndarray:
    """The key of one of an epoch's permutations: uint64 [16]."""
    words = rng.draws(np.arange(_ROUNDS) + _ROUNDS * number, seed=seed, epoch=epoch, purpose=purpose)
    return words[0] << _HALF | words[1]


@lru_cache(maxsize=64)
def _permutation(size: int, seed: int, number: int, purpose: int = rng.ORDER_KEY) -> Permutation:
    return Permutation(size, key=round_keys(seed, number, purpose=purpose))


class Order:
    """Which samples an epoch takes, in which order.

    Args:
        budget: the batches of each epoch.
        seed: 0 … 2⁶⁴ − 1.
        sampling: "independent", the dissertation's: each epoch is a prefix of a fresh uniform
            permutation, so its samples are a uniform draw without replacement. "cyclic": one
            permutation is walked through across epochs before the next is drawn, so that the
            numbers of times that two samples were taken differ by at most 1 at any moment; an
            epoch in which one permutation ends and the next begins can take a sample twice, and
            where an epoch starts depends on the budgets before it. "static", to compare with: one
            uniform draw of as many samples as the largest budget takes, the only ones that training
            ever sees, in a fresh order each epoch.
    """

    def __init__(self, budget: Budget, *, seed: int, sampling: Sampling = "independent") -> None:
        check_choice(sampling, OWN_ORDERS, what="sampling", error=ScheduleError)
        self.budget, self.seed, self.sampling = budget, check_seed(seed), sampling
        self.identity: dict[str, str] = {}  # a loader's state has the seed and the sampling anyway
        self._starts = [0]
        for epoch in range(budget.schedule.epochs):
            self._starts.append(self._starts[-1] + budget.epoch_samples(epoch))
        self._largest = max(budget.epoch_samples(epoch) for epoch in range(budget.schedule.epochs))

    @property
    def size(self) -> int:
        """Positions of an epoch's order."""
        return self._largest if self.sampling == "static" else self.budget.samples

    def expected_share(self, samples: int) -> float:
        """The share of the order's samples that so many positions of an epoch have: it draws without replacement."""
        return min(samples / self.size, 1.0)

    def ids(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """The samples at `positions` of `epoch`'s order: int64 [n] in, int64 [n] out."""
        size = self.budget.samples
        if self.sampling == "independent":
            return _permutation(size, self.seed, epoch)(positions)
        if self.sampling == "static":
            places = _permutation(self._largest, self.seed, epoch)(positions)
            return _permutation(size, self.seed, 0, rng.SUBSET_KEY)(places)
        cycles, places = np.divmod(positions + self._starts[epoch], size)
        ids = np.empty_like(places)
        for cycle in np.unique(cycles):
            within = cycles == cycle
            ids[within] = _permutation(size, self.seed, int(cycle))(places[within])
        return ids
