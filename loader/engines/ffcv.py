"""The FFCV engine: our windows and bytes in FFCV's pipeline.

A decoder operation of ours crops the compressed bytes, has FFCV's libjpeg-turbo binding decode them,
and resizes and normalises as every engine does. FFCV's loader gets rows of (sample, window, flip) in
place of its indices, from one iterator that never ends: its own is rebuilt each epoch, holds the
whole order in memory, and leaves a thread and its buffers behind when an epoch is left early.

Its decoder gives three channels; grey is the luma of these.

What FFCV does not check is checked here: the decoder's return code (it hands out another sample's
pixels under the label otherwise), errors in its thread (they never reach the trainer otherwise), and
torch's number of threads, which importing it sets to 1.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import torch
from numba import types

from budgetloader import jpeg, resize
from budgetloader.batch import Batch
from budgetloader.dataset import Dataset
from budgetloader.engines import channels
from budgetloader.engines.base import Job, Output, Work, crops_bytes
from budgetloader.engines.base_threaded import ThreadedEngine
from budgetloader.engines.buffers import buffer_dtype, tone
from budgetloader.engines.channels import grey, refuse_alpha
from budgetloader.engines.rendering import Renderer
from budgetloader.engines.upload import Uploader, uploader
from budgetloader.errors import EngineError
from budgetloader.jpeg import FIELDS, HEIGHT_OF, NO_TABLE, SEGMENTS, WIDTH_OF, count_scans, crop_into, parse_into
from budgetloader.limits import MAX_SCANS
from budgetloader.plans import BatchPlan
from budgetloader.resize import resample

_torch_threads = torch.get_num_threads()
try:
    import ffcv._libffcv as libffcv
    import ffcv.loader.loader as ffcv_loader
    from ffcv.loader import Loader, OrderOption
    from ffcv.loader.epoch_iterator import EpochIterator
    from ffcv.memory_managers.base import MemoryContext, MemoryManager
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler
    from ffcv.pipeline.operation import Operation
    from ffcv.pipeline.pipeline_spec import PipelineSpec
finally:
    torch.set_num_threads(_torch_threads)

# By name and not through ctypes: numba caches code that refers to a symbol, and none that has an address.
llvmlite.binding.load_library_permanently(libffcv.__file__)
_imdecode: Any = types.ExternalFunction(
    "imdecode",
    types.int32(
        *(types.uintp, types.uint64, types.uint32, types.uint32, types.uintp),
        *(types.uint32, types.uint32, types.uint32, types.uint32, types.uint32, types.uint32),
        *(types.boolean, types.boolean),
    ),
)
_MOST_THREADS: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
_NOT_DECODED, _DECODED = 1, 0
_SAMPLE, _TOP, _LEFT, _HEIGHT, _WIDTH, _FLIP = range(6)  # what the compiled code is given for an image: one row
# Numba's workqueue layer aborts the process if two threads enter parallel code, and the other layers
# would share the same cores twice: one batch of the process at a time.
_one_at_a_time = threading.Lock()


_SOURCES = zlib.crc32(b"".join(Path(str(module.__file__)).read_bytes() for module in (channels, jpeg, resize)))


def _with_sources(function: Callable) -> Callable:
    """Give a function's place in numba's cache the name of the code that is compiled into it.

    Numba takes a function from its cache as long as that function's own file has not changed; these
    have code of other files in them.
    """
    function.__qualname__ += f"-{_SOURCES:08x}"
    return function


@numba.njit(nogil=True, cache=True, error_model="numpy")
@_with_sources
def _decode_row(row, data, most_pixels, antialias, tone, out):
    """Crop, decode, resize and normalise one sample; whether it decoded."""
    head, place = np.zeros(FIELDS, np.int64), np.zeros(2, np.int64)
    if parse_into(data, head, np.empty(0, np.int64)) != 0:
        return False
    top, left, height, width = row[_TOP], row[_LEFT], row[_HEIGHT], row[_WIDTH]
    lengths = np.empty(head[SEGMENTS], np.int64)
    cropped = np.empty(len(data) + 2, np.uint8)
    size = crop_into(data, top, left, height, width, cropped, head, lengths, place)
    if size > 0:
        part = cropped[:size]
    elif size == NO_TABLE:
        part = data
        place[:] = 0
        if count_scans(data, 0) > MAX_SCANS:
            return False
    else:
        return False
    # The decoder writes as many pixels as its arguments say, and they come from the same header.
    if parse_into(part, head, lengths[:0]) != 0 or head[HEIGHT_OF] * head[WIDTH_OF] > most_pixels:
        return False
    pixels = np.empty((head[HEIGHT_OF], head[WIDTH_OF], 3), np.uint8)
    h, w = np.uint32(head[HEIGHT_OF]), np.uint32(head[WIDTH_OF])
    if _imdecode(part.ctypes.data, len(part), h, w, pixels.ctypes.data, h, w, 0, 0, 1, 1, False, False) != 0:
        return False
    shown = pixels if out.shape[2] == 3 else grey(pixels)
    return resample(shown, top - place[0], left - place[1], height, width, antialias, row[_FLIP] != 0, tone, out)


@numba.njit(nogil=True, parallel=True, cache=True, error_model="numpy")
@_with_sources
def _decode_rows(rows, stored, most_pixels, antialias, tone, out, status):
    file_bytes, starts, sizes, raw, heights, widths = stored
    for i in numba.prange(len(rows)):
        sample = rows[i, _SAMPLE]
        data = file_bytes[starts[sample] : starts[sample] + sizes[sample]]
        if len(raw) > 0 and raw[sample]:
            stored = data.reshape((heights[sample], widths[sample], 3))
            pixels = stored if out.shape[3] == 3 else grey(stored)
            top, left, height, width = rows[i, _TOP], rows[i, _LEFT], rows[i, _HEIGHT], rows[i, _WIDTH]
            decoded = resample(pixels, top, left, height, width, antialias, rows[i, _FLIP] != 0, tone, out[i])
        else:
            decoded = _decode_row(rows[i], data, most_pixels, antialias, tone, out[i])
        status[i, 0] = _DECODED if decoded else _NOT_DECODED


class _WindowDecoder(Operation):
    """The decoder operation: rows of a plan in, images out, and whether each decoded."""

    def __init__(self, job: Job, output: Output) -> None:
        super().__init__()
        self._job, self._output = job, output

    def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, Any]:
        output = self._output
        size, dtype = output.image_size, buffer_dtype(output)
        shape = (size, size, output.channels) if output.layout == "channels_last" else (output.channels, size, size)
        state = replace(previous_state, jit_mode=True, shape=shape, dtype=dtype)
        # Placeholders: every batch brings its own memory, of its own size, so that none is written over.
        return state, (AllocationQuery((1,), dtype), AllocationQuery((1,), np.dtype("u1")))

    def generate_code(self) -> Callable:
        output, dataset, decode_rows = self._output, self._job.dataset, _decode_rows
        values, antialias = tone(output), output.interpolation == "antialias"
        most_pixels = int((dataset.heights * dataset.widths).max())

        def channels_last(batch_indices, memory, metadata, storage_state):
            out, status = memory
            decode_rows(batch_indices, storage_state, most_pixels, antialias, values, out, status)
            return out

        def contiguous(batch_indices, memory, metadata, storage_state):
            out, status = memory
            images = out.transpose(0, 2, 3, 1)
            decode_rows(batch_indices, storage_state, most_pixels, antialias, values, images, status)
            return out

        return channels_last if output.layout == "channels_last" else contiguous


class _Mapped(MemoryManager):
    """Our map of the file in place of FFCV's.

    FFCV's `OSCacheManager` keeps a dictionary entry per sample, and compiling its reader marks numba's
    one type of contiguous uint8 arrays as read-only for the whole process, after which no function
    that writes to such an array compiles any more.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def schedule_epoch(self, batches: Any) -> MemoryContext:
        return _MappedContext(self._dataset)

    def compile_reader(self) -> None:
        """Nothing: the decoder operation reads for itself."""

    @property
    def state_type(self) -> None:
        return None


