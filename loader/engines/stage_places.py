"""Where batches are transformed: on the host, in threads, or on the loader's device."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from budgetloader.batch import Batch
from budgetloader.engines.base import Engine, Job, Work
from budgetloader.engines.buffers import tone
from budgetloader.engines.normalize import Normalize
from budgetloader.engines.stage_call import Call, on_one_thread
from budgetloader.engines.stage_driver import Staged, in_part, taken
from budgetloader.engines.threads import join_soon
from budgetloader.engines.upload import Put, Uploader, uploader
from budgetloader.resize import apply_tone
from budgetloader.stats import TRANSFORM_STAGE
from budgetloader.transforms import rows
from budgetloader.transforms.chain import Transform, rows_of
from budgetloader.transforms.keys import sample_keys

_ROWS_PER_TASK = 8  # as many as the native engine's tasks have


class StageLike(Protocol):
    """What a place needs to know of a stage."""

    @property
    def transform(self) -> Transform: ...
    @property
    def seed(self) -> int: ...
    @property
    def targets(self) -> Callable[[Batch], Any]: ...
    @property
    def views(self) -> int: ...


@dataclass(eq=False, slots=True)
class _Work:
    """A batch that is being transformed.

    Attributes:
        pending: what is waited for.
        source: the engine's batch, [n, c, h, w] uint8.
        targets: of all its samples.
        keys: uint64 [n].
        buffer: where to write what is handed out; None: to the source itself.
        first: whether it is the first batch, whose transform is tried twice.
        parts: targets of each part, where it is transformed.
        left: parts that are not finished.
    """

    pending: Staged
    source: Batch
    targets: Any
    keys: np.ndarray
    buffer: np.ndarray | None
    first: bool
    parts: list[Any] = field(default_factory=list)
    left: int = 0


class OnHost:
    """Threads that transform parts of batches, write them as the output wants it, and send whole batches.

    Args:
        job: what is handed out.
        stage: what is done.
        engine: whose batches they are.
    """

    def __init__(self, job: Job, stage: StageLike, engine: Engine) -> None:
        self._stage, self._uploader = stage, uploader(job)
        self._in_place = job.output.dtype == "uint8" and job.output.device == "cpu"
        self._shared = getattr(engine, "shares_images", False)
        together = rows_of(stage.transform)
        self._rows = job.batch_size if together is None else -(-_ROWS_PER_TASK // together) * together
        self._first = True
        self._tasks: queue.SimpleQueue[tuple[_Work, int, slice] | None] = queue.SimpleQueue()
        at_once = job.workers if together is not None else min(job.workers, job.capacity)
        worker = _Worker(self._tasks, Call(stage.transform), self._uploader, engine.work, at_once)
        self._threads = [
            threading.Thread(target=worker.run, name=f"transform-{i}", daemon=True) for i in range(job.workers)
        ]
        for thread in self._threads:
            thread.start()

    def enter(self) -> None:
        self._uploader.enter()

    def take(self, engine: Engine, pending: Staged) -> None:
        source = taken(engine, pending)
        if pending.cancelled:
            return
        if self._shared:
            source.images = source.images.clone(memory_format=torch.preserve_format)
        buffer = None if self._in_place else self._uploader.take(len(source.images), source.plan.image_size)
        keys = keys_of(self._stage, source)
        work = _Work(pending, source, self._stage.targets(source), keys, buffer, self._first)
        self._first = False
        parts = [slice(at, min(at + self._rows, len(keys))) for at in range(0, len(keys), self._rows)]
        work.parts, work.left = [None] * len(parts), len(parts)
        for number, part in enumerate(parts):
            self._tasks.put((work, number, part))

    def close(self) -> None:
        """End the threads; called when the driving thread has ended."""
        for _ in self._threads:
            self._tasks.put(None)
        join_soon(self._threads)
        self._uploader.close()


class _Worker:
    """What the threads run."""

    def __init__(
        self,
        tasks: queue.SimpleQueue[tuple[_Work, int, slice] | None],
        call: Call,
        uploader: Uploader,
        counted: Work,
        at_once: int,
    ) -> None:
        self._tasks, self._call, self._uploader, self._counted, self._at_once = tasks, call, uploader, counted, at_once
        self._tone = tone(uploader.host)
        self._channels_last = uploader.host.layout == "channels_last"

    def run(self) -> None:
        self._uploader.enter()
        on_one_thread()
        while True:
            task = self._tasks.get()
            if task is None:
                return
            began = time.thread_time()
            work, number, part = task
            pending = work.pending
            if not pending.cancelled and pending.error is None:
                try:
                    work.parts[number] = self._transform(work, part)
                except BaseException as error:
                    pending.finish(error)
            with pending.lock:
                work.left -= 1
                last = work.left == 0 and pending.error is None and not pending.cancelled
            if last:
                try:
                    pending.finish(self._sent(work))
                except BaseException as error:
                    pending.finish(error)
            # Its own time, not the clock's: decoding threads take turns with it on the same cores.
            self._counted.add_busy((time.thread_time() - began) / self._at_once, stage=TRANSFORM_STAGE)
            del task, work, pending  # while this thread waits, it must not keep a buffer

    def _transform(self, work: _Work, part: slice) -> Any:
        """Transform some rows, and write them; their targets."""
        whole = len(work.parts) == 1
        images = in_part(work.source.images, part)
        targets = work.targets if whole else rows.part(work.targets, part)
        made, targets = self._call(images, targets, work.keys[part], twice=work.first)
        if work.buffer is not None:
            self._write(made, work.buffer[part])
        elif made is not images:
            images.copy_(made)
        return targets

    def _write(self, images: torch.Tensor, out: np.ndarray) -> None:
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        if self._channels_last:
            apply_tone(pixels, self._tone, out)
            return
        toned = np.empty(pixels.shape, out.dtype)
        apply_tone(pixels, self._tone, toned)
        np.copyto(out, toned.transpose(0, 3, 1, 2))

    def _sent(self, work: _Work) -> Batch:
        """The whole batch, on its way to its device."""
        source, targets = work.source, rows.joined(work.parts)
        tensor = isinstance(targets, torch.Tensor)
        labels = targets if tensor else source.labels
        if work.buffer is None:
            batch = Batch(source.images, labels, source.plan, source.samples)
        else:
            sent = self._uploader.send(work.buffer, labels.numpy())
            batch = Batch(sent.images, sent.labels, source.plan, source.samples, sent.arrival)
        return _with_targets(batch, targets)


class OnDevice:
    """Transforms whole batches on the loader's device, in the driving thread, on the uploader's stream."""

    def __init__(self, job: Job, stage: StageLike, counted: Work) -> None:
        self._stage, self._counted = stage, counted
        self._uploader = uploader(job)
        self._normalize = self._uploader.run(lambda put: Normalize(job.output))
        self._call, self._first = Call(stage.transform), True

    def enter(self) -> None:
        self._uploader.enter()

    def take(self, engine: Engine, pending: Staged) -> None:
        made: list[Any] = []

        def images(put: Put) -> torch.Tensor:
            source = taken(engine, pending)  # ready for the stream that this runs on
            began = time.thread_time()
            keys = keys_of(self._stage, source)
            changed, targets = self._call(source.images, self._stage.targets(source), keys, twice=self._first)
            self._first = False
            made.extend((source, targets))
            self._counted.add_busy(time.thread_time() - began, stage=TRANSFORM_STAGE)
            return self._normalize(changed)

        sent = self._uploader.make(images, np.empty(0, np.int64))
        source, targets = made
        tensor = isinstance(targets, torch.Tensor)
        batch = Batch(sent.images, targets if tensor else source.labels, source.plan, source.samples, sent.arrival)
        pending.finish(_with_targets(batch, targets))

    def close(self) -> None:
        self._uploader.close()


def _with_targets(batch: Batch, targets: Any) -> Batch:
    """The batch that hands out these targets; a tensor is its labels already."""
    batch.transformed = True
    batch.targets = None if isinstance(targets, torch.Tensor) else targets
    return batch


def keys_of(stage: StageLike, batch: Batch) -> np.ndarray:
    """The keys of a batch's samples: uint64 [n]."""
    parts = np.split(batch.plan.positions, stage.views)
    keys = [sample_keys(part, seed=stage.seed, epoch=batch.plan.epoch, view=view) for view, part in enumerate(parts)]
    return keys[0] if len(keys) == 1 else np.concatenate(keys)
