"""The resident engine: a small dataset as one uint8 tensor on the device, cropped and flipped there.

For CIFAR and the like: every image of one size. Decoding happens once, when the loader is made.
"""

from __future__ import annotations

import numpy as np
import torch

from budgetloader.batch import FLIP, HEIGHT, LEFT, SAMPLE, TOP, WIDTH, Batch, BatchPlan
from budgetloader.dataset import corrupt
from budgetloader.engines.base import Job
from budgetloader.engines.direct import DirectEngine
from budgetloader.engines.native import REPLACEMENT_ATTEMPTS, Decoder, pad
from budgetloader.engines.normalize import Normalize
from budgetloader.engines.upload import Put, uploader
from budgetloader.errors import CorruptSampleError, EngineError
from budgetloader.parallel import in_order
from budgetloader.resize import taps
from budgetloader.windows import PAD

MOST_BYTES = 8 << 30


class ResidentEngine(DirectEngine):
    """See `budgetloader.engines.base.Engine`."""

    def __init__(self, job: Job) -> None:
        super().__init__(capacity=job.capacity)
        self._job = job
        self._uploader = uploader(job)
        images, self._damaged = _load(job)
        # Up to gigabytes, and once: not by way of pinned memory.
        self._images = self._uploader.run(lambda put: torch.from_numpy(images).to(job.output.device))
        self._normalize = self._uploader.run(lambda put: Normalize(job.output))

    def make(self, plan: BatchPlan) -> Batch:
        rows, labels, replaced = self._mended(plan)

        def images(put: Put) -> torch.Tensor:
            window = self._shifted(rows, put) if self._job.output.crop == "pad" else self._resized(rows, put)
            return self._normalize(window.permute(0, 3, 1, 2))

        sent = self._uploader.make(images, labels)
        return Batch(sent.images, sent.labels, plan, replaced, sent.arrival)

    def close(self) -> None:
        super().close()
        self._uploader.close()
        self._images = torch.empty(0, dtype=torch.uint8)  # a part of it would keep the whole

    def _mended(self, plan: BatchPlan) -> tuple[np.ndarray, np.ndarray, int]:
        """The plan's rows and labels, with other samples in place of those that do not decode."""
        if not self._damaged or self._damaged.isdisjoint(plan.rows[:, SAMPLE].tolist()):
            return plan.rows, plan.labels.copy(), 0
        rows, labels, replaced = plan.rows.copy(), plan.labels.copy(), 0
        for row in range(len(plan)):
            for attempt in range(REPLACEMENT_ATTEMPTS):
                if int(rows[row, SAMPLE]) not in self._damaged:
                    break
                other = self._job.replacement(plan, row, attempt=attempt)
                rows[row], labels[row] = other.rows[0], other.labels[0]
                replaced += attempt == 0
            else:
                raise corrupt(self._job.dataset, int(plan.rows[row, SAMPLE]), "nor do those that stand in for it")
        return rows, labels, replaced

    def _shifted(self, rows: np.ndarray, put: Put) -> torch.Tensor:
        """Windows of the images' size in the padded images: uint8 [n, h, w, 3]."""
        size = self._job.output.image_size
        across = np.where(rows[:, FLIP, None] == 1, np.arange(size)[::-1], np.arange(size))
        y = put(rows[:, TOP, None] + PAD + np.arange(size))
        x = put(rows[:, LEFT, None] + PAD + across)
        samples = put(np.ascontiguousarray(rows[:, SAMPLE]))
        return self._images[samples[:, None, None], y[:, :, None], x[:, None, :]]

    def _resized(self, rows: np.ndarray, put: Put) -> torch.Tensor:
        """Windows resized by the filter of `budgetloader.resize`, as products of matrices: uint8 [n, s, s, 3]."""
        size, antialias = self._job.output.image_size, self._job.output.interpolation == "antialias"
        down = np.zeros((len(rows), size, self._images.shape[1]), np.float32)
        across = np.zeros((len(rows), size, self._images.shape[2]), np.float32)
        for i, row in enumerate(rows):
            for matrix, start, length in ((down[i], row[TOP], row[HEIGHT]), (across[i], row[LEFT], row[WIDTH])):
                first, count, weights = taps(start, length, size, antialias)
                for y in range(size):
                    matrix[y, first[y] : first[y] + count[y]] = weights[y, : count[y]]
            if row[FLIP]:
                across[i] = across[i, ::-1]
        images = self._images[put(np.ascontiguousarray(rows[:, SAMPLE]))].float()
        blended = torch.einsum("nyh,nhwc,nxw->nyxc", put(down), images, put(across))
        return (blended + 0.5).clamp_(0, 255).byte()


def _load(job: Job) -> tuple[np.ndarray, frozenset[int]]:
    """Every image, padded where windows reach outside: uint8 [samples, h, w, 3]; and which do not decode."""
    dataset, border = job.dataset, 2 * PAD if job.output.crop == "pad" else 0
    height, width = int(dataset.heights[0]), int(dataset.widths[0])
    if (dataset.heights != height).any() or (dataset.widths != width).any():
        raise EngineError("engine 'resident' needs images of one size; use engine='native'")
    size = len(dataset) * (height + border) * (width + border) * 3
    if size > MOST_BYTES:
        raise EngineError(f"engine 'resident' would need {size:,} bytes; use engine='native'")
    images = np.zeros((len(dataset), height + border, width + border, 3), np.uint8)
    damaged = []

    def decode(sample: int) -> CorruptSampleError | None:
        try:
            pixels = Decoder(dataset).decode_whole(sample)
        except CorruptSampleError as error:
            return error
        images[sample] = pad(pixels) if border else pixels
        return None

    for sample, error in enumerate(in_order(decode, len(dataset), threads=job.workers)):
        if error is not None:
            if job.on_corrupt == "raise":
                raise error
            damaged.append(sample)
    if len(damaged) == len(dataset):
        raise EngineError(f"none of the {len(dataset)} images decodes; convert them again")
    return images, frozenset(damaged)
