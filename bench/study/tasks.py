"""Which runs a study consists of, in which order, and which of them can be trained by now.

The pilot chooses each arm's learning rate and says how many seeds the primary contrasts need; then come the main runs.
Arms of the primary contrasts go first, then the others, and each part goes seed by seed, so that a record that is not
finished yet has all of its arms on the same seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from budgetloader.bench.study import statistics
from budgetloader.bench.study.recipes import Arm, Study
from budgetloader.bench.study.record import Row
from budgetloader.bench.study.run import Run


def pilot(study: Study, *, primary: bool | None = None) -> list[Run]:
    """The pilot's runs, of the primary arms, of the others, or (None) of all."""
    if not study.pilot_seeds:
        return []
    arms = [arm for arm in study.arms if primary is None or arm.primary == primary]
    return [Run(study, arm, "pilot", x, seed) for seed in study.pilot_seeds for arm in arms for x in study.factors]


def factor(study: Study, arm: Arm, rows: Mapping[str, Row]) -> float | None:
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


def seeds(study: Study, rows: Mapping[str, Row]) -> range | None:
    """The seeds of the main runs; None before the primary arms' pilot ends."""
    count = statistics.seeds_needed(study, rows)
    return None if count is None else range(study.first_seed, study.first_seed + count)


def main(study: Study, rows: Mapping[str, Row], *, primary: bool | None = None) -> Iterator[Run]:
    """The main runs that the pilot allows by now."""
    found = seeds(study, rows)
    for seed in found or ():
        for arm in study.arms:
            if primary is None or arm.primary == primary:
                chosen = factor(study, arm, rows)
                if chosen is not None:
                    yield Run(study, arm, "main", chosen, seed)


def ready(study: Study, rows: Mapping[str, Row]) -> list[Run]:
    """Every run that can be trained by now, in order, those that are done left out."""
    runs = [
        *pilot(study, primary=True),
        *main(study, rows, primary=True),
        *pilot(study, primary=False),
        *main(study, rows, primary=False),
    ]
    return [run for run in runs if run.name not in rows]


def total(study: Study, rows: Mapping[str, Row]) -> int:
    """Runs of the whole study; those of the least number of seeds before the pilot says how many."""
    found = seeds(study, rows)
    return len(pilot(study)) + len(study.arms) * (study.least_seeds if found is None else len(found))


def complete(study: Study, rows: Mapping[str, Row]) -> bool:
    """Whether there is nothing left to train."""
    return not ready(study, rows) and len([*main(study, rows)]) == total(study, rows) - len(pilot(study))


def named(study: Study, name: str, rows: Mapping[str, Row]) -> Run:
    """The run of that name.

    Raises:
        ValueError: there is none, or the pilot has not chosen its learning rate yet.
    """
    for run in (*pilot(study), *main(study, rows)):
        if run.name == name:
            return run
    raise ValueError(f"run {name!r} is not known, or waits for the pilot; names are such as main/flat@0.1/seed3")
