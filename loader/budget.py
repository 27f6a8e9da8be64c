"""Budgets: how many batches each epoch has.

Source: Theorem 2 and Theorem 4 of the dissertation: M = ⌈D/B⌉, M_α = ⌊αM⌋.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from budgetloader.arguments import check_count
from budgetloader.errors import ScheduleError


class Ratios(Protocol):
    """What a budget needs of a schedule: `budgetloader.Schedule` has it."""

    @property
    def ratios(self) -> tuple[Fraction, ...]:
        """The ratio of each epoch."""

    @property
    def epochs(self) -> int:
        """The number of epochs."""


@dataclass(frozen=True)
class Budget:
    """Batches per epoch of a schedule over a dataset. Exact: no float takes part.

    Args:
        schedule: the ratios α_e.
        samples: D, the samples of the dataset.
        batch_size: B, the samples of a batch.

    Raises:
        ScheduleError: an epoch's budget would be zero batches.
    """

    schedule: Ratios
    samples: int
    batch_size: int

    def __post_init__(self) -> None:
        check_count(self.samples, what="samples", error=ScheduleError)
        check_count(self.batch_size, what="batch_size", error=ScheduleError)
        full = self.full
        batches = tuple(math.floor(ratio * full) for ratio in self.schedule.ratios)
        if 0 in batches:
            epoch, least = batches.index(0), math.ceil(1 / min(self.schedule.ratios))  # batches that a full epoch needs
            most = -(-self.samples // (least - 1)) - 1  # 0 where there are fewer samples than that
            smaller = f", or use a batch size of at most {most}" if most else ""
            raise ScheduleError(
                f"epoch {epoch}: ratio {self.schedule.ratios[epoch]} of {full} batches is a budget of zero "
                f"batches; raise the ratio to at least {Fraction(1, full)}{smaller}"
            )
        object.__setattr__(self, "_batches", batches)

    @property
    def full(self) -> int:
        """M = ⌈D/B⌉, the batches of a full epoch; the last one may be short."""
        return -(-self.samples // self.batch_size)

    @property
    def batches(self) -> tuple[int, ...]:
        """⌊α_e·M⌋ for each epoch e."""
        return self._batches  # type: ignore[attr-defined]

    @property
    def total(self) -> int:
        """Batches of the whole training."""
        return sum(self.batches)

    def epoch_samples(self, epoch: int) -> int:
        """Samples of one epoch: whole batches, but for the last batch of a full epoch."""
        return min(self.batches[epoch] * self.batch_size, self.samples)

    def span(self, step: int) -> tuple[int, int]:
        """The positions [start, stop) of a batch in its epoch's order."""
        start = step * self.batch_size
        return start, min(start + self.batch_size, self.samples)
