"""BudgetSampler: budgets, order and resume of `BudgetLoader` for any torch Dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import Sampler

from budgetloader.block_order import order_of
from budgetloader.budget import Budget
from budgetloader.cursor import Cursor
from budgetloader.errors import ResumeError, ScheduleError
from budgetloader.order import Sampling
from budgetloader.schedule import Schedule
from budgetloader.shard import local_shard

Item = TypeVar("Item")


class BudgetSampler(Sampler[list[int]]):
    """A batch sampler: the indices of exactly ⌊α_e·M⌋ batches in epoch e, for a torch DataLoader.

    ``DataLoader(dataset, batch_sampler=BudgetSampler(len(dataset), …), num_workers=4,
    persistent_workers=True)`` decodes only the samples that it emits, restarts no worker between
    epochs, and has the right `len` in each. The dataset is any that takes an index: images, text,
    sound. Each iteration is one epoch, and the next one begins where the last has ended or was left.

    Args:
        samples: how many the dataset has, or the dataset.
        schedule: the ratio of every epoch.
        batch_size: samples of a batch, of all ranks together.
        seed, sampling: as in `BudgetLoader`, and with them the same samples in the same order.
        rank, world_size: this process's share of each batch; default: torch.distributed's where it is
            initialised, else 0 of 1.

    Attributes:
        batch_size: indices of a batch of this rank.
        drop_last: False; some libraries ask.

    Yields:
        list[int], the indices of one batch. Every rank gets equally many.

    Raises:
        ScheduleError: what cannot be, with what to do about it.
    """

    drop_last = False

    def __init__(
        self,
        samples: int | Sized,
        *,
        schedule: Schedule,
        batch_size: int,
        seed: int = 0,
        sampling: Sampling = "independent",
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        count = len(samples) if isinstance(samples, Sized) else samples
        self.budget = Budget(schedule, samples=count, batch_size=batch_size)
        self._order = order_of(self.budget, seed=seed, sampling=sampling)
        self._shard = local_shard(rank, world_size)
        self.batch_size = self._shard.share(batch_size)
        self.schedule, self.seed = schedule, seed
        self._cursor = Cursor(
            self.budget.batches,
            identity={
                "seed": seed,
                "samples": count,
                "schedule": str(schedule),
                "batch_size": batch_size,
                "sampling": sampling,
                **self._order.identity,
            },
            schedule=schedule,
        )
        self._began: tuple[int, int] | None = None  # where the latest iteration did, none since moved
        self._taken: tuple[int, int] | None = None  # where the trainer is in it, where that is known

    @property
    def epoch(self) -> int:
        """The epoch whose indices are being handed out, or the next one."""
        return self._cursor.epoch

    def __len__(self) -> int:
        """Batches of that epoch; 0 after the last."""
        return len(self._cursor)

    def __iter__(self) -> Iterator[list[int]]:
        # Nothing moves before the first batch is taken: DataLoader makes two iterators for its first epoch.
        self._cursor.begin(counted=False)
        self._began = began = (self._cursor.epoch, self._cursor.step)
        self._taken = None
        epoch, first = began
        for step in range(first, self.budget.batches[epoch]):
            yield self._indices(epoch, step).tolist()
        if self._began is began:
            self._cursor.end()

    def _indices(self, epoch: int, step: int) -> np.ndarray:
        positions = self._shard.positions(*self.budget.span(step))
        return self._order.ids(epoch, positions)

    def over(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The batches of one epoch, counted, so that `state_dict` knows where the trainer is.

        A DataLoader with workers takes batches from its sampler well ahead of the trainer, so that the
        sampler cannot count the trainer's own: ``for images, labels in sampler.over(batches):`` does.

        Args:
            batches: the DataLoader over this sampler, or what wraps it.
        """
        began = None
        for taken, batch in enumerate(batches, start=1):
            began = began or self._began
            if began is None:
                raise ScheduleError("over() was given batches that do not come from this sampler; give its DataLoader")
            self._taken = (began[0], began[1] + taken)
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of `epoch`; a sampler that was resumed in the middle of it keeps its place."""
        self._cursor.set_epoch(epoch)
        self._began = self._taken = None

    def state_dict(self, *, step: int | None = None) -> dict[str, Any]:
        """Where the trainer's next batch will come from; JSON-able, under 1 kB.

        Args:
            step: batches of this epoch that the trainer has taken, counted from the epoch's beginning also where
                it was resumed in the middle; not needed in a loop over `over`.

        Raises:
            ResumeError: neither is known.
        """
        if self._began is None:
            return self._cursor.state_dict()
        if step is not None:
            most = self.budget.batches[self._began[0]]
            if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step <= most:
                raise ResumeError(f"step {step!r} is outside epoch {self._began[0]}; give 0 … {most}")
            return self._cursor.state_dict(at=(self._began[0], step))
        if self._taken is None:
            raise ResumeError(
                "an epoch is under way, and a DataLoader's workers run ahead of the trainer: pass step=, the batches "
                "of this epoch that were taken, or iterate over sampler.over(batches), which counts them"
            )
        return self._cursor.state_dict(at=self._taken)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state_dict` was taken.

        Raises:
            ResumeError: the state is of another number of samples, schedule, batch size, sampling or seed. A longer
                schedule is fine, see `BudgetLoader.load_state_dict`.
        """
        self._cursor.load_state_dict(state)
        self._began = self._taken = None
