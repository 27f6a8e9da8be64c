"""From measured times to a table: ratios with intervals, and the parts of their difference to theory."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from budgetloader import theory
from budgetloader.bench.estimate import trimmed_mean, weighted
from budgetloader.models.epoch import EpochRecord
from budgetloader.schedule import Schedule

TARGET_POINTS = 0.5  # the half-width at which a bench stops measuring, if its limit of rounds allows
CONCLUSIVE_POINTS = 1.0  # the widest half-width, in percent of full training's time, that counts as a result


@dataclass
class Measured:
    """One seed's epochs of a setting, each beside full training's of the same round.

    Attributes:
        records: the training's epochs.
        full: full training's; at least as many.
        timed: (seconds a batch, full training's) of slices that ran in turn after the training, for their times.
    """

    records: list[EpochRecord]
    full: list[EpochRecord]
    timed: list[tuple[float, float]] = field(default_factory=list)

    @property
    def pairs(self) -> list[tuple[EpochRecord, EpochRecord]]:
        """(the setting's epoch, full training's epoch) of each round: they ran within seconds of each other."""
        return list(zip(self.records, self.full, strict=False))


def compare(
    seeds: Sequence[Measured], *, schedule: Schedule, rounds: int, samples: int, batch_size: int
) -> dict[str, Any]:
    """One setting's training time as a share of full training's, over the first `rounds` epochs.

    A ratio of plain sums (`ratio_of_sums`) also counts the time that other processes took
    from the machine. `ratio_measured` is computed from steadier parts:

        (ρ·Nₛ + Eₛ·βₛ) / (N_f + E_f·β_f)

    with ₛ the setting and f full training, E the epochs, N the batches (a short last one counts as the share
    of a batch's time that it takes), ρ the time of one of the setting's batches in units of one of full
    training's that ran at nearly the same time, and β the wait for an epoch's first batch in the same unit. ρ
    and β are trimmed means over the rounds of all seeds, and ρ also over the slices of timing alone, where there
    are some; the 95 % interval comes from theirs (`budgetloader.bench.estimate`).

    measured − corollary is split, exactly, into these shares of full training's time (c is the corollary):

    - rounding: (Nₛ − c·N_f): ⌊αM⌋ is not αM, and full epochs have a short last batch;
    - boundary: (Eₛ·βₛ − c·E_f·β_f): waiting for epochs' first batches;
    - starvation: the part of (ρ − 1)·Nₛ that was waiting for other batches;
    - rest: what else makes up (ρ − 1)·Nₛ: batches that took longer or shorter than full training's.

    `ratio_theorem` is Theorem 4 with T₀, T₀α and T₁ measured in these same epochs. It accounts for
    `ratio_of_sums`, and predicts nothing.

    Args:
        seeds: the measurements, each with `rounds` epochs of full training; a schedule of fewer epochs than
            `rounds` may have ended.
        schedule: the setting's.
        rounds: epochs of full training to compare with, at least 1.
    """
    own = [seed.records[:rounds] for seed in seeds]
    full = [seed.full[:rounds] for seed in seeds]
    last = _last_batch(full)
    same = all(own is full for seed in seeds for own, full in seed.pairs)  # full training against itself
    ratios = schedule.ratios[:rounds]
    corollary = float(sum(ratios, start=Fraction(0)) / rounds)  # a schedule that has ended spends nothing more
    theorems = (
        _theorem(a, b, ratios=ratios, samples=samples, batch_size=batch_size) for a, b in zip(own, full, strict=True)
    )
    seconds = statistics.fmean(_sum(records, "train_seconds") for records in own)
    return {
        "epochs": len(own[0]),
        "batches": sum(record.batches for record in own[0]),
        "samples": sum(record.images for record in own[0]),
        "train_seconds": seconds,
        **_ratio(_Times(seeds, last), own[0], full[0], corollary=corollary, last=last, same=same),
        "ratio_of_sums": seconds / statistics.fmean(_sum(records, "train_seconds") for records in full),
        "ratio_theorem": statistics.fmean(theorems),
        "rounds_measured": sum(len(seed.pairs) for seed in seeds),
        "slices_measured": sum(len(seed.timed) for seed in seeds),
        "slowest_epoch": _slowest(own, last),
        "images_per_second": statistics.fmean(_sum(r, "images") / _sum(r, "train_seconds") for r in own),
    }


def _ratio(
    times: _Times,
    own: list[EpochRecord],
    full: list[EpochRecord],
    *,
    corollary: float,
    last: float,
    same: bool,
) -> dict[str, Any]:
    """The measured ratio, its interval, and the parts of its difference to the corollary; see `compare`."""
    rounds, epochs = len(full), len(own)
    batches, batches_full = (sum(_batches(record, last) for record in records) for records in (own, full))
    whole = batches_full + rounds * times.first_full.value
    measured = (times.batch.value * batches + epochs * times.first.value) / whole
    parts = (times.batch.half_width * batches, times.first.half_width * epochs)
    half_width = math.hypot(*parts, times.first_full.half_width * rounds * measured) / whole
    starvation = (times.starved.value - times.starved_full.value) * batches / whole
    if same:
        measured, half_width = 1.0, 0.0
    return {
        "ratio_measured": measured,
        "ratio_half_width": half_width,
        "conclusive": 100 * half_width <= CONCLUSIVE_POINTS,
        "ratio_corollary": corollary,
        "difference_points": 100 * (measured - corollary),
        "half_width_points": 100 * half_width,
        "rounding_points": 100 * (batches - corollary * batches_full) / whole,
        "boundary_points": 100 * (epochs * times.first.value - corollary * rounds * times.first_full.value) / whole,
        "starvation_points": 100 * starvation,
        "rest_points": 100 * ((times.batch.value - 1) * batches / whole - starvation),
        "batch_ratio": times.batch.value,
        "batch_ratio_half_width": times.batch.half_width,
    }


class _Times:
    """A setting's times in units of one of full training's batches of the same round; see `compare`.

    Attributes:
        batch: ρ.
        first, first_full: β of the setting and of full training.
        starved, starved_full: waiting for each batch but the first.
    """

    def __init__(self, seeds: Sequence[Measured], last: float) -> None:
        unit = [(own, full, _batch_seconds(full, last)) for seed in seeds for own, full in seed.pairs]
        self.batch = trimmed_mean([_batch_seconds(own, last) / seconds for own, _, seconds in unit])
        sliced = [own / full for seed in seeds for own, full in seed.timed]
        if sliced:
            self.batch = weighted([self.batch, trimmed_mean(sliced)])
        self.first = trimmed_mean([own.first_wait_seconds / seconds for own, _, seconds in unit])
        self.first_full = trimmed_mean([full.first_wait_seconds / seconds for _, full, seconds in unit])
        self.starved = trimmed_mean([_waited(own, last) / seconds for own, _, seconds in unit])
        self.starved_full = trimmed_mean([_waited(full, last) / seconds for _, full, seconds in unit])


def _last_batch(full: Sequence[Sequence[EpochRecord]]) -> float:
    """T₁/T₀: the time of a regular epoch's short last batch in units of a batch of full size; 1 if it is not short."""
    shares = [
        record.last_batch_seconds * record.full_batches / record.full_batch_seconds
        for records in full
        for record in records
        if record.full_batches < record.batches
    ]
    return statistics.median(shares) if shares else 1.0


def _batches(record: EpochRecord, last: float) -> float:
    """An epoch's batches, a short last one counted as its share of a batch's time."""
    return record.full_batches + (record.batches - record.full_batches) * last


def _batch_seconds(record: EpochRecord, last: float) -> float:
    """The time of one batch, waiting included, the wait for the epoch's first one not."""
    return (record.train_seconds - record.first_wait_seconds) / _batches(record, last)


def _waited(record: EpochRecord, last: float) -> float:
    """Seconds of waiting for each batch but the first."""
    return record.wait_seconds / _batches(record, last)


def _slowest(own: Sequence[Sequence[EpochRecord]], last: float) -> float:
    """The slowest epoch's time per batch in units of the median epoch's: how uneven the machine was."""
    times = [_batch_seconds(record, last) for records in own for record in records]
    return max(times) / statistics.median(times)


def _theorem(
    own: list[EpochRecord],
    full: list[EpochRecord],
    *,
    ratios: tuple[Fraction, ...],
    samples: int,
    batch_size: int,
) -> float:
    """Theorem 4 with the measured times; regular epochs (ratio 1 throughout) are regular epochs."""
    regular, last = _mean_batch(full), _mean_last(full, samples=samples, batch_size=batch_size)
    if all(r == 1 for r in ratios):
        batches = -(-samples // batch_size)
        seconds = _mean_batch(own) * (batches - 1) + _mean_last(own, samples=samples, batch_size=batch_size)
        return seconds / (regular * (batches - 1) + last) * len(own) / len(full)
    by_ratio: dict[Fraction, list[EpochRecord]] = defaultdict(list)
    for ratio, record in zip(ratios, own, strict=True):
        by_ratio[ratio].append(record)
    # Theorem 4 is of as many epochs as full training has; a schedule that ends sooner spends nothing then.
    return (
        theory.time_ratio(
            Schedule.of(ratios),
            samples=samples,
            batch_size=batch_size,
            batch_seconds=regular,
            reduced_batch_seconds={ratio: _mean_batch(epochs) for ratio, epochs in by_ratio.items()},
            last_batch_seconds=last,
        )
        * len(own)
        / len(full)
    )


def _mean_batch(records: list[EpochRecord]) -> float:
    """T₀ (or T₀α): the mean time of a batch of full size."""
    return _sum(records, "full_batch_seconds") / _sum(records, "full_batches")


def _mean_last(records: list[EpochRecord], *, samples: int, batch_size: int) -> float:
    """T₁: the mean time of a regular epoch's last batch."""
    if samples % batch_size == 0:
        return _mean_batch(records)
    return _sum(records, "last_batch_seconds") / len(records)


def _sum(records: Sequence[EpochRecord], name: str) -> float:
    return sum(getattr(record, name) for record in records)
