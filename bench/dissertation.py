"""The dissertation's printed results (chapter 4), to show beside measured ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Printed:
    """A row of a table: accuracies in percent, time in minutes."""

    top1: float
    top5: float
    minutes: float


def time_reduction(row: Printed, *, full: Printed) -> float:
    """Relative change of the training time, percent (negative: faster)."""
    return 100 * (row.minutes / full.minutes - 1)


def change(value: float, *, full: float) -> float:
    """Relative change of an accuracy, percent."""
    return 100 * (value / full - 1)


# Table 4-13: MobileNetV2 on ImageNet, hours and minutes.
IMAGENET = {
    "full": Printed(72.15, 90.42, 180 * 60 + 9),
    "R1_0.8": Printed(71.62, 90.23, 144 * 60 + 45),
    "R1_0.618": Printed(71.20, 90.21, 112 * 60 + 4),
    "R2_2": Printed(71.29, 90.15, 112 * 60 + 18),
}
