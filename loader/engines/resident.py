"""The resident engine: a small dataset as one uint8 tensor on the device, cropped and flipped there.

For CIFAR and the like: every image of one size. Decoding happens once, when the loader is made.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from budgetloader.batch import Batch
from budgetloader.dataset import corrupt
from budgetloader.engines.base import Job, stand_ins
from budgetloader.engines.base_direct import DirectEngine
from budgetloader.engines.channels import parts_of
from budgetloader.engines.normalize import Normalize
from budgetloader.engines.rendering import Decoder, pad
from budgetloader.engines.upload import Put, uploader
from budgetloader.errors import CorruptSampleError, EngineError
from budgetloader.parallel import in_order
from budgetloader.plans import BatchPlan, Crop
from budgetloader.resize import taps
from budgetloader.windows import PAD

MOST_BYTES = 8 << 30


Decoded = tuple[np.ndarray, frozenset[int]]


class ResidentEngine(DirectEngine):
    """See `budgetloader.engines.base.Engine`.

    Args:
        decoded: what `decode` gives for a job of the same dataset and crop, for programs that make many loaders.
    """

    reads_samples = False  # they are in memory from the start

    def __init__(self, job: Job, *, decoded: Decoded | None = None) -> None:
        super().__init__(capacity=job.capacity)
        self._job = job
        self._uploader = uploader(job)
        images, self._damaged = decoded or decode(job)
        # Up to gigabytes, and once: not by way of pinned memory.
        self._images = self._uploader.run(lambda put: torch.from_numpy(images).to(job.output.device))
        self._normalize = self._uploader.run(lambda put: Normalize(job.output))

    def make(self, plan: BatchPlan) -> Batch:
        shown = self._mended(plan)

        def images(put: Put) -> torch.Tensor:
            size = self._job.output.size_of(plan)
            shift = self._job.output.crop == "pad" and size == self._images.shape[1] - 2 * PAD
            window = self._shifted(shown, size, put) if shift else self._resized(shown, size, put)
            return self._normalize(window.permute(0, 3, 1, 2))

        sent = self._uploader.make(images, self._job.dataset.labels[shown.samples])
        return Batch(sent.images, sent.labels, plan, shown.samples, sent.arrival)

    def _stop(self) -> None:
        self._uploader.close()
        self._images = torch.empty(0, dtype=torch.uint8, device="cpu")  # a part of it would keep the whole

    def _mended(self, plan: BatchPlan) -> BatchPlan:
        """The plan, with other samples in place of those that do not decode."""
        damaged = [row for row, sample in enumerate(plan.samples.tolist()) if sample in self._damaged]
        if not damaged:
            return plan
        samples, windows, flips = plan.samples.copy(), plan.windows.copy(), plan.flips.copy()
        for row in damaged:
            for other in stand_ins(self._job, plan, row):
                if int(other.samples[0]) not in self._damaged:
                    samples[row], windows[row], flips[row] = other.samples[0], other.windows[0], other.flips[0]
                    break
            else:
                raise corrupt(self._job.dataset, int(plan.samples[row]), "nor do those that stand in for it")
        return replace(plan, samples=samples, windows=windows, flips=flips)

    def _shifted(self, plan: BatchPlan, size: int, put: Put) -> torch.Tensor:
        """Windows of the images' size in the padded images: uint8 [n, h, w, c]."""
        top, left = plan.windows[:, 0, None], plan.windows[:, 1, None]
        across = np.where(plan.flips[:, None], np.arange(size)[::-1], np.arange(size))
        y = put(top + PAD + np.arange(size))
        x = put(left + PAD + across)
        samples = put(plan.samples)
        return self._images[samples[:, None, None], y[:, :, None], x[:, None, :]]

    def _resized(self, plan: BatchPlan, size: int, put: Put) -> torch.Tensor:
        """Windows, resized by one matrix for the rows and one for the columns: uint8 [n, h, w, c]."""
        antialias = self._job.output.interpolation == "antialias"
        border = PAD if self._job.output.crop == "pad" else 0
        down = np.zeros((len(plan), size, self._images.shape[1]), np.float32)
        across = np.zeros((len(plan), size, self._images.shape[2]), np.float32)
        for i, (top, left, height, width) in enumerate(plan.windows.tolist()):
            for matrix, start, length in ((down[i], top + border, height), (across[i], left + border, width)):
                first, count, weights = taps(start, length, size, antialias)
                for y in range(size):
                    matrix[y, first[y] : first[y] + count[y]] = weights[y, : count[y]]
            if plan.flips[i]:
                across[i] = across[i, ::-1]
        images, place = self._images[put(plan.samples)], self._images.device.type
        # The trainer's thread runs this. Its autocast is not ours, nor its leave to multiply float32 as TF32: that is a
        # setting of the whole process, and float64 is not touched by it.
        wide = torch.float64 if place == "cuda" else torch.float32
        with torch.autocast(place, enabled=False):
            factors = put(down).to(wide), images.to(wide), put(across).to(wide)
            return (torch.einsum("nyh,nhwc,nxw->nyxc", *factors) + 0.5).clamp_(0, 255).byte()


def bytes_of(dataset: Any, *, crop: Crop, channels: int = 3) -> int:
    """The memory that a dataset's images take here, where they are all of one size."""
    border = 2 * PAD if crop == "pad" else 0
    return len(dataset) * (int(dataset.heights[0]) + border) * (int(dataset.widths[0]) + border) * channels


def decode(job: Job) -> Decoded:
    """Every image, padded where windows reach outside: uint8 [samples, h, w, c]; and which do not decode."""
    dataset, border = job.dataset, 2 * PAD if job.output.crop == "pad" else 0
    height, width = int(dataset.heights[0]), int(dataset.widths[0])
    if (dataset.heights != height).any() or (dataset.widths != width).any():
        raise EngineError("engine 'resident' needs images of one size; use engine='native'")
    size = bytes_of(dataset, crop=job.output.crop, channels=job.output.channels)
    if size > MOST_BYTES:
        raise EngineError(f"engine 'resident' would need {size:,} bytes; use engine='native'")
    images = np.zeros((len(dataset), height + border, width + border, job.output.channels), np.uint8)
    damaged, parts = [], parts_of(dataset, job.output.channels)

    def decode_one(sample: int) -> CorruptSampleError | None:
        for part in parts:
            try:
                decoder = Decoder(part.dataset, fast=job.output.fast_decode, grey=part.count == 1)
                pixels = decoder.decode_whole(sample)
            except CorruptSampleError as error:
                return error
            part.of(images[sample])[:] = pad(pixels) if border else pixels
        return None

    for sample, error in enumerate(in_order(decode_one, len(dataset), threads=job.workers)):
        if error is not None:
            if job.on_corrupt == "raise":
                raise error
            damaged.append(sample)
    if len(damaged) == len(dataset):
        raise EngineError(f"none of the {len(dataset)} images decodes; convert them again")
    return images, frozenset(damaged)
