"""Robust means with 95 % intervals, for measurements on machines that are not idle."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_TRIM = 0.2  # of the values at either end, the usual share (R. Wilcox, "Robust estimation and hypothesis testing")
_LEAST = 5  # values that an interval needs: of fewer, nothing would be trimmed


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval.

    Attributes:
        value: the trimmed mean.
        half_width: of the interval; infinite where there are too few values for one.
        count: values that it is made of.
    """

    value: float
    half_width: float
    count: int

    @property
    def low(self) -> float:
        return self.value - self.half_width

    @property
    def high(self) -> float:
        return self.value + self.half_width


def trimmed_mean(values: Sequence[float]) -> Estimate:
    """The mean without the largest and the smallest fifth, with its interval.

    The interval is Tukey's and McLaughlin's (Sankhyā A 25, 1963): Student's t with the winsorised
    standard deviation. A value however wrong, such as an epoch in which the machine was busy, moves
    neither by more than its rank does. Of fewer than five values it is the median, without an interval.
    """
    if len(values) < _LEAST:
        return Estimate(statistics.median(values), math.inf, len(values))
    from scipy.stats import mstats

    limits = (_TRIM, _TRIM)
    value = float(mstats.trimmed_mean(values, limits=limits))
    low, high = mstats.trimmed_mean_ci(values, limits=limits, alpha=0.05)
    return Estimate(value, float(high - low) / 2, len(values))


def weighted(estimates: Sequence[Estimate]) -> Estimate:
    """Independent estimates of one thing as one, each weighted by its precision.

    Estimates without an interval count for nothing beside others that have one.
    """
    known = [e for e in estimates if math.isfinite(e.half_width)]
    exact = [e for e in known if not e.half_width]
    if exact or len(known) < 2:
        return (exact or known or list(estimates))[0]
    weights = [e.half_width**-2 for e in known]
    value = sum(w * e.value for w, e in zip(weights, known, strict=True)) / sum(weights)
    return Estimate(value, sum(weights) ** -0.5, sum(e.count for e in known))


def mean(values: Sequence[float]) -> Estimate:
    """The plain mean with Student's 95 % interval, for values without outliers such as accuracies over seeds."""
    if len(values) < 2:
        return Estimate(values[0], math.inf, len(values))
    from scipy import stats

    spread = statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(statistics.fmean(values), float(stats.t.ppf(0.975, len(values) - 1)) * spread, len(values))


def share(hits: float, count: int) -> Estimate:
    """A share of `count` independent trials (top-1 on a test set) with Wilson's 95 % interval, made symmetric."""
    from scipy import stats

    z = float(stats.norm.ppf(0.975))
    half_width = z / (1 + z * z / count) * math.sqrt(hits * (1 - hits) / count + z * z / (4 * count * count))
    return Estimate(hits, half_width, count)


def interquartile_range(values: Sequence[float]) -> float:
    """The distance between the quartiles; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low
