"""Batch plans: what each batch of each epoch consists of, before any byte is read.

A plan is a pure function of (dataset, seed, epoch, step); everything that engines share is decided
here, so that every engine gives the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from budgetloader import rng, windows
from budgetloader.budget import Budget
from budgetloader.errors import ScheduleError
from budgetloader.order import Order, Sampling
from budgetloader.schedule import Schedule
from budgetloader.shard import Shard

if TYPE_CHECKING:
    import torch

Crop = Literal["resized", "pad"]
SAMPLE, TOP, LEFT, HEIGHT, WIDTH, FLIP = range(6)
_AT_ONCE = 1024  # samples planned at once; for fewer, numpy's cost of a call outweighs that of their numbers


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """One batch to be made.

    Attributes:
        epoch, step: where it stands in the schedule.
        positions: int64 [n], the places of its samples in the epoch's order.
        rows: int64 [n, 6]: sample, top, left, height, width (pixels of the stored image), flip.
        labels: int64 [n].
    """

    epoch: int
    step: int
    positions: np.ndarray
    rows: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(slots=True)
class Batch:
    """One batch that an engine made.

    Attributes:
        images: [n, 3, height, width] in the loader's dtype, layout and device.
        labels: int64 [n].
        plan: what it was made from; `plan.rows[:, 0]` are the samples' numbers.
        replaced: samples that did not decode and were replaced.
        arrival: what is left to do on the trainer's thread before the batch is used, or None; see `arrived`.
    """

    images: torch.Tensor
    labels: torch.Tensor
    plan: BatchPlan
    replaced: int = 0
    arrival: Arrival | None = None

    def arrived(self) -> Batch:
        """Itself, ready to be used by the thread that calls this: the last thing that an engine's `get` does."""
        if self.arrival is not None:
            self.arrival(self)
            self.arrival = None
        return self


Arrival = Callable[[Batch], None]


class Index(Protocol):
    """What planning needs to know of a dataset: a `Dataset` has it, and so has a served one.

    Attributes:
        heights, widths, labels: one entry per sample.
        classes: the classes' names, or ().
        fingerprint: tells datasets apart.
    """

    heights: np.ndarray
    widths: np.ndarray
    labels: np.ndarray
    fingerprint: str

    @property
    def classes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...


class Planner:
    """Makes the plan of any (epoch, step) of training.

    Args:
        index: the dataset's sizes and labels.
        schedule, batch_size, seed, sampling: as in `BudgetLoader`.
        shard: this rank's part.
        crop: "resized" (random resized crop) or "pad" (pad by 4 pixels, crop the image's size).
    """

    def __init__(
        self,
        index: Index,
        *,
        schedule: Schedule,
        batch_size: int,
        seed: int,
        sampling: Sampling = "independent",
        shard: Shard | None = None,
        crop: Crop = "resized",
    ) -> None:
        self.index, self.seed, self.batch_size = index, seed, batch_size
        self._windows = windows.padded_crop if crop == "pad" else windows.random_resized_crop
        self.budget = Budget(schedule, samples=len(index), batch_size=batch_size)
        self.order = Order(self.budget, seed=seed, sampling=sampling)
        self.shard = shard or Shard()
        self.shard.share(batch_size)  # checks it

    @property
    def steps(self) -> tuple[int, ...]:
        """Batches of each epoch."""
        return self.budget.batches

    def plan(self, epoch: int, step: int) -> BatchPlan:
        return next(self.plans(epoch, [step]))

    def plans(self, epoch: int, steps: Sequence[int]) -> Iterator[BatchPlan]:
        """The plans of one or more steps, which together cost little more than one."""
        parts = [self.shard.positions(*self.budget.span(step)) for step in steps]
        positions = np.concatenate(parts)
        whole = self._plan(epoch, 0, positions, self.order.ids(epoch, positions))
        start = 0
        for step, part in zip(steps, parts, strict=True):
            stop = start + len(part)
            yield BatchPlan(epoch, step, positions[start:stop], whole.rows[start:stop], whole.labels[start:stop])
            start = stop

    def at(self, epoch: int, positions: np.ndarray) -> BatchPlan:
        """The plan of any positions of an epoch's order, which its budget need not reach: step 0.

        With sampling="independent", where an epoch's order depends on nothing but the seed.
        """
        return self._plan(epoch, 0, positions, self.order.ids(epoch, positions))

    def replacement(self, plan: BatchPlan, row: int, *, attempt: int) -> BatchPlan:
        """A plan of one sample, to stand in for a row that does not decode.

        Which sample it is depends on (seed, epoch, position, attempt) alone.
        """
        positions = plan.positions[row : row + 1]
        numbers = rng.draws(positions, seed=self.seed, epoch=plan.epoch, purpose=rng.REPLACEMENT, block=attempt)
        samples = (numbers[0] << np.uint64(32) | numbers[1]) % np.uint64(len(self.index))
        return self._plan(plan.epoch, plan.step, positions, samples.astype(np.int64))

    def _plan(self, epoch: int, step: int, positions: np.ndarray, ids: np.ndarray) -> BatchPlan:
        heights, widths = self.index.heights[ids], self.index.widths[ids]
        crops = self._windows(heights, widths, positions, seed=self.seed, epoch=epoch)
        rows = np.column_stack((ids, crops))
        return BatchPlan(epoch, step, positions, rows, self.index.labels[ids])


class EvaluationPlanner:
    """Every sample once, in file order, one epoch; the last batch may be short.

    The window is the centre, or with crop="pad" the whole image.

    With several ranks, each takes every world_size-th sample; ranks may differ by one sample.
    """

    def __init__(self, index: Index, *, batch_size: int, shard: Shard | None = None, crop: Crop = "resized") -> None:
        shard = shard or Shard()
        self._windows = windows.whole if crop == "pad" else windows.center_crop
        self.index, self.batch_size = index, batch_size
        self._mine = np.arange(shard.rank, len(index), shard.world_size, dtype=np.int64)

    @property
    def steps(self) -> tuple[int, ...]:
        return (-(-len(self._mine) // self.batch_size),)

    def plans(self, epoch: int, steps: Sequence[int]) -> Iterator[BatchPlan]:
        """The plans of one or more steps."""
        return (self.plan(epoch, step) for step in steps)

    def plan(self, epoch: int, step: int) -> BatchPlan:
        ids = self._mine[step * self.batch_size : (step + 1) * self.batch_size]
        crops = self._windows(self.index.heights[ids], self.index.widths[ids])
        return BatchPlan(epoch, step, ids, np.column_stack((ids, crops)), self.index.labels[ids])

    def replacement(self, plan: BatchPlan, row: int, *, attempt: int) -> BatchPlan:
        raise ScheduleError("evaluation replaces no sample: every one counts; use on_corrupt='raise'")


def stream(planner: Any, *, epoch: int, step: int) -> Iterator[BatchPlan]:
    """Plans from (epoch, step) to the end of the schedule, on across epochs."""
    at_once = max(1, _AT_ONCE // planner.batch_size)
    for e in range(epoch, len(planner.steps)):
        steps = range(step if e == epoch else 0, planner.steps[e])
        for first in range(0, len(steps), at_once):
            yield from planner.plans(e, steps[first : first + at_once])
