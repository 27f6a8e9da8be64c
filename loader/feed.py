"""Keeping an engine busy: as many plans under way as it takes, in order, on across epochs."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TypeVar

from budgetloader.batch import Batch
from budgetloader.engines.base import Engine
from budgetloader.errors import EngineError
from budgetloader.plans import BatchPlan

_Self = TypeVar("_Self", bound="Closing")


class Feed:
    """Keeps an engine's capacity filled with plans.

    Args:
        engine: with nothing under way.
        plans: what to make, in order.
        first: epoch and step of the first of them.

    Attributes:
        next_out: epoch and step of the next batch; None after the last.
    """

    def __init__(self, engine: Engine, plans: Iterator[BatchPlan], first: tuple[int, int]) -> None:
        self._engine, self._plans = engine, plans
        self._under_way: list[tuple[int, int]] = []
        self._sizes: list[int] = []  # samples of each
        self._cut: int | None = None  # the epoch from which on nothing is handed out
        self.next_out: tuple[int, int] | None = first
        self._fill()

    def get(self) -> Batch:
        """The next batch; its place is filled with another plan."""
        batch = self._engine.get()
        self._under_way.pop(0)
        self._sizes.pop(0)
        self._fill()
        self.next_out = self._next()
        return batch

    def cut(self, epoch: int) -> dict[int, int]:
        """Hand out nothing that was planned for an epoch or for those behind it: what they draw has changed.

        What is under way for the epochs before them still comes. Where nothing was planned yet, nothing changes here.

        Returns:
            For each of those epochs the samples under way, which are made in vain.
        """
        dropped: dict[int, int] = {}
        for (e, _), samples in zip(self._under_way, self._sizes, strict=True):
            if e >= epoch and (self._cut is None or e < self._cut):
                dropped[e] = dropped.get(e, 0) + samples
        ahead = getattr(self._plans, "cut", None)  # plans that are being fetched, and those under way that it holds
        planned = ahead(epoch) if ahead is not None else False
        if dropped or planned:
            self._cut, self._plans = epoch, iter(()) if ahead is None else self._plans
            self.next_out = self._next()
        return dropped

    def _next(self) -> tuple[int, int] | None:
        following = self._under_way[0] if self._under_way else None
        return None if following is not None and self._cut is not None and following[0] >= self._cut else following

    def _fill(self) -> None:
        while len(self._under_way) < self._engine.capacity:
            if self._under_way and not getattr(self._plans, "ready", True):
                return  # its samples are still being fetched: what the trainer wants next is under way already
            plan = next(self._plans, None)
            if plan is None:
                return
            self._engine.submit(plan)
            self._under_way.append((plan.epoch, plan.step))
            self._sizes.append(len(plan))


class Closing:
    """The part of a loader that has the engine, and closes it."""

    _engine: Engine | None
    _feed: Feed | None = None

    def close(self) -> None:
        """Stop the engine and leave no thread behind. May be called twice.

        A thread that a disk, a service or a GPU keeps from ending is waited for 10 seconds; then a warning says where
        it hangs, and it is left to end by itself.
        """
        if self._engine is not None:
            self._engine.close()
            self._engine = self._feed = None

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> Engine:
        if self._engine is None:
            raise EngineError("the loader is closed; make a new one")
        return self._engine
