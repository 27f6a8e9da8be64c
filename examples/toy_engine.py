"""An engine in one file: Pillow, one image after the other, in the trainer's thread."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from budgetloader import CorruptSampleError
from budgetloader.engines import Batch, BatchPlan, DirectEngine, Job, stand_ins


class ToyEngine(DirectEngine):
    """Makes a batch when it is taken. See `budgetloader.engines.Engine`."""

    def __init__(self, job: Job) -> None:
        super().__init__(capacity=job.capacity)
        self._job = job

    def make(self, plan: BatchPlan) -> Batch:
        output, labels, shown = self._job.output, plan.labels.copy(), plan.samples.copy()
        size = output.size_of(plan)
        pixels = np.empty((len(plan), size, size, 3), np.uint8)  # the host's, whatever torch's default device is
        for row in range(len(plan)):
            image, labels[row], shown[row] = self._row(plan, row)
            pixels[row] = image
        table = output.table()  # [3, 256]: what each pixel value becomes, in the output's dtype
        images = torch.stack([table[c][torch.from_numpy(pixels[..., c]).long()] for c in range(3)], dim=1)
        memory = torch.channels_last if output.layout == "channels_last" else torch.contiguous_format
        images = images.contiguous(memory_format=memory).to(output.device)
        return Batch(images, torch.from_numpy(labels).to(output.device), plan, shown)

    def _row(self, plan: BatchPlan, row: int) -> tuple[Image.Image, int, int]:
        """A row's image, or that of what stands in for it, with its label and the sample's number."""
        try:
            return self._image(plan, row), plan.labels[row], plan.samples[row]
        except CorruptSampleError as error:
            last = error
        for other in stand_ins(self._job, plan, row):  # plans of one sample; none with on_corrupt="raise"
            try:
                return self._image(other, 0), other.labels[0], other.samples[0]
            except CorruptSampleError as error:
                last = error
        raise last

    def _image(self, plan: BatchPlan, row: int) -> Image.Image:
        output, sample = self._job.output, int(plan.samples[row])
        top, left, height, width = (int(side) for side in plan.windows[row])
        data = self._job.dataset.jpeg(sample).tobytes()
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as opened:
                image = opened.convert("RGB").crop((left, top, left + width, top + height))
        except Exception as error:  # whatever a decoder thinks of damaged bytes
            raise CorruptSampleError(f"sample {sample} does not decode ({error})", sample=sample) from None
        size = (output.size_of(plan),) * 2
        if output.interpolation == "antialias":
            image = image.resize(size, Image.Resampling.BILINEAR)
        else:  # the two nearest pixels
            image = image.transform(size, Image.Transform.EXTENT, (0, 0, width, height), Image.Resampling.BILINEAR)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if plan.flips[row] else image
