"""A loader's measurements of itself, and its verdict on what limits the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass
class EpochStats:
    """One epoch, as far as it went. All times in seconds.

    Attributes:
        epoch: its number.
        batches: batches handed out.
        samples_emitted: samples handed out.
        samples_decoded: samples decoded for it, those of batches that nobody took included.
        samples_replaced: samples that did not decode, and that others stood in for.
        samples_dropped: samples prefetched for it that were dropped, because what it draws was changed then.
        trainer_wait_seconds: time in which the trainer waited for a batch, the first one included.
        boundary_seconds: the part of it that was for the epoch's first batch.
        engine_busy_seconds: time in which the engine was at work since the epoch before ended. What it prefetched in
            the pause between the two is in it; time in which its batches were ahead, and it had nothing to do, is not.
        samples_made: samples that it finished in that time.
        seconds: from asking for the first batch to asking for more after the last.
        image_size: height and width of its images, pixels.
        set_share: the share of the set's samples that the whole epoch sees, 0 … 1: where it draws with replacement, the
            expected one; None for a selection of one's own that does not say, and for an evaluation.
    """

    epoch: int
    batches: int = 0
    samples_emitted: int = 0
    samples_decoded: int = 0
    samples_replaced: int = 0
    trainer_wait_seconds: float = 0.0
    boundary_seconds: float = 0.0
    engine_busy_seconds: float = 0.0
    samples_made: int = 0
    seconds: float = 0.0
    image_size: int = 0
    samples_dropped: int = 0
    set_share: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What limits the training's speed.

    Attributes:
        bound: "loader-bound": the trainer waits for more than 5 % of its time. "trainer-bound":
            the engine could deliver at least 1.1 times the trainer's demand. "balanced": neither.
        headroom: how many times the trainer's demand the engine could deliver, by the time that it was at work;
            below 1 the trainer waits.
    """

    bound: Literal["loader-bound", "trainer-bound", "balanced"]
    headroom: float

    def __str__(self) -> str:
        most = _SHOWN_HEADROOM
        shown = f"more than {most} times" if self.headroom > most else f"{self.headroom:.2f} times"
        return f"{self.bound} (the engine can deliver {shown} what the trainer takes)"


_WAIT_SHARE, _SPARE = 0.05, 1.1
_SHOWN_HEADROOM = 10  # beyond, the engine was at work for so little of the time that the figure says nothing


class _Busy(Protocol):
    def busy(self) -> tuple[dict[str, float], int]: ...


class BusySince:
    """What an engine has worked since an epoch's end; see `budgetloader.engines.base.Work.busy`."""

    def __init__(self) -> None:
        self._now: tuple[dict[str, float], int] = ({}, 0)
        self._then = self._now

    def next_epoch(self) -> None:
        """Begin to count for the next epoch."""
        self._then = self._now

    def measure(self, stats: EpochStats, work: _Busy) -> None:
        """Set an epoch's `engine_busy_seconds`, of the busiest stage, and `samples_made`."""
        self._now = work.busy()
        (stages, made), (stages_then, made_then) = self._now, self._then
        stats.engine_busy_seconds = max((stages[name] - stages_then.get(name, 0.0) for name in stages), default=0.0)
        stats.samples_made = made - made_then


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
    waited = min(waiting / seconds, 1.0)
    if waited > _WAIT_SHARE:
        return Verdict("loader-bound", min(headroom, 1.0 - waited))
    return Verdict("trainer-bound" if headroom >= _SPARE else "balanced", headroom)
