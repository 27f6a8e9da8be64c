"""Which runs a study consists of, in which order, and which of them can be trained by now.

A pilot chooses each arm's learning rate and says how many seeds a ratio's primary contrasts need; then come the main
runs. The primary arms go first, then the others; of either, the smallest budget with its pilot and its main runs before
the next larger one, and each seed's arms before the next seed's. So a record that is not finished yet has whole
contrasts, the cheapest first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction

from budgetloader.bench.study import statistics
from budgetloader.bench.study.recipes import Arm, Study
from budgetloader.bench.study.record import Row
from budgetloader.bench.study.run import Run
from budgetloader.schedule import PAPER_SETTINGS, Schedule

Rows = Mapping[str, Row]


def groups(study: Study) -> list[tuple[Arm, ...]]:
    """The arms in the order of their training: those of a budget that are primary, or not, make a group."""
    budgets = sorted(dict.fromkeys(arm.budget for arm in study.arms), key=lambda budget: _share(study, budget))
    found = [
        tuple(arm for arm in study.arms if arm.budget == budget and arm.primary == primary)
        for primary in (True, False)
        for budget in budgets
    ]
    return [group for group in found if group]


def _share(study: Study, budget: str) -> Fraction:
    """A budget as a share of full training."""
    if budget in PAPER_SETTINGS:
        return sum(Schedule.paper(budget, epochs=study.epochs).ratios, start=Fraction(0)) / study.epochs
    return Fraction(budget)


def pilot(study: Study, group: tuple[Arm, ...] | None = None) -> list[Run]:
    """The pilot's runs of some arms; None: of all."""
    chosen = study.arms if group is None else group
    return [Run(study, arm, "pilot", x, seed) for seed in study.pilot_seeds for arm in chosen for x in study.factors]


def factor(study: Study, arm: Arm, rows: Rows) -> float | None:
    """The learning rate's factor of an arm: the most images right over the pilot's seeds; None before its pilot ends.

    Of equals, the first in the study's order. A study without a pilot has one factor.
    """
    right: dict[float, int] = {}
    for x in study.factors:
        names = [Run(study, arm, "pilot", x, seed).name for seed in study.pilot_seeds]
        if not all(name in rows for name in names):
            return None
        right[x] = sum(rows[name]["correct"] for name in names)
    return max(right, key=lambda x: right[x])


def seeds(study: Study, budget: str, rows: Rows) -> range | None:
    """The seeds of a budget's main runs; None before the pilot says how many."""
    count = statistics.seeds_needed(study, rows, budget=budget)
    return None if count is None else range(study.first_seed, study.first_seed + count)


def main(study: Study, rows: Rows, group: tuple[Arm, ...] | None = None) -> Iterator[Run]:
    """The main runs of some arms (None: of all) that the pilot allows by now."""
    for chosen in groups(study) if group is None else [group]:
        for seed in seeds(study, chosen[0].budget, rows) or ():
            for arm in chosen:
                x = factor(study, arm, rows)
                if x is not None:
                    yield Run(study, arm, "main", x, seed)


def ready(study: Study, rows: Rows) -> list[Run]:
    """Every run that can be trained by now, in order, those that are done left out."""
    runs = [run for group in groups(study) for run in (*pilot(study, group), *main(study, rows, group))]
    return [run for run in runs if run.name not in rows]


def total(study: Study, rows: Rows) -> int:
    """Runs of the whole study; with the least number of seeds where the pilot has not said how many yet."""
    counts = [seeds(study, arm.budget, rows) for arm in study.arms]
    return len(pilot(study)) + sum(study.least_seeds if count is None else len(count) for count in counts)


def complete(study: Study, rows: Rows) -> bool:
    """Whether there is nothing left to train."""
    return not ready(study, rows) and len([*main(study, rows)]) == total(study, rows) - len(pilot(study))


def named(study: Study, name: str, rows: Rows) -> Run:
    """The run of that name.

    Raises:
        ValueError: there is none, or the pilot has not chosen its learning rate yet.
    """
    for run in (*pilot(study), *main(study, rows)):
        if run.name == name:
            return run
    raise ValueError(f"run {name!r} is not known, or waits for the pilot; names are such as main/flat@0.1/seed3")
