"""Batch plans: what each batch of each epoch consists of, before any byte is read.

A plan is a pure function of (dataset, seed, epoch, step); everything that engines share is decided
here, so that every engine gives the same batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from budgetloader import rng, windows
from budgetloader.errors import ScheduleError
from budgetloader.schedule import Schedule
from budgetloader.selections import Wanted, choose
from budgetloader.selections.subset import digest, members_of
from budgetloader.shard import Shard

Crop = Literal["resized", "pad"]
_AT_ONCE = 1024  # samples planned at once; for fewer, numpy's cost of a call outweighs that of their numbers


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """One batch to be made.

    Attributes:
        epoch, step: its place in the schedule.
        positions: int64 [n], the places of its samples in the epoch's order.
        samples: int64 [n], the samples' numbers in the dataset.
        windows: int64 [n, 4]: top, left, height and width of what is shown, in pixels of the stored image.
        flips: bool [n], whether it is mirrored from left to right.
        labels: int64 [n].
        image_size: height and width of its images, pixels; 0: what the job's output says.
    """

    epoch: int
    step: int
    positions: np.ndarray
    samples: np.ndarray
    windows: np.ndarray
    flips: np.ndarray
    labels: np.ndarray
    image_size: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    def part(self, rows: slice, *, step: int | None = None) -> BatchPlan:
        """Some rows of it, as a plan of their own, and perhaps of another step."""
        return BatchPlan(
            self.epoch,
            self.step if step is None else step,
            self.positions[rows],
            self.samples[rows],
            self.windows[rows],
            self.flips[rows],
            self.labels[rows],
            self.image_size,
        )


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


class PlannerLike(Protocol):
    """What a loader needs of a planner: `Planner` and `EvaluationPlanner` have it, and so may one of your own."""

    batch_size: int
    identity: dict[str, Any]  # what a loader's state must agree with, besides its keywords

    @property
    def steps(self) -> Sequence[int]:
        """Batches of each epoch."""

    def plans(self, epoch: int, steps: Sequence[int]) -> Iterator[BatchPlan]:
        """The plans of one or more steps, which together cost little more than one."""

    def replacement(self, plan: BatchPlan, row: int, *, attempt: int) -> BatchPlan:
        """A plan of one sample, to stand in for a row that does not decode."""

    def ready(self, epoch: int) -> bool:
        """Whether an epoch can be planned already: one whose samples are still to be chosen cannot."""


class Planner:
    """Makes the plan of any (epoch, step) of training.

    Args:
        index: the dataset's sizes and labels.
        schedule, batch_size, seed: as in `BudgetLoader`.
        wanted: which samples are drawn.
        shard: this rank's part.
        crop: "resized" (random resized crop) or "pad" (a window of the image's size, shifted by up to 4 pixels).
    """

    def __init__(
        self,
        index: Index,
        *,
        schedule: Schedule,
        batch_size: int,
        seed: int,
        wanted: Wanted | None = None,
        shard: Shard | None = None,
        crop: Crop = "resized",
    ) -> None:
        self.index, self.seed, self.batch_size = index, seed, batch_size
        self._windows = windows.padded_crop if crop == "pad" else windows.random_resized_crop
        self.selection = choose(
            index.labels,
            wanted or Wanted(),
            schedule=schedule,
            batch_size=batch_size,
            seed=seed,
            mixture=getattr(index, "mixture", None),
            shard=shard,
        )
        self.budget, self.identity = self.selection.budget, self.selection.identity
        self.shard = shard or Shard()
        self.shard.share(batch_size)  # checks it

    @property
    def steps(self) -> Sequence[int]:
        """Batches of each epoch, as they are known now."""
        return self.selection.steps

    def ready(self, epoch: int) -> bool:
        """Whether an epoch's samples are chosen."""
        return self.selection.ready(epoch)

    def plan(self, epoch: int, step: int) -> BatchPlan:
        return next(self.plans(epoch, [step]))

    def plans(self, epoch: int, steps: Sequence[int]) -> Iterator[BatchPlan]:
        """The plans of one or more steps, which together cost little more than one."""
        parts = [self.shard.positions(*self.selection.span(epoch, step)) for step in steps]
        positions = self.selection.positions(epoch, np.concatenate(parts))
        whole = self._plan(epoch, 0, positions, self.selection.ids(epoch, positions))
        start = 0
        for step, part in zip(steps, parts, strict=True):
            yield whole.part(slice(start, start + len(part)), step=step)
            start += len(part)

    def at(self, epoch: int, positions: np.ndarray, samples: np.ndarray | None = None) -> BatchPlan:
        """The plan of any positions of an epoch's order, which its budget need not reach: step 0.

        With sampling="independent", where an epoch's order depends on nothing but the seed.

        Args:
            epoch: of the order.
            positions: int64 [n].
            samples: int64 [n], what stands there in another order than this planner's.
        """
        return self._plan(epoch, 0, positions, self.selection.ids(epoch, positions) if samples is None else samples)

    def replacement(self, plan: BatchPlan, row: int, *, attempt: int) -> BatchPlan:
        """A plan of one sample, to stand in for a row that does not decode.

        Which sample it is depends on (seed, epoch, position, attempt) alone, and it is one of the selection.
        """
        positions = plan.positions[row : row + 1]
        numbers = rng.draws(positions, seed=self.seed, epoch=plan.epoch, purpose=rng.REPLACEMENT, block=attempt)
        samples = self.selection.replacements(plan.epoch, numbers[0] << np.uint64(32) | numbers[1])
        return self._plan(plan.epoch, plan.step, positions, samples)

    def _plan(self, epoch: int, step: int, positions: np.ndarray, ids: np.ndarray) -> BatchPlan:
        heights, widths = self.index.heights[ids], self.index.widths[ids]
        crops = self._windows(heights, widths, positions, seed=self.seed, epoch=epoch)
        return BatchPlan(epoch, step, positions, ids, crops[:, :4], crops[:, 4] != 0, self.index.labels[ids])


class EvaluationPlanner:
    """Every sample, or every one of a subset in its order, once, in one epoch; the last batch may be short.

    The window is the centre, or with crop="pad" the whole image.

    With several ranks, each takes every world_size-th sample; ranks may differ by one sample.
    """

    def __init__(
        self,
        index: Index,
        *,
        batch_size: int,
        samples: ArrayLike | None = None,
        shard: Shard | None = None,
        crop: Crop = "resized",
    ) -> None:
        shard = shard or Shard()
        self._windows = windows.whole if crop == "pad" else windows.center_crop
        self.index, self.batch_size = index, batch_size
        ids = np.arange(len(index), dtype=np.int64) if samples is None else members_of(samples, size=len(index))
        self._ids = ids[shard.rank :: shard.world_size]
        self.identity = {} if samples is None else {"samples": digest(ids)}

    @property
    def steps(self) -> tuple[int, ...]:
        return (-(-len(self._ids) // self.batch_size),)

    def ready(self, epoch: int) -> bool:
        """True: it is known which samples are evaluated."""
        return True

    def plans(self, epoch: int, steps: Sequence[int]) -> Iterator[BatchPlan]:
        """The plans of one or more steps."""
        return (self.plan(epoch, step) for step in steps)

    def plan(self, epoch: int, step: int) -> BatchPlan:
        ids = self._ids[step * self.batch_size : (step + 1) * self.batch_size]
        crops = self._windows(self.index.heights[ids], self.index.widths[ids])
        return BatchPlan(epoch, step, ids, ids, crops[:, :4], crops[:, 4] != 0, self.index.labels[ids])

    def replacement(self, plan: BatchPlan, row: int, *, attempt: int) -> BatchPlan:
        raise ScheduleError("evaluation replaces no sample: every one counts; use on_corrupt='raise'")


def stream(planner: PlannerLike, *, epoch: int, step: int) -> Iterator[BatchPlan]:
    """Plans from (epoch, step) to the end of the schedule, or to an epoch whose samples are still to be chosen."""
    at_once = max(1, _AT_ONCE // planner.batch_size)
    for e in range(epoch, len(planner.steps)):
        if not planner.ready(e):
            return
        steps = range(step if e == epoch else 0, planner.steps[e])
        for first in range(0, len(steps), at_once):
            yield from planner.plans(e, steps[first : first + at_once])
