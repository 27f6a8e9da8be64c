"""The time that a schedule with image sizes will take: budget × size.

A batch's time is taken to be a constant plus a part in proportion to its pixels, through the times that were measured;
with one time, or none, all of it is in proportion.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping

from budgetloader.errors import ArgumentError
from budgetloader.schedule import Schedule
from budgetloader.sizes import SizeSchedule
from budgetloader.stats import EpochStats


class BatchSeconds:
    """Seconds of a batch by the size of its images.

    Args:
        measured: size in pixels → seconds; none: only ratios of times can be told.

    Raises:
        ArgumentError: a time that is not above 0.
    """

    def __init__(self, measured: Mapping[int, float] | None = None) -> None:
        self.measured = dict(measured or {})
        for size, seconds in self.measured.items():
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
                raise ArgumentError(f"batch_seconds of {size} pixels is {seconds!r}; give a number of seconds above 0")
        self._slope, self._offset = _line([(size * size, t) for size, t in self.measured.items()])

    def __call__(self, size: int) -> float:
        """As measured; of another size, on the line through the measured ones, at least in proportion to pixels."""
        if size in self.measured:
            return self.measured[size]
        return self._offset + self._slope * size * size

    @classmethod
    def of(cls, epochs: Iterable[EpochStats], *, warm_up: int = 1) -> BatchSeconds:
        """What a loader's `stats` measured: the median over epochs of each size.

        Args:
            epochs: `BudgetLoader.stats`, of a training of a few epochs.
            warm_up: epochs of each size that are left out, where there are more.
        """
        found: dict[int, list[float]] = {}
        for epoch in epochs:
            if epoch.batches and epoch.seconds > 0:
                found.setdefault(epoch.image_size, []).append(epoch.seconds / epoch.batches)
        return cls({size: statistics.median(times[warm_up:] or times) for size, times in found.items()})

    @classmethod
    def parse(cls, text: str) -> BatchSeconds:
        """From "128=0.11,192=0.22".

        Raises:
            ArgumentError: it is not of this form.
        """
        measured: dict[int, float] = {}
        for part in text.split(","):
            size, equals, seconds = part.partition("=")
            try:
                measured[int(size)] = float(seconds)
            except ValueError:
                equals = ""
            if not equals or int(size) < 1:
                raise ArgumentError(f"batch seconds {part!r} are not understood; give SIZE=SECONDS,… as 128=0.11")
        return cls(measured)


def _line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Slope and offset (neither below 0) of the least-squares line through (pixels, seconds), relative errors alike."""
    if not points:
        return 1.0, 0.0
    if len(points) > 1:
        weights = [1 / seconds**2 for _, seconds in points]
        total = math.fsum(weights)
        x = math.fsum(w * p for w, (p, _) in zip(weights, points, strict=True)) / total
        y = math.fsum(w * t for w, (_, t) in zip(weights, points, strict=True)) / total
        spread = math.fsum(w * (p - x) ** 2 for w, (p, _) in zip(weights, points, strict=True))
        slope = math.fsum(w * (p - x) * (t - y) for w, (p, t) in zip(weights, points, strict=True)) / spread
        if slope >= 0 and y - slope * x >= 0:
            return slope, y - slope * x
        if slope < 0:
            return 0.0, y
    rates = [seconds / pixels for pixels, seconds in points]
    return statistics.fmean(rates), 0.0


def total_seconds(
    schedule: Schedule, sizes: SizeSchedule, *, samples: int, batch_size: int, batch_seconds: BatchSeconds
) -> float:
    """The time of a training: of each epoch its batches times the seconds of a batch of its size.

    Args:
        schedule: the ratios.
        sizes: the image size of each epoch.
        samples, batch_size: D and B.
        batch_seconds: by size, in seconds (or in any unit, for ratios).
    """
    batches = schedule.budget(samples, batch_size=batch_size).batches
    sizes.for_epochs(len(batches))
    seconds = {size: batch_seconds(size) for size in sizes.distinct}
    return math.fsum(count * seconds[size] for count, size in zip(batches, sizes, strict=True))


def time_share(
    schedule: Schedule,
    sizes: SizeSchedule,
    *,
    samples: int,
    batch_size: int,
    batch_seconds: BatchSeconds | None = None,
    reference_size: int | None = None,
) -> float:
    """The time of a training as a share of full training's, every batch of every epoch at one size.

    Args:
        schedule, sizes, samples, batch_size: see `total_seconds`.
        batch_seconds: as measured; None: in proportion to the pixels.
        reference_size: of full training's images; default: the largest of `sizes`.
    """
    seconds = batch_seconds or BatchSeconds()
    reference = SizeSchedule.constant(reference_size or sizes.largest, epochs=schedule.epochs)
    shape = {"samples": samples, "batch_size": batch_size, "batch_seconds": seconds}
    whole = total_seconds(Schedule.full(epochs=schedule.epochs), reference, **shape)  # type: ignore[arg-type]
    return total_seconds(schedule, sizes, **shape) / whole  # type: ignore[arg-type]
