"""The DALI engine: windows, flips and JPEG bytes are data that our stream pushes into a pipeline.

`feed_input`, `schedule_run`, `share_outputs`: there is no reader, no epoch, no StopIteration and no
reset, so that nothing is drained between epochs. On a GPU the bytes are cropped first, and the cropped image is
decoded whole and then sliced: the hardware cannot decode a region, and nvImageCodec 0.9 crashes on some
(its issue 55). On a CPU DALI's decoder skips what is outside
the window itself, and is given views of the file without a copy.

`share_outputs` returns when the batch is finished, so that nothing else has to be ordered between DALI
and this thread; the next batch is made meanwhile. DALI does not know when a trainer has finished with
its memory: the uploader copies the batch out of it.

A JPEG that DALI cannot decode ends a pipeline of its own. Here the batch is then made on the CPU,
which names the sample or replaces it, and a new pipeline goes on behind it.
"""

from __future__ import annotations

import traceback
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import nvidia.dali.fn
import nvidia.dali.types
import torch

from budgetloader.batch import Batch
from budgetloader.engines.base import Job, Work, crops_bytes, refuse_pixels
from budgetloader.engines.base_threaded import ThreadedEngine
from budgetloader.engines.channels import refuse_alpha
from budgetloader.engines.rendering import Renderer
from budgetloader.engines.upload import Put, uploader
from budgetloader.errors import CorruptSampleError, EngineError
from budgetloader.jpeg import Cropper, JpegError, SizeCheck
from budgetloader.plans import BatchPlan

dali: Any = nvidia.dali  # most of it is made at run time, and has no types to check
_DEPTH = 2  # batches in a pipeline: one that is made while the one before it is taken


@dataclass(frozen=True)
class Tuning:
    """What makes DALI's decoder on a GPU faster or slower, and changes pixels by a decoder's rounding alone.

    Args:
        hardware_share: of the images, 0 … 1, that the GPU's JPEG hardware decodes where it has some; CUDA
            kernels, and threads for the Huffman stage, decode the others at the same time.
        preallocate_height, preallocate_width: pixels of an image that the decoder has memory for from the
            start; 0: it allocates as it goes.
    """

    hardware_share: float = 0.65
    preallocate_height: int = 0
    preallocate_width: int = 0


class DALIEngine(ThreadedEngine):
    """See `budgetloader.engines.base.Engine`.

    Args:
        job: what to make.
        tuning: of the decoder on a GPU.
        cropped: whether bytes are cropped before DALI gets them; default: on a GPU.
    """

    def __init__(self, job: Job, *, tuning: Tuning | None = None, cropped: bool | None = None) -> None:
        if job.output.crop == "pad":
            raise EngineError("engine 'dali' does not pad; use engine='resident' or 'native', or crop='resized'")
        if job.output.decode_scaling:
            raise EngineError("engine 'dali' decodes no image smaller; use engine='native', or decode_scaling=False")
        refuse_alpha(job.output.channels, engine="dali")
        refuse_pixels(job.dataset, engine="dali")
        work = Work()
        cropped = job.output.device != "cpu" if cropped is None else cropped
        self.crops_bytes = cropped and crops_bytes(job)
        maker = _Maker(job, work, tuning=tuning or Tuning(), cropped=cropped)
        super().__init__(maker, capacity=job.capacity, work=work, name="dali")