class _MappedContext(MemoryContext):
    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    @property
    def state(self) -> tuple[np.ndarray, ...]:
        data = self._dataset
        return data.file_bytes, data.starts, data.sizes, data.raw, data.heights, data.widths

    def __enter__(self) -> _MappedContext:
        return self

    def __exit__(self, *details: object) -> None:
        """Nothing: the map belongs to the dataset."""


def _make_loader(job: Job, output: Output) -> Any:
    """FFCV's loader with our decoder; what making one does to the process is undone.

    FFCV's own copies to a GPU are not used: nothing orders them against the trainer that was given the
    memory before.
    """
    field = job.dataset.image_field
    pipelines: dict[str, Any] = dict.fromkeys(job.dataset.fields)  # no other field is decoded
    pipelines[field] = PipelineSpec(field, decoder=_WindowDecoder(job, output), transforms=[])
    threads, manager, compiles = torch.get_num_threads(), ffcv_loader.OSCacheManager, Compiler.is_enabled
    with _one_at_a_time:
        try:
            # FFCV would compile the pipeline anew for every loader, which takes about a second. The work is done in
            # `_decode_rows`, which is compiled, and which numba caches; the few lines around it need not be compiled.
            Compiler.set_enabled(False)
            ffcv_loader.OSCacheManager = lambda reader: _Mapped(job.dataset)
            return Loader(
                getattr(job.dataset, "map_path", str(job.dataset.path)),
                batch_size=job.batch_size,
                num_workers=min(job.workers, _MOST_THREADS),
                os_cache=True,
                order=OrderOption.SEQUENTIAL,
                pipelines=pipelines,
                batches_ahead=job.capacity,
            )
        finally:
            ffcv_loader.OSCacheManager = manager
            Compiler.set_enabled(compiles)
            torch.set_num_threads(threads)  # FFCV sets them to its workers; a trainer on the CPU needs them


