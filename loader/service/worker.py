"""Decoding of blocks. It keeps no state, so that any worker can make any block, also a second time."""

from __future__ import annotations

import time
import uuid
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from budgetloader.engines.base import Job, Output, Work
from budgetloader.engines.laps import Laps
from budgetloader.engines.rendering import Renderer
from budgetloader.errors import CorruptSampleError, DatasetError
from budgetloader.plans import Planner
from budgetloader.schedule import Schedule
from budgetloader.service.blocks import BLOCK, Content, Key, Reading, Spec
from budgetloader.service.fetching import Clock, Spent, fetched, opened, traffic_of
from budgetloader.service.stores import Report


class Meter:
    """How long a worker's blocks take it: the decoding, and Ray's storing of the block before.

    Waiting for a core does not count: the trainer's bridge, which works on the same cores, counts its own time.
    """

    def __init__(self) -> None:
        self._laps, self._stored = Laps(), time.process_time()
        self._began = self._storing = 0.0

    def begin(self) -> None:
        self._storing = time.process_time() - self._stored
        self._began = time.perf_counter() - _delayed_seconds()

    def end(self, samples: int) -> float:
        decoding = time.perf_counter() - _delayed_seconds() - self._began
        seconds = self._laps.usual(decoding + self._storing, samples)
        self._stored = time.process_time()
        return seconds


def _delayed_seconds() -> float:
    """How long this thread has been ready to run, and had no core; 0 where the system does not tell."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


meter = Meter()
_spent = Spent()
_process = uuid.uuid4().hex


def decode_block(reading: Reading, key: Key, start: int, stop: int) -> Content:
    """Make a part of a block.

    Args:
        reading: the dataset, and how it is opened.
        key: which block.
        start, stop: which of its rows.

    Returns:
        Its content; the images are valid until the next call, because Ray copies them.

    Raises:
        DatasetError: the file is gone, or another one now; a `StorageError` where a store does not give it.
    """
    meter.begin()
    dataset, planner, renderer, buffer = _tools(reading, key.spec)
    first = key.number * BLOCK
    samples = None if key.samples is None else key.samples[start:stop].astype(np.int64)
    plan = planner.at(key.epoch, np.arange(first + start, first + stop, dtype=np.int64), samples)
    images = buffer[: len(plan)]
    replaced: dict[int, int] = {}
    corrupt: dict[int, tuple[str, int]] = {}
    clock = Clock()
    with _spent.counted(), fetched(dataset, plan, planner, clock) as wait:
        for row in range(len(plan)):
            wait(row)
            try:
                sample = renderer.fill(plan, row, images[row])
                if sample != plan.samples[row]:
                    replaced[row] = sample
            except CorruptSampleError as error:
                images[row] = 0
                corrupt[row] = (str(error), error.sample)
    return Content(images, replaced, corrupt, max(meter.end(len(plan)) - clock.waited, 0.0), clock.waited)


def report(reading: Reading) -> Report | None:
    """What this process has asked of the store, behind a block; None of a file on this machine."""
    traffic = traffic_of(reading)
    return None if traffic is None else Report(_process, traffic, _spent.seconds)


@lru_cache(maxsize=4)
def _tools(reading: Reading, spec: Spec) -> tuple[Any, Planner, Renderer, np.ndarray]:
    """What a worker keeps between blocks of one spec; new memory for each block would cost as much as a copy."""
    dataset = opened(reading)
    if dataset.fingerprint != spec.fingerprint:
        raise DatasetError(
            f"{reading} is another dataset now ({dataset.fingerprint}); serve it anew, and connect again"
        )
    planner = Planner(dataset, schedule=Schedule.full(epochs=1), batch_size=1, seed=spec.seed, crop=spec.crop)
    output = Output(spec.image_size, "uint8", interpolation=spec.interpolation, crop=spec.crop, channels=spec.channels)
    job = Job(
        dataset=dataset,
        output=output,
        batch_size=1,
        workers=1,
        capacity=1,
        on_corrupt=spec.on_corrupt,
        replacement=planner.replacement,
    )
    buffer = np.empty((BLOCK, spec.image_size, spec.image_size, spec.channels), np.uint8)
    return dataset, planner, Renderer(job, Work()), buffer
