"""The native engine: a pool of threads over libjpeg-turbo, without a process or a copy in between.

Decoding, resizing and normalising all release the GIL. Batches are written to buffers that are
taken again as soon as the trainer has dropped the last tensor that shows them: a batch that is kept
stays valid for as long as it is kept. For a GPU they hold bytes, and are taken again once it has copied them.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import simplejpeg

from budgetloader.batch import Batch, BatchPlan
from budgetloader.dataset import Dataset, corrupt
from budgetloader.engines.base import Job, Latch, Output, Work, check_room, join_soon
from budgetloader.engines.buffers import BufferPool, tone
from budgetloader.engines.upload import Sent, Uploader, uploader
from budgetloader.errors import CorruptSampleError, EngineError
from budgetloader.jpeg import Cropper, JpegError, SizeCheck
from budgetloader.resize import resample
from budgetloader.windows import PAD

_ROWS_PER_TASK = 8  # small enough to share a batch among threads, large enough to hide a queue's cost
REPLACEMENT_ATTEMPTS = 16


class NativeEngine:
    """See `budgetloader.engines.base.Engine`."""

    def __init__(self, job: Job) -> None:
        self.capacity = job.capacity
        self.work = Work()
        self._job = job
        self._uploader = uploader(job)
        self._pending: deque[_Pending] = deque()
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        compile_kernels(self._uploader.host)
        worker = _Worker(job, self._uploader, self._tasks, self.work)
        self._threads = [
            threading.Thread(target=worker.run, name=f"native-{i}", daemon=True) for i in range(job.workers)
        ]
        for thread in self._threads:
            thread.start()
        self._finalizer = weakref.finalize(self, _stop, self._tasks, self._threads)

    def submit(self, plan: BatchPlan) -> None:
        if not self._finalizer.alive:
            raise EngineError("the loader is closed; make a new one")
        check_room(len(self._pending), self.capacity)
        starts = range(0, len(plan), _ROWS_PER_TASK)
        pending = _Pending(plan, self._uploader.take(len(plan)), plan.labels.copy(), tasks_left=len(starts))
        self._pending.append(pending)
        for start in starts:
            self._tasks.put(_Task(pending, start, min(start + _ROWS_PER_TASK, len(plan))))

    def get(self) -> Batch:
        if not self._pending:
            raise EngineError("no batch is under way; submit a plan first")
        pending = self._pending[0]  # forgotten when it is here: Ctrl-C while this waits leaves it under way
        while not pending.done.wait(1.0):
            if not any(thread.is_alive() for thread in self._threads):
                raise EngineError("the engine's threads have ended; make a new loader")
        self._pending.popleft()
        if pending.error is not None:
            raise pending.error
        assert pending.sent is not None, "it was sent before it was done"
        sent = pending.sent
        return Batch(sent.images, sent.labels, pending.plan, pending.replaced, sent.arrival).arrived()

    def abort(self) -> None:
        for pending in self._pending:
            pending.cancelled = True
        self._pending.clear()

    def close(self) -> None:
        self.abort()
        self._finalizer()
        self._uploader.close()


def _stop(tasks: queue.SimpleQueue, threads: list[threading.Thread]) -> None:
    for _ in threads:
        tasks.put(None)
    join_soon(threads)


def compile_kernels(output: Output) -> None:
    """Compile, or load from numba's cache, what a batch of this output needs."""
    pool = BufferPool(output, 1)
    black, out = np.zeros((2, 2, 3), np.uint8), pool.image(pool.take(1), 0)
    resample(black, 0, 0, 2, 2, True, False, tone(output), out)


@dataclass(eq=False, slots=True)
class _Pending:
    """A batch under way."""

    plan: BatchPlan
    buffer: np.ndarray
    labels: np.ndarray
    tasks_left: int = 0
    replaced: int = 0
    cancelled: bool = False
    error: BaseException | None = None
    sent: Sent | None = None
    done: Latch = field(default_factory=Latch)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def finish_task(self, *, replaced: int, error: BaseException | None) -> bool:
        """Whether that was the last one, and the batch can be sent."""
        with self.lock:
            self.tasks_left -= 1
            self.replaced += replaced
            if error is not None and self.error is None:
                self.error = error
            last = self.tasks_left == 0 and self.error is None
        if error is not None:
            self.done.set()
        return last

    def send(self, uploader: Uploader) -> None:
        try:
            if not self.cancelled:
                self.sent = uploader.send(self.buffer, self.labels)
        except BaseException as error:
            self.error = error
        self.done.set()


