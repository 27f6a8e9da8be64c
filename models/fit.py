"""A whole training: epochs, evaluation, a log, and checkpoints that resume exactly, also in mid-epoch."""

from __future__ import annotations

import json
import math
import random
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from budgetloader.models import checkpoint as checkpoints
from budgetloader.models.checkpoint import CheckpointError
from budgetloader.models.metrics import Accuracy
from budgetloader.models.train import EpochRecord, EpochUnderWay, Trainer, TrainingError

_VERSION = 1


@dataclass
class History:
    """What a training has come to.

    Attributes:
        records: its finished epochs.
        accuracies: epoch → accuracy after it.
        other_seconds: evaluation and checkpoints, not counted as training.
        stopped: whether it ended because `stop` said so, and goes on from the checkpoint.
    """

    records: list[EpochRecord] = field(default_factory=list)
    accuracies: dict[int, Accuracy] = field(default_factory=dict)
    other_seconds: float = 0.0
    stopped: bool = False

    @property
    def accuracy(self) -> Accuracy | None:
        """The latest."""
        return self.accuracies[max(self.accuracies)] if self.accuracies else None

    def state_dict(self) -> dict[str, Any]:
        return {
            "records": [record.as_dict() for record in self.records],
            "accuracies": {e: [a.top1, a.top5, a.samples] for e, a in self.accuracies.items()},
            "other_seconds": self.other_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.records = [EpochRecord(**record) for record in state["records"]]
        self.accuracies = {int(e): Accuracy(*a) for e, a in state["accuracies"].items()}
        self.other_seconds = state["other_seconds"]


def fit(
    trainer: Trainer,
    batches: Any,
    *,
    epochs: int,
    evaluation: Iterable[tuple[torch.Tensor, torch.Tensor]] | None = None,
    eval_every: int = 1,
    checkpoint: Path | None = None,
    checkpoint_steps: int = 0,
    log: Path | None = None,
    tensorboard: Path | None = None,
    seed: int = 0,
    after_step: Callable[[EpochUnderWay], object] | None = None,
    after_epoch: Callable[[History], object] | None = None,
    stop: Callable[[], bool] | None = None,
) -> History:
    """Train for `epochs`, from the checkpoint where there is one.

    Args:
        trainer: with its network.
        batches: iterated once per epoch, with a length. Where it has `set_epoch`, it is told the
            epoch. Where it has `state_dict` and `load_state_dict`, training resumes at the step of the
            checkpoint; without, at the beginning of its epoch.
        epochs: how many in all.
        evaluation: batches to evaluate on, or None.
        eval_every: evaluate after every so many epochs, and after the last; 0: after the last only.
        checkpoint: the file, written after each epoch; None: none.
        checkpoint_steps: write one after every so many steps of an epoch, too (needs the two methods
            of `batches`); 0: not.
        log: a JSON-lines file, a line for each epoch.
        tensorboard: a folder for TensorBoard's events; it needs the package.
        seed: of what torch draws (dropout); each epoch has its own, so that resuming changes nothing.
        after_step, after_epoch: called with what there is. The time of an `after_step` that returns something
            true is not counted as training.
        stop: asked after each step; True ends the training, with a checkpoint.

    Raises:
        TrainingError: see `Trainer.train_epoch`; the last checkpoint stays whole.
        CheckpointError: one could not be written or read, or is of another run.
    """
    run = _Run(trainer, batches, epochs, checkpoint, checkpoint_steps, seed, stop, after_step)
    run.load()
    logs = _Logs(log, tensorboard, run.history)
    history = run.history
    try:
        for epoch in range(len(history.records), epochs):
            record = run.train_epoch(epoch)
            if record is None:
                history.stopped = True
                return history
            began = time.perf_counter()
            history.records.append(record)
            due = epoch + 1 == epochs or (eval_every and (epoch + 1) % eval_every == 0)
            if evaluation is not None and due:
                history.accuracies[epoch] = trainer.evaluate(evaluation)
            run.save(None)
            history.other_seconds += time.perf_counter() - began
            logs.add(history)
            if after_epoch is not None:
                after_epoch(history)
    finally:
        logs.close()
    return history


class _Run:
    """The state of a training that checkpoints hold."""

    def __init__(
        self,
        trainer: Trainer,
        batches: Any,
        epochs: int,
        path: Path | None,
        steps: int,
        seed: int,
        stop: Callable[[], bool] | None,
        after_step: Callable[[EpochUnderWay], object] | None,
    ) -> None:
        self.history = History()
        self._trainer, self._batches, self._epochs = trainer, batches, epochs
        self._path, self._steps, self._seed = path, steps, seed
        self._stop, self._after_step = stop, after_step
        self._stateful = hasattr(batches, "state_dict") and hasattr(batches, "load_state_dict")
        self._rank, self._ranks = 0, 1
        if distributed.is_available() and distributed.is_initialized():
            self._rank, self._ranks = distributed.get_rank(), distributed.get_world_size()
        if steps and not (self._stateful and path):
            raise CheckpointError("checkpoint_steps needs a checkpoint and batches with state_dict, load_state_dict")
        self._begun: EpochUnderWay | None = None
        self._random: list[dict[str, Any]] = []

    def load(self) -> None:
        if self._path is None or not self._path.exists():
            return
        state = checkpoints.load(self._path, device="cpu")
        for name, mine in {"version": _VERSION, "epochs": self._epochs, "seed": self._seed}.items():
            if state.get(name) != mine:
                raise CheckpointError(
                    f"checkpoint {self._path} is of a run with {name} {state.get(name)}, and this one has {mine}; "
                    "give another file, or delete it to start over"
                )
        try:
            self._trainer.load_state_dict(state["trainer"])
        except (RuntimeError, ValueError, KeyError) as error:
            why = str(error).strip().partition("\n")[0]
            raise CheckpointError(f"checkpoint {self._path} is of another network: {why}") from None
        self.history.load_state_dict(state["history"])
        if self._stateful and state["batches"] is not None:
            self._batches.load_state_dict(state["batches"])
        if state["under_way"] is not None:
            self._begun = EpochUnderWay(len(self.history.records), state=state["under_way"])
            self._random = state["random"]

    def save(self, now: EpochUnderWay | None) -> None:
        """Write a checkpoint; `now` is the epoch that it is in the middle of."""
        if self._path is None:
            return
        mine = checkpoints.random_state(self._trainer.device) if now else {}
        states: list[Any] = [mine] * self._ranks
        if self._ranks > 1:
            distributed.all_gather_object(states, mine)
        if self._rank == 0:
            if now and not math.isfinite(float(now.loss_sum)):
                raise TrainingError(f"epoch {now.epoch}, step {now.steps}: the loss is {float(now.loss_sum)}")
            state = {
                "version": _VERSION,
                "epochs": self._epochs,
                "seed": self._seed,
                "trainer": self._trainer.state_dict(),
                "batches": self._batches.state_dict() if self._stateful else None,
                "history": self.history.state_dict(),
                "under_way": now.state_dict() if now else None,
                "random": states if now else [],
            }
            checkpoints.save(self._path, state)

    def train_epoch(self, epoch: int) -> EpochRecord | None:
        """The epoch's record; None if it was stopped before its end."""
        if hasattr(self._batches, "set_epoch"):
            self._batches.set_epoch(epoch)
        begun, self._begun = self._begun, None
        self._set_random_state(epoch, begun)
        try:
            return self._trainer.train_epoch(self._batches, epoch=epoch, begun=begun, after_step=self._step_done)
        except _Stopped:
            return None

    def _set_random_state(self, epoch: int, begun: EpochUnderWay | None) -> None:
        if begun is not None and len(self._random) == self._ranks:
            checkpoints.set_random_state(self._random[self._rank], self._trainer.device)
            return
        where = f"{self._seed} {epoch} {begun.steps if begun else 0} {self._rank}"
        random.seed(where)
        torch.manual_seed(zlib.crc32(where.encode()))

    def _step_done(self, now: EpochUnderWay) -> bool:
        spent = bool(self._after_step is not None and self._after_step(now))
        stop = self._stop is not None and self._stop()
        last = now.steps == len(self._batches)
        due = self._steps and now.steps % self._steps == 0
        if last or not (stop or due):
            return spent
        began = time.perf_counter()
        if self._stateful:
            self.save(now)
        if stop:
            raise _Stopped
        self.history.other_seconds += time.perf_counter() - began
        return True


class _Stopped(Exception):
    """`stop` said so."""


class _Logs:
    """The JSON-lines file and TensorBoard's events, of rank 0."""

    def __init__(self, log: Path | None, tensorboard: Path | None, history: History) -> None:
        primary = not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
        self._log = log if primary else None
        self._events: Any = None
        if self._log is not None:  # what a killed run logged beyond its checkpoint is run, and logged, again
            self._log.parent.mkdir(parents=True, exist_ok=True)
            rows = [_row(history, i) for i in range(len(history.records))]
            self._log.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if tensorboard is not None and primary:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise TrainingError("TensorBoard is not installed; pip install tensorboard") from None
            self._events = SummaryWriter(str(tensorboard), purge_step=len(history.records))

    def add(self, history: History) -> None:
        row = _row(history, len(history.records) - 1)
        if self._log is not None:
            with open(self._log, "a") as file:
                file.write(json.dumps(row) + "\n")
        if self._events is not None:
            for name, value in row.items():
                if name != "epoch" and value is not None:
                    self._events.add_scalar(name, value, row["epoch"])
            self._events.flush()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def _row(history: History, number: int) -> dict[str, Any]:
    record = history.records[number]
    accuracy = history.accuracies.get(record.epoch)
    single = {name: value for name, value in record.as_dict().items() if not isinstance(value, tuple)}
    return {
        **single,
        "images_per_second": record.images / record.train_seconds,
        "top1": accuracy.top1 if accuracy else None,
        "top5": accuracy.top5 if accuracy else None,
    }
