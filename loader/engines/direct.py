"""An engine that makes each batch when it is taken, in the caller's thread."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque

from budgetloader.batch import Batch, BatchPlan
from budgetloader.engines.base import Work, check_room
from budgetloader.errors import EngineError


class DirectEngine(ABC):
    """See `budgetloader.engines.base.Engine`."""

    def __init__(self, *, capacity: int) -> None:
        self.capacity = capacity
        self.work = Work()
        self._pending: deque[BatchPlan] | None = deque()

    @abstractmethod
    def make(self, plan: BatchPlan) -> Batch:
        """Make a batch."""

    def submit(self, plan: BatchPlan) -> None:
        if self._pending is None:
            raise EngineError("the loader is closed; make a new one")
        check_room(len(self._pending), self.capacity)
        self._pending.append(plan)

    def get(self) -> Batch:
        if not self._pending:
            raise EngineError("no batch is under way; submit a plan first")
        plan = self._pending.popleft()
        self.work.add_decoded(plan.epoch, len(plan))
        began = time.perf_counter()
        batch = self.make(plan).arrived()
        self.work.add_busy(time.perf_counter() - began, samples=len(plan))
        return batch

    def abort(self) -> None:
        if self._pending is not None:
            self._pending.clear()

    def close(self) -> None:
        self._pending = None
