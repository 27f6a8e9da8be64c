"""From an arm's description to the schedule, the sampling and the learning rate that it trains with."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from fractions import Fraction

from budgetloader.bench.settings import fewer_full_epochs
from budgetloader.bench.study.recipes import Arm, Study
from budgetloader.schedule import Schedule


def schedule(arm: Arm, study: Study, *, samples: int) -> Schedule:
    """The arm's sampling ratios. All arms of a budget take equally many batches of `samples` samples.

    - full: every batch in every epoch;
    - flat: the budget's ratio in every epoch;
    - paper: the dissertation's setting of that name;
    - short: full epochs, and a part of one, as many as the budget pays for;
    - progressive: see `progressive`.

    Raises:
        ValueError: an arm whose budget is not known beforehand (InfoBatch's epochs are as long as its losses say).
    """
    spent = _spent(arm, study)
    if arm.plan in ("full", "flat", "paper"):
        return spent
    if arm.plan == "short":
        return fewer_full_epochs(spent, samples=samples, batch_size=study.batch_size)
    if arm.plan == "progressive":
        budget = spent.budget(samples, batch_size=study.batch_size)
        counts = progressive(budget.total, epochs=study.epochs, full=budget.full)
        return Schedule.of([Fraction(count, budget.full) for count in counts])
    raise ValueError(f"{arm.name}: its epochs are decided while it trains")


def steps(arm: Arm, study: Study, *, samples: int) -> int:
    """Batches of an arm's whole training, which all arms of a budget have in common."""
    return _spent(arm, study).budget(samples, batch_size=study.batch_size).total


def _spent(arm: Arm, study: Study) -> Schedule:
    if arm.plan == "full":
        return Schedule.full(epochs=study.epochs)
    if arm.budget[0].isdigit():
        return Schedule.flat(arm.budget, epochs=study.epochs)
    return Schedule.paper(arm.budget, epochs=study.epochs)


def progressive(total: int, *, epochs: int, full: int) -> list[int]:
    """Batches of each epoch of progressive drop-out (arXiv 2505.22342): γ^t of a full epoch's, then a full last one.

    t counts from 1, γ is the one that spends the budget, and epochs that would be of no batch are left out (where the
    budget is small). Batches that rounding left over go to the first epochs.

    Args:
        total: batches to spend, more than `full`.
        epochs: the most epochs.
        full: batches of a full epoch.
    """
    left = total - full
    if epochs < 2 or not 0 < left <= (epochs - 1) * full:
        raise ValueError(f"{total} batches in {epochs} epochs of {full}: progressive drop-out needs more than {full}")
    low, high = 0.0, 1.0
    for _ in range(60):
        gamma = (low + high) / 2
        low, high = (gamma, high) if sum(gamma**t for t in range(1, epochs)) * full < left else (low, gamma)
    counts = [min(math.floor(high**t * full), full) for t in range(1, epochs)]
    used = sum(count > 0 for count in counts) or 1
    place = 0
    for _ in range(left - sum(counts)):
        while counts[place] == full:  # where full epochs have fewer batches than there are epochs
            place += 1
            used = max(used, place + 1)
        counts[place] += 1
        place = (place + 1) % used
    return [*[count for count in counts if count], full]


def progress(arm: Arm, batches: Sequence[int], *, epoch: int, step: int) -> float:
    """Where the learning rate stands before a step, 0 … 1.

    It is the share of the budget that is spent. The dissertation's own schedules let it follow the epochs, whatever
    their length.
    """
    if arm.plan == "paper":
        return (epoch + step / batches[epoch]) / len(batches)
    return (sum(batches[:epoch]) + step) / sum(batches)


def learning_rate(arm: Arm, study: Study, *, factor: float, at: float) -> float:
    """The learning rate at a progress of 0 … 1."""
    rate, decay = study.learning_rate * factor, arm.decay or study.decay
    if decay == "linear":
        return rate * (1 - at)
    if decay == "cosine":
        return rate * (1 + math.cos(math.pi * at)) / 2
    return rate * study.step_factor ** bisect.bisect_right(study.milestones, at)
