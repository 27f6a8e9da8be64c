"""Known faults of the hand-over of batches to a GPU, planted so that bench/handover.py must find each.

Each entry puts one back for as long as its context lasts, and names the engine that shows it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch

from budgetloader import Dataset, engines
from budgetloader.batch import Batch
from budgetloader.engines import upload
from budgetloader.engines.upload import Put, Sent, _Beside, _Handover

_MOST_RUNS = 60


@dataclass(frozen=True)
class Planted:
    """A fault, and an engine that it shows in."""

    engine: str
    put_back: Callable[[], AbstractContextManager]
    found_as: str  # part of the check's message


def _method(kind: type, name: str, replacement: Any) -> Callable[[], AbstractContextManager]:
    return lambda: mock.patch.object(kind, name, replacement)


def _send_to_memory_of_the_default_stream(
    self: _Beside, buffer: np.ndarray, labels: np.ndarray, *, foreign: bool = False
) -> Sent:
    there = torch.empty(buffer.shape, dtype=torch.uint8, device=self._device)

    def images(put: Put) -> torch.Tensor:
        return self._normalize(there.copy_(torch.from_numpy(buffer), non_blocking=True).permute(0, 3, 1, 2))

    return self.make(images, labels, keep=[buffer])


def _send_and_forget(self: _Beside, buffer: np.ndarray, labels: np.ndarray, *, foreign: bool = False) -> Sent:
    def images(put: Put) -> torch.Tensor:
        pixels = torch.from_numpy(buffer).to(self._device, non_blocking=True)
        return self._normalize(pixels.permute(0, 3, 1, 2))

    return self.make(images, labels)


def _send_what_is_not_pinned(self: _Beside, buffer: np.ndarray, labels: np.ndarray, *, foreign: bool = False) -> Sent:
    images = torch.from_numpy(buffer.copy()).to(self._device)
    moved = torch.from_numpy(labels).to(self._device)
    return Sent(self._normalize(images.permute(0, 3, 1, 2)), moved, None)


def _let_go_at_once(self: _Beside) -> None:
    self._held.clear()


def _close_without_waiting(self: _Beside) -> None:
    self._held.clear()


def _hold_only_what_worked(self: _Beside, work: Any, keep: Sequence[object]) -> tuple[Any, Any]:
    kept = list(keep)

    def put(array: np.ndarray) -> torch.Tensor:
        pinned = self._pinned(array.shape, array.dtype)
        upload.np.copyto(pinned, array)
        kept.append(pinned)
        return torch.from_numpy(pinned).to(self._device, non_blocking=True)

    with self._lock, torch.cuda.device(self._device), torch.cuda.stream(self._stream):
        self._let_go()
        made = work(put)
        event = torch.cuda.Event()
        event.record(self._stream)
        self._held.append((event, kept))
    return made, event


def _on_stream_without_the_device(self: _Beside, work: Any, keep: Sequence[object]) -> tuple[Any, Any]:
    with self._lock, torch.cuda.stream(self._stream):
        made = work(lambda array: torch.from_numpy(array).to(self._device))
        event = torch.cuda.Event()
        event.record(self._stream)
        self._held.append((event, list(keep)))
    return made, event


def _no_wait(self: _Handover, batch: Batch) -> None:
    stream = torch.cuda.current_stream(self.device)
    batch.images.record_stream(stream)
    batch.labels.record_stream(stream)


def _no_record(self: _Handover, batch: Batch) -> None:
    torch.cuda.current_stream(self.device).wait_event(self.event)


@contextmanager
def _wait_in_the_engines_thread() -> Iterator[None]:
    """Each batch is handed over where it is made: to the current stream of a thread that uses none."""
    make = _Beside.make

    def made(self: _Beside, *arguments: Any, **options: Any) -> Sent:
        sent = make(self, *arguments, **options)
        assert sent.arrival is not None
        sent.arrival(Batch(sent.images, sent.labels, None))  # type: ignore[arg-type]
        return Sent(sent.images, sent.labels, None)

    with mock.patch.object(_Beside, "make", made):
        yield


@contextmanager
def _no_number() -> Iterator[None]:
    """The device stays "cuda": DALI takes GPU 0 for it."""

    class Numbered(_Beside):
        def __init__(self, job: Any, device: torch.device) -> None:
            super().__init__(job, torch.device("cuda", torch.cuda.current_device()))

    with (
        mock.patch.object(engines, "check_device", lambda device: "cuda"),
        mock.patch.object(upload, "_Beside", Numbered),
    ):
        yield


@contextmanager
def _current_stream_of_the_engines_thread() -> Iterator[None]:
    """As _wait_in_the_engines_thread, and the thread's current GPU is 0."""

    def handed_over(self: _Handover, batch: Batch) -> None:
        torch.cuda.current_stream().wait_event(self.event)

    with (
        _wait_in_the_engines_thread(),
        mock.patch.object(_Beside, "enter", lambda self: None),
        mock.patch.object(_Handover, "__call__", handed_over),
    ):
        yield


