"""From what was measured to the table: ratios, predictions, and what the difference is made of."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from typing import Any

from loader import theory
from loader.schedule import Schedule
from models.train import EpochRecord


def compare(
    records: list[EpochRecord],
    full: list[EpochRecord],
    *,
    schedule: Schedule,
    rounds: int,
    samples: int,
    batch_size: int,
) -> dict[str, Any]:
    """One setting's times against full training's, over the first `rounds` epochs.

    measured = T_setting / T_full, over typical epochs (see `typical`); `ratio_of_sums` is the ratio of
    the plain sums. The prediction of Theorem 4 comes from the measured T₀, T₀α and T₁, Corollary 2
    from α alone. measured − corollary is split, exactly, into (all as shares of T_full, c the
    corollary, ₛ the setting, f full training, K batches):

    - rounding: (Kₛ/K_f − c)·S_f, S being the time that is not waiting: ⌊αM⌋ is not αM;
    - boundary: Bₛ − c·B_f, B being the time of waiting for epochs' first batches;
    - starvation: Wₛ − c·W_f, W being the time of waiting for other batches;
    - rest: Sₛ − Kₛ/K_f·S_f: batches that took longer or shorter than full training's (noise, the
      shorter last batch of full epochs, the device's clock).

    Args:
        records: the setting's epochs; a schedule of fewer epochs than `rounds` may have ended.
        full: full training's epochs, at least `rounds`.
        schedule: the setting's.
        rounds: epochs of full training to compare with, at least 1.
    """
    sums = _sum(records[:rounds], "train_seconds"), _sum(full[:rounds], "train_seconds")
    mine, other = typical(records[:rounds], full[:rounds])
    ratios = schedule.ratios[:rounds]
    # A schedule that has ended spends nothing in the remaining rounds.
    corollary = float(sum(ratios, start=Fraction(0)) / rounds)
    total, total_full = _sum(mine, "train_seconds"), _sum(other, "train_seconds")
    measured = total / total_full
    boundary = _sum(mine, "first_wait_seconds") - corollary * _sum(other, "first_wait_seconds")
    starvation = _sum(mine, "wait_seconds") - corollary * _sum(other, "wait_seconds")
    batches, batches_full = _sum(mine, "batches"), _sum(other, "batches")
    work, work_full = _work(mine), _work(other)
    per_batch = [
        (a.train_seconds / a.batches) / (b.train_seconds / b.batches)
        for a, b in zip(records[:rounds], full[:rounds], strict=False)
    ]
    return {
        "epochs": len(mine),
        "batches": int(batches),
        "train_seconds": sums[0],
        "ratio_measured": measured,
        "ratio_of_sums": sums[0] / sums[1],
        "ratio_theorem": _theorem(mine, other, ratios=ratios, samples=samples, batch_size=batch_size),
        "ratio_corollary": corollary,
        "difference_points": 100 * (measured - corollary),
        "rounding_points": 100 * (batches / batches_full - corollary) * work_full / total_full,
        "boundary_points": 100 * boundary / total_full,
        "starvation_points": 100 * starvation / total_full,
        "rest_points": 100 * (work - batches / batches_full * work_full) / total_full,
        "batch_seconds_ratio_median": statistics.median(per_batch),
        "batch_seconds_ratio_spread": interquartile_range(per_batch),
        "images_per_second": _sum(mine, "images") / total,
    }


def typical(mine: list[EpochRecord], full: list[EpochRecord]) -> tuple[list[EpochRecord], list[EpochRecord]]:
    """Both lists of epochs without what the machine did to single ones of them.

    A setting's epoch and full training's of the same round ran within seconds of each other: their
    ratio is free of the machine's drift. Rounds in which the setting's epoch has as many batches are
    repetitions of one measurement. Of those, the quarter with the largest ratios and the quarter with
    the smallest are left out, so that a hiccup in one epoch, which would decide a ratio of sums, does
    not count; the times of the others, and each of their parts, are averaged, and stand for all.

    Args:
        mine: the setting's epochs; fewer than `full` where its schedule has ended.
        full: full training's.

    Returns:
        As many epochs of each.
    """
    sizes: dict[int, list[int]] = defaultdict(list)
    for epoch, record in enumerate(mine):
        sizes[record.batches].append(epoch)
    typical_mine, typical_full = list(mine), list(full)
    all_kept = []
    for rounds in sizes.values():
        ranked = sorted(rounds, key=lambda e: mine[e].train_seconds / full[e].train_seconds)
        kept = ranked[len(ranked) // 4 : len(ranked) - len(ranked) // 4]
        all_kept += kept
        mean_mine, mean_full = _mean([mine[e] for e in kept]), _mean([full[e] for e in kept])
        for epoch in rounds:
            typical_mine[epoch], typical_full[epoch] = mean_mine, mean_full
    typical_full[len(mine) :] = [_mean([full[e] for e in all_kept])] * (len(full) - len(mine))
    return typical_mine, typical_full


def _mean(records: list[EpochRecord]) -> EpochRecord:
    times = ("train_seconds", "first_wait_seconds", "wait_seconds", "full_batch_seconds", "last_batch_seconds")
    means: dict[str, Any] = {name: _sum(records, name) / len(records) for name in times}
    return replace(records[0], **means)


def _theorem(
    mine: list[EpochRecord],
    other: list[EpochRecord],
    *,
    ratios: tuple[Fraction, ...],
    samples: int,
    batch_size: int,
) -> float:
    """Theorem 4 with the measured times; regular epochs (ratio 1 throughout) are regular epochs."""
    regular, last = _batch_seconds(other), _last_seconds(other, samples=samples, batch_size=batch_size)
    if all(r == 1 for r in ratios):
        full = -(-samples // batch_size)
        own = _batch_seconds(mine) * (full - 1) + _last_seconds(mine, samples=samples, batch_size=batch_size)
        return own / (regular * (full - 1) + last) * len(mine) / len(other)
    by_ratio: dict[Fraction, list[EpochRecord]] = defaultdict(list)
    for ratio, record in zip(ratios, mine, strict=True):
        by_ratio[ratio].append(record)
    return theory.time_ratio(
        Schedule.of(ratios),
        samples=samples,
        batch_size=batch_size,
        batch_seconds=regular,
        reduced_batch_seconds={ratio: _batch_seconds(epochs) for ratio, epochs in by_ratio.items()},
        last_batch_seconds=last,
    )


def _batch_seconds(records: list[EpochRecord]) -> float:
    """T₀ (or T₀α): the mean time of a batch of full size."""
    return _sum(records, "full_batch_seconds") / _sum(records, "full_batches")


def _last_seconds(records: list[EpochRecord], *, samples: int, batch_size: int) -> float:
    """T₁: the mean time of a regular epoch's last batch."""
    if samples % batch_size == 0:
        return _batch_seconds(records)
    return _sum(records, "last_batch_seconds") / len(records)


def _work(records: list[EpochRecord]) -> float:
    return _sum(records, "train_seconds") - _sum(records, "first_wait_seconds") - _sum(records, "wait_seconds")


def _sum(records: list[EpochRecord], name: str) -> float:
    return sum(getattr(record, name) for record in records)


def interquartile_range(values: list[float]) -> float:
    """The distance between the quartiles; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low
