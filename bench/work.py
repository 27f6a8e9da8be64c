"""The work that every contender of a comparison does."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Epochs = Iterator[Iterable[int]]


@dataclass(frozen=True)
class Work:
    """The work of every contender.

    Args:
        beton, folder: the same images as a `.beton` and as an ImageFolder.
        batch_size, image_size, threads: alike for all.
        dtype: "uint8" (pixels), "float32" or "float16" (normalised).
        interpolation: "antialias", "linear", or "area" where a contender has nothing else.
        device: where batches are wanted.
    """

    beton: str
    folder: str
    batch_size: int
    image_size: int
    threads: int
    dtype: str
    interpolation: str
    device: str = "cpu"


def cut(batches: Iterable[int], full: int, ratio: Fraction) -> Iterable[int]:
    """An epoch that its user leaves with `break` after its budget."""
    return batches if ratio == 1 else itertools.islice(batches, int(ratio * full))
