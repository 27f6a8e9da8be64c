"""The cost of an epoch's boundary, measured without a pause between epochs that would hide it.

Settings that train interleaved find their first batches ready: the loader made them while the others trained.
Here each setting's epochs follow each other without a pause, with the trainer and with one that only takes
batches (then the loader is the limit), at the setting's own budgets and in epochs of a few batches.

A boundary's cost is the time from the end of an epoch's last batch to the end of the next one's first, less the
time of a batch that no boundary precedes; in units of the latter, as "batches lost per epoch".
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from budgetloader.bench.estimate import Estimate, trimmed_mean
from budgetloader.bench.settings import Cell
from budgetloader.loader import BudgetLoader
from budgetloader.models.epoch import EpochUnderWay
from budgetloader.models.train import Trainer
from budgetloader.schedule import Schedule

EPOCHS = {"training": 6, "taking only": 16}  # of each setting; the first fills the pipeline, and is not counted
MOST_BATCHES = 100  # of an epoch; a boundary does not know how long the epoch was
SMALL = {"epochs of 2 batches": (2, 60), "epochs of 8 batches": (8, 24)}  # batches, epochs


def lost_batches(epochs: Sequence[Sequence[float]]) -> Estimate:
    """The cost of a boundary, in batches, with its 95 % interval.

    Args:
        epochs: of each epoch in order, the seconds of each of its batches; those of the first batch are from the
            end of the epoch before. The first epoch is not counted, and no epoch's last batch, which may be short.
    """
    counted = epochs[1:]
    first = trimmed_mean([laps[0] for laps in counted])
    others = trimmed_mean([lap for laps in counted for lap in laps[1 : -1 if len(laps) > 2 else None]])
    ratio = first.value / others.value
    half_width = math.hypot(first.half_width, ratio * others.half_width) / others.value
    return Estimate(ratio - 1, half_width, len(counted))


def measure(
    data: Any,
    cells: Sequence[Cell],
    *,
    trainer: Trainer,
    batch_size: int,
    done: Callable[[], object] = lambda: None,
    **shape: Any,
) -> list[dict[str, Any]]:
    """One row for each kind of trainer and of epoch.

    Args:
        data: the training set.
        cells: the settings; those with the same budgets are measured once.
        trainer: its weights are trained on, and of no use afterwards.
        batch_size, shape: arguments of `BudgetLoader`.
        done: called after each part.
    """
    rows = []
    for kind, count in EPOCHS.items():
        for name, schedule in _schedules(cells, count, full=-(-len(data) // batch_size)).items():
            with BudgetLoader(data, schedule=schedule, batch_size=batch_size, **shape) as loader:
                laps = _laps(loader, trainer if kind == "training" else None)
            lost, others = lost_batches(laps), trimmed_mean([lap for epoch in laps[1:] for lap in epoch[1:]])
            rows.append(
                {
                    "trainer": kind,
                    "epochs_of": name,
                    "batches": sorted(set(schedule.budget(len(data), batch_size=batch_size).batches)),
                    "lost_batches": lost.value,
                    "half_width": lost.half_width,
                    "batch_seconds": others.value,
                    "epochs": lost.count,
                }
            )
            done()
    return rows


def _schedules(cells: Sequence[Cell], count: int, *, full: int) -> dict[str, Schedule]:
    """So many epochs of each setting, again and again where it has fewer, and epochs of a few batches."""
    found: dict[str, Schedule] = {}
    for cell in cells:
        ratios = itertools.islice(itertools.cycle(cell.schedule.ratios), count)
        schedule = Schedule.of(min(ratio, Fraction(MOST_BATCHES, full)) for ratio in ratios)
        if schedule not in found.values():
            found[cell.name] = schedule
    for name, (batches, epochs) in SMALL.items():
        if batches < full:
            found[name] = Schedule.of([Fraction(batches, full)] * epochs)
    return found


def _laps(loader: BudgetLoader, trainer: Trainer | None) -> list[list[float]]:
    """The seconds of each batch of each epoch, one epoch after the other without a pause."""
    laps: list[list[float]] = []
    last = time.perf_counter()

    def lap(_: EpochUnderWay | None) -> bool:
        nonlocal last
        if trainer is not None and trainer.device.type == "cuda":
            import torch

            torch.cuda.synchronize(trainer.device)
        now = time.perf_counter()
        laps[-1].append(now - last)
        last = now
        return False

    assert loader.schedule is not None
    for epoch in range(loader.schedule.epochs):
        laps.append([])
        if trainer is None:
            for _ in loader:
                lap(None)
        else:
            trainer.train_epoch(loader, epoch=epoch % trainer.epochs, after_step=lap)
    return laps
