"""The synthetic engine: batches from memory, with the plans' labels.

For tests, and for measuring a trainer's ceiling: what it could do if data cost nothing.
"""

from __future__ import annotations

from collections import deque

import torch

from loader.batch import Batch, BatchPlan
from loader.engines.base import Job, Work, check_room
from loader.errors import EngineError


class SyntheticEngine:
    """See `loader.engines.base.Engine`. Every batch shows the same noise; do not write to it."""

    def __init__(self, job: Job) -> None:
        self.capacity = job.capacity
        self.work = Work()
        self._pending: deque[BatchPlan] | None = deque()
        output, size = job.output, job.output.image_size
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (job.batch_size, size, size, 3), generator=generator, dtype=torch.uint8)
        table = output.table()
        images = torch.stack([table[c][pixels[..., c].long()] for c in range(3)], dim=1)
        memory = torch.channels_last if output.layout == "channels_last" else torch.contiguous_format
        self._images = images.contiguous(memory_format=memory).to(output.device)
        self._device = output.device

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
        return Batch(self._images[: len(plan)], torch.from_numpy(plan.labels).to(self._device), plan)

    def abort(self) -> None:
        if self._pending is not None:
            self._pending.clear()

    def close(self) -> None:
        self._pending = None
