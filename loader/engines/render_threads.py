"""The native engine's pool of threads: each makes some rows of a batch, and the one that finishes it sends it."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from dataclasses import dataclass, field

import numpy as np

from budgetloader.engines.base import Job, Work
from budgetloader.engines.channels import parts_of
from budgetloader.engines.rendering import Renderer
from budgetloader.engines.rows import RowRenderer
from budgetloader.engines.threads import Latch, join_soon
from budgetloader.engines.upload import Sent, Uploader
from budgetloader.errors import EngineError
from budgetloader.plans import BatchPlan

_ROWS_PER_TASK = 8  # small enough to share a batch among threads, large enough to hide a queue's cost
_MOST_ROWS_PER_TASK = 256  # where that cost would show: Python is cold after each task, and is under a lock
_PIXELS_PER_TASK = 8_000_000  # of images so large that more of them would delay a batch


@dataclass(eq=False, slots=True)
class Rendered:
    """A batch under way.

    Attributes:
        plan, buffer: what to make, and where.
        samples: int64 [n], the samples that are shown, known where their row has been made.
        tasks_left: parts of it that are not finished.
        cancelled: whether nobody will take it.
        error: why it cannot be made.
        sent: the batch, once it is whole.
        done: set when there is an error or a batch.
    """

    plan: BatchPlan
    buffer: np.ndarray
    samples: np.ndarray
    tasks_left: int = 0
    cancelled: bool = False
    error: BaseException | None = None
    sent: Sent | None = None
    done: Latch = field(default_factory=Latch)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def finish_task(self, error: BaseException | None) -> bool:
        """Whether that was the last one, and the batch can be sent."""
        with self.lock:
            self.tasks_left -= 1
            if error is not None and self.error is None:
                self.error = error
            last = self.tasks_left == 0 and self.error is None
        if error is not None:
            self.done.set()
        return last

    def send(self, uploader: Uploader, labels: np.ndarray) -> None:
        """Hand the whole batch over to its device.

        Args:
            uploader: to the device.
            labels: int64 [D], of the dataset's samples.
        """
        try:
            if not self.cancelled:
                self.sent = uploader.send(self.buffer, labels[self.samples])
        except BaseException as error:
            self.error = error
        self.done.set()


@dataclass(eq=False, slots=True)
class _Task:
    """Some rows of a batch: int64, their numbers."""

    pending: Rendered
    rows: np.ndarray


class RenderThreads:
    """Threads that make batches; they end when this is closed or forgotten.

    Args:
        job: what to make, and with how many threads.
        uploader: to the batches' device.
        work: counts their work.
    """

    def __init__(self, job: Job, uploader: Uploader, work: Work) -> None:
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._rows_per_task, self._views = _rows_per_task(job), job.views
        worker = _Worker(job, uploader, self._tasks, work)
        self.threads = [
            threading.Thread(target=worker.run, name=f"native-{i}", daemon=True) for i in range(job.workers)
        ]
        for thread in self.threads:
            thread.start()
        self._finalizer = weakref.finalize(self, _stop, self._tasks, self.threads)

    def start(self, pending: Rendered) -> None:
        """Begin to make a batch."""
        tasks = [_Task(pending, rows) for rows in _shares(len(pending.plan), self._rows_per_task, self._views)]
        pending.tasks_left = len(tasks)
        for task in tasks:
            self._tasks.put(task)

    def wait(self, pending: Rendered) -> None:
        """Wait until a batch is done."""
        while not pending.done.wait(1.0):
            if not any(thread.is_alive() for thread in self.threads):
                raise EngineError("the engine's threads have ended; make a new loader")

    def close(self) -> None:
        """End the threads; one that does not end is left behind after 10 seconds."""
        self._finalizer()


def _stop(tasks: queue.SimpleQueue, threads: list[threading.Thread]) -> None:
    for _ in threads:
        tasks.put(None)
    join_soon(threads)


class _Worker:
    """What the threads run. It does not know the engine, so that a forgotten engine can be freed."""

    def __init__(self, job: Job, uploader: Uploader, tasks: queue.SimpleQueue[_Task | None], work: Work) -> None:
        self._job, self._uploader, self._tasks, self._work = job, uploader, tasks, work

    def run(self) -> None:
        self._uploader.enter()
        renderer = Renderer(self._job, self._work, self._uploader.host)
        host = self._uploader.host
        rows = [RowRenderer(self._job, host, part) for part in parts_of(self._job.dataset, host.channels)]
        while True:
            task = self._tasks.get()
            if task is None:
                return
            began = time.perf_counter()
            pending, error = task.pending, None
            if not pending.cancelled and pending.error is None:
                try:
                    self._render(task, renderer, rows)
                except BaseException as caught:
                    error = caught
                seconds = (time.perf_counter() - began) / self._job.workers
                self._work.add_busy(seconds, samples=len(task.rows))
            if pending.finish_task(error):
                pending.send(self._uploader, self._job.dataset.labels)
            del task, pending  # while this thread waits, it must not keep a buffer

    def _render(self, task: _Task, renderer: Renderer, rows: list[RowRenderer]) -> None:
        pending, images = task.pending, self._uploader.images(task.pending.buffer)
        done = np.ones(len(task.rows), np.bool_)
        for part in rows:  # of the channels
            done &= part.render(pending.plan, task.rows, images)
        self._work.add_decoded(pending.plan.epoch, int(np.count_nonzero(done)), shared=rows[0].shared)
        for row in task.rows[~done].tolist():  # what is not plain
            pending.samples[row] = renderer.fill(pending.plan, row, self._uploader.image(pending.buffer, row))


def _shares(count: int, size: int, views: int) -> list[np.ndarray]:
    """The rows of a batch in tasks of about so many; the views of a sample are in one task."""
    rows = np.arange(count)
    if views == 1 or count % views:
        return [rows[start : start + size] for start in range(0, count, size)]
    by_view, size = rows.reshape(views, -1), max(size // views, 1)
    return [by_view[:, start : start + size].ravel() for start in range(0, count // views, size)]


def _rows_per_task(job: Job) -> int:
    pixels = max(int(np.median(job.dataset.heights * job.dataset.widths)), job.output.image_size**2)
    share = min(-(-job.batch_size // job.workers), _MOST_ROWS_PER_TASK, _PIXELS_PER_TASK // pixels)
    return max(share, _ROWS_PER_TASK)