def _pinned_through_the_current_gpu(self: _Beside, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy().view(dtype).reshape(shape)


@contextmanager
def _threads_without_their_device() -> Iterator[None]:
    with (
        mock.patch.object(_Beside, "_pinned", _pinned_through_the_current_gpu),
        mock.patch.object(_Beside, "enter", lambda self: None),
    ):
        yield


def _labels_that_wait(self: _Beside, work: Any, labels: np.ndarray, *, keep: Sequence[object] = ()) -> Sent:
    images, event = self._on_stream(work, keep)
    moved = torch.from_numpy(labels.copy()).to(self._device)
    return Sent(images, moved, _Handover(self._device, event))


@contextmanager
def _anothers_memory() -> Iterator[None]:
    """DALI's own memory is given to the trainer."""
    from budgetloader.engines import dali

    def take(self: Any, plan: Any) -> Batch:
        (made,) = self._pipeline.share_outputs()
        tensor = made.as_tensor()
        sent = self._uploader.make(lambda put: tensor, plan.labels.copy())
        return Batch(sent.images, sent.labels, plan, arrival=sent.arrival)

    with mock.patch.object(dali._Maker, "_take", take):
        yield


PLANTED = {
    "memory of the default stream, filled on another (ffcv's, of 0.1)": Planted(
        "ffcv", _method(_Beside, "send", _send_to_memory_of_the_default_stream), "not ordered"
    ),
    "the same in native": Planted(
        "native", _method(_Beside, "send", _send_to_memory_of_the_default_stream), "not ordered"
    ),
    "no wait for the event": Planted("native", _method(_Handover, "__call__", _no_wait), "not ordered"),
    "no record of the trainer's stream": Planted("native", _method(_Handover, "__call__", _no_record), "not ordered"),
    "the wait is in the engine's thread": Planted("native", _wait_in_the_engines_thread, "not ordered"),
    "batches are made on the thread's current stream": Planted(
        "service", _method(_Beside, "send", _send_what_is_not_pinned), "not ordered"
    ),
    "pinned buffers are not held": Planted("native", _method(_Beside, "send", _send_and_forget), "pinned memory"),
    "pinned buffers are let go without an event": Planted(
        "service", _method(_Beside, "_let_go", _let_go_at_once), "pinned memory"
    ),
    "an error lets go of what is being copied": Planted(
        "resident", _method(_Beside, "_on_stream", _hold_only_what_worked), "pinned memory"
    ),
    "close does not wait": Planted("native", _method(_Beside, "close", _close_without_waiting), "pinned memory"),
    "a device without a number": Planted("dali", _no_number, "belongs to another process"),
    "streams of the thread's current GPU": Planted(
        "native", _current_stream_of_the_engines_thread, "belongs to another process"
    ),
    "memory pinned through the thread's current GPU": Planted(
        "service", _threads_without_their_device, "belongs to another process"
    ),
    "a stream that sets the thread's GPU back": Planted(
        "native", _method(_Beside, "_on_stream", _on_stream_without_the_device), "set back"
    ),
    "labels drain the trainer's queue": Planted(
        "synthetic", _method(_Beside, "make", _labels_that_wait), "waited for the trainer's"
    ),
    "DALI's memory goes to the trainer": Planted("dali", _anothers_memory, "not ordered"),
}


def seeds_until_found(name: str, *, dataset: Dataset) -> int | None:
    """The first seed of `budgetloader.bench.handover.check` that finds a planted fault; None: none of 60 did."""
    from budgetloader.bench.handover import check

    planted = PLANTED[name]
    with planted.put_back():
        for seed in itertools.islice(itertools.count(), _MOST_RUNS):
            try:
                found = check(planted.engine, seed, dataset=dataset)
            except RuntimeError as error:  # it ended the run: what torch itself refuses
                found = [str(error)]
            if any(planted.found_as in fault for fault in found):
                return seed
    return None
