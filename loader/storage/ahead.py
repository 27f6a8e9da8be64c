"""Plans whose samples have arrived: the stream of plans runs ahead of the engine, and is fetched meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from budgetloader.plans import BatchPlan, PlannerLike
from budgetloader.storage.disk import Readahead, Told
from budgetloader.storage.oracle import Draws
from budgetloader.storage.pools import Ends, Pools
from budgetloader.storage.source import Ticket

_AHEAD_BYTES = 192 << 20  # of all plans that are ahead of the engine
_POOLED_BYTES = 16 << 20  # the same of plans whose pool is held: the next pool is not to get in the way of this one
_MOST_AHEAD = 64  # plans
_SHARE = 3  # of what a file's cache lets be fetched ahead, for pools, which are large


class _Coming:
    def __init__(self, plan: BatchPlan, tickets: list[Ticket], size: int) -> None:
        self.plan, self.tickets, self.size = plan, tickets, size

    def done(self) -> bool:
        return all(ticket.done() for ticket in self.tickets)

    def release(self) -> None:
        for ticket in self.tickets:
            ticket.release()


class Ahead:
    """An iterator over plans, each given when its samples can be read.

    A plan's samples stay until `capacity` more plans were taken: an engine has as many under way at most.

    Args:
        dataset: in object storage, or several files of which some are.
        plans: in their order.
        capacity: the most plans that the engine has under way.
        cropped: whether the engine looks at no bytes but those of the windows' rows.
        ahead_bytes: the most that is fetched ahead of the engine; one plan always is.
        ends: of an order's pools, whose samples are asked for together; None of an order that has none.
    """

    def __init__(
        self,
        dataset: Any,
        plans: Iterator[BatchPlan],
        *,
        capacity: int,
        cropped: bool = False,
        ahead_bytes: int = _AHEAD_BYTES,
        ends: Ends | None = None,
    ) -> None:
        self._cropped = cropped
        self._parts = remote_parts(dataset)
        self._plans, self._capacity = plans, capacity
        self._most_bytes = min([ahead_bytes, *(part.ahead_bytes for _, part in self._parts)])
        self._pools: Pools | None = None
        if ends is not None and all(part.holds(cropped=cropped) for _, part in self._parts):
            most_bytes = min(_SHARE * part.ahead_bytes for _, part in self._parts)
            self._most_bytes = min(self._most_bytes, _POOLED_BYTES)
            self._plans = self._pools = Pools(_slow_parts(dataset), plans, ends=ends, most_bytes=most_bytes)
        self._coming: deque[_Coming] = deque()
        self._under_way: deque[_Coming] = deque()
        self._bytes, self._ended = 0, False

    def __iter__(self) -> Ahead:
        return self

    @property
    def ready(self) -> bool:
        """Whether the next plan can be had without waiting; False also where it would be an error."""
        self._top_up()
        return not self._coming or (self._coming[0].done() and not self._failed())

    def __next__(self) -> BatchPlan:
        while len(self._under_way) >= self._capacity:
            self._under_way.popleft().release()
        self._top_up()
        if not self._coming:
            raise StopIteration
        coming = self._coming[0]
        if not coming.done():
            began = time.perf_counter()
            try:
                for ticket in coming.tickets:
                    ticket.wait()
            finally:
                self._parts[0][1].waited(time.perf_counter() - began)
        for ticket in coming.tickets:
            ticket.wait()  # raises what went wrong
        self._coming.popleft()
        self._bytes -= coming.size
        self._under_way.append(coming)
        self._top_up()
        return coming.plan

    def cut(self, epoch: int) -> bool:
        """End before an epoch, whose samples have changed; whether it was planned already.

        What was given out stays as it is until more plans would have been taken.
        """
        planned = [coming for coming in self._coming if coming.plan.epoch >= epoch]
        given = any(coming.plan.epoch >= epoch for coming in self._under_way)
        read = self._pools is not None and self._pools.cut(epoch)
        if not planned and not given and not read:
            return False
        for coming in planned:
            self._coming.pop()
            self._bytes -= coming.size
            coming.release()
        self._ended = self._pools is None  # plans of earlier epochs may have been read ahead
        return True

    def _failed(self) -> bool:
        return any(ticket.failed for ticket in self._coming[0].tickets)

    def _top_up(self) -> None:
        while not self._ended and len(self._coming) < _MOST_AHEAD:
            if self._coming and (self._bytes >= self._most_bytes or not getattr(self._plans, "ready", True)):
                return
            plan = next(self._plans, None)
            if plan is None:
                self._ended = True
                return
            self._coming.append(self._begin(plan))
            self._bytes += self._coming[-1].size
            if self._pools is not None:
                self._pools.begun(plan)

    def _begin(self, plan: BatchPlan) -> _Coming:
        tickets, size, held = [], 0, self._pools is not None
        for part, samples, own in divided(self._parts, plan.samples):
            part.oracle.at(plan.epoch, int(plan.positions.min()))
            tickets.append(part.announce(samples, plan.windows[own], cropped=self._cropped, held=held))
            size += part.bytes_of(np.unique(samples))
        return _Coming(plan, tickets, size)


def fetched(dataset: Any, plans: Iterator[BatchPlan], planner: PlannerLike, engine: Any) -> Iterator[BatchPlan]:
    """The plans, each when its samples can be read; of a dataset on this machine's disks, just the plans, of which the
    system is told ahead where the order stands in blocks.

    Args:
        dataset: what they are of.
        plans: in their order.
        planner: that makes them; it tells the cache what is needed when.
        engine: that makes the batches; one whose `reads_samples` is False needs none of them, and one whose
            `crops_bytes` is True looks at no bytes but those of a window's rows.
    """
    parts = remote_parts(dataset)
    if not getattr(engine, "reads_samples", True):
        return plans
    if not parts:
        slow, ends = _slow_parts(dataset), _ends(planner)
        return Told(Pools(slow, plans, ends=ends, most_bytes=_AHEAD_BYTES)) if slow and ends else plans
    for first, part in parts:
        part.oracle.follow(_draws(planner, first, len(part)))
    return Ahead(
        dataset, plans, capacity=engine.capacity, cropped=getattr(engine, "crops_bytes", False), ends=_ends(planner)
    )


def _ends(planner: Any) -> Ends | None:
    """Where the pools of a planner's order end, where it has some."""
    blocks = getattr(getattr(planner, "selection", None), "blocks", None)
    return None if blocks is None else lambda positions: blocks.pool_spans(positions)[1]