@dataclass(eq=False, slots=True)
class _Task:
    """Some rows of a batch."""

    pending: _Pending
    start: int
    stop: int


class _Worker:
    """What the threads run. It does not know the engine, so that a forgotten engine can be freed."""

    def __init__(self, job: Job, uploader: Uploader, tasks: queue.SimpleQueue[_Task | None], work: Work) -> None:
        self._job, self._uploader, self._tasks, self._work = job, uploader, tasks, work

    def run(self) -> None:
        self._uploader.enter()
        renderer = Renderer(self._job, self._work, self._uploader.host)
        while True:
            task = self._tasks.get()
            if task is None:
                return
            began = time.perf_counter()
            pending, replaced, error = task.pending, 0, None
            if not pending.cancelled and pending.error is None:
                try:
                    for row in range(task.start, task.stop):
                        out = self._uploader.image(pending.buffer, row)
                        replaced += renderer.fill(pending.plan, row, out, pending.labels)
                except BaseException as caught:
                    error = caught
                seconds = (time.perf_counter() - began) / self._job.workers
                self._work.add_busy(seconds, samples=task.stop - task.start)
            if pending.finish_task(replaced=replaced, error=error):
                pending.send(self._uploader)
            del task, pending  # while this thread waits, it must not keep a buffer


class Renderer:
    """Makes single images on the CPU; one per thread, for its scratch memory.

    Args:
        job: what to make.
        work: counts what is decoded.
        output: the format of what is written; default: the job's.
    """

    def __init__(self, job: Job, work: Work, output: Output | None = None) -> None:
        self._job, self._work = job, work
        self._tone = tone(output or job.output)
        self._antialias = job.output.interpolation == "antialias"
        self._pad = job.output.crop == "pad"
        self._decoder = Decoder(job.dataset)

    def fill(self, plan: BatchPlan, row: int, out: np.ndarray, labels: np.ndarray) -> int:
        """Make one row of a batch, or what stands in for it.

        Args:
            plan, row: what to make.
            out: [h, w, 3], as `BufferPool.image` gives it.
            labels: int64 [n]; the row's entry is set.

        Returns:
            1 if another sample had to stand in, else 0.

        Raises:
            CorruptSampleError: it does not decode, and nothing may or can stand in.
        """
        source, at = plan, row
        for attempt in range(REPLACEMENT_ATTEMPTS):
            try:
                self._work.add_decoded(plan.epoch, 1)
                self._render(source.rows[at], out)
            except CorruptSampleError:
                if self._job.on_corrupt == "raise" or attempt == REPLACEMENT_ATTEMPTS - 1:
                    raise
                source, at = self._job.replacement(plan, row, attempt=attempt), 0
                continue
            labels[row] = source.labels[at]
            return int(attempt > 0)
        raise AssertionError("the last attempt returns or raises")

    def batch(self, plan: BatchPlan, uploader: Uploader) -> Batch:
        """A whole batch row by row, for engines whose own decoder failed at it."""
        buffer, labels = uploader.take(len(plan)), plan.labels.copy()
        replaced = sum(self.fill(plan, row, uploader.image(buffer, row), labels) for row in range(len(plan)))
        sent = uploader.send(buffer, labels)
        return Batch(sent.images, sent.labels, plan, replaced, sent.arrival)

    def _render(self, plan_row: np.ndarray, out: np.ndarray) -> None:
        sample, top, left, height, width, flip = plan_row.tolist()
        if self._pad:
            pixels, top, left = pad(self._decoder.decode_whole(sample)), top + PAD, left + PAD
        else:
            pixels, top, left = self._decoder.decode(sample, top=top, left=left, height=height, width=width)
        if not resample(pixels, top, left, height, width, self._antialias, bool(flip), self._tone, out):
            raise corrupt(self._job.dataset, sample, "its size is not the one in the index")


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
        """A part of the image that the window is in: uint8 [h, w, 3], and the window's top and left there.

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
