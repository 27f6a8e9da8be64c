"""The dissertation's training sets, and its printed results (chapter 4) to show beside measured ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from budgetloader.prepare import Index


@dataclass(frozen=True)
class Printed:
    """A row of Tables 4-9, 4-11 or 4-13: accuracies in percent, time in minutes."""

    top1: float
    top5: float
    minutes: float


def time_reduction(row: Printed, *, full: Printed) -> float:
    """Relative change of the training time, percent (negative: faster)."""
    return 100 * (row.minutes / full.minutes - 1)


def change(value: float, *, full: float) -> float:
    """Relative change of an accuracy, percent."""
    return 100 * (value / full - 1)


def _minutes(minutes: int, seconds: int) -> float:
    return minutes + seconds / 60


# Table 4-9: ResNet56 on CIFAR-10, minutes and seconds.
CIFAR10 = {
    "full": Printed(92.53, 99.78, _minutes(42, 47)),
    "R1_0.8": Printed(92.20, 99.77, _minutes(33, 47)),
    "R1_0.618": Printed(91.52, 99.78, _minutes(26, 30)),
    "R2": Printed(92.41, 99.76, _minutes(32, 26)),
    "R2_1": Printed(91.89, 99.73, _minutes(34, 38)),
    "R3": Printed(92.34, 99.75, _minutes(29, 9)),
}

# Table 4-11: ResNet56 on CIFAR-100, minutes and seconds.
CIFAR100 = {
    "full": Printed(70.58, 91.65, _minutes(42, 47)),
    "R1_0.8": Printed(70.02, 91.49, _minutes(34, 53)),
    "R1_0.618": Printed(69.41, 91.41, _minutes(26, 36)),
    "R2": Printed(69.76, 91.66, _minutes(32, 39)),
    "R2_1": Printed(70.07, 91.55, _minutes(34, 26)),
    "R3": Printed(70.45, 91.69, _minutes(28, 13)),
}

# Table 4-13: MobileNetV2 on ImageNet, hours and minutes.
IMAGENET = {
    "full": Printed(72.15, 90.42, 180 * 60 + 9),
    "R1_0.8": Printed(71.62, 90.23, 144 * 60 + 45),
    "R1_0.618": Printed(71.20, 90.21, 112 * 60 + 4),
    "R2_2": Printed(71.29, 90.15, 112 * 60 + 18),
}


@dataclass(frozen=True)
class Compressed:
    """A row of Tables 4-1 to 4-8.

    Attributes:
        table: its number in chapter 4.
        network: "CRnet-CB" or "CRnet-CIB".
        classes, batch_size: 10 or 100, 256 or 64.
        expansion, groups, alpha, strategy: as `models.crnet_cb` and `models.crnet_cib` take them.
        parameters, flops: in millions, as printed (two decimals).
        top1: percent.
    """

    table: int
    network: str
    classes: int
    batch_size: int
    expansion: int
    groups: int
    alpha: float
    strategy: str
    parameters: str
    flops: str
    top1: float

    @property
    def rule(self) -> str:
        """The tables' last column."""
        cr = "gc-c1dw" if self.network == "CRnet-CB" else "c1dw-gc"
        names = {"c1dw-c1dw": "Ghost module", "gc-gc": "Group Convolution", cr: "CR module"}
        return names.get(self.strategy, "Inverse CR")


