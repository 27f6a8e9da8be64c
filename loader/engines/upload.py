"""How batches get to a device: the only file that knows streams, events and pinned memory.

On a GPU each engine has one uploader, and the uploader one stream beside the trainer's. Four rules make
the order right, whichever threads and streams the trainer and the engine use:

1. Whatever an engine does on the GPU runs inside `make` (or `run`), on that stream: copies, normalisation,
   and the allocation of the memory that they write to. One stream runs them in order.
2. A batch ends with an event on that stream. The engine's `get` runs on the trainer's thread; there
   `Batch.arrived` has the trainer's current stream wait for the event, and tells the allocator that the
   trainer's stream uses the batch, its targets included, so that no memory of it is given away under a queued kernel.
3. Memory that the GPU reads (pinned buffers, another library's tensors) is held until that event has passed,
   also where making the batch failed half-way.
4. The uploader's stream waits for no other, and no call waits for the trainer's stream: the trainer's queue is
   never drained, and there is no deadlock.

On other devices (Apple's mps) torch has one stream, and copies from the host wait for their end: the
trainer's thread makes them when it takes the batch. On a CPU batches are where they are wanted.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from budgetloader.batch import Arrival, Batch
from budgetloader.engines.base import Job, Output
from budgetloader.engines.buffers import BufferPool
from budgetloader.engines.normalize import Normalize
from budgetloader.engines.threads import JOIN_SECONDS
from budgetloader.errors import EngineError, first_line

Put = Callable[[np.ndarray], torch.Tensor]
"""Copies an array to the device. It belongs to the call of `Uploader.make` or `run` that gives it."""
Made = TypeVar("Made")
_log = logging.getLogger("budgetloader")
_given_up: list[object] = []  # memory that a GPU may still read, and is never given back


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch on its way; an engine hands all three to its `Batch`.

    Attributes:
        images, labels: as `Batch` has them.
        arrival: what `Batch.arrived` does.
    """

    images: torch.Tensor
    labels: torch.Tensor
    arrival: Arrival | None


class Uploader(Protocol):
    """Moves batches to an output's device. Safe to call from any thread.

    Attributes:
        host: what engines write to the buffers of `take`: the output itself on a CPU; elsewhere uint8 in
            channels-last memory, a quarter of float32's bytes, normalised on the device.
    """

    host: Output

    def take(self, count: int, image_size: int = 0) -> np.ndarray:
        """Host memory for `count` images, see `BufferPool.take`. The device may still read it after `send`."""

    def image(self, buffer: np.ndarray, row: int) -> np.ndarray:
        """One image of a buffer: [h, w, 3]."""

    def images(self, buffer: np.ndarray) -> np.ndarray:
        """All images of a buffer, or of some rows of one: [n, h, w, 3]."""

    def send(self, buffer: np.ndarray, labels: np.ndarray, *, foreign: bool = False) -> Sent:
        """The batch of a buffer that is not written to any more.

        Args:
            buffer: of `take`; in `host`'s format.
            labels: int64 [n].
            foreign: the buffer is not of `take`. On a device it is copied before this returns.
        """

    def make(self, work: Callable[[Put], torch.Tensor], labels: np.ndarray, *, keep: Sequence[object] = ()) -> Sent:
        """A batch whose images are the result of some work on the device.

        Args:
            work: makes the images, [n, 3, h, w] as the output has them, with tensors of earlier calls.
            labels: int64 [n].
            keep: what the work reads, and must stay until the device has done it.
        """

    def run(self, work: Callable[[Put], Made]) -> Made:
        """The result of work on the device that is no batch: tables, a dataset. Later work may use it."""

    def enter(self) -> None:
        """Called first in each thread of an engine: makes the output's device that thread's current one."""

    def close(self) -> None:
        """Wait for what is under way, 10 seconds at most, and let go of all but the batches. May be called twice."""


