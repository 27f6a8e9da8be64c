"""A block's samples, fetched from object storage while the first of them are decoded already."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from budgetloader.plans import BatchPlan, Planner
from budgetloader.service.blocks import Reading
from budgetloader.storage import is_address
from budgetloader.storage.traffic import Traffic

_ROWS = 32  # that are waited for at a time

Wait = Callable[[int], None]
"""Waits until a row can be decoded; called with each row of the plan, in order."""


def opened(reading: Reading) -> Any:
    """The dataset: one in object storage once for each process, with its connections; a file anew for each call."""
    return _opened_once(reading) if is_address(reading.path) else reading.open()


@lru_cache(maxsize=1)
def _opened_once(reading: Reading) -> Any:
    return reading.open()


def traffic_of(reading: Reading) -> Traffic | None:
    """What this process has asked of the store so far; None of a file on this machine."""
    return getattr(opened(reading), "traffic", None) if is_address(reading.path) else None


class Clock:
    """How long a block's decoding has waited for the store, seconds."""

    def __init__(self) -> None:
        self.waited = 0.0


class Spent:
    """How long this process has been at its blocks, seconds, by the clock."""

    seconds = 0.0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began


@contextlib.contextmanager
def fetched(dataset: Any, plan: BatchPlan, planner: Planner, clock: Clock) -> Iterator[Wait]:
    """Ask for all samples of a plan at once, for as long as the block lasts; of a file on this machine nothing is done.

    Args:
        dataset: that the plan is of.
        plan: whose rows are decoded in order.
        planner: that made it; its order says what a cache needs last.
        clock: is told how long was waited.

    Raises:
        StorageError: from the call for a row that cannot be fetched.
    """
    if not hasattr(dataset, "announce"):
        yield lambda row: None
        return
    dataset.oracle.follow(_draws(planner, len(dataset)))
    dataset.oracle.at(plan.epoch, int(plan.positions.min()))
    tickets: list[Any] = []

    def wait(row: int) -> None:
        if row % _ROWS:
            return
        began = time.perf_counter()
        tickets[row // _ROWS].wait()
        seconds = time.perf_counter() - began
        clock.waited += seconds
        dataset.waited(seconds)

    try:
        for first in range(0, len(plan), _ROWS):
            rows = slice(first, first + _ROWS)
            tickets.append(dataset.announce(plan.samples[rows], plan.windows[rows], cropped=False))
        yield wait
    finally:
        for ticket in tickets:
            ticket.release()


def _draws(planner: Planner, count: int) -> Any:
    """The whole order of an epoch: trainers go through it, each as far as its budget reaches."""

    def draws(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        positions = np.arange(count, dtype=np.int64)
        return planner.selection.ids(epoch, positions), positions

    return draws
