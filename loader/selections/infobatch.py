"""InfoBatch: leave out well-learnt samples at random, and scale the others up so that gradients stay unbiased.

Z. Qin, K. Wang, Z. Zheng, J. Gu, X. Peng, Z. Xu, D. Zhou, L. Shang, B. Sun, X. Xie, Y. You, "InfoBatch: Lossless
Training Speed Up by Unbiased Dynamic Data Pruning", ICLR 2024.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from budgetloader import rng
from budgetloader.errors import ScheduleError
from budgetloader.selections.agreement import Gather
from budgetloader.selections.scores import Choice, ScoreSelection


class InfoBatch(ScoreSelection):
    """Soft pruning by loss: in each epoch, every sample whose last loss is below the mean is left out with a chance.

        with BudgetLoader(…, selection=InfoBatch()) as batches:
            for epoch in batches.epochs():
                for images, labels, ids, weights in batches:
                    losses = cross_entropy(model(images), labels, reduction="none")
                    batches.feedback(ids, losses)
                    (losses * weights).mean().backward()

    A sample with a low loss that is kept has the weight 1/(1 − prune_ratio), all others 1: the expected gradient is
    that of the whole set. The last epochs leave nothing out. Which samples are left out depends on (seed, epoch,
    scores) alone. A sample that has no loss yet is not left out, so the first epoch is whole.

    Args:
        prune_ratio: r, the chance that a sample with a low loss is left out, 0 ≤ r < 1.
        annealing: δ, the share of the epochs, at the end, that leave nothing out, 0 … 1.
        lag: see `ScoreSelection`.
        gather: see `ScoreSelection`.

    Raises:
        ScheduleError: a number outside these.
    """

    def __init__(
        self, *, prune_ratio: float = 0.5, annealing: float = 0.125, lag: int = 1, gather: Gather | None = None
    ) -> None:
        for name, value, fine in (
            ("prune_ratio", prune_ratio, _is_number(prune_ratio) and 0 <= prune_ratio < 1),
            ("annealing", annealing, _is_number(annealing) and 0 <= annealing <= 1),
        ):
            if not fine:
                raise ScheduleError(f"{name} {value!r}: give a number from 0 to 1 (prune_ratio: below 1)")
        self.prune_ratio, self.annealing = float(prune_ratio), float(annealing)
        self.lag, self.gather = lag, gather

    @property
    def identity(self) -> dict[str, Any]:
        return {"selection": "InfoBatch", "prune_ratio": self.prune_ratio, "annealing": self.annealing}

    def choose(self, epoch: int, scores: np.ndarray, *, epochs: int, seed: int) -> Choice:
        if epoch >= math.floor((1 - self.annealing) * epochs + 1e-9):
            return Choice(np.ones(len(scores), bool))
        known = scores[~np.isnan(scores)]
        if not len(known):
            return Choice(np.ones(len(scores), bool))
        low = np.flatnonzero(scores < known.mean(dtype=np.float64))
        chance = rng.unit(rng.draws(low, seed=seed, epoch=epoch, purpose=rng.PRUNE)[0])
        kept = np.ones(len(scores), bool)
        kept[low[chance < self.prune_ratio]] = False
        weights = np.ones(len(scores), np.float32)
        weights[low] = 1 / (1 - self.prune_ratio)
        return Choice(kept, weights)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