def uploader(job: Job) -> Uploader:
    """The uploader to a job's device.

    Raises:
        EngineError: batches cannot be made for such a device.
    """
    device = torch.device(job.output.device)
    if device.type == "cpu":
        return _OnHost(job)
    if device.type == "cuda":
        return _Beside(job, device)
    if device.type == "mps":
        return _InTurn(job, device)
    raise EngineError(f"device {job.output.device!r}: batches are made on 'cpu', 'cuda' and 'mps'; give one of them")


class _Pooled:
    """The part that does not depend on the device."""

    def __init__(self, job: Job, host: Output, **allocate: Any) -> None:
        self.host = host
        self._pool = BufferPool(host, job.batch_size, **allocate)

    def take(self, count: int, image_size: int = 0) -> np.ndarray:
        return self._pool.take(count, image_size)

    def image(self, buffer: np.ndarray, row: int) -> np.ndarray:
        return self._pool.image(buffer, row)

    def images(self, buffer: np.ndarray) -> np.ndarray:
        return self._pool.images(buffer)

    def enter(self) -> None:
        """There is but one device."""

    def close(self) -> None:
        """Nothing is held that is not memory."""


class _OnHost(_Pooled):
    """Batches for a CPU: nothing is copied."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, job.output)

    def send(self, buffer: np.ndarray, labels: np.ndarray, *, foreign: bool = False) -> Sent:
        return Sent(self._pool.tensor(buffer), torch.from_numpy(labels), None)

    def make(self, work: Callable[[Put], torch.Tensor], labels: np.ndarray, *, keep: Sequence[object] = ()) -> Sent:
        return Sent(work(torch.from_numpy), torch.from_numpy(labels), None)

    def run(self, work: Callable[[Put], Made]) -> Made:
        return work(torch.from_numpy)


class _InTurn(_Pooled):
    """Batches for a device without streams of its own: the trainer's thread copies them, and waits."""

    def __init__(self, job: Job, device: torch.device) -> None:
        super().__init__(job, _raw(job.output))
        self._device = device
        self._normalize = Normalize(job.output)

    def send(self, buffer: np.ndarray, labels: np.ndarray, *, foreign: bool = False) -> Sent:
        return Sent(self._pool.tensor(buffer), torch.from_numpy(labels), self._move)

    def make(self, work: Callable[[Put], torch.Tensor], labels: np.ndarray, *, keep: Sequence[object] = ()) -> Sent:
        return Sent(work(self._put), self._put(labels), None)

    def run(self, work: Callable[[Put], Made]) -> Made:
        return work(self._put)

    def _put(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)

    def _move(self, batch: Batch) -> None:
        batch.images = self._normalize(batch.images.to(self._device))
        batch.labels = batch.labels.to(self._device)


