"""The base of engines that make each batch when it is taken, in the caller's thread."""

from __future__ import annotations

import time
from abc import abstractmethod

from budgetloader.batch import Batch
from budgetloader.engines.base import BaseEngine
from budgetloader.plans import BatchPlan


class DirectEngine(BaseEngine[BatchPlan]):
    """See `budgetloader.engines.base.Engine`. The simplest base for an engine of your own: define `make`.

    Args:
        capacity: the most batches under way; they are made one at a time all the same.
    """

    def __init__(self, *, capacity: int) -> None:
        super().__init__(capacity=capacity)

    @abstractmethod
    def make(self, plan: BatchPlan) -> Batch:
        """Make a batch."""

    def _prepare(self, plan: BatchPlan) -> BatchPlan:
        return plan

    def _take(self, pending: BatchPlan) -> Batch:
        self.work.add_decoded(pending.epoch, len(pending))
        began = time.perf_counter()
        batch = self.make(pending).arrived()
        self.work.add_busy(time.perf_counter() - began, samples=len(pending))
        return batch
