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


class Weighted:
    """Each position of each epoch is a draw of its own: sample i with probability w_i / Σw, with replacement.

    Walker's alias method (A. J. Walker, "An efficient method for generating discrete random variables with general
    distributions", ACM TOMS 3(3), 1977): a column is drawn uniformly, and gives itself or its alias. Probabilities are
    exact to 2⁻³² of a column's share.

    Args:
        weights: float [D], at least 0, finite, one of them above 0.
        seed: 0 … 2⁶⁴ − 1.
    """

    def __init__(self, weights: ArrayLike, *, seed: int) -> None:
        given = np.asarray(weights, dtype=np.float64)
        self.probabilities = _probabilities(given)
        self.size, self._seed = len(given), seed
        self._expected: dict[int, float] = {}
        self._keep, self._alias = _tables(self.probabilities * self.size)
        self.identity: dict[str, Any] = {"weights": hashlib.sha256(given.tobytes()).hexdigest()[:16]}

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

    def _share(self, samples: int) -> float:
        return float(np.mean(-np.expm1(samples * np.log1p(-np.minimum(self.probabilities, 1 - 1e-16)))))


def balanced(labels: np.ndarray) -> np.ndarray:
    """Weights by which every class that occurs is drawn equally often: int64 [D] in, float64 [D] out."""
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1.0 / counts[classes]


def _probabilities(weights: np.ndarray) -> np.ndarray:
    if weights.ndim != 1 or not len(weights):
        raise ScheduleError(f"weights of shape {weights.shape}: give one number per sample")
    wrong = ~np.isfinite(weights) | (weights < 0)
    if wrong.any():
        sample = int(np.flatnonzero(wrong)[0])
        raise ScheduleError(f"weights[{sample}] is {weights[sample]}; give finite numbers of at least 0")
    largest = weights.max()
    if largest == 0:
        raise ScheduleError("all weights are 0: no sample could be drawn")
    scaled = weights / largest  # so that the sum is finite
    return scaled / scaled.sum()


@numba.njit(cache=True)
def _tables(scaled):
    """For each column the probability to keep it, and its alias; `scaled` has the mean 1 (M. D. Vose, 1991)."""
    size = len(scaled)
    keep, alias = np.ones(size), np.arange(size)
    rest = scaled.copy()
    small, large = np.empty(size, np.int64), np.empty(size, np.int64)
    smalls = larges = 0
    for column in range(size):
        if rest[column] < 1.0:
            small[smalls] = column
            smalls += 1
        else:
            large[larges] = column
            larges += 1
    while smalls and larges:
        smalls -= 1
        column, donor = small[smalls], large[larges - 1]
        keep[column], alias[column] = rest[column], donor
        rest[donor] -= 1.0 - rest[column]
        if rest[donor] < 1.0:
            larges -= 1
            small[smalls] = donor
            smalls += 1
    # What is left differs from 1 by rounding alone, unless it must never be drawn.
    return keep, alias
