"""Images on the CPU: decode a window of a sample, resize it, and write it in the batch's format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

from budgetloader.batch import Batch
from budgetloader.dataset import Dataset, corrupt
from budgetloader.engines.base import Job, Output, Work, stand_ins
from budgetloader.engines.buffers import BufferPool, tone
from budgetloader.engines.channels import SPANS, Part, grey, parts_of
from budgetloader.engines.row_kernels import divisor_of
from budgetloader.engines.rows import decoder_options
from budgetloader.errors import CorruptSampleError
from budgetloader.jpeg import Cropper, JpegError, SizeCheck
from budgetloader.plans import BatchPlan
from budgetloader.resize import resample
from budgetloader.windows import PAD

if TYPE_CHECKING:
    from budgetloader.engines.upload import Uploader


def compile_kernels(output: Output) -> None:
    """Compile, or load from numba's cache, what a batch of this output needs."""
    pool = BufferPool(output, 1)
    black, out = np.zeros((2, 2, output.channels), np.uint8), pool.image(pool.take(1), 0)
    for part in (Part(None, *span) for span in SPANS[output.channels]):
        source = np.ascontiguousarray(part.of(black))
        resample(source, 0, 0, 2, 2, True, False, part.tone(tone(output)), part.of(out), 1)


class Renderer:
    """Makes single images on the CPU; one per thread, for its scratch memory.

    Args:
        job: what to make.
        work: counts the decoded samples.
        output: the format to write; default: the job's.
    """

    def __init__(self, job: Job, work: Work, output: Output | None = None) -> None:
        self._job, self._work = job, work
        values, parts = tone(output or job.output), parts_of(job.dataset, job.output.channels)
        self._parts = [
            (part, part.tone(values), Decoder(part.dataset, fast=job.output.fast_decode, grey=part.count == 1))
            for part in parts
        ]
        self._antialias = job.output.interpolation == "antialias"
        self._pad = job.output.crop == "pad"
        self._scaling = job.output.decode_scaling and not self._pad

    def fill(self, plan: BatchPlan, row: int, out: np.ndarray) -> int:
        """Make one row of a batch, or what stands in for it.

        Args:
            plan, row: what to make.
            out: [h, w, channels], as `BufferPool.image` gives it.

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
        sample = int(plan.samples[row])
        for part, values, decoder in self._parts:
            self._render_part(decoder, plan, row, values, part.of(out))
        return sample

    def _render_part(self, decoder: Decoder, plan: BatchPlan, row: int, values: np.ndarray, out: np.ndarray) -> None:
        """Make the channels of one row that one image gives: [h, w, c]."""
        sample, (top, left, height, width) = int(plan.samples[row]), plan.windows[row].tolist()
        divisor = int(divisor_of(height, width, min(out.shape[:2]))) if self._scaling else 1
        if self._pad:
            pixels, top, left = pad(decoder.decode_whole(sample)), top + PAD, left + PAD
        else:
            window = {"top": top, "left": left, "height": height, "width": width}
            pixels, top, left, divisor = decoder.decode_scaled(sample, **window, divisor=divisor)
        scale = self._antialias, bool(plan.flips[row]), values
        if not resample(pixels, top, left, height, width, *scale, out, divisor):
            raise corrupt(self._job.dataset, sample, "its size is not the one in the index")


def pad(pixels: np.ndarray) -> np.ndarray:
    """An image with a black border: uint8 [h + 8, w + 8, c]."""
    return np.pad(pixels, ((PAD, PAD), (PAD, PAD), (0, 0)))


class Decoder:
    """Decodes windows of a dataset's samples to a buffer of its own: one per thread.

    Args:
        dataset: the file, or what has its samples.
        fast: see `Output.fast_decode`.
        grey: one channel, luma, in place of three.
    """

    def __init__(self, dataset: Dataset, *, fast: bool = False, grey: bool = False) -> None:
        self._dataset, self._channels = dataset, 1 if grey else 3
        self._options = decoder_options(fast=fast, grey=grey)
        self._raw = getattr(dataset, "raw", ())
        self._cropper, self._check = Cropper(), SizeCheck()
        self._pixels = np.empty(0, np.uint8)

    def decode(self, sample: int, *, top: int, left: int, height: int, width: int) -> tuple[np.ndarray, int, int]:
        """A part of the image that contains the window: uint8 [h, w, c], and the window's top and left in it.

        The pixels are valid until the next call.
        """
        return self.decode_scaled(sample, top=top, left=left, height=height, width=width, divisor=1)[:3]

    def decode_scaled(
        self, sample: int, *, top: int, left: int, height: int, width: int, divisor: int
    ) -> tuple[np.ndarray, int, int, int]:
        """A part of the image that contains the window, and that the decoder made smaller.

        Returns:
            uint8 [h, w, c], the window's top and left in it, in pixels of the whole image, and the divisor: that which
            was asked for, or 1.
        """
        data = self._dataset.jpeg(sample)
        whole = int(self._dataset.heights[sample]), int(self._dataset.widths[sample])
        if len(self._raw) and self._raw[sample]:
            stored = data.reshape(*whole, 3)
            return stored if self._channels == 3 else grey(stored), top, left, 1
        try:
            self._check(data, height=whole[0], width=whole[1])
            if self._pixels.size < self._channels * whole[0] * whole[1]:  # which the dataset limits
                self._pixels = np.empty(self._channels * whole[0] * whole[1], np.uint8)
            data, y, x = self._cropper.crop(data, top=top, left=left, height=height, width=width)
            pixels = self._smaller(data, divisor)
            if pixels is None:
                pixels, divisor = simplejpeg.decode_jpeg(data, buffer=self._pixels, **self._options), 1
            return pixels, top - y, left - x, divisor
        except (JpegError, ValueError) as error:
            raise corrupt(self._dataset, sample, str(error)) from None

    def _smaller(self, data: np.ndarray, divisor: int) -> np.ndarray | None:
        """An image at a part of its size; None where it is to be whole, or the decoder gives another size."""
        if divisor == 1:
            return None
        height, width = (-(-side // divisor) for side in simplejpeg.decode_jpeg_header(data)[:2])
        least = {"min_height": height, "min_width": width}
        pixels = simplejpeg.decode_jpeg(data, buffer=self._pixels, **least, **self._options)
        return pixels if pixels.shape == (height, width, self._channels) else None

    def decode_whole(self, sample: int) -> np.ndarray:
        """The image: uint8 [height, width, c], valid until the next call."""
        height, width = int(self._dataset.heights[sample]), int(self._dataset.widths[sample])
        pixels, _, _ = self.decode(sample, top=0, left=0, height=height, width=width)
        if pixels.shape != (height, width, self._channels):
            raise corrupt(self._dataset, sample, "its size is not the one in the index")
        return pixels
