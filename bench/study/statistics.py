"""The statistics of a study, fixed before its main runs but for the second stage; docs/evidence.md says them in words.

Accuracies are in points (percent of the test images). Contrasts are paired by seed: with the same seed, two arms hold
out the same images and start from the same weights.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from budgetloader.bench.study.recipes import Study
from budgetloader.bench.study.record import Row

ALPHA = 0.05
MARGIN = 0.5  # points: arms that differ by less are called equivalent
HALF_WIDTH = 0.35  # points, of the primary contrasts' 95 % intervals, which the number of seeds is to reach
POWER = 0.9  # of the equivalence test, where there is no difference
PRIMARY = (("flat", "short"), ("flat", "short-linear"))


@dataclass(frozen=True)
class Contrast:
    """The difference of two arms, paired by seed.

    Attributes:
        first, second: names of the arms.
        differences: of each seed that both have, first − second, points.
        mean, half_width: of the differences, and of its 95 % t interval (infinite for fewer than two seeds).
        p: of no difference, two-sided t test.
        p_holm: the same, corrected by Holm's method within its family.
        p_equivalent: of a difference of `MARGIN` or more: the larger p of the two one-sided t tests.
        p_equivalent_holm: the same, corrected within its family.
    """

    first: str
    second: str
    differences: tuple[float, ...]
    mean: float
    half_width: float
    p: float
    p_holm: float
    p_equivalent: float
    p_equivalent_holm: float

    @property
    def verdict(self) -> str:
        """What is shown: "better", "worse", "equivalent", or "open"; "equivalent" also where a difference is seen that
        is within the margin."""
        if self.p_equivalent_holm < ALPHA:
            return "equivalent"
        if self.p_holm < ALPHA:
            return "better" if self.mean > 0 else "worse"
        return "open"


def accuracies(rows: Mapping[str, Row], arm: str) -> dict[int, float]:
    """Seed → accuracy of an arm's main runs, points."""
    return {
        row["seed"]: 100 * row["correct"] / row["tested"]
        for row in rows.values()
        if row["phase"] == "main" and row["arm"] == arm
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and the half-width of its 95 % t interval."""
    from scipy import stats

    if len(values) < 2:
        return (values[0] if values else math.nan), math.inf
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), float(stats.t.ppf(1 - ALPHA / 2, len(values) - 1)) * spread


def primary_pairs(study: Study, *, budget: str | None = None) -> list[tuple[str, str]]:
    """The primary contrasts: flat − short and flat − short-linear, at each ratio or at one."""
    ratios = [arm.budget for arm in study.arms if arm.kind == "flat" and budget in (None, arm.budget)]
    return [(f"{a}@{ratio}", f"{b}@{ratio}") for ratio in ratios for a, b in PRIMARY]


def contrasts(rows: Mapping[str, Row], pairs: Iterable[tuple[str, str]]) -> list[Contrast]:
    """A family of contrasts; those of fewer than two seeds in common are left out."""
    found = []
    for first, second in pairs:
        a, b = accuracies(rows, first), accuracies(rows, second)
        differences = tuple(a[seed] - b[seed] for seed in sorted(a.keys() & b.keys()))
        if len(differences) > 1:
            found.append((first, second, differences, *_tests(differences)))
    different = holm([tests[3] for tests in found])
    equivalent = holm([tests[4] for tests in found])
    return [
        Contrast(a, b, d, *interval(d), p, p_holm, p_same, p_same_holm)
        for (a, b, d, p, p_same), p_holm, p_same_holm in zip(found, different, equivalent, strict=True)
    ]


def _tests(differences: Sequence[float]) -> tuple[float, float]:
    """p of no difference, and p of a difference of the margin or more."""
    from scipy import stats

    if len(set(differences)) == 1:  # no spread: a test statistic would divide by it
        value = abs(differences[0])
        return (1.0 if not value else 0.0), (0.0 if value < MARGIN else 1.0)
    above = stats.ttest_1samp(differences, -MARGIN, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, MARGIN, alternative="less").pvalue
    return float(stats.ttest_1samp(differences, 0.0).pvalue), float(max(above, below))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected by Holm's step-down method (S. Holm, Scandinavian Journal of Statistics 6, 1979)."""
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = least
    return corrected


def pilot_spread(study: Study, rows: Mapping[str, Row], *, budget: str) -> float | None:
    """The standard deviation of a ratio's primary differences between seeds, points, from the pilot.

    Pooled over its two contrasts and the learning rates, each with its own mean. It is measured on the images that are
    held out, fewer than the test set has, and so is rather too large. None before the ratio's primary pilot ends.
    """
    squares, freedom = 0.0, 0
    for first, second in primary_pairs(study, budget=budget):
        for x in study.factors:
            pairs = [
                tuple(rows.get(f"pilot/{arm}/x{x:g}/seed{seed}") for arm in (first, second))
                for seed in study.pilot_seeds
            ]
            if any(a is None or b is None for a, b in pairs):
                return None
            values = [100 * (a["correct"] - b["correct"]) / a["tested"] for a, b in pairs if a and b]
            center = statistics.fmean(values)
            squares += sum((value - center) ** 2 for value in values)
            freedom += len(values) - 1
    return math.sqrt(squares / freedom) if freedom else None


def enough(spread: float, seeds: int) -> bool:
    """Whether so many seeds give the half-width and the power that were asked for, at a spread in points."""
    from scipy import stats

    error = spread / math.sqrt(seeds)
    if float(stats.t.ppf(1 - ALPHA / 2, seeds - 1)) * error > HALF_WIDTH:
        return False
    if not error:
        return True
    beyond = MARGIN / error - float(stats.t.ppf(1 - ALPHA, seeds - 1))
    return 2 * float(stats.t.cdf(beyond, seeds - 1)) - 1 >= POWER


def seeds_needed(study: Study, rows: Mapping[str, Row], *, budget: str) -> int | None:
    """Seeds of a budget's main runs: those of the pilot, and more where these leave the half-width too large.

    The second stage looks at the spread of the first one's primary differences alone, and never at their mean, so
    that it favours no result (C. Stein, Annals of Mathematical Statistics 16, 1945). At most twice `most_seeds`.
    """
    first = seeds_by_pilot(study, rows, budget=budget)
    if first is None or not study.pilot_seeds:
        return first
    pairs = primary_pairs(study, budget=budget)
    spreads = [main_spread(study, rows, pair, seeds=first) for pair in pairs]
    known = [spread for spread in spreads if spread is not None]
    if not known or len(known) < len(pairs):
        return first
    from scipy import stats

    widest = float(stats.t.ppf(1 - ALPHA / 2, first - 1)) * max(known)
    return min(max(first, math.ceil((widest / HALF_WIDTH) ** 2)), 2 * study.most_seeds)


def main_spread(study: Study, rows: Mapping[str, Row], pair: tuple[str, str], *, seeds: int) -> float | None:
    """The standard deviation of a contrast's differences over the first main seeds, points; None before all are."""
    a, b = (accuracies(rows, arm) for arm in pair)
    wanted = range(study.first_seed, study.first_seed + seeds)
    if any(seed not in a or seed not in b for seed in wanted):
        return None
    return statistics.stdev(a[seed] - b[seed] for seed in wanted)


def seeds_by_pilot(study: Study, rows: Mapping[str, Row], *, budget: str) -> int | None:
    """Seeds of the first stage: the fewest that are enough by the pilot's spread, within the study's bounds.

    Full training and the dissertation's schedules, which have no primary contrast, take as many as the ratio that has
    the most. None before the pilot says it.
    """
    if not study.pilot_seeds:
        return study.least_seeds
    ratios = list(dict.fromkeys(arm.budget for arm in study.arms if arm.kind == "flat"))
    if budget not in ratios:
        counts = [seeds_by_pilot(study, rows, budget=ratio) for ratio in ratios]
        known = [count for count in counts if count is not None]
        return max(known) if known and len(known) == len(counts) else None
    spread = pilot_spread(study, rows, budget=budget)
    if spread is None:
        return None
    allowed = range(study.least_seeds, study.most_seeds)
    return next((count for count in allowed if enough(spread, count)), study.most_seeds)
