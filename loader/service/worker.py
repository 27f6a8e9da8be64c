"""Decoding of blocks. It keeps no state, so that any worker can make any block, also a second time."""

from __future__ import annotations

import resource
import time
from functools import lru_cache

import numpy as np

from budgetloader.engines.base import Job, Output, Work
from budgetloader.engines.rendering import Renderer
from budgetloader.errors import CorruptSampleError, DatasetError
from budgetloader.plans import Planner
from budgetloader.schedule import Schedule
from budgetloader.service.blocks import BLOCK, Content, Key, Reading, Spec


def decode_block(reading: Reading, key: Key, start: int, stop: int) -> Content:
    """Make a part of a block.

    Args:
        reading: the dataset, and how it is opened.
        key: which block.
        start, stop: which of its rows.

    Returns:
        Its content; the images are valid until the next call, because Ray copies them.

    Raises:
        DatasetError: the file is gone, or another one now.
    """
    planner, renderer, buffer = _tools(reading, key.spec)
    spent = Spent()
    first = key.number * BLOCK
    plan = planner.at(key.epoch, np.arange(first + start, first + stop, dtype=np.int64))
    images = buffer[: len(plan)]
    replaced: dict[int, int] = {}
    corrupt: dict[int, tuple[str, int]] = {}
    for row in range(len(plan)):
        try:
            sample = renderer.fill(plan, row, images[row])
            if sample != plan.samples[row]:
                replaced[row] = sample
        except CorruptSampleError as error:
            images[row] = 0
            corrupt[row] = (str(error), error.sample)
    return Content(images, replaced, corrupt, spent.seconds())


class Spent:
    """The time that a thread is at work, disks that it waits for included, cores that others use not.

    What is asked of it is how much a machine can decode: a worker that had to wait for a core could have gone on.
    """

    def __init__(self) -> None:
        self._began, self._cpu, self._read = time.perf_counter(), time.thread_time(), _pages_read()

    def seconds(self) -> float:
        if _pages_read() != self._read:
            return time.perf_counter() - self._began
        return time.thread_time() - self._cpu


def _pages_read() -> int:
    """How often this thread has waited for a file's pages."""
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_majflt + usage.ru_inblock


@lru_cache(maxsize=4)
def _tools(reading: Reading, spec: Spec) -> tuple[Planner, Renderer, np.ndarray]:
    """What a worker keeps between blocks of one spec; new memory for each block would cost as much as a copy."""
    dataset = reading.open()
    if dataset.fingerprint != spec.fingerprint:
        raise DatasetError(
            f"{reading.path} is another dataset now ({dataset.fingerprint}); serve it anew, and connect again"
        )
    planner = Planner(dataset, schedule=Schedule.full(epochs=1), batch_size=1, seed=spec.seed, crop=spec.crop)
    output = Output(spec.image_size, "uint8", interpolation=spec.interpolation, crop=spec.crop)
    job = Job(
        dataset=dataset,
        output=output,
        batch_size=1,
        workers=1,
        capacity=1,
        on_corrupt=spec.on_corrupt,
        replacement=planner.replacement,
    )
    buffer = np.empty((BLOCK, spec.image_size, spec.image_size, 3), np.uint8)
    return planner, Renderer(job, Work()), buffer
