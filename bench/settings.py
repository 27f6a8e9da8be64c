"""Which trainings a bench compares: schedules, and baselines that spend exactly as many samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, Literal

from budgetloader.errors import ScheduleError
from budgetloader.order import Sampling
from budgetloader.schedule import Schedule

Decay = Literal["step", "cosine", "linear"]
_SAMPLINGS: dict[str, Sampling] = {"static": "static", "cyclic": "cyclic"}
_SHORT: dict[str, Decay | None] = {"short": None, "short-linear": "linear"}
BASELINES = (*_SHORT, *_SAMPLINGS)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One of the trainings that are compared.

    Args:
        name: as the tables show it.
        schedule: its sampling ratios.
        network: classes → a network.
        sampling: see `budgetloader.Order`.
        baseline_of: the setting whose number of samples it spends; "": it is no baseline.
        group: its time is compared with that of the first cell of the same group.
        decay: of the learning rate; None: the recipe's.
        epoch_shares: see `budgetloader.models.Trainer`; None: all epochs alike.
    """

    name: str
    schedule: Schedule
    network: Callable[[int], Any]
    sampling: Sampling = "independent"
    baseline_of: str = ""
    group: str = ""
    decay: Decay | None = None
    epoch_shares: tuple[float, ...] | None = None


def cells(
    settings: Iterable[str], *, epochs: int, samples: int, batch_size: int, network: Callable[[int], Any]
) -> list[Cell]:
    """The settings by name. Each is a schedule string, or a baseline of one, with the same number of samples:

    - "short:SETTING": full epochs, as many as SETTING's samples pay for (the last one may be a part of one),
      with the learning rate's schedule compressed to them;
    - "short-linear:SETTING": the same, with the learning rate falling linearly to zero (M. Li et al.,
      "Budgeted training", ICLR 2020);
    - "static:SETTING": SETTING's budgets, out of one random subset drawn for good;
    - "cyclic:SETTING": SETTING's budgets, in which no sample comes again before all others came.

    Args:
        epochs: of full training.
        samples, batch_size: of the training set.

    Raises:
        ScheduleError: a setting that is not understood, or a baseline without its setting.
    """
    return [_cell(name, epochs, samples, batch_size, network) for name in settings]


def _cell(name: str, epochs: int, samples: int, batch_size: int, network: Callable[[int], Any]) -> Cell:
    kind, _, rest = name.partition(":")
    if kind not in BASELINES:
        return Cell(name, Schedule.parse(name, epochs=epochs), network)
    if not rest:
        raise ScheduleError(f"setting {name!r}: say of which setting it is the baseline, such as {kind}:R1_0.618")
    schedule = Schedule.parse(rest, epochs=epochs)
    if kind in _SAMPLINGS:
        return Cell(name, schedule, network, _SAMPLINGS[kind], baseline_of=rest)
    short = fewer_full_epochs(schedule, samples=samples, batch_size=batch_size)
    shares = tuple(float(ratio) for ratio in short.ratios)
    return Cell(name, short, network, baseline_of=rest, decay=_SHORT[kind], epoch_shares=shares)


def fewer_full_epochs(schedule: Schedule, *, samples: int, batch_size: int) -> Schedule:
    """Full epochs that together take exactly as many samples, and batches, as `schedule`.

    The last epoch is a part of one where they do not come out even. Where the batch size does not divide
    the number of samples, as many epochs as `schedule` has full ones end with the short batch; the others
    leave it out (as torch's `drop_last` does), because `schedule` has no more short batches to spend.
    """
    budget = schedule.budget(samples, batch_size=batch_size)
    even = samples % batch_size == 0
    whole = 0 if even else sum(batches == budget.full for batches in budget.batches)
    epoch = budget.full if even else budget.full - 1
    left = budget.total - whole * budget.full
    epochs, rest = divmod(left, epoch) if left else (0, 0)
    counts = [budget.full] * whole + [epoch] * epochs + [rest] * (rest > 0)
    return Schedule.of([Fraction(count, budget.full) for count in counts])
