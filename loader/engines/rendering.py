"""Images on the CPU: decode a window of a sample, resize it, and write it in the batch's format."""

from __future__ import annotations

import numpy as np
import simplejpeg

from budgetloader.batch import Batch
from budgetloader.dataset import Dataset, corrupt
from budgetloader.engines.base import Job, Output, Work, stand_ins
from budgetloader.engines.buffers import BufferPool, tone
from budgetloader.engines.upload import Uploader
from budgetloader.errors import CorruptSampleError
from budgetloader.jpeg import Cropper, JpegError, SizeCheck
from budgetloader.plans import BatchPlan
from budgetloader.resize import resample
from budgetloader.windows import PAD


def compile_kernels(output: Output) -> None:
    """Compile, or load from numba's cache, what a batch of this output needs."""
    pool = BufferPool(output, 1)
    black, out = np.zeros((2, 2, 3), np.uint8), pool.image(pool.take(1), 0)
    resample(black, 0, 0, 2, 2, True, False, tone(output), out)


class Renderer:
    """Makes single images on the CPU; one per thread, for its scratch memory.

    Args:
        job: what to make.
        work: counts the decoded samples.
        output: the format to write; default: the job's.
    """

    def __init__(self, job: Job, work: Work, output: Output | None = None) -> None:
        self._job, self._work = job, work
        self._tone = tone(output or job.output)
        self._antialias = job.output.interpolation == "antialias"
        self._pad = job.output.crop == "pad"
        self._decoder = Decoder(job.dataset)

    def fill(self, plan: BatchPlan, row: int, out: np.ndarray) -> int:
        """Make one row of a batch, or what stands in for it.

        Args:
            plan, row: what to make.
            out: [h, w, 3], as `BufferPool.image` gives it.

        Returns:
            The number of the sample that is shown.

        Raises:
            CorruptSampleError: it does not decode, and nothing may or can stand in.
        """
        try:
            return self._render(plan, row, out)
        except CorruptSampleError as error:
            failed = error
        for stand_in in stand_ins(self._job, plan, row):
            try:
                return self._render(stand_in, 0, out)
            except CorruptSampleError as error:
                failed = error
        raise failed

    def batch(self, plan: BatchPlan, uploader: Uploader) -> Batch:
        """A whole batch row by row, for engines whose own decoder failed at it."""
        buffer, samples = uploader.take(len(plan), plan.image_size), plan.samples.copy()
        for row in range(len(plan)):
            samples[row] = self.fill(plan, row, uploader.image(buffer, row))
        sent = uploader.send(buffer, self._job.dataset.labels[samples])
        return Batch(sent.images, sent.labels, plan, samples, sent.arrival)

    def _render(self, plan: BatchPlan, row: int, out: np.ndarray) -> int:
        """Make one row; the number of its sample."""
        self._work.add_decoded(plan.epoch, 1)
        sample, (top, left, height, width) = int(plan.samples[row]), plan.windows[row].tolist()
        if self._pad:
            pixels, top, left = pad(self._decoder.decode_whole(sample)), top + PAD, left + PAD
        else:
            pixels, top, left = self._decoder.decode(sample, top=top, left=left, height=height, width=width)
        if not resample(pixels, top, left, height, width, self._antialias, bool(plan.flips[row]), self._tone, out):
            raise corrupt(self._job.dataset, sample, "its size is not the one in the index")
        return sample


def pad(pixels: np.ndarray) -> np.ndarray:
    """An image with a black border: uint8 [h + 8, w + 8, 3]."""
    return np.pad(pixels, ((PAD, PAD), (PAD, PAD), (0, 0)))


class Decoder:
    """Decodes windows of a dataset's samples to a buffer of its own: one per thread."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._cropper, self._check = Cropper(), SizeCheck()
        self._pixels = np.empty(0, np.uint8)

    def decode(self, sample: int, *, top: int, left: int, height: int, width: int) -> tuple[np.ndarray, int, int]:
        """A part of the image that contains the window: uint8 [h, w, 3], and the window's top and left in it.

        The pixels are valid until the next call.
        """
        data = self._dataset.jpeg(sample)
        whole = int(self._dataset.heights[sample]), int(self._dataset.widths[sample])
        try:
            self._check(data, height=whole[0], width=whole[1])
            if self._pixels.size < 3 * whole[0] * whole[1]:  # which the dataset limits
                self._pixels = np.empty(3 * whole[0] * whole[1], np.uint8)
            data, y, x = self._cropper.crop(data, top=top, left=left, height=height, width=width)
            return simplejpeg.decode_jpeg(data, buffer=self._pixels), top - y, left - x
        except (JpegError, ValueError) as error:
            raise corrupt(self._dataset, sample, str(error)) from None

    def decode_whole(self, sample: int) -> np.ndarray:
        """The image: uint8 [height, width, 3], valid until the next call."""
        height, width = int(self._dataset.heights[sample]), int(self._dataset.widths[sample])
        pixels, _, _ = self.decode(sample, top=0, left=0, height=height, width=width)
        if pixels.shape != (height, width, 3):
            raise corrupt(self._dataset, sample, "its size is not the one in the index")
        return pixels
