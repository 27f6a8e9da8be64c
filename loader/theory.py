"""What the dissertation predicts: Theorems 1 to 4 and Corollaries 1 and 2 (section 3.2).

A flat schedule is the special case of one stage, so each function covers the flat theorem and the
three-stage one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from budgetloader.budget import Budget
from budgetloader.errors import ScheduleError
from budgetloader.schedule import Schedule

Seconds = float | Mapping[Fraction, float]


def corollary(schedule: Schedule) -> float:
    """T_α/T by Corollary 1 (flat, eq. 10) and Corollary 2 (eq. 13): the mean of the ratios."""
    return float(sum(schedule.ratios) / schedule.epochs)


def time_ratio(
    schedule: Schedule,
    *,
    samples: int,
    batch_size: int,
    batch_seconds: float,
    reduced_batch_seconds: Seconds | None = None,
    last_batch_seconds: float | None = None,
) -> float:
    """T_α/T by Theorem 2 (eq. 8) and Theorem 4 (eq. 12).

    It exceeds 1 where the reduced batches take longer than regular ones, or where a regular epoch's short
    last batch makes it cheaper than M batches: at ratio 1 the reduced epoch is charged M·T₀α, and the
    regular one (M − 1)·T₀ + T₁, so that even full training gives M·T₀ / ((M − 1)·T₀ + T₁) ≥ 1.

    Args:
        schedule: the ratios.
        samples: D.
        batch_size: B.
        batch_seconds: T₀, seconds of a full-size batch in regular training.
        reduced_batch_seconds: T₀α, seconds of a full-size batch in reduced training: one number, or
            one for each ratio of the schedule. Default: T₀.
        last_batch_seconds: T₁, seconds of the last batch of a regular epoch. Default: T₀.

    Raises:
        ScheduleError: a time that is not positive, or a ratio without one.
    """
    budget = schedule.budget(samples, batch_size=batch_size)
    regular = _positive(batch_seconds, "batch_seconds")
    last = regular if last_batch_seconds is None else _positive(last_batch_seconds, "last_batch_seconds")
    reduced = _reduced_seconds(schedule, regular, reduced_batch_seconds)
    spent = math.fsum(reduced[r] * m for r, m in zip(schedule.ratios, budget.batches, strict=True))
    return spent / ((regular * (budget.full - 1) + last) * schedule.epochs)


def time_ratio_bounds(
    schedule: Schedule,
    *,
    samples: int,
    batch_size: int,
    batch_seconds: float = 1.0,
    reduced_batch_seconds: Seconds | None = None,
) -> tuple[float, float]:
    """The bounds of eq. (9): lower (inclusive) and upper (exclusive; inf where M = 1).

    They hold for any last batch with 0 < T₁ ≤ T₀. Arguments as in `time_ratio`.
    """
    budget = schedule.budget(samples, batch_size=batch_size)
    regular = _positive(batch_seconds, "batch_seconds")
    reduced = _reduced_seconds(schedule, regular, reduced_batch_seconds)
    spent = math.fsum(reduced[r] / regular * m for r, m in zip(schedule.ratios, budget.batches, strict=True))
    mean = spent / schedule.epochs
    return mean / budget.full, mean / (budget.full - 1) if budget.full > 1 else math.inf


def miss_probability(drawn: Schedule | Budget) -> float:
    """Probability that a sample is in no epoch, by Theorem 1 (eq. 6) and Theorem 3 (eq. 11).

    Args:
        drawn: a schedule gives the nominal value, Π(1 − α_e). A budget gives that of what is really
            drawn, Π(1 − ⌊α_e·M⌋·B/D): whole batches, so that it differs a little.

    Both are for independent sampling. Below 1e-308 it underflows to 0, and `log10_miss_probability` is the
    one to use.
    """
    return float(math.prod(1 - share for share in _shares(drawn)))


def log10_miss_probability(drawn: Schedule | Budget) -> float:
    """log₁₀ of `miss_probability`, which does not underflow; -inf if an epoch takes every sample."""
    shares = _shares(drawn)
    if any(share == 1 for share in shares):
        return -math.inf
    return math.fsum(math.log10(1 - share) for share in shares)


def _shares(drawn: Schedule | Budget) -> tuple[Fraction, ...]:
    """The share of the samples that each epoch takes."""
    if isinstance(drawn, Schedule):
        return drawn.ratios
    return tuple(Fraction(drawn.epoch_samples(epoch), drawn.samples) for epoch in range(drawn.schedule.epochs))


def _positive(value: float, what: str) -> float:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
        raise ScheduleError(f"{what} {value!r} is not a positive number of seconds")
    return float(value)


def _reduced_seconds(schedule: Schedule, regular: float, given: Seconds | None) -> Mapping[Fraction, float]:
    ratios = set(schedule.ratios)
    if given is None or not isinstance(given, Mapping):
        seconds = regular if given is None else _positive(given, "reduced_batch_seconds")
        return dict.fromkeys(ratios, seconds)
    missing = sorted(ratios - set(given))
    if missing:
        raise ScheduleError(f"reduced_batch_seconds has no entry for ratio {missing[0]}; give one for each ratio")
    return {r: _positive(given[r], f"reduced_batch_seconds[{r}]") for r in ratios}
