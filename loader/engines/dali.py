"""The DALI engine: windows, flips and JPEG bytes are data that our stream pushes into a pipeline.

`feed_input`, `schedule_run`, `share_outputs`: there is no reader, no epoch, no StopIteration and no
reset, so that nothing is drained between epochs. On a GPU the bytes are cropped first, which is what
is uploaded; on a CPU DALI's decoder skips what is outside the window itself, and is given views of
the file without a copy.

A JPEG that DALI cannot decode ends a pipeline of its own. Here the batch is then made on the CPU,
which names the sample or replaces it, and a new pipeline goes on behind it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import nvidia.dali.fn
import nvidia.dali.types
import torch

from loader.batch import FLIP, HEIGHT, LEFT, SAMPLE, TOP, Batch, BatchPlan
from loader.engines.base import Job, Work
from loader.engines.native import BufferPool, Renderer
from loader.engines.threaded import ThreadedEngine
from loader.errors import CorruptSampleError, EngineError
from loader.jpeg import Cropper, JpegError, SizeCheck

dali: Any = nvidia.dali  # most of it is made at run time, and has no types to check
_DEPTH = 2  # batches in a pipeline: one that is made while the one before it is taken


class DALIEngine(ThreadedEngine):
    """See `loader.engines.base.Engine`."""

    def __init__(self, job: Job) -> None:
        if job.output.crop == "pad":
            raise EngineError("engine 'dali' does not pad; use engine='resident' or 'native', or crop='resized'")
        work = Work()
        super().__init__(_Maker(job, work), capacity=job.capacity, work=work, name="dali")


class _Maker:
    """Makes batches with a DALI pipeline."""

    depth = _DEPTH

    def __init__(self, job: Job, work: Work) -> None:
        self._job, self._work = job, work
        self._device = torch.device(job.output.device)
        self._renderer, self._pool = Renderer(job, work), BufferPool(job.output, job.batch_size)
        self._check = SizeCheck()
        self._cropper = Cropper() if self._device.type == "cuda" else None
        self._fed: deque[tuple[BatchPlan, Any]] = deque()  # the bytes must live until they are decoded
        self._problem: Exception | None = None
        self._pipeline = _build(job, self._device)

    def begin(self, plan: BatchPlan) -> None:
        self._fed.append((plan, None))
        if self._problem is None:
            self._feed(len(self._fed) - 1)

    def finish(self, plan: BatchPlan) -> Batch:
        try:
            if self._problem is not None:
                raise self._problem
            images = self._take()
        except Exception as error:  # DALI raises RuntimeError, and others, for what it cannot decode
            self._fed.popleft()
            return self._make_without(plan, error)
        self._fed.popleft()
        self._work.add_decoded(plan.epoch, len(plan))
        return Batch(images, torch.from_numpy(plan.labels.copy()).to(self._device), plan)

    def close(self) -> None:
        self._fed.clear()
        self._pipeline = None

    def _feed(self, at: int) -> None:
        """Push the plan at a place of `_fed` into the pipeline."""
        plan = self._fed[at][0]
        rows = plan.rows
        anchors, shapes = rows[:, TOP : LEFT + 1].astype(np.int32), rows[:, HEIGHT : HEIGHT + 2].astype(np.int32)
        try:
            jpegs = [self._read(sample) for sample in rows[:, SAMPLE]]
            if self._cropper is not None:
                jpegs, places = self._cropped(jpegs, rows)
                anchors -= places
            self._fed[at] = (plan, jpegs)
            self._pipeline.feed_input("jpegs", jpegs)
            self._pipeline.feed_input("anchors", anchors)  # an array is a batch of its rows
            self._pipeline.feed_input("shapes", shapes)
            self._pipeline.feed_input("mirror", rows[:, FLIP].astype(np.int32))
            self._pipeline.schedule_run()
        except Exception as error:
            self._problem = error

    def _read(self, sample: int) -> np.ndarray:
        data, dataset = self._job.dataset.jpeg(sample), self._job.dataset
        self._check(data, height=int(dataset.heights[sample]), width=int(dataset.widths[sample]))
        return data

    def _cropped(self, jpegs: list[np.ndarray], rows: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """The JPEGs' parts that show the windows, and where those begin: int32 [n, 2]."""
        assert self._cropper is not None
        places = np.empty((len(rows), 2), np.int32)
        parts = []
        for i, (data, row) in enumerate(zip(jpegs, rows.tolist(), strict=True)):
            _, top, left, height, width, _ = row
            part, *places[i] = self._cropper.crop(data, top=top, left=left, height=height, width=width)
            parts.append(part if part is data else part.copy())
        return parts, places

    def _take(self) -> torch.Tensor:
        stream = torch.cuda.current_stream(self._device).cuda_stream if self._cropper is not None else None
        (made,) = self._pipeline.share_outputs(cuda_stream=stream)
        # The executor counts references: what DLPack shows stays as it is for as long as it is kept.
        images = torch.from_dlpack(made.as_tensor())
        self._pipeline.release_outputs()
        if self._job.output.layout == "channels_last":
            images = images.permute(0, 3, 1, 2)
        return images.to(self._job.output.torch_dtype)

    def _make_without(self, plan: BatchPlan, error: Exception) -> Batch:
        """A batch that DALI failed at, made on the CPU; then a new pipeline for what is behind it."""
        try:
            images, labels, replaced = self._renderer.batch(plan, self._pool)
        finally:
            self._problem, self._pipeline = None, _build(self._job, self._device)
            for at in range(len(self._fed)):
                self._feed(at)
        if not replaced and not isinstance(error, (JpegError, CorruptSampleError)):
            # Nothing is wrong with the images: it is DALI's own trouble, and would come again.
            raise EngineError(f"DALI failed: {str(error).strip().splitlines()[-1]}") from error
        return Batch(images.to(self._device), torch.from_numpy(labels).to(self._device), plan, replaced)


def _build(job: Job, device: torch.device) -> Any:
    """The pipeline: decode the window, resize it, mirror and normalise."""
    output, cuda = job.output, device.type == "cuda"
    scale = (1.0, 1.0, 1.0) if output.dtype == "uint8" else tuple(255 * s for s in output.std)
    shift = (0.0, 0.0, 0.0) if output.dtype == "uint8" else tuple(255 * m for m in output.mean)
    dtype = {"uint8": dali.types.UINT8, "float16": dali.types.FLOAT16}.get(output.dtype, dali.types.FLOAT)

    @dali.pipeline_def(
        batch_size=job.batch_size,
        num_threads=job.workers,
        device_id=(device.index or 0) if cuda else None,
        prefetch_queue_depth=1,
        exec_dynamic=True,
    )
    def pipeline() -> Any:
        jpegs = dali.fn.external_source(name="jpegs", dtype=dali.types.UINT8, ndim=1, no_copy=True)
        anchors = dali.fn.external_source(name="anchors", dtype=dali.types.INT32, ndim=1)
        shapes = dali.fn.external_source(name="shapes", dtype=dali.types.INT32, ndim=1)
        mirror = dali.fn.external_source(name="mirror", dtype=dali.types.INT32, ndim=0)
        images = dali.fn.decoders.image_slice(
            jpegs,
            anchors,
            shapes,
            axis_names="HW",
            normalized_anchor=False,
            normalized_shape=False,
            device="mixed" if cuda else "cpu",
            output_type=dali.types.RGB,
        )
        images = dali.fn.resize(
            images,
            size=[output.image_size, output.image_size],
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
