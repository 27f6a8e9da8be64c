"""The thread that drives an engine for the stage behind it."""

from __future__ import annotations

import queue
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from budgetloader.batch import Batch
from budgetloader.engines.base import Engine
from budgetloader.engines.threads import Latch
from budgetloader.errors import EngineError
from budgetloader.plans import BatchPlan


@dataclass(eq=False, slots=True)
class Staged:
    """A batch under way through an engine and the stage behind it.

    Attributes:
        plan: what to make.
        cancelled: whether nobody will take it.
        error, batch: what became of it, once it is done.
        done: set when there is an error or a batch.
        lock: for those who work on it at the same time.
    """

    plan: BatchPlan
    cancelled: bool = False
    error: BaseException | None = None
    batch: Batch | None = None
    done: Latch = field(default_factory=Latch)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def finish(self, made: Batch | BaseException) -> None:
        """Hand it over; the first error counts."""
        with self.lock:
            if isinstance(made, BaseException):
                self.error = self.error or made
            elif not self.cancelled:
                self.batch = made
        self.done.set()


class Place(Protocol):
    """Where batches are transformed."""

    def enter(self) -> None:
        """Called first, in the driving thread."""

    def take(self, engine: Engine, pending: Staged) -> None:
        """Take the oldest batch from the engine, and see to it that the pending one is finished."""


class Driver:
    """Calls the engine's methods, all from one thread, as an engine wants it.

    Args:
        engine: closed at the end.
        place: where its batches go.
        plans: what to make; None ends it.
    """

    def __init__(self, engine: Engine, place: Place, plans: queue.SimpleQueue[Staged | None]) -> None:
        self._engine, self._place, self._plans = engine, place, plans

    def run(self) -> None:
        """Until there is a None among the plans."""
        under_way: deque[Staged] = deque()
        try:
            self._place.enter()
            while self._step(under_way):
                pass
        finally:
            self._engine.close()

    def _step(self, under_way: deque[Staged]) -> bool:
        """Submit a plan that has come, or take a batch; False at the end."""
        if not under_way or not self._plans.empty():
            pending = self._plans.get()
            if pending is None:
                return False
            if under_way and under_way[0].cancelled:  # all before this one were, together
                self._engine.abort()
                under_way.clear()
            if not pending.cancelled and self._submitted(pending):
                under_way.append(pending)
            return True
        pending = under_way.popleft()
        try:
            self._place.take(self._engine, pending)
        except BaseException as error:
            pending.finish(error)
        return True

    def _submitted(self, pending: Staged) -> bool:
        try:
            self._engine.submit(pending.plan)
        except BaseException as error:
            pending.finish(error)
            return False
        return True


def taken(engine: Engine, pending: Staged) -> Batch:
    """The engine's oldest batch, which is the pending one.

    Raises:
        EngineError: it is another's: after an error, an engine that is not aborted may not go on in order.
    """
    batch = engine.get()
    if batch.plan is not pending.plan:
        place = f"epoch {pending.plan.epoch}, step {pending.plan.step}"
        raise EngineError(f"the engine gave another batch in place of {place}; abort it after an error")
    return batch


def in_part(images: Any, rows: slice) -> Any:
    """Some rows, or the images themselves where that is all of them."""
    return images if rows.start == 0 and rows.stop >= len(images) else images[rows]
