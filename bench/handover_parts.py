"""For bench/handover.py: every engine on a fake device, and what stands in for what cannot run there."""

from __future__ import annotations

import os
import types
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from budgetloader import Dataset, engines
from budgetloader.bench.fake_cuda import FakeCUDA
from budgetloader.engines.base import Engine, Job, Work
from budgetloader.engines.base_threaded import ThreadedEngine
from budgetloader.service import protocol

SIZE = 16  # of the images
PAD = ("native", "resident", "service")  # engines that pad
_IMAGES = 24
Make = Callable[[Job], Engine]


def images(folder: Path) -> Dataset:
    """A small file of small images."""
    from PIL import Image

    from budgetloader.convert.converting import convert
    from budgetloader.convert.sources import Source

    def load(i: int) -> Image.Image:
        return Image.fromarray(np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))

    path = folder / "small.beton"
    convert(Source([f"{i}" for i in range(_IMAGES)], [i % 5 for i in range(_IMAGES)], (), load), path)
    return Dataset(path)


def installed(engine: str) -> bool:
    return engine == "service" or engines.installed(engine)


@contextmanager
def _ours(name: str) -> Iterator[Make]:
    yield lambda job: engines.create(name, job)


@contextmanager
def _ffcv(fake: FakeCUDA) -> Iterator[Make]:
    import ffcv.loader.epoch_iterator as epoch_iterator

    from budgetloader.engines import ffcv as ours

    run_pipeline = ours._Endless._run_pipeline

    def logged(endless: Any, rows: np.ndarray, image_size: int = 0) -> tuple[np.ndarray, np.ndarray]:
        buffer, status = run_pipeline(endless, rows, image_size)
        fake.host_writes(buffer)
        return buffer, status

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(ours._Endless, "_run_pipeline", logged))
        stack.enter_context(mock.patch.object(epoch_iterator, "IS_CUDA", True))
        yield ours.FFCVEngine


@contextmanager
def _dali(fake: FakeCUDA) -> Iterator[Make]:
    from budgetloader.engines import dali as ours

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(ours, "_build", lambda job, **_: _Pipeline(fake, job)))
        stack.enter_context(mock.patch.object(torch, "from_dlpack", lambda tensor: tensor))
        yield ours.DALIEngine


class _Pipeline:
    """DALI's pipeline: it decodes on a stream of its own, to memory of its own, which it takes again at once."""

    def __init__(self, fake: FakeCUDA, job: Job) -> None:
        self._fake, self._output = fake, job.output
        self._stream = torch.cuda.Stream(f"cuda:{torch.device(job.output.device).index or 0}")  # as DALI's device_id
        self._scheduled: deque[int] = deque()

    def feed_input(self, name: str, data: Any) -> None:
        self._count = len(data)

    def schedule_run(self) -> None:
        self._scheduled.append(self._count)

    def share_outputs(self) -> tuple[Any, ...]:
        size, count = self._output.image_size, self._scheduled.popleft()
        shape = (size, size, 3) if self._output.layout == "channels_last" else (3, size, size)
        dtype = torch.uint8 if self._output.dtype == "uint8" else torch.float16
        with torch.cuda.device(self._stream.device), torch.cuda.stream(self._stream):
            made = torch.ones((count, *shape), dtype=dtype, device=self._stream.device)
        self._stream.synchronize()
        block = self._fake.memory.block(made)
        assert block is not None
        block.foreign = True
        return (types.SimpleNamespace(as_tensor=lambda: made),)

    def release_outputs(self) -> None:
        """The tensor keeps its memory until it is gone."""


@contextmanager
def _service(dataset: Dataset, options: dict[str, Any], fake: FakeCUDA) -> Iterator[Make]:
    from budgetloader.service.maker import BridgeMaker

    bridge = _Bridge(dataset, fake)

    def make(job: Job) -> Engine:
        work = Work()
        budget = options["schedule"].budget(len(dataset), batch_size=options["batch_size"])
        maker = BridgeMaker(job, work, bridge, budget=budget, seed=options["seed"])  # type: ignore[arg-type]
        return ThreadedEngine(maker, capacity=job.capacity, work=work, name="service")

    yield make


class _Bridge:
    """Stands in for the bridge to a service, and for the service."""

    def __init__(self, dataset: Dataset, fake: FakeCUDA) -> None:
        from budgetloader.service.connection import Index

        known = {name: getattr(dataset, name) for name in ("fingerprint", "classes", "heights", "widths", "labels")}
        self.index, self._fake = Index(path=str(dataset.path), capacity_bytes=1 << 30, **known), fake
        self._buffers: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._requests: deque[protocol.BatchRequest] = deque()

    def send(self, request: protocol.Request, descriptors: list[int]) -> None:
        if isinstance(request, protocol.Buffer):
            self._buffers[request.id] = (os.dup(descriptors[0]), request.shape)
        elif isinstance(request, protocol.BatchRequest):
            self._requests.append(request)

    def answer(self, expected: type) -> tuple[protocol.BatchAnswer, list[int]]:
        self._fake.on_operation()
        request = self._requests.popleft()
        descriptor, shape = self._buffers[request.buffer]
        os.pwrite(descriptor, bytes([request.step % 256]) * (request.samples * int(np.prod(shape[1:]))), 0)
        return protocol.BatchAnswer(decoded=request.samples, decode_busy_seconds=0.0, copied=0), []

    def close(self) -> None:
        for descriptor, _ in self._buffers.values():
            os.close(descriptor)


ENGINES: dict[str, Callable[[FakeCUDA, Dataset, dict[str, Any]], Any]] = {
    "native": lambda fake, dataset, options: _ours("native"),
    "resident": lambda fake, dataset, options: _ours("resident"),
    "synthetic": lambda fake, dataset, options: _ours("synthetic"),
    "service": lambda fake, dataset, options: _service(dataset, options, fake),
    "ffcv": lambda fake, dataset, options: _ffcv(fake),
    "dali": lambda fake, dataset, options: _dali(fake),
}