_SHAPES = ((4, 2, 0.5), (6, 2, 0.5), (4, 4, 0.25))  # expansion, groups, alpha
_STRATEGIES = {
    "CRnet-CB": ("c1dw-c1dw", "gc-c1dw", "gc-gc", "c1dw-gc"),
    "CRnet-CIB": ("c1dw-c1dw", "c1dw-gc", "gc-gc", "gc-c1dw"),
}
# Parameters, FLOPs (millions), the same for both batch sizes; the rows are those of a table, in order.
# The first of the third block of Table 4-3 is damaged in the text; Table 4-4 has the same network.
_COSTS = {
    ("CRnet-CB", 10): (
        *("0.16 28.17", "0.16 27.36", "0.15 24.78", "0.15 25.59"),
        *("0.27 44.00", "0.26 43.19", "0.25 39.31", "0.25 40.13"),
        *("0.12 21.15", "0.12 19.94", "0.10 16.07", "0.11 17.28"),
    ),
    ("CRnet-CB", 100): (
        *("0.18 28.20", "0.18 27.39", "0.17 24.81", "0.17 25.62"),
        *("0.30 44.03", "0.30 43.22", "0.28 39.35", "0.29 40.16"),
        *("0.15 21.18", "0.14 19.96", "0.13 16.09", "0.13 17.31"),
    ),
    ("CRnet-CIB", 10): (
        *("0.29 24.58", "0.29 23.90", "0.28 20.51", "0.28 21.19"),
        *("0.52 36.23", "0.52 35.55", "0.50 30.46", "0.51 31.14"),
        *("0.25 17.71", "0.24 16.69", "0.23 11.60", "0.23 12.62"),
    ),
    ("CRnet-CIB", 100): (
        *("0.30 24.59", "0.30 23.91", "0.29 20.52", "0.29 21.20"),
        *("0.53 36.23", "0.53 35.55", "0.51 30.46", "0.51 31.15"),
        *("0.25 17.71", "0.25 16.69", "0.23 11.60", "0.24 12.63"),
    ),
}
# Table → network, classes, batch size, top-1 accuracies.
_ACCURACIES = {
    1: ("CRnet-CB", 10, 256, "90.72 91.46 89.61 90.35 90.90 91.80 90.81 90.42 89.21 90.67 89.42 88.81"),
    2: ("CRnet-CB", 10, 64, "90.88 90.73 89.22 90.08 90.52 91.11 88.88 90.49 90.17 90.34 88.21 89.37"),
    3: ("CRnet-CB", 100, 256, "67.04 68.40 66.96 67.11 67.61 68.05 66.70 67.17 65.75 67.29 66.31 65.15"),
    4: ("CRnet-CB", 100, 64, "68.36 68.76 66.82 67.61 68.85 69.91 67.17 66.95 67.51 68.62 66.24 65.57"),
    5: ("CRnet-CIB", 10, 256, "92.66 93.11 88.77 91.16 92.90 93.23 89.46 92.28 91.49 91.88 87.80 90.37"),
    6: ("CRnet-CIB", 10, 64, "92.12 92.60 89.87 91.99 93.20 92.94 89.26 92.02 92.32 92.33 88.58 91.08"),
    7: ("CRnet-CIB", 100, 256, "70.06 70.78 64.78 67.65 70.81 70.58 64.96 69.05 67.63 69.26 62.18 66.22"),
    8: ("CRnet-CIB", 100, 64, "71.76 72.10 64.48 69.59 70.79 72.70 65.68 70.08 69.01 70.41 61.87 68.05"),
}


def _compressed() -> Iterator[Compressed]:
    for table, (network, classes, batch_size, accuracies) in _ACCURACIES.items():
        names = [(shape, strategy) for shape in _SHAPES for strategy in _STRATEGIES[network]]
        for (shape, strategy), cost, top1 in zip(names, _COSTS[network, classes], accuracies.split(), strict=True):
            parameters, flops = cost.split()
            yield Compressed(table, network, classes, batch_size, *shape, strategy, parameters, flops, float(top1))


COMPRESSED = tuple(_compressed())  # all 96 rows of Tables 4-1 to 4-8


# Class names as each set is distributed, and its training images of each class.
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100_ENDS, _IMAGENET_ENDS = ("apple", "worm"), ("n01440764", "n15075141")
_IMAGENET_IMAGES = 1_281_167


def recognise(index: Index) -> str | None:
    """Which of the dissertation's training sets this is, by its content; None: none of them.

    CIFAR by its classes' names and 50,000 images of 32 × 32 pixels in equal classes; ImageNet by its first and
    last class of 1,000 and its 1,281,167 images.
    """
    names, counts = tuple(index.classes), np.bincount(np.maximum(np.asarray(index.labels), 0))
    if len(index) == _IMAGENET_IMAGES and len(names) == 1000 and (names[0], names[-1]) == _IMAGENET_ENDS:
        return "ImageNet"
    small = bool((index.heights == 32).all() and (index.widths == 32).all())
    if not small or len(index) != 50_000 or len(set(counts.tolist())) != 1:
        return None
    if tuple(sorted(names)) == _CIFAR10 and len(counts) == 10:
        return "CIFAR-10"
    ends = (min(names, default=""), max(names, default=""))
    return "CIFAR-100" if ends == _CIFAR100_ENDS and len(counts) == len(names) == 100 else None
