"""Draws in proportion to weights, with replacement, each at O(1)."""

from __future__ import annotations

import hashlib
from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike

from budgetloader import rng
from budgetloader.errors import ScheduleError

_HALF = np.uint64(32)
_AT_ONCE = 1 << 20  # samples whose temporary numbers are held


class Weighted:
    """Each position of each epoch is a draw of its own: sample i with probability w_i / Σw, with replacement.

    Walker's alias method (A. J. Walker, "An efficient method for generating discrete random variables with general
    distributions", ACM TOMS 3(3), 1977): a column is drawn uniformly, and gives itself or its alias. Probabilities are
    exact to 2⁻³² of a column's share. The table takes 12 bytes per sample, also while it is made (16 above 2³²).

    Args:
        weights: float [D], at least 0, finite, one of them above 0.
        seed: 0 … 2⁶⁴ − 1.
    """

    def __init__(self, weights: ArrayLike, *, seed: int) -> None:
        table = np.array(weights, dtype=np.float64)  # a copy, in which the table is made
        _check(table)
        self.size, self._seed = len(table), seed
        self._expected: dict[int, float] = {}
        self.identity: dict[str, Any] = {"weights": hashlib.sha256(table.data).hexdigest()[:16]}
        table /= table.max()  # so that the sum is finite
        table /= table.sum()
        table *= self.size
        self._alias = np.arange(self.size, dtype=np.uint32 if self.size < 1 << 32 else np.int64)
        self._keep = _fill(table, self._alias)

    def ids(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """The samples at `positions` of `epoch`: int64 [n] in, int64 [n] out."""
        numbers = rng.draws(positions, seed=self._seed, epoch=epoch, purpose=rng.WEIGHTED)
        columns = ((numbers[0] << _HALF | numbers[1]) % np.uint64(self.size)).astype(np.int64)
        return np.where(rng.unit(numbers[2]) < self._keep[columns], columns, self._alias[columns])

    def expected_share(self, samples: int) -> float:
        """The share of the data set that `samples` draws are expected to see: 1/D · Σ 1 − (1 − p_i)^samples."""
        if samples not in self._expected:  # a few budgets, each of which costs a pass over the set
            self._expected[samples] = self._share(samples)
        return self._expected[samples]

    @property
    def probabilities(self) -> np.ndarray:
        """Of each sample to be drawn, out of the table: float64 [D]."""
        return _probabilities(self._keep, self._alias)

    def _share(self, samples: int) -> float:
        known, seen = self.probabilities, 0.0
        for first in range(0, self.size, _AT_ONCE):
            some = np.minimum(known[first : first + _AT_ONCE], 1 - 1e-16)
            seen += float(np.sum(-np.expm1(samples * np.log1p(-some))))
        return seen / self.size


def balanced(labels: np.ndarray) -> np.ndarray:
    """Weights by which every class that occurs is drawn equally often: int64 [D] in, float64 [D] out."""
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1.0 / counts[classes]


def _check(weights: np.ndarray) -> None:
    if weights.ndim != 1 or not len(weights):
        raise ScheduleError(f"weights of shape {weights.shape}: give one number per sample")
    for first in range(0, len(weights), _AT_ONCE):
        some = weights[first : first + _AT_ONCE]
        wrong = ~np.isfinite(some) | (some < 0)
        if wrong.any():
            sample = first + int(np.flatnonzero(wrong)[0])
            raise ScheduleError(f"weights[{sample}] is {weights[sample]}; give finite numbers of at least 0")
    if weights.max() == 0:
        raise ScheduleError("all weights are 0: no sample could be drawn")


@numba.njit(cache=True)
def _fill(rest, alias):
    """The probability to keep each column, in place of `rest`, whose mean is 1; and its alias (M. D. Vose, 1991).

    Vose keeps the small columns and the large ones (the donors) on two stacks. Here `rest` is walked twice from the
    last column down instead, once for each kind, which needs no more memory; a donor that has become small comes next.
    A small column is done when it has an alias other than itself.
    """
    small, donor, last = len(rest), len(rest), -1
    while True:
        column = last
        if column < 0:
            small -= 1
            while small >= 0 and not (rest[small] < 1.0 and alias[small] == small):
                small -= 1
            column = small
        if donor == len(rest) or rest[donor] < 1.0:
            donor -= 1
            while donor >= 0 and not rest[donor] >= 1.0:
                donor -= 1
        if column < 0 or donor < 0:
            break
        alias[column] = donor
        rest[donor] -= 1.0 - rest[column]
        last = donor if rest[donor] < 1.0 else -1
    for column in range(len(rest)):
        if alias[column] == column:  # what is left differs from 1 by rounding alone, unless it must never be drawn
            rest[column] = 1.0
    return rest


@numba.njit(cache=True)
def _probabilities(keep, alias):
    size = len(keep)
    found = keep / size
    for column in range(size):
        found[alias[column]] += (1.0 - keep[column]) / size
    return found
