"""An epoch of training: its record, its state in a checkpoint, and its clock.

Training time of an epoch is the time from asking for its first batch to the end of its last optimiser step
(synchronised on a GPU), without evaluation and checkpoints.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass
class EpochRecord:
    """Counts and times of one epoch of training. All times in seconds.

    Attributes:
        epoch, batches, images: counts.
        train_seconds: as defined at the top of this file.
        first_wait_seconds: of it, waiting for the epoch's first batch.
        wait_seconds: of it, waiting for the other batches.
        full_batches, full_batch_seconds: the batches of full size, and their time from the end of
            the step before to the end of theirs, `first_wait_seconds` not counted.
        last_batch_seconds: the same for the epoch's last batch, whatever its size.
        loss: mean over the epoch's batches.
        learning_rate: of the last step.
        batch_seconds: of each batch in order, from the end of the step before to the end of its own, to the
            microsecond; the first one is without `first_wait_seconds`.
    """

    epoch: int
    batches: int
    images: int
    train_seconds: float
    first_wait_seconds: float
    wait_seconds: float
    full_batches: int
    full_batch_seconds: float
    last_batch_seconds: float
    loss: float
    learning_rate: float
    batch_seconds: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class EpochUnderWay:
    """An epoch that has begun, with everything that a checkpoint in its middle must hold.

    Args:
        epoch: its number.
        state: a `state_dict` to go on from; default: the epoch's beginning.

    Attributes:
        sizes, waits: of each step so far: images, and seconds of waiting for the batch.
        loss_sum, wrong_labels: over the steps so far, on the trainer's device.
    """

    def __init__(self, epoch: int, *, state: dict[str, Any] | None = None) -> None:
        state = state or {"sizes": [], "waits": [], "laps": [], "loss_sum": 0.0, "wrong_labels": 0}
        self.epoch = epoch
        self.sizes: list[int] = list(state["sizes"])
        self.waits: list[float] = list(state["waits"])
        self.loss_sum, self.wrong_labels = state["loss_sum"], state["wrong_labels"]
        self._laps_before: list[float] = list(state["laps"])
        self._clock: Clock | None = None

    @property
    def steps(self) -> int:
        return len(self.sizes)

    def start(self, clock: Clock) -> None:
        self._clock = clock

    def laps(self) -> list[float]:
        """Seconds of each step so far, waiting included."""
        return self._laps_before + (self._clock.seconds() if self._clock else [])

    def state_dict(self) -> dict[str, Any]:
        return {
            "sizes": list(self.sizes),
            "waits": list(self.waits),
            "laps": self.laps(),
            "loss_sum": float(self.loss_sum),
            "wrong_labels": int(self.wrong_labels),
        }


class Clock:
    """Laps between the ends of steps: wall-clock on a CPU, events in the device's stream on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        if self._cuda:
            torch.cuda.synchronize(device)
        self._laps: list[tuple[Any, Any]] = []
        self.restart()

    def restart(self) -> None:
        """Begin a lap now; the time since the last one's end does not count."""
        self._begin = self._mark()

    def lap(self) -> None:
        end = self._mark()
        self._laps.append((self._begin, end))
        self._begin = end

    def seconds(self) -> list[float]:
        """The laps' lengths; waits for the last one's end."""
        if not self._cuda:
            return [end - begin for begin, end in self._laps]
        with torch.cuda.device(self._device):  # or an event is waited for through GPU 0, where that makes a context
            if self._laps:
                self._laps[-1][1].synchronize()
            return [begin.elapsed_time(end) / 1000 for begin, end in self._laps]

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
