"""An engine out of something that makes batches: one thread of its own, fed by queues."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections import deque
from typing import Protocol

from loader.batch import Batch, BatchPlan
from loader.engines.base import Work, check_room
from loader.errors import EngineError


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


class ThreadedEngine:
    """See `loader.engines.base.Engine`."""

    def __init__(self, maker: Maker, *, capacity: int, work: Work, name: str) -> None:
        self.capacity, self.work = capacity, work
        self._pending: deque[BatchPlan] = deque()
        self._stale = 0  # batches under way that were aborted
        self._plans: queue.SimpleQueue[BatchPlan | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[Batch | BaseException] = queue.SimpleQueue()
        # The thread does not know the engine, so that a forgotten engine can be freed.
        arguments = (maker, self._plans, self._finished, work)
        self._thread = threading.Thread(target=_run, args=arguments, name=name, daemon=True)
        self._thread.start()
        self._finalizer = weakref.finalize(self, _stop, self._plans, self._thread)

    def submit(self, plan: BatchPlan) -> None:
        if not self._finalizer.alive:
            raise EngineError("the loader is closed; make a new one")
        check_room(len(self._pending), self.capacity)
        self._pending.append(plan)
        self._plans.put(plan)

    def get(self) -> Batch:
        if not self._pending:
            raise EngineError("no batch is under way; submit a plan first")
        self._pending.popleft()
        while self._stale:
            self._next()
            self._stale -= 1
        batch = self._next()
        if isinstance(batch, BaseException):
            raise batch
        return batch.arrived()

    def _next(self) -> Batch | BaseException:
        while True:
            try:
                return self._finished.get(timeout=1.0)
            except queue.Empty:
                if not self._thread.is_alive():
                    raise EngineError(f"{self._thread.name}'s thread has ended; make a new loader") from None

    def abort(self) -> None:
        self._stale += len(self._pending)
        self._pending.clear()
        while True:  # what has not begun need not be made
            try:
                self._plans.get_nowait()
                self._stale -= 1
            except queue.Empty:
                return

    def close(self) -> None:
        if self._finalizer.alive:
            self.abort()
            self._finalizer()


def _stop(plans: queue.SimpleQueue, thread: threading.Thread) -> None:
    plans.put(None)
    thread.join()


def _run(maker: Maker, plans: queue.SimpleQueue, finished: queue.SimpleQueue, work: Work) -> None:
    under_way: deque[BatchPlan] = deque()
    busy_since = 0.0
    try:
        maker.enter()
        while True:
            if len(under_way) < maker.depth and (not under_way or not plans.empty()):
                plan = plans.get()
                if plan is None:
                    return
                if not under_way:
                    busy_since = time.perf_counter()
                maker.begin(plan)
                under_way.append(plan)
            else:
                plan = under_way.popleft()
                finished.put(_finish(maker, plan))
                now = time.perf_counter()
                work.add_busy(now - busy_since, samples=len(plan))
                busy_since = now
    finally:
        maker.close()


def _finish(maker: Maker, plan: BatchPlan) -> Batch | BaseException:
    try:
        return maker.finish(plan)
    except BaseException as error:
        return error
