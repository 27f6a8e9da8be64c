"""What a loader measured of itself, and what it concludes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class EpochStats:
    """One epoch, as far as it went. All times in seconds.

    Attributes:
        epoch: its number.
        batches: batches handed out.
        samples_emitted: samples handed out.
        samples_decoded: samples decoded for it, those of batches that nobody took included.
        samples_replaced: samples that did not decode, and that others stood in for.
        trainer_wait_seconds: time in which the trainer waited for a batch, the first one included.
        boundary_seconds: the part of it that was for the epoch's first batch.
        engine_wait_seconds: time in which the engine had nothing to do, its batches being ahead.
        seconds: from asking for the first batch to asking for more after the last.
    """

    epoch: int
    batches: int = 0
    samples_emitted: int = 0
    samples_decoded: int = 0
    samples_replaced: int = 0
    trainer_wait_seconds: float = 0.0
    boundary_seconds: float = 0.0
    engine_wait_seconds: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What limits the training's speed.

    Attributes:
        bound: "loader-bound": the trainer waits for more than 5 % of its time. "trainer-bound":
            the engine could deliver at least 1.1 times what is taken. "balanced": neither.
        headroom: how many times the trainer's demand the engine could deliver; below 1 the
            trainer waits.
    """

    bound: Literal["loader-bound", "trainer-bound", "balanced"]
    headroom: float

    def __str__(self) -> str:
        return f"{self.bound} (the engine can deliver {self.headroom:.2f} times what the trainer takes)"


_WAIT_SHARE, _SPARE = 0.05, 1.1


def judge(epochs: list[EpochStats]) -> Verdict | None:
    """The verdict over some epochs; None while there is nothing to judge by."""
    seconds = sum(e.seconds for e in epochs)
    if seconds <= 0:
        return None
    waited = min(sum(e.trainer_wait_seconds for e in epochs) / seconds, 1.0)
    if waited > _WAIT_SHARE:
        return Verdict("loader-bound", 1.0 - waited)
    idle = min(sum(e.engine_wait_seconds for e in epochs) / seconds, 1.0)
    headroom = 1.0 / max(1.0 - idle, 1e-3)
    return Verdict("trainer-bound" if headroom >= _SPARE else "balanced", headroom)
