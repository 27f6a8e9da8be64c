"""Image transforms of torchvision, kornia and the like, called so that keys determine what they draw.

They draw from torch's random numbers. `random` and `numpy.random` have one state for all threads, and are not seeded:
a transform that uses them is refused when its first batch is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from budgetloader.arguments import check_choice, check_count
from budgetloader.errors import ArgumentError, ArgumentTypeError
from budgetloader.transforms import rows
from budgetloader.transforms.draws import Draws


class _Adapter:
    """What the three have in common.

    Args:
        transform: of images, and perhaps of targets.
        dtype: in which it gets images: "uint8", or "float32" from 0 to 1, which are rounded to uint8 again.
        on: "host" or "device"; see `Transform`.
    """

    rows: int | None

    def __init__(self, transform: Callable[..., Any], *, dtype: str, on: str) -> None:
        if not callable(transform):
            raise ArgumentTypeError(f"transform {transform!r} cannot be called; give a transform of images")
        self.transform = transform
        self._float = check_choice(dtype, ("uint8", "float32"), what="dtype") == "float32"
        self.on: Literal["host", "device"] = check_choice(on, ("host", "device"), what="on")  # type: ignore[assignment]

    def _given(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(torch.float32).div_(255) if self._float else images

    def _back(self, images: Any) -> torch.Tensor:
        """As uint8."""
        if not isinstance(images, torch.Tensor):
            raise ArgumentError(f"transform {self!r} gave a {type(images).__name__} in place of images")
        if self._float and images.is_floating_point():
            return images.mul(255).round_().clamp_(0, 255).to(torch.uint8)
        return images

    def _pair(self, images: torch.Tensor, targets: Any) -> tuple[torch.Tensor, Any]:
        found = self.transform(self._given(images), targets)
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise ArgumentError(f"transform {self!r} gave no pair of images and targets")
        return self._back(found[0]), found[1]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.transform!r})"


class PerSample(_Adapter):
    """Calls a transform for each sample, with random numbers from the sample's key.

    A sample's augmentation is the same on any engine, with any number of threads and ranks, and after a resume.

    Args:
        transform: takes an image [3, h, w] and returns one of that shape.
        dtype: in which it gets images: "uint8", or "float32" from 0 to 1, which are rounded to uint8 again.
        with_targets: it takes and returns (image, target).
        on: "host": in threads (the default). "device": with images on the loader's device.
    """

    rows = 1

    def __init__(
        self, transform: Callable[..., Any], *, dtype: str = "uint8", with_targets: bool = False, on: str = "host"
    ) -> None:
        super().__init__(transform, dtype=dtype, on=on)
        self._with_targets = with_targets

    def __call__(self, images: torch.Tensor, targets: Any, keys: np.ndarray) -> tuple[torch.Tensor, Any]:
        changed = []
        with Draws() as draws:
            for row, key in enumerate(keys.tolist()):
                draws.seed(key)
                if self._with_targets:
                    image, target = self._pair(images[row], rows.single(targets, row))
                    changed.append(target)
                else:
                    image = self._back(self.transform(self._given(images[row])))
                images[row] = self._checked(image, images.shape[1:])
        return images, rows.stacked(changed) if self._with_targets else targets

    def _checked(self, image: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        if image.ndim == len(shape) + 1 and len(image) == 1:  # kornia's give batches
            image = image[0]
        if image.shape != shape:
            raise ArgumentError(
                f"transform {self!r} gave an image of shape {list(image.shape)} for one of {list(shape)}; image_size= "
                "says what size images have"
            )
        return image


class PerGroup(_Adapter):
    """Calls a transform for each few consecutive samples, with random numbers from the first one's key.

    For what mixes samples, such as torchvision's MixUp and CutMix. The groups are the same on any number of ranks
    whose shares of a batch are multiples of `samples`.

    Args:
        transform: takes images [k, 3, h, w] and targets of k samples, and returns both.
        samples: k, of a group. The last group of a batch may be smaller.
        dtype, on: as in `PerSample`.
    """

    def __init__(
        self, transform: Callable[..., Any], *, samples: int = 2, dtype: str = "float32", on: str = "host"
    ) -> None:
        super().__init__(transform, dtype=dtype, on=on)
        self.rows = check_count(samples, what="samples")

    def __call__(self, images: torch.Tensor, targets: Any, keys: np.ndarray) -> tuple[torch.Tensor, Any]:
        assert self.rows is not None
        parts = []
        with Draws() as draws:
            for first in range(0, len(keys), self.rows):
                draws.seed(int(keys[first]))
                group = slice(first, first + self.rows)
                images[group], target = self._pair(images[group], rows.part(targets, group))
                parts.append(target)
        return images, rows.joined(parts)


class PerBatch(_Adapter):
    """Calls a transform for the whole of this rank's batch, with random numbers from its first sample's key.

    It is the same on any engine, with any number of threads, and after a resume; not on another number of ranks, whose
    batches are others.

    Args:
        transform: takes images [n, 3, h, w], and returns them.
        dtype, on: as in `PerSample`.
        with_targets: it takes and returns (images, targets).
    """

    rows = None

    def __init__(
        self, transform: Callable[..., Any], *, dtype: str = "float32", with_targets: bool = False, on: str = "host"
    ) -> None:
        super().__init__(transform, dtype=dtype, on=on)
        self._with_targets = with_targets

    def __call__(self, images: torch.Tensor, targets: Any, keys: np.ndarray) -> tuple[torch.Tensor, Any]:
        with Draws() as draws:
            draws.seed(int(keys[0]))
            if self._with_targets:
                return self._pair(images, targets)
            return self._back(self.transform(self._given(images))), targets
