"""An engine out of something that makes batches: one thread of its own, fed by queues."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from budgetloader.batch import Batch, BatchPlan
from budgetloader.engines.base import Latch, Work, check_room, join_soon
from budgetloader.errors import EngineError


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


class ThreadedEngine:
    """See `budgetloader.engines.base.Engine`.

    A maker that can wait for long has a method `give_up`, called from another thread: `finish` raises soon then.
    """

    def __init__(self, maker: Maker, *, capacity: int, work: Work, name: str) -> None:
        self.capacity, self.work = capacity, work
        self._pending: deque[_Pending] = deque()
        self._plans: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        # The thread does not know the engine, so that a forgotten engine can be freed.
        self._thread = threading.Thread(target=_run, args=(maker, self._plans, work), name=name, daemon=True)
        self._thread.start()
        self._finalizer = weakref.finalize(self, _stop, maker, self._plans, self._thread)

    def submit(self, plan: BatchPlan) -> None:
        if not self._finalizer.alive:
            raise EngineError("the loader is closed; make a new one")
        check_room(len(self._pending), self.capacity)
        pending = _Pending(plan)
        self._pending.append(pending)
        self._plans.put(pending)

    def get(self) -> Batch:
        if not self._pending:
            raise EngineError("no batch is under way; submit a plan first")
        # It is forgotten when it is here, and not before: an exception that a signal raises while this waits
        # (Ctrl-C) leaves the batch under way, and what comes next is its own plan's.
        pending = self._pending[0]
        while not pending.done.wait(1.0):
            if not self._thread.is_alive():
                raise EngineError(f"{self._thread.name}'s thread has ended; make a new loader")
        self._pending.popleft()
        if isinstance(pending.made, BaseException):
            raise pending.made
        assert pending.made is not None
        return pending.made.arrived()

    def abort(self) -> None:
        for pending in self._pending:  # what has not begun is not made, and what has is dropped by its thread
            pending.cancelled = True
        self._pending.clear()

    def close(self) -> None:
        self.abort()
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