def _without_gpu(method: Any) -> Any:
    """A method of FFCV's that makes no CUDA streams. They are not used here, and would set up a context on a GPU."""
    return FunctionType(
        method.__code__, {**method.__globals__, "IS_CUDA": False}, closure=method.__closure__, name=method.__name__
    )


class _Endless(EpochIterator):
    """FFCV's iterator, given plans one at a time: it holds no order, and its thread is never started."""

    run_pipeline = _without_gpu(EpochIterator.run_pipeline)
    _begin = _without_gpu(EpochIterator.__init__)

    depth = 1

    def __init__(self, loader: Any, job: Job, work: Work, uploader: Uploader) -> None:
        self._begin(loader, [])
        self._job, self._work, self._uploader = job, work, uploader
        self._renderer = Renderer(job, work, uploader.host)
        self._threads = min(job.workers, _MOST_THREADS)
        (self._node,) = (node.id for node in loader.graph.nodes)

    def start(self) -> None:
        """Called by FFCV's constructor; the thread is `budgetloader.engines.threaded`'s."""

    def warm_up(self) -> None:
        """Compile, or load from numba's cache, before the first batch is waited for."""
        height, width = self._job.dataset.heights[0], self._job.dataset.widths[0]
        self._run_pipeline(np.array([[0, 0, 0, height, width, 0]]))

    def enter(self) -> None:
        self._uploader.enter()

    def begin(self, plan: BatchPlan) -> None:
        """Nothing: `finish` makes the batch."""

    def finish(self, plan: BatchPlan) -> Batch:
        dataset = self._job.dataset
        dataset.check_unchanged()  # the compiled code reads the map without a check
        rows = np.column_stack((plan.samples, plan.windows, plan.flips))
        buffer, status = self._run_pipeline(rows, plan.image_size)
        if dataset.verifies:
            status[:, 0] |= [not dataset.intact(sample) for sample in plan.samples.tolist()]
        self._work.add_decoded(plan.epoch, len(plan))
        samples = plan.samples.copy()
        for row in np.flatnonzero(status).tolist():
            samples[row] = self._renderer.fill(plan, row, self._uploader.image(buffer, row))
        sent = self._uploader.send(buffer, dataset.labels[samples])
        return Batch(sent.images, sent.labels, plan, samples, sent.arrival)

    def _run_pipeline(self, rows: np.ndarray, image_size: int = 0) -> tuple[np.ndarray, np.ndarray]:
        buffer, status = self._uploader.take(len(rows), image_size), np.empty((len(rows), 1), np.uint8)
        self.memory_allocations["operation"][self._node] = ({0: buffer}, {0: status})  # of the batch's place 0
        with _one_at_a_time:
            numba.set_num_threads(self._threads)
            self.run_pipeline(0, rows, 0, None)
        return buffer, status


class FFCVEngine(ThreadedEngine):
    """See `budgetloader.engines.base.Engine`."""

    def __init__(self, job: Job) -> None:
        if job.output.crop == "pad":
            raise EngineError("engine 'ffcv' does not pad; use engine='resident' or 'native', or crop='resized'")
        if not getattr(job.dataset, "plans_mapped", job.dataset.mapped):
            raise EngineError("engine 'ffcv' reads the file's map; use engine='native', or a Dataset with mapped=True")
        if job.output.decode_scaling:
            raise EngineError("engine 'ffcv' decodes no image smaller; use engine='native', or decode_scaling=False")
        refuse_alpha(job.output.channels, engine="ffcv")
        self.crops_bytes = crops_bytes(job)
        work = Work()
        up = uploader(job)
        with torch.device("cpu"):  # FFCV's arrays are the host's, whatever a trainer's default device is
            endless = _Endless(_make_loader(job, up.host), job, work, up)
        endless.warm_up()
        super().__init__(endless, capacity=job.capacity, work=work, name="ffcv")
