"""What a loader's `transform=` may be, and several of them one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch

from budgetloader.errors import ArgumentError, ArgumentTypeError
from budgetloader.transforms.adapters import PerSample
from budgetloader.transforms.keys import derived

_ON = ("host", "device")


class Transform(Protocol):
    """What may be given as `BudgetLoader(…, transform=…)`.

    Attributes that it may have besides:
        rows: how many consecutive samples belong together (1: each is transformed by itself). A batch is divided among
            threads at multiples of it. Without it, or with None, a call gets a whole batch of this rank.
        on: "host": called in threads, with images in the host's memory. "device": with images on the loader's device.
            Default: "device" for a function. On a CPU both are the same.
    """

    def __call__(self, images: torch.Tensor, targets: Any, keys: np.ndarray) -> tuple[torch.Tensor, Any]:
        """Images and targets of the same samples; called in threads, at the same time.

        Args:
            images: uint8 [n, 3, h, w], which may be written to.
            targets: int64 [n], or what `targets=` asks for.
            keys: uint64 [n]; see `uniform`.

        Returns:
            images, uint8 and of the same shape, and targets of as many samples: a tensor or array [n, …], a list of n,
            or a tuple or dict of these.
        """


class Chain:
    """Transforms one after the other, each with keys of its own.

    Args:
        transforms: at least one.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        if not transforms:
            raise ArgumentError("transform=[] holds no transform; give one, or leave it out")
        self._transforms = tuple(transforms)
        together = [rows_of(transform) for transform in transforms]
        self.rows = None if None in together else math.lcm(*(rows for rows in together if rows))
        places = {place_of(transform) for transform in transforms}
        if len(places) > 1:
            raise ArgumentError(
                "some of the transforms are for the host and some for the device; give all the same on="
            )
        (self.on,) = places

    def __call__(self, images: torch.Tensor, targets: Any, keys: np.ndarray) -> tuple[torch.Tensor, Any]:
        for number, transform in enumerate(self._transforms):
            images, targets = transform(images, targets, derived(keys, number) if number else keys)
        return images, targets

    def __repr__(self) -> str:
        return " + ".join(map(name_of, self._transforms))


def as_transform(given: Any) -> Transform:
    """What was given as `transform=`, as a function of (images, targets, keys).

    An image transform of torchvision's or kornia's is called for each sample; a list is a `Chain`.

    Raises:
        ArgumentTypeError: it cannot be called.
        ArgumentError: it needs to be told how.
    """
    if isinstance(given, (list, tuple)):
        return Chain([as_transform(each) for each in given])
    if not callable(given):
        raise ArgumentTypeError(f"transform {given!r} cannot be called; give a function of (images, targets, keys)")
    kinds = [kind for kind in type(given).__mro__ if kind.__module__.partition(".")[0] in ("torchvision", "kornia")]
    if any(kind.__name__ in ("MixUp", "CutMix") for kind in kinds):
        name = type(given).__name__
        raise ArgumentError(f"transform {name} mixes samples; for pairs give transforms.PerGroup({name}(…))")
    if kinds:  # or what is made of one of theirs
        return PerSample(given, dtype="float32" if kinds[0].__module__.startswith("kornia") else "uint8")
    rows_of(given), place_of(given)
    return given


def rows_of(transform: Any) -> int | None:
    """How many samples belong together; None: all of a batch."""
    rows = getattr(transform, "rows", None)
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
        raise ArgumentError(f"transform {name_of(transform)} has rows = {rows!r}; give a number of samples, or None")
    return rows


def place_of(transform: Any) -> Literal["host", "device"]:
    """Where it is called."""
    place: Any = getattr(transform, "on", "device")
    if place not in _ON:
        raise ArgumentError(f"transform {name_of(transform)} has on = {place!r}; give 'host' or 'device'")
    return place


def name_of(transform: Any) -> str:
    """What people call it."""
    if isinstance(transform, Chain):
        return repr(transform)
    inner = getattr(transform, "transform", transform)
    return str(getattr(inner, "__name__", type(inner).__name__))
