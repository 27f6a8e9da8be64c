"""The resident engine: a small dataset as one uint8 tensor on the device, cropped and flipped there.

For CIFAR and the like: every image of one size. Decoding happens once, when the loader is made.
"""

from __future__ import annotations

import numpy as np
import torch

from loader.batch import FLIP, HEIGHT, LEFT, SAMPLE, TOP, WIDTH, Batch, BatchPlan
from loader.dataset import corrupt
from loader.engines.base import Job
from loader.engines.direct import DirectEngine
from loader.engines.native import REPLACEMENT_ATTEMPTS, Decoder, pad
from loader.engines.normalize import Normalize
from loader.errors import CorruptSampleError, EngineError
from loader.parallel import in_order
from loader.resize import taps
from loader.windows import PAD

MOST_BYTES = 8 << 30


class ResidentEngine(DirectEngine):
    """See `loader.engines.base.Engine`."""

    def __init__(self, job: Job) -> None:
        super().__init__(capacity=job.capacity)
        self._job = job
        self._device = torch.device(job.output.device)
        self._images, self._damaged = _load(job)
        self._normalize = Normalize(job.output)

    def make(self, plan: BatchPlan) -> Batch:
        rows, labels, replaced = self._mended(plan)
        window = self._shifted(rows) if self._job.output.crop == "pad" else self._resized(rows)
        images = self._normalize(window.permute(0, 3, 1, 2))
        return Batch(images, torch.from_numpy(labels).to(self._device), plan, replaced)

    def close(self) -> None:
        super().close()
        self._images = self._images[:0]

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

    def _index(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device, non_blocking=True)

    def _shifted(self, rows: np.ndarray) -> torch.Tensor:
        """Windows of the images' size in the padded images: uint8 [n, h, w, 3]."""
        size = self._job.output.image_size
        across = np.where(rows[:, FLIP, None] == 1, np.arange(size)[::-1], np.arange(size))
        y = self._index(rows[:, TOP, None] + PAD + np.arange(size))
        x = self._index(rows[:, LEFT, None] + PAD + across)
        return self._images[self._index(rows[:, SAMPLE])[:, None, None], y[:, :, None], x[:, None, :]]

    def _resized(self, rows: np.ndarray) -> torch.Tensor:
        """Windows resized by the filter of `loader.resize`, as products of matrices: uint8 [n, s, s, 3]."""
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
        images = self._images[self._index(rows[:, SAMPLE])].float()
        blended = torch.einsum("nyh,nhwc,nxw->nyxc", self._index(down), images, self._index(across))
        return (blended + 0.5).clamp_(0, 255).byte()


def _load(job: Job) -> tuple[torch.Tensor, frozenset[int]]:
    """Every image, padded where windows reach outside, on the device; and which do not decode."""
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
    return torch.from_numpy(images).to(job.output.device), frozenset(damaged)
