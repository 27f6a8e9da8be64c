"""The base of engines out of something that makes batches: one thread of its own, fed by queues."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from budgetloader.batch import Batch
from budgetloader.engines.base import BaseEngine, Work
from budgetloader.engines.threads import Latch, join_soon
from budgetloader.errors import EngineError
from budgetloader.plans import BatchPlan


class Maker(Protocol):
    """Makes batches, all in one thread."""

    depth: int
    """Batches that it has under way at a time."""

    def enter(self) -> None:
        """Called first, in that thread."""

    def begin(self, plan: BatchPlan) -> None:
        """Begin a batch, without waiting for it. Errors belong to `finish`."""

    def finish(self, plan: BatchPlan) -> Batch:
        """The batch that was begun first, and is `plan`'s."""

    def close(self) -> None:
        """Let go of everything."""


@dataclass(eq=False, slots=True)
class _Pending:
    """A batch under way, and what became of it once `done` is set."""

    plan: BatchPlan
    made: Batch | BaseException | None = None
    cancelled: bool = False
    done: Latch = field(default_factory=Latch)


class ThreadedEngine(BaseEngine[_Pending]):
    """See `budgetloader.engines.base.Engine`.

    A maker that can wait for long has a method `give_up`, called from another thread: `finish` raises soon then.

    Args:
        maker: makes the batches.
        capacity: the most batches under way.
        work: what the maker counts.
        name: of the thread.
    """

    def __init__(self, maker: Maker, *, capacity: int, work: Work, name: str) -> None:
        super().__init__(capacity=capacity, work=work)
        self._plans: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        # The thread does not know the engine, so that a forgotten engine can be freed.
        self._thread = threading.Thread(target=_run, args=(maker, self._plans, work), name=name, daemon=True)
        self._thread.start()
        self._finalizer = weakref.finalize(self, _stop, maker, self._plans, self._thread)

    def _prepare(self, plan: BatchPlan) -> _Pending:
        return _Pending(plan)

    def _start(self, pending: _Pending) -> None:
        self._plans.put(pending)

    def _wait(self, pending: _Pending) -> None:
        while not pending.done.wait(1.0):
            if not self._thread.is_alive():
                raise EngineError(f"{self._thread.name}'s thread has ended; make a new loader")

    def _take(self, pending: _Pending) -> Batch:
        if isinstance(pending.made, BaseException):
            raise pending.made
        assert pending.made is not None
        return pending.made

    def _cancel(self, pending: _Pending) -> None:
        pending.cancelled = True  # what has not begun is not made, and what has is dropped by its thread

    def _stop(self) -> None:
        self._finalizer()


def _stop(maker: Maker, plans: queue.SimpleQueue, thread: threading.Thread) -> None:
    plans.put(None)
    give_up = getattr(maker, "give_up", None)
    if give_up is not None:
        give_up()
    join_soon([thread])


def _run(maker: Maker, plans: queue.SimpleQueue, work: Work) -> None:
    under_way: deque[_Pending] = deque()
    busy_since = 0.0
    try:
        maker.enter()
        while True:
            if len(under_way) < maker.depth and (not under_way or not plans.empty()):
                pending = plans.get()
                if pending is None:
                    return
                if pending.cancelled:
                    continue
                if not under_way:
                    busy_since = time.perf_counter()
                maker.begin(pending.plan)
                under_way.append(pending)
            else:
                pending = under_way.popleft()
                made = _finish(maker, pending.plan)
                if not pending.cancelled:
                    pending.made = made
                pending.done.set()
                now = time.perf_counter()
                work.add_busy(now - busy_since, samples=len(pending.plan))
                busy_since = now
                del made  # while this thread waits, it must not keep a buffer
            del pending
    finally:
        maker.close()


def _finish(maker: Maker, plan: BatchPlan) -> Batch | BaseException:
    try:
        return maker.finish(plan)
    except BaseException as error:
        return error
