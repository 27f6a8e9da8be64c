"""A block's samples, fetched from object storage while the first of them are decoded already."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

from budgetloader.plans import BatchPlan, Planner
from budgetloader.service.blocks import Reading
from budgetloader.storage.ahead import divided, drawn, remote_parts
from budgetloader.storage.traffic import Traffic

_ROWS = 32  # that are waited for at a time

Wait = Callable[[int], None]
"""Waits until a row can be decoded; called with each row of the plan, in order."""


def opened(reading: Reading) -> Any:
    """The dataset: one in object storage once for each process, with its connections; a file anew for each call."""
    return _opened_once(reading) if reading.in_store else reading.open()


@lru_cache(maxsize=1)
def _opened_once(reading: Reading) -> Any:
    return reading.open()


def traffic_of(reading: Reading) -> Traffic | None:
    """What this process has asked of the store so far; None of a file on this machine, or one that was not opened."""
    if not reading.in_store or not _opened_once.cache_info().currsize:  # to open it now could take a minute
        return None
    return getattr(opened(reading), "traffic", None)


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
        dataset: that the plan is of; it may be of several files.
        plan: whose rows are decoded in order.
        planner: that made it; its order says what a cache needs last.
        clock: is told how long was waited.

    Raises:
        StorageError: from the call for a row that cannot be fetched.
    """
    parts = remote_parts(dataset)
    if not parts:
        yield lambda row: None
        return
    for first, part in parts:
        # Of the whole order: trainers go through it, each as far as its budget reaches.
        part.oracle.follow(partial(drawn, planner, samples=len(dataset), first=first, count=len(part)))
        part.oracle.at(plan.epoch, int(plan.positions.min()))
    tickets: list[list[Any]] = []

    def wait(row: int) -> None:
        if row % _ROWS:
            return
        began = time.perf_counter()
        for ticket in tickets[row // _ROWS]:
            ticket.wait()
        seconds = time.perf_counter() - began
        clock.waited += seconds
        parts[0][1].waited(seconds)

    try:
        for start in range(0, len(plan), _ROWS):
            tickets.append(_announced(parts, plan, slice(start, start + _ROWS)))
        yield wait
    finally:
        for group in tickets:
            for ticket in group:
                ticket.release()


def _announced(parts: list[tuple[int, Any]], plan: BatchPlan, rows: slice) -> list[Any]:
    """Tickets for some rows of a plan, one of each file that they are of."""
    windows = plan.windows[rows]
    return [
        part.announce(samples, windows[own], cropped=False) for part, samples, own in divided(parts, plan.samples[rows])
    ]