def _draws(planner: Any, first: int, count: int) -> Draws:
    """What an epoch draws of one file, for all ranks."""

    def draws(epoch: int) -> tuple[np.ndarray, np.ndarray] | None:
        if epoch >= len(planner.steps) or not hasattr(planner, "selection") or not planner.ready(epoch):
            return None
        return drawn(planner, epoch, planner.budget.epoch_samples(epoch), first=first, count=count)

    return draws


def drawn(planner: Any, epoch: int, samples: int, *, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """What the beginning of an epoch's order draws of one file: its samples, and the positions of the draws: int64 [n].

    Args:
        planner: whose order it is.
        epoch, samples: so many positions of the epoch.
        first, count: the file's first sample, and how many it has.
    """
    positions = np.arange(samples, dtype=np.int64)
    ids = planner.selection.ids(epoch, positions)
    own = (ids >= first) & (ids < first + count)
    return ids[own] - first, positions[own]


def divided(parts: list[tuple[int, Any]], samples: np.ndarray) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """Samples by file: each file that has some of them, their numbers in it (int64), and which they are (bool [n]).

    Args:
        parts: the files, and the number of the first sample of each.
        samples: int64 [n].
    """
    for first, part in parts:
        own = (samples >= first) & (samples < first + len(part))
        if own.any():
            yield part, samples[own] - first, own


def remote_parts(dataset: Any) -> list[tuple[int, Any]]:
    """The files of a dataset that are fetched, and the number of the first sample of each."""
    parts, first = [], 0
    for part in getattr(dataset, "parts", (dataset,)):
        if hasattr(part, "begin") and hasattr(part, "oracle"):
            parts.append((first, part))
        first += len(part)
    return parts


def _slow_parts(dataset: Any) -> list[tuple[int, Any]]:
    """The files of a dataset that are read ahead a pool at a time, and the number of the first sample of each."""
    parts, first = [], 0
    for part in getattr(dataset, "parts", (dataset,)):
        if hasattr(part, "hold"):
            parts.append((first, part))
        elif hasattr(part, "will_need"):
            parts.append((first, Readahead(part)))
        first += len(part)
    return parts
