"""The synthetic engine: batches from memory, with the plans' labels.

For tests, and for measuring a trainer's ceiling: what it could do if data cost nothing.
"""

from __future__ import annotations

import torch

from budgetloader.batch import Batch
from budgetloader.engines.base import Job
from budgetloader.engines.base_direct import DirectEngine
from budgetloader.engines.upload import uploader
from budgetloader.plans import BatchPlan


class SyntheticEngine(DirectEngine):
    """See `budgetloader.engines.base.Engine`. Every batch shows the same noise; do not write to it."""

    shares_images = True
    reads_samples = False

    def __init__(self, job: Job) -> None:
        super().__init__(capacity=job.capacity)
        self._job, self._uploader = job, uploader(job)
        self._size, self._images = job.output.image_size, self._noise(job.output.image_size)

    def make(self, plan: BatchPlan) -> Batch:
        size = self._job.output.size_of(plan)
        if size != self._size:
            self._size, self._images = size, self._noise(size)
        sent = self._uploader.make(lambda put: self._images[: len(plan)], plan.labels)
        return Batch(sent.images, sent.labels, plan, arrival=sent.arrival)

    def _noise(self, size: int) -> torch.Tensor:
        """A batch of images of a size, on the device."""
        output, generator = self._job.output, torch.Generator().manual_seed(0)
        shape = (self._job.batch_size, size, size, output.channels)
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8, device="cpu")
        table = output.table()
        images = torch.stack([table[c][pixels[..., c].long()] for c in range(output.channels)], dim=1)
        memory = torch.channels_last if output.layout == "channels_last" else torch.contiguous_format
        return self._uploader.run(lambda put: images.contiguous(memory_format=memory).to(output.device))

    def _stop(self) -> None:
        self._uploader.close()
