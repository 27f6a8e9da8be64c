"""Recognise the dissertation's training sets. `budgetloader.prepare` makes data ready."""

from __future__ import annotations

import numpy as np

from budgetloader.plans import Index
from budgetloader.prepare import Data, prepare

__all__ = ["Data", "prepare", "recognise"]

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