class _Maker:
    """Makes batches with a DALI pipeline."""

    depth = _DEPTH

    def __init__(self, job: Job, work: Work, *, tuning: Tuning, cropped: bool) -> None:
        self._job, self._work, self._tuning = job, work, tuning
        self._uploader = uploader(job)
        self._renderer = Renderer(job, work, self._uploader.host)
        self._cropper = Cropper() if cropped else None
        self._check = SizeCheck()
        self._fed: deque[tuple[BatchPlan, Any]] = deque()  # the bytes must live until they are decoded
        self._problem: Exception | None = None
        self._pipeline = self._build()

    def enter(self) -> None:
        self._uploader.enter()

    def begin(self, plan: BatchPlan) -> None:
        self._fed.append((plan, None))
        if self._problem is None:
            self._feed(len(self._fed) - 1)

    def finish(self, plan: BatchPlan) -> Batch:
        try:
            if self._problem is not None:
                raise self._problem
            batch = self._take(plan)
        except Exception as error:  # DALI raises RuntimeError, and others, for an image that it cannot decode
            self._fed.popleft()
            return self._make_without(plan, error)
        self._fed.popleft()
        self._work.add_decoded(plan.epoch, len(plan))
        return batch

    def close(self) -> None:
        self._uploader.close()
        self._fed.clear()
        self._pipeline = None

    def _feed(self, at: int) -> None:
        """Push the plan at a place of `_fed` into the pipeline."""
        plan = self._fed[at][0]
        anchors, shapes = plan.windows[:, :2].astype(np.int32), plan.windows[:, 2:].astype(np.int32)
        try:
            jpegs = [self._read(sample) for sample in plan.samples]
            if self._cropper is not None:
                jpegs, places = self._cropped(jpegs, plan.windows)
                anchors -= places
            self._fed[at] = (plan, jpegs)
            self._pipeline.feed_input("jpegs", jpegs)
            self._pipeline.feed_input("anchors", anchors)  # an array is a batch of its rows
            self._pipeline.feed_input("shapes", shapes)
            self._pipeline.feed_input("mirror", plan.flips.astype(np.int32))
            size = self._job.output.size_of(plan)  # it may change from batch to batch: nothing is built again
            self._pipeline.feed_input("size", np.full((len(plan), 2), size, np.float32))
            self._pipeline.schedule_run()
        except Exception as error:
            self._problem = error

    def _read(self, sample: int) -> np.ndarray:
        data, dataset = self._job.dataset.jpeg(sample), self._job.dataset
        self._check(data, height=int(dataset.heights[sample]), width=int(dataset.widths[sample]))
        return data

    def _cropped(self, jpegs: list[np.ndarray], windows: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """The JPEGs' parts that show the windows, and where those begin: int32 [n, 2]."""
        assert self._cropper is not None
        places = np.empty((len(windows), 2), np.int32)
        parts = []
        for i, (data, window) in enumerate(zip(jpegs, windows.tolist(), strict=True)):
            top, left, height, width = window
            part, *places[i] = self._cropper.crop(data, top=top, left=left, height=height, width=width)
            parts.append(part if part is data else part.copy())
        return parts, places

    def _take(self, plan: BatchPlan) -> Batch:
        output = self._job.output
        (made,) = self._pipeline.share_outputs()
        # The executor counts references: a tensor stays as it is for as long as it is kept.
        tensor = made.as_tensor()
        self._pipeline.release_outputs()

        def images(put: Put) -> torch.Tensor:
            shown = torch.from_dlpack(tensor)
            if output.layout == "channels_last":
                shown = shown.permute(0, 3, 1, 2)
            return shown.to(output.torch_dtype, copy=output.device != "cpu")

        sent = self._uploader.make(images, plan.labels.copy(), keep=[made, tensor])
        return Batch(sent.images, sent.labels, plan, arrival=sent.arrival)

    def _make_without(self, plan: BatchPlan, error: Exception) -> Batch:
        """Make a batch that DALI failed at on the CPU, and build a new pipeline for the batches behind it."""
        try:
            batch = self._renderer.batch(plan, self._uploader)
        finally:
            self._problem, self._pipeline = None, None
            traceback.clear_frames(error.__traceback__)  # they hold the pipeline, whose memory the next one may need
            self._pipeline = self._build()
            for at in range(len(self._fed)):
                self._feed(at)
        if not batch.replaced and not isinstance(error, (JpegError, CorruptSampleError)):
            # Nothing is wrong with the images: it is DALI's own trouble, and would come again.
            raise EngineError(f"DALI failed: {str(error).strip().splitlines()[-1]}") from error
        return batch

    def _build(self) -> Any:
        return _build(self._job, tuning=self._tuning, cropped=self._cropper is not None)


def _build(job: Job, *, tuning: Tuning, cropped: bool) -> Any:
    """The pipeline: decode the window, resize it, mirror and normalise."""
    output, device = job.output, torch.device(job.output.device)
    scale = (1.0,) * output.channels if output.dtype == "uint8" else tuple(255 * s for s in output.std)
    shift = (0.0,) * output.channels if output.dtype == "uint8" else tuple(255 * m for m in output.mean)
    colours: Any = dali.types.RGB if output.channels == 3 else dali.types.GRAY
    dtype = {"uint8": dali.types.UINT8, "float16": dali.types.FLOAT16}.get(output.dtype, dali.types.FLOAT)

    @dali.pipeline_def(
        batch_size=job.batch_size,
        num_threads=job.workers,
        device_id=device.index,
        prefetch_queue_depth=1,
        exec_dynamic=True,
    )
    def pipeline() -> Any:
        jpegs = dali.fn.external_source(name="jpegs", dtype=dali.types.UINT8, ndim=1, no_copy=True)
        anchors = dali.fn.external_source(name="anchors", dtype=dali.types.INT32, ndim=1)
        shapes = dali.fn.external_source(name="shapes", dtype=dali.types.INT32, ndim=1)
        mirror = dali.fn.external_source(name="mirror", dtype=dali.types.INT32, ndim=0)
        size = dali.fn.external_source(name="size", dtype=dali.types.FLOAT, ndim=1)
        window: Any = {"axis_names": "HW", "normalized_anchor": False, "normalized_shape": False}
        if cropped:
            images = dali.fn.slice(
                _decoded(jpegs, device, tuning, colours, fast=output.fast_decode), anchors, shapes, **window
            )
        else:  # as it is stored: the index has that size, and no other engine turns an image
            as_stored: Any = {"output_type": colours, "adjust_orientation": False}
            as_stored["use_fast_idct"] = output.fast_decode
            images = dali.fn.decoders.image_slice(jpegs, anchors, shapes, **window, **as_stored)
        images = dali.fn.resize(
            images,
            size=size,
            interp_type=dali.types.INTERP_LINEAR,
            antialias=output.interpolation == "antialias",
        )
        layout = "HWC" if output.layout == "channels_last" else "CHW"
        return dali.fn.crop_mirror_normalize(
            images, mirror=mirror, dtype=dtype, output_layout=layout, mean=shift, std=scale
        )

    built = pipeline()
    built.build()
    return built


def _decoded(jpegs: Any, device: torch.device, tuning: Tuning, colours: Any, *, fast: bool) -> Any:
    """Whole images, with the chroma upsampling of libjpeg-turbo, which every other engine has, unless `fast`."""
    if device.type == "cpu":
        return dali.fn.decoders.image(jpegs, output_type=colours, adjust_orientation=False, use_fast_idct=fast)
    return dali.fn.decoders.image(
        jpegs,
        device="mixed",
        output_type=colours,
        adjust_orientation=False,
        jpeg_fancy_upsampling=not fast,
        hw_decoder_load=tuning.hardware_share,
        preallocate_height_hint=tuning.preallocate_height,
        preallocate_width_hint=tuning.preallocate_width,
    )
