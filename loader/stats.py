"""A loader's measurements of itself, and its verdict on what limits the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass
class EpochStats:
    """One epoch, as far as it went. All times in seconds.

    Attributes:
        epoch: its number.
        batches: batches handed out.
        samples_emitted: samples handed out.
        samples_decoded: samples decoded for it, those of batches that nobody took included.
        samples_shared: of these, views of a sample that were cut from what was decoded for another view of it.
        samples_replaced: samples that did not decode, and that others stood in for.
        samples_dropped: samples prefetched for it that were dropped, because what it draws was changed then.
        trainer_wait_seconds: time in which the trainer waited for a batch, the first one included.
        boundary_seconds: the part of it that was for the epoch's first batch.
        engine_busy_seconds: time in which the engine was at work since the epoch before ended. What it prefetched in
            the pause between the two is in it; time in which its batches were ahead, and it had nothing to do, is not.
        transform_seconds: the part of it that the loader's `transform` took, normalisation behind it included.
        samples_made: samples that it finished in that time.
        store_wait_seconds: the part of the trainer's waiting in which a batch's samples were still being fetched from
            object storage. Like the next ones, 0 for files on this machine.
        store_requests, store_bytes: requests that the store answered, and their bytes.
        cache_hits, cache_misses: samples that were there when a batch asked for them, and that had to be fetched. What
            is fetched ahead counts in the epoch in which that is.
        seconds: from asking for the first batch to asking for more after the last.
        set_share: the share of the set's samples that the whole epoch sees, 0 … 1: where it draws with replacement, the
            expected one; None for a selection of one's own that does not say, and for an evaluation.
        image_size: height and width of its images, pixels.
    """

    epoch: int
    batches: int = 0
    samples_emitted: int = 0
    samples_decoded: int = 0
    samples_replaced: int = 0
    trainer_wait_seconds: float = 0.0
    boundary_seconds: float = 0.0
    engine_busy_seconds: float = 0.0
    transform_seconds: float = 0.0
    samples_made: int = 0
    store_wait_seconds: float = 0.0
    store_requests: int = 0
    store_bytes: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    seconds: float = 0.0
    image_size: int = 0
    samples_dropped: int = 0
    set_share: float | None = None
    samples_shared: int = 0


@dataclass(frozen=True)
class Verdict:
    """What limits the training's speed.

    Attributes:
        bound: "loader-bound": the trainer waits for more than 5 % of its time. "trainer-bound":
            the engine could deliver at least 1.1 times the trainer's demand. "balanced": neither.
        headroom: how many times the trainer's demand the engine could deliver, by the time that it was at work;
            below 1 the trainer waits.
        transform_share: of the engine's time, 0 … 1, that goes into the loader's `transform`.
        store: of the trainer's time, the share in which it waited for object storage.
    """

    bound: Literal["loader-bound", "trainer-bound", "balanced"]
    headroom: float
    transform_share: float = 0.0
    store: float = 0.0

    def __str__(self) -> str:
        most = _SHOWN_HEADROOM
        shown = f"more than {most} times" if self.headroom > most else f"{self.headroom:.2f} times"
        engine = f"the engine can deliver {shown} what the trainer takes"
        if self.transform_share:
            engine += f"; transform takes {self.transform_share:.0%} of its time"
        if self.store > _WAIT_SHARE:
            engine += f", and for {self.store:.0%} of its time the trainer waits for object storage"
        return f"{self.bound} ({engine})"


TRANSFORM_STAGE = "transform"  # of an engine's work
_WAIT_SHARE, _SPARE = 0.05, 1.1
_SHOWN_HEADROOM = 10  # beyond, the engine was at work for so little of the time that the figure says nothing


class _Busy(Protocol):
    def busy(self) -> tuple[dict[str, float], int]: ...


_OF_TRAFFIC = {  # of an epoch's entry, and of `budgetloader.storage.traffic.Traffic`
    "store_wait_seconds": "wait_seconds",
    "store_requests": "requests",
    "store_bytes": "fetched_bytes",
    "cache_hits": "hits",
    "cache_misses": "misses",
}


class BusySince:
    """What an engine has worked, and a store has been asked for, since an epoch's end.

    Args:
        dataset: that is read; one in object storage has `traffic`.
    """

    def __init__(self, dataset: Any = None) -> None:
        self._dataset = dataset
        self._now: tuple[dict[str, float], int] = ({}, 0)
        self._traffic = getattr(dataset, "traffic", None)
        self._then, self._traffic_then = self._now, self._traffic

    def next_epoch(self) -> None:
        """Begin to count for the next epoch."""
        self._then, self._traffic_then = self._now, self._traffic

    def measure(self, stats: EpochStats, work: _Busy) -> None:
        """Set an epoch's `engine_busy_seconds`, of the busiest stage and the transform, `samples_made`, and what a
        store did for it; see `budgetloader.engines.base.Work.busy`.
        """
        self._now = work.busy()
        (stages, made), (stages_then, made_then) = self._now, self._then
        took = {name: stages[name] - stages_then.get(name, 0.0) for name in stages}
        # Other stages work beside each other; the transform takes its time from the cores that decode.
        stats.transform_seconds = took.pop(TRANSFORM_STAGE, 0.0)
        stats.engine_busy_seconds = max(took.values(), default=0.0) + stats.transform_seconds
        stats.samples_made = made - made_then
        if self._traffic is not None:
            self._traffic = self._dataset.traffic
            for name, counted in _OF_TRAFFIC.items():
                setattr(stats, name, getattr(self._traffic, counted) - getattr(self._traffic_then, counted))


def judge(epochs: list[EpochStats]) -> Verdict | None:
    """The verdict over some epochs; None without measurements, or if the engine does not measure its work.

    Pauses between epochs count neither for the trainer nor for the engine: the time that a sample takes the
    trainer is compared with the time that one takes the engine while it is at work.
    """
    seconds = sum(e.seconds for e in epochs)
    if seconds <= 0:
        return None
    waiting, emitted = sum(e.trainer_wait_seconds for e in epochs), sum(e.samples_emitted for e in epochs)
    made = sum(e.samples_made for e in epochs)
    if not emitted or not made:
        return None
    each = max(sum(e.engine_busy_seconds for e in epochs) / made, 1e-9)  # an engine that takes no time is no division
    headroom = (seconds - waiting) / emitted / each
    share = sum(e.transform_seconds for e in epochs) / (each * made)
    waited = min(waiting / seconds, 1.0)
    if waited > _WAIT_SHARE:
        store = min(sum(e.store_wait_seconds for e in epochs) / seconds, waited)
        # Decoding that takes turns with a transform is counted by the clock, and so the transform twice.
        return Verdict("loader-bound", 1.0 - waited if share else min(headroom, 1.0 - waited), share, store)
    return Verdict("trainer-bound" if headroom >= _SPARE else "balanced", headroom, share)
