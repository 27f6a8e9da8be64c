"""The native engine on a GPU: nvJPEG decodes the cropped bytes, and the rest happens there too.

A thread of ours crops the compressed bytes and hands a batch of them to torchvision's batched nvJPEG
decoder; windows are resized by torch's own triangle filter and normalised on a stream beside the
trainer's. (On a CPU device the same code runs with libjpeg-turbo; the tests use that.)
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn import functional
from torchvision.io import ImageReadMode, decode_jpeg

from loader.batch import Batch, BatchPlan
from loader.engines.base import Job, Work
from loader.engines.native import BufferPool, Renderer
from loader.engines.normalize import Normalize
from loader.engines.threaded import ThreadedEngine
from loader.errors import CorruptSampleError, EngineError
from loader.jpeg import Cropper, JpegError
from loader.windows import PAD


class NativeCUDAEngine(ThreadedEngine):
    """See `loader.engines.base.Engine`."""

    def __init__(self, job: Job) -> None:
        work = Work()
        super().__init__(_Maker(job, work), capacity=job.capacity, work=work, name="native-cuda")


class _Maker:
    """Makes batches with torchvision's decoder."""

    depth = 1

    def __init__(self, job: Job, work: Work) -> None:
        self._job, self._work = job, work
        self._device = torch.device(job.output.device)
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._cropper, self._renderer = Cropper(), Renderer(job, work)
        self._pool = BufferPool(job.output, job.batch_size)
        self._normalize = Normalize(job.output)

    def begin(self, plan: BatchPlan) -> None:
        """Nothing: `finish` makes the batch."""

    def finish(self, plan: BatchPlan) -> Batch:
        labels, replaced = plan.labels.copy(), 0
        with self._on_stream():
            try:
                images = self._make(plan)
                self._work.add_decoded(plan.epoch, len(plan))
            except (JpegError, CorruptSampleError, RuntimeError) as error:
                # torchvision raises RuntimeError, and does not say for which.
                images, labels, replaced = self._renderer.batch(plan, self._pool)
                if not replaced and not isinstance(error, (JpegError, CorruptSampleError)):
                    # Nothing is wrong with the images: it is CUDA's or nvJPEG's own trouble, and would come again.
                    raise EngineError(f"nvJPEG failed: {str(error).strip().splitlines()[0]}") from error
                images = images.to(self._device)
            moved = torch.from_numpy(labels).to(self._device)
        if self._stream is not None:
            self._stream.synchronize()
            for tensor in (images, moved):
                tensor.record_stream(torch.cuda.current_stream(self._device))
        return Batch(images, moved, plan, replaced)

    def close(self) -> None:
        """Nothing is held that is not memory."""

    def _on_stream(self) -> AbstractContextManager:
        return torch.cuda.stream(self._stream) if self._stream is not None else nullcontext()

    def _make(self, plan: BatchPlan) -> torch.Tensor:
        parts, places = [], []
        for row in plan.rows.tolist():
            part, place = self._cropped(row)
            parts.append(part)
            places.append(place)
        decoded = decode_jpeg(parts, mode=ImageReadMode.RGB, device=self._device)
        windows = [
            self._window(pixels, row, place)
            for pixels, row, place in zip(decoded, plan.rows.tolist(), places, strict=True)
        ]
        return self._normalize(torch.cat(windows).add_(0.5).clamp_(0, 255))

    def _cropped(self, row: list[int]) -> tuple[torch.Tensor, tuple[int, int]]:
        """The JPEG that shows a row's window, and the top and left that it begins at."""
        sample, top, left, height, width, _ = row
        data = self._job.dataset.jpeg(sample)
        if self._job.output.crop == "pad":
            return torch.from_numpy(data.copy()), (0, 0)
        part, y, x = self._cropper.crop(data, top=top, left=left, height=height, width=width)
        return torch.from_numpy(part.copy()), (y, x)  # a copy: the cropper takes its memory again

    def _window(self, pixels: torch.Tensor, row: list[int], place: tuple[int, int]) -> torch.Tensor:
        """One window, resized and mirrored: float32 [1, 3, size, size]."""
        _, top, left, height, width, flip = row
        top, left = top - place[0], left - place[1]
        if self._job.output.crop == "pad":
            pixels, top, left = functional.pad(pixels, [PAD] * 4), top + PAD, left + PAD
        window = pixels[None, :, top : top + height, left : left + width].float()
        if window.shape[2:] != (height, width):
            raise JpegError("is smaller than the window")
        size, antialias = self._job.output.image_size, self._job.output.interpolation == "antialias"
        resized = functional.interpolate(window, (size, size), mode="bilinear", antialias=antialias)
        return resized.flip(3) if flip else resized
