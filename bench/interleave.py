"""Several settings trained side by side, epoch by epoch in turn, so that drift hits all alike.

After each epoch its setting is saved (weights, optimiser, what was measured) in one atomic file: an
interrupted run goes on where it was, and an epoch that was cut short is run again.
"""

from __future__ import annotations

import copy
import functools
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from loader.loader import BudgetLoader
from loader.schedule import Schedule
from models import checkpoint
from models.checkpoint import CheckpointError
from models.fit import History
from models.train import EpochRecord, Trainer


@dataclass
class Setting:
    """One schedule in training.

    Attributes:
        baseline: whether it is not one of the dissertation's methods ("short").
        group: see `bench.job.Cell`.
        history: its finished epochs.
    """

    name: str
    schedule: Schedule
    trainer: Trainer
    batches: BudgetLoader
    baseline: bool = False
    group: str = ""
    history: History = field(default_factory=History)

    @property
    def records(self) -> list[EpochRecord]:
        return self.history.records

    @property
    def finished(self) -> bool:
        return len(self.records) == self.schedule.epochs

    def save(self, path: Path) -> None:
        state = {
            "schedule": str(self.schedule),
            "trainer": self.trainer.state_dict(),
            "history": self.history.state_dict(),
        }
        checkpoint.save(path, state)

    def load(self, path: Path) -> None:
        state = checkpoint.load(path, device=self.trainer.device)
        if state["schedule"] != str(self.schedule):
            raise CheckpointError(f"{path} is of schedule {state['schedule']}, and {self.schedule} is asked for")
        self.trainer.load_state_dict(state["trainer"])
        self.history.load_state_dict(state["history"])


class Counted:
    """Batches that report each one taken."""

    def __init__(self, batches: BudgetLoader, taken: Callable[[], None]) -> None:
        self._batches, self._taken = batches, taken

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            yield batch
            self._taken()


def run(
    settings: list[Setting],
    *,
    state_of: Callable[[Setting], Path],
    seed: int,
    evaluation: BudgetLoader | None,
    eval_every: int,
    batch_done: Callable[[Setting], None],
    epoch_done: Callable[[Setting], None],
) -> None:
    """Train every setting to its schedule's end, from wherever it stands.

    Args:
        state_of: the file that a setting is saved to.
        seed: of what torch draws (dropout); each setting's epoch has its own.
        evaluation: batches to evaluate on, or None.
        eval_every: evaluate after every so many epochs, and after the last; 0: after the last only.
        batch_done, epoch_done: called with the setting that got on.
    """
    rounds = max(setting.schedule.epochs for setting in settings)
    for epoch in range(rounds):
        turn = epoch % len(settings)  # who is first changes from round to round
        for setting in settings[turn:] + settings[:turn]:
            if len(setting.records) != epoch or setting.finished:
                continue
            torch.manual_seed(zlib.crc32(f"{seed} {setting.name} {epoch}".encode()))
            setting.batches.set_epoch(epoch)
            counted = Counted(setting.batches, functools.partial(batch_done, setting))
            setting.records.append(setting.trainer.train_epoch(counted, epoch=epoch))
            began = time.perf_counter()
            due = setting.finished or (eval_every and (epoch + 1) % eval_every == 0)
            if evaluation is not None and due:
                setting.history.accuracies[epoch] = setting.trainer.evaluate(evaluation)
            setting.save(state_of(setting))
            setting.history.other_seconds += time.perf_counter() - began
            epoch_done(setting)


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
