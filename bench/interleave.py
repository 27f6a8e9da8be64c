"""Several settings trained side by side, epoch by epoch in turn, so that drift hits all alike.

After each epoch its setting is saved (weights, optimiser, what was measured) in one atomic file: an
interrupted run goes on where it was, and an epoch that was cut short is run again.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from budgetloader.bench.console import SHOW_SECONDS, Every
from budgetloader.bench.settings import Cell
from budgetloader.loader import BudgetLoader
from budgetloader.models.epoch import EpochRecord, EpochUnderWay
from budgetloader.models.history import History
from budgetloader.models.train import Trainer
from budgetloader.models.training import Training
from budgetloader.schedule import Schedule

SLICE_BATCHES = 6  # short enough that a machine's speed hardly changes between the slices of a round


@dataclass
class Setting:
    """One cell in training.

    Args:
        state: the file that it is saved to after each epoch; None: none.
        seed: of torch's generator (dropout); each epoch has its own.
        evaluation, eval_every: see `budgetloader.models.Training`.

    Attributes:
        training: goes on epoch by epoch.
        timed: (seconds a batch, full training's) of slices of a few batches, run in turn for their times alone.
    """

    cell: Cell
    trainer: Trainer
    batches: BudgetLoader
    state: Path | None = None
    seed: int = 0
    evaluation: BudgetLoader | None = None
    eval_every: int = 0
    training: Training = field(init=False)
    timed: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.training = Training(
            self.trainer,
            self.batches,
            epochs=self.schedule.epochs,
            identity={"schedule": str(self.schedule)},
            seed_of=lambda epoch, step, rank: f"{self.seed} {self.name} {epoch}",
            evaluation=self.evaluation,
            eval_every=self.eval_every,
            checkpoint=self.state,
        )

    @property
    def name(self) -> str:
        return self.cell.name

    @property
    def schedule(self) -> Schedule:
        return self.cell.schedule

    @property
    def history(self) -> History:
        return self.training.history

    @property
    def records(self) -> list[EpochRecord]:
        return self.history.records

    @property
    def finished(self) -> bool:
        return self.training.finished


class Shown:
    """Tells a progress display of batches, now and then, outside the trainer's clock.

    Args:
        show: called with how many batches were trained since it was called last.
    """

    def __init__(self, show: Callable[[int], object]) -> None:
        self._show, self._count, self._due = show, 0, Every(SHOW_SECONDS)

    def __call__(self, _: EpochUnderWay) -> bool:
        """A trainer's `after_step`: true where it took time that is not to be counted."""
        self._count += 1
        if not self._due():
            return False
        self.flush()
        return True

    def flush(self) -> None:
        self._show(self._count)
        self._count = 0


def run(
    settings: list[Setting],
    *,
    batches_done: Callable[[Setting, int, int], object],
    epoch_done: Callable[[Setting], object],
) -> None:
    """Train every setting to its schedule's end, from wherever it stands.

    Args:
        batches_done: called with a setting, its epoch, and how many batches of it were trained since the last call.
        epoch_done: called with a setting that has finished an epoch.
    """
    rounds = max(setting.schedule.epochs for setting in settings)
    for epoch in range(rounds):
        turn = epoch % len(settings)  # who is first changes from round to round
        for setting in settings[turn:] + settings[:turn]:
            if len(setting.records) != epoch or setting.finished:
                continue
            shown = Shown(functools.partial(batches_done, setting, epoch))
            setting.training.after_step = shown
            setting.training.advance()
            shown.flush()
            epoch_done(setting)


def time_round(settings: Sequence[Setting], full: Setting, *, number: int) -> None:
    """Train one more epoch of each setting and of full training, a few batches of each in turn, for the times alone.

    A machine's speed changes within seconds: slices that ran within the same second compare best.

    Args:
        settings: none of them `full`; each gets pairs added to its `timed`.
        number: of this round; settings with several ratios go through their epochs.
    """
    everyone = [full, *settings]
    turn = number % len(everyone)
    under_way: dict[str, Generator[EpochUnderWay, bool | None, EpochRecord]] = {}
    for setting in everyone[turn:] + everyone[:turn]:
        epoch = number % setting.schedule.epochs
        setting.batches.set_epoch(epoch)
        under_way[setting.name] = setting.trainer.steps(setting.batches, epoch=epoch)
    batches = min(SLICE_BATCHES, *(len(setting.batches) for setting in everyone))
    slices: dict[str, list[float]] = {name: [] for name in under_way}
    running = dict(under_way)
    while full.name in running:
        for name, steps in list(running.items()):
            seconds = _slice(steps, batches, begun=bool(slices[name]))
            if seconds is None:
                del running[name]
            else:
                slices[name].append(seconds)
    for setting in settings:
        setting.timed.extend(zip(slices[setting.name], slices[full.name], strict=False))


def _slice(steps: Generator[EpochUnderWay, bool | None, EpochRecord], batches: int, *, begun: bool) -> float | None:
    """Seconds a batch of an epoch's next few batches; None where fewer of full size are left.

    Args:
        begun: whether the epoch had a slice before; the time since then does not count.
    """
    for step in range(batches):
        try:
            now = steps.send(True if begun and not step else None)
        except StopIteration:
            return None
    if now.sizes[-1] != now.sizes[0]:
        return None
    first_wait = 0.0 if begun else now.waits[0]
    return (sum(now.laps()[-batches:]) - first_wait) / batches


def warm_up(trainer: Trainer, *, samples: int, batch_size: int, image_size: int, classes: int) -> float:
    """Train on noise, then put everything back: compilation, autotuning and allocation. Seconds."""
    began = time.perf_counter()
    saved = copy.deepcopy(trainer.state_dict())  # the loss scaling, too
    for size in {batch_size, samples % batch_size or batch_size}:
        images = torch.randn(size, 3, image_size, image_size).to(memory_format=torch.channels_last)
        labels = torch.randint(0, classes, (size,))
        trainer.train_epoch([(images, labels)] * 3, epoch=0)
    trainer.load_state_dict(saved)
    return time.perf_counter() - began
