"""A whole training: epochs, evaluation, a log, and checkpoints that resume exactly, also in mid-epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from budgetloader.models.epoch import EpochUnderWay
from budgetloader.models.history import History
from budgetloader.models.logs import Logs
from budgetloader.models.train import Trainer
from budgetloader.models.training import Training

_VERSION = 1


def fit(
    trainer: Trainer,
    batches: Any,
    *,
    epochs: int,
    log: Path | None = None,
    tensorboard: Path | None = None,
    seed: int = 0,
    after_load: Callable[[History], object] | None = None,
    after_step: Callable[[EpochUnderWay], object] | None = None,
    after_epoch: Callable[[History], object] | None = None,
    stop: Callable[[], bool] | None = None,
    checkpoint: Path | None = None,
    checkpoint_steps: int = 0,
    evaluation: Iterable[tuple[torch.Tensor, torch.Tensor]] | None = None,
    eval_every: int = 1,
) -> History:
    """Train for `epochs`, from the checkpoint where there is one.

    A run of fewer epochs can be resumed as one of more; the learning rate then follows the longer schedule.

    Args:
        trainer, batches, epochs: see `Training`; so are those that are not named here.
        log: a JSON-lines file, a line for each epoch.
        tensorboard: a folder for TensorBoard's events; it needs the package.
        seed: of Python's and torch's generators (dropout); each epoch has its own, so that resuming changes nothing.
        after_load: called once, with the checkpoint's epochs, before anything is trained.
        after_epoch: called after each epoch.

    Raises:
        TrainingError, CheckpointError: see `Training.load` and `Training.advance`.
    """
    training = Training(
        trainer,
        batches,
        epochs=epochs,
        identity={"version": _VERSION, "seed": seed},
        seed_of=lambda epoch, step, rank: f"{seed} {epoch} {step} {rank}",
        evaluation=evaluation,
        eval_every=eval_every,
        checkpoint=checkpoint,
        checkpoint_steps=checkpoint_steps,
        after_step=after_step,
        stop=stop,
    )
    training.load()
    history = training.history
    if after_load is not None:
        after_load(history)
    logs = Logs(log, tensorboard, history)
    try:
        while not training.finished and training.advance():
            logs.add(history)
            if after_epoch is not None:
                after_epoch(history)
    finally:
        logs.close()
    return history
