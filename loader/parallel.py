"""Ordered work on a pool of threads, for code that spends its time in C without the GIL."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from budgetloader.errors import EngineError

Result = TypeVar("Result")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(work: Callable[[int], Result], count: int, *, threads: int | None = None) -> Iterator[Result]:
    """work(0), …, work(count − 1), in order, with a bounded number under way.

    An exception of `work`, or the consumer's leaving, cancels what has not begun.
    """
    if threads is not None and threads < 1:
        raise EngineError(f"threads {threads} is too few; give at least 1")
    threads = threads or cores()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="in-order")
    ahead: deque[Future[Result]] = deque()
    try:
        for i in range(count):
            ahead.append(pool.submit(work, i))
            if len(ahead) > 4 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
