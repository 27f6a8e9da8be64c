"""InfoBatch as an arm: the loader's own, trained until a budget of batches is spent.

How long its epochs are is decided by the losses, so its budget is met by counting: the learning rate follows the share
of the budget that is spent, and the epochs that leave nothing out begin where the last eighth of it does. Losses,
choices and weights are a part of the training's time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from budgetloader import BudgetLoader, Dataset, InfoBatch, Schedule
from budgetloader.bench.study.run import Session, shape
from budgetloader.selections.scores import Choice

PRUNE_RATIO, ANNEALING = 0.5, 0.125  # the paper's for CIFAR


class BudgetedInfoBatch(InfoBatch):
    """InfoBatch on a part of a set, whose whole epochs at the end begin where a share of the budget is spent.

    Args:
        among: bool [D], the part of the set.
        spent: says which share of the budget is spent, 0 … 1.
    """

    def __init__(self, among: np.ndarray, spent: Callable[[], float], **options: Any) -> None:
        super().__init__(**options)
        self._among, self._spent = among, spent

    def choose(self, epoch: int, scores: np.ndarray, *, epochs: int, seed: int) -> Choice:
        if self._spent() >= 1 - self.annealing:
            return Choice(self._among)
        choice = super().choose(epoch, scores, epochs=epochs, seed=seed)
        return Choice(choice.kept & self._among, choice.weights)


class InfoBatchSession(Session):
    """A training with InfoBatch; see `Session`."""

    done = 0

    def open(self, dataset: Dataset, kept: np.ndarray) -> None:
        study, among = self._run.study, np.zeros(len(dataset), bool)
        among[kept] = True
        full = -(-len(kept) // study.batch_size)
        # More epochs than it can get to: half of the samples at most are left out.
        schedule = Schedule.full(epochs=4 * -(-self.total // full))
        selection = BudgetedInfoBatch(
            among, lambda: self.done / self.total, prune_ratio=PRUNE_RATIO, annealing=ANNEALING
        )
        self._batches = BudgetLoader(
            dataset,
            schedule=schedule,
            selection=selection,
            batch_size=study.batch_size,
            seed=self._run.seed,
            **shape(study, self._device),
        )

    def progress(self, epoch: int, step: int) -> float:
        return self.done / self.total

    def loss(  # type: ignore[override]
        self, images: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        losses = functional.cross_entropy(self._model(images), labels, reduction="none")
        self._batches.feedback(ids, losses)
        return (losses * weights).mean()
