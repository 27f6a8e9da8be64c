"""A training that advances epoch by epoch, with evaluation and checkpoints that resume exactly."""

from __future__ import annotations

import math
import random
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from budgetloader.models import checkpoint as checkpoints
from budgetloader.models.checkpoint import CheckpointError
from budgetloader.models.epoch import EpochRecord, EpochUnderWay
from budgetloader.models.history import History
from budgetloader.models.train import Trainer, TrainingError


class Training:
    """One training, which whoever made it asks for one epoch after the other.

    Args:
        trainer: with its network.
        batches: iterated once per epoch, with a length. Where it has `set_epoch`, it is told the epoch. Where it
            has `state_dict` and `load_state_dict`, training resumes at the step of the checkpoint; without, at
            the beginning of its epoch.
        epochs: how many in all.
        identity: values that a checkpoint must have been written with to be resumed from, such as {"seed": 0}.
        seed_of: (epoch, step, rank) → text from which Python's and torch's generators are seeded where an epoch begins
            or goes on, for random layers (dropout).
        evaluation: batches to evaluate on, or None.
        eval_every: evaluate after every so many epochs, and after the last; 0: after the last only.
        checkpoint: the file, written after each epoch; None: none.
        checkpoint_steps: write one after every so many steps of an epoch, too; 0: not.
        after_step: called after each step. Its time is not counted as training if it returns something true.
        stop: asked after each step; True ends the epoch there, with a checkpoint.

    Attributes:
        history: its results so far.
    """

    def __init__(
        self,
        trainer: Trainer,
        batches: Any,
        *,
        epochs: int,
        identity: dict[str, Any],
        seed_of: Callable[[int, int, int], str],
        evaluation: Iterable[tuple[torch.Tensor, torch.Tensor]] | None = None,
        eval_every: int = 1,
        checkpoint: Path | None = None,
        checkpoint_steps: int = 0,
        after_step: Callable[[EpochUnderWay], object] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.history = History()
        self.trainer, self.batches, self.epochs = trainer, batches, epochs
        self.after_step = after_step
        self._identity, self._seed_of = identity, seed_of
        self._evaluation, self._eval_every = evaluation, eval_every
        self._path, self._steps, self._stop = checkpoint, checkpoint_steps, stop
        self._stateful = hasattr(batches, "state_dict") and hasattr(batches, "load_state_dict")
        self._rank, self._ranks = 0, 1
        if distributed.is_available() and distributed.is_initialized():
            self._rank, self._ranks = distributed.get_rank(), distributed.get_world_size()
        if checkpoint_steps and not (self._stateful and checkpoint):
            raise CheckpointError("checkpoint_steps needs a checkpoint and batches with state_dict, load_state_dict")
        self._begun: EpochUnderWay | None = None
        self._random: list[dict[str, Any]] = []

    @property
    def finished(self) -> bool:
        """Whether every epoch was trained."""
        return len(self.history.records) >= self.epochs

    def load(self) -> None:
        """Go to where the checkpoint was written, if there is one.

        Raises:
            CheckpointError: it cannot be read, or is of another run.
        """
        if self._path is None or not self._path.exists():
            return
        state = checkpoints.load(self._path, device="cpu")
        self._check(state)
        try:
            self.trainer.load_state_dict(state["trainer"])
        except (RuntimeError, ValueError, KeyError) as error:
            why = str(error).strip().partition("\n")[0]
            raise CheckpointError(f"checkpoint {self._path} is of another network: {why}") from None
        self.history.load_state_dict(state["history"])
        if self._stateful and state.get("batches") is not None:
            self.batches.load_state_dict(state["batches"])
        if state.get("under_way") is not None:
            self._begun = EpochUnderWay(len(self.history.records), state=state["under_way"])
            self._random = state["random"]

    def _check(self, state: dict[str, Any]) -> None:
        """Refuse the checkpoint of another run. A run of fewer epochs can be resumed as one of more."""
        epochs = state.get("epochs", self.epochs)  # version 0.1's benches did not note them
        for name, value in {"epochs": min(epochs, self.epochs), **self._identity}.items():
            found = epochs if name == "epochs" else state.get(name)
            if found != value:
                raise CheckpointError(
                    f"checkpoint {self._path} is of a run with {name} {found}, and this one has {value}; "
                    "give another file, or delete it to start over"
                )
        self.history.earlier_epochs = epochs if epochs < self.epochs else None

    def advance(self) -> bool:
        """Train the next epoch, evaluate where that is due, and save; False: `stop` ended the epoch.

        Raises:
            TrainingError: see `Trainer.train_epoch`; the last checkpoint stays whole.
            CheckpointError: one could not be written.
        """
        history, epoch = self.history, len(self.history.records)
        record = self._train(epoch)
        if record is None:
            history.stopped = True
            return False
        began = time.perf_counter()
        history.records.append(record)
        due = self.finished or (self._eval_every and (epoch + 1) % self._eval_every == 0)
        if self._evaluation is not None and due:
            history.accuracies[epoch] = self.trainer.evaluate(self._evaluation)
        self._save(None)
        history.other_seconds += time.perf_counter() - began
        return True

    def _train(self, epoch: int) -> EpochRecord | None:
        """The epoch's record; None if it was stopped before its end."""
        if hasattr(self.batches, "set_epoch"):
            self.batches.set_epoch(epoch)
        begun, self._begun = self._begun, None
        self._set_random_state(epoch, begun)
        try:
            return self.trainer.train_epoch(self.batches, epoch=epoch, begun=begun, after_step=self._step_done)
        except _Stopped:
            return None

    def _set_random_state(self, epoch: int, begun: EpochUnderWay | None) -> None:
        if begun is not None and len(self._random) == self._ranks:
            checkpoints.set_random_state(self._random[self._rank], self.trainer.device)
            return
        text = self._seed_of(epoch, begun.steps if begun else 0, self._rank)
        random.seed(text)
        torch.manual_seed(zlib.crc32(text.encode()))

    def _step_done(self, now: EpochUnderWay) -> bool:
        spent = bool(self.after_step is not None and self.after_step(now))
        stop = self._stop is not None and self._stop()
        last = now.steps == len(self.batches)
        due = self._steps and now.steps % self._steps == 0
        if last or not (stop or due):
            return spent
        began = time.perf_counter()
        if self._stateful:
            self._save(now)
        if stop:
            raise _Stopped
        self.history.other_seconds += time.perf_counter() - began
        return True

    def _save(self, now: EpochUnderWay | None) -> None:
        """Write a checkpoint; `now` is the epoch that it is in the middle of."""
        if self._path is None:
            return
        own = checkpoints.random_state(self.trainer.device) if now else {}
        states: list[Any] = [own] * self._ranks
        if self._ranks > 1:
            distributed.all_gather_object(states, own)
        if self._rank == 0:
            if now and not math.isfinite(float(now.loss_sum)):
                raise TrainingError(f"epoch {now.epoch}, step {now.steps}: the loss is {float(now.loss_sum)}")
            state = {
                **self._identity,
                "epochs": self.epochs,
                "trainer": self.trainer.state_dict(),
                "batches": self.batches.state_dict() if self._stateful else None,
                "history": self.history.state_dict(),
                "under_way": now.state_dict() if now else None,
                "random": states if now else [],
            }
            checkpoints.save(self._path, state)


class _Stopped(Exception):
    """`stop` said so."""