class _Beside(_Pooled):
    """Batches for a GPU, on a stream beside the trainer's; see the four rules above."""

    def __init__(self, job: Job, device: torch.device) -> None:
        if device.index is None:
            raise EngineError(
                "device 'cuda' has no number; give 'cuda:0', or what budgetloader.engines.check_device says"
            )
        super().__init__(job, _raw(job.output), allocate=self._pinned)
        self._device = device
        self._most_held = job.capacity + 2  # batches whose copies are under way, at most: it bounds pinned memory
        self._held: deque[tuple[torch.cuda.Event, list[object]]] = deque()
        self._lock = threading.Lock()
        self._stream = torch.cuda.Stream(device)
        self._normalize = self.run(lambda put: Normalize(job.output))
        # Pinned memory goes back to torch's allocator when the last array is gone: not before it was read.
        self._finalizer = weakref.finalize(self, _wait, self._held, device)
        self._finalizer.atexit = False

    def send(self, buffer: np.ndarray, labels: np.ndarray, *, foreign: bool = False) -> Sent:
        if foreign:
            own = self.take(len(buffer), buffer.shape[1])
            np.copyto(own, buffer)
            buffer = own

        def images(put: Put) -> torch.Tensor:
            pixels = torch.from_numpy(buffer).to(self._device, non_blocking=True)
            return self._normalize(pixels.permute(0, 3, 1, 2))

        return self.make(images, labels, keep=[buffer])

    def make(self, work: Callable[[Put], torch.Tensor], labels: np.ndarray, *, keep: Sequence[object] = ()) -> Sent:
        (images, moved), event = self._on_stream(lambda put: (work(put), put(labels)), keep)
        return Sent(images, moved, _Handover(self._device, event))

    def run(self, work: Callable[[Put], Made]) -> Made:
        return self._on_stream(work, [])[0]

    def enter(self) -> None:
        torch.cuda.set_device(self._device)

    def close(self) -> None:
        deadline = time.monotonic() + JOIN_SECONDS
        if not self._lock.acquire(timeout=JOIN_SECONDS):
            _log.warning("a batch has been on its way to the GPU for %.0f s; it may hang", JOIN_SECONDS)
            return
        try:
            _wait(self._held, self._device, deadline)
        finally:
            self._lock.release()

    def _on_stream(self, work: Callable[[Put], Made], keep: Sequence[object]) -> tuple[Made, torch.cuda.Event]:
        """Some work on the stream, and the event behind it."""
        kept = list(keep)

        def put(array: np.ndarray) -> torch.Tensor:
            pinned = self._pinned(array.shape, array.dtype)
            np.copyto(pinned, array)
            kept.append(pinned)
            return torch.from_numpy(pinned).to(self._device, non_blocking=True)

        # The stream's own guard would set the thread's device back to GPU 0, and so make a context there.
        with self._lock, torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            self._let_go()
            try:
                made = work(put)
            finally:  # work that failed may have queued copies that still read this memory
                event = torch.cuda.Event()
                event.record(self._stream)
                self._held.append((event, kept))
        return made, event

    def _let_go(self) -> None:
        """Drop what the device has read."""
        while self._held:
            event, _ = self._held[0]
            if len(self._held) >= self._most_held:
                event.synchronize()
            elif not event.query():
                return
            self._held.popleft()

    def _pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        with torch.cuda.device(self._device):  # or it would be pinned through GPU 0, and set up a context there
            return (
                torch.empty(int(np.prod(shape)) * dtype.itemsize, dtype=torch.uint8, device="cpu", pin_memory=True)
                .numpy()
                .view(dtype)
                .reshape(shape)
            )


def _raw(output: Output) -> Output:
    """What is sent to a device: pixels."""
    return replace(output, dtype="uint8", layout="channels_last", device="cpu")


def _wait(
    held: deque[tuple[torch.cuda.Event, list[object]]], device: torch.device, deadline: float | None = None
) -> None:
    """Wait until the GPU has read all held memory. After 10 seconds, or where it failed, the rest is never freed."""
    deadline = time.monotonic() + JOIN_SECONDS if deadline is None else deadline
    while held:
        try:
            with torch.cuda.device(device):
                read = held[0][0].query()
        except RuntimeError as error:  # an error of the GPU's is told by every later call
            why = first_line(error)
        else:
            if read:
                held.popleft()
                continue
            if time.monotonic() < deadline:
                time.sleep(0.001)
                continue
            why = f"it has not read them within {JOIN_SECONDS:.0f} s, and may hang"
        _log.warning("the GPU has not copied %d batches: %s", len(held), why)
        _given_up.extend(held)
        held.clear()


@dataclass(frozen=True, slots=True)
class _Handover:
    """Has the stream of the thread that takes a batch wait for it."""

    device: torch.device
    event: torch.cuda.Event

    def __call__(self, batch: Batch) -> None:
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(self.event)
        for tensor in _tensors((batch.images, batch.labels, batch.targets)):
            if tensor.device == self.device:
                tensor.record_stream(stream)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in targets: in tuples, lists and mappings, at any depth."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)
