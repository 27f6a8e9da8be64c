"""Keeping an engine busy: as many plans under way as it takes, in order, on across epochs."""

from __future__ import annotations

from collections.abc import Iterator

from budgetloader.batch import Batch
from budgetloader.engines.base import Engine
from budgetloader.plans import BatchPlan


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
        self.next_out: tuple[int, int] | None = first
        self._fill()

    def get(self) -> Batch:
        """The next batch; its place is filled with another plan."""
        batch = self._engine.get()
        self._under_way.pop(0)
        self._fill()
        self.next_out = self._under_way[0] if self._under_way else None
        return batch

    def _fill(self) -> None:
        while len(self._under_way) < self._engine.capacity:
            if self._under_way and not getattr(self._plans, "ready", True):
                return  # its samples are still being fetched: what the trainer wants next is under way already
            plan = next(self._plans, None)
            if plan is None:
                return
            self._engine.submit(plan)
            self._under_way.append((plan.epoch, plan.step))
