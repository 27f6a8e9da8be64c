"""Which images of a file the channels of a batch come from, and grey out of stored pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from budgetloader.errors import DatasetError, EngineError

ALPHA = "alpha"  # the image field of the fourth channel
SPANS = {1: ((0, 1),), 3: ((0, 3),), 4: ((0, 3), (3, 1))}
"""By the number of channels: the first one, and how many, of each image that gives some."""


@dataclass(frozen=True)
class Part:
    """Channels that one image of a sample gives.

    Args:
        dataset: the samples with this image.
        first: the first of the channels.
        count: 3: red, green and blue; 1: grey.
    """

    dataset: Any
    first: int
    count: int

    def of(self, pixels: np.ndarray) -> np.ndarray:
        """This part of some images or tones, without a copy.

        Args:
            pixels: [..., h, w, channels].
        """
        return pixels[..., self.first : self.first + self.count]

    def tone(self, tone: np.ndarray) -> np.ndarray:
        """This part of a tone: [channels, …]."""
        return np.ascontiguousarray(tone[self.first : self.first + self.count])


def parts_of(dataset: Any, channels: int) -> tuple[Part, ...]:
    """The images that give the channels, in their order.

    Raises:
        DatasetError: four channels are asked for, and the file has no alpha, or one of another size.
    """
    if channels != 4:
        return tuple(Part(dataset, *span) for span in SPANS[channels])
    path = getattr(dataset, "path", type(dataset).__name__)
    if ALPHA not in getattr(dataset, "fields", ()):
        raise DatasetError(
            f"{path} has no image field {ALPHA!r}, which channels=4 needs; make one with: budgetloader convert --alpha "
            "keep, or leave channels out"
        )
    alpha = dataset.image(ALPHA)
    wrong = np.flatnonzero((alpha.heights != dataset.heights) | (alpha.widths != dataset.widths))
    if len(wrong):
        raise DatasetError(f"{path}: the alpha of sample {wrong[0]} is not of its image's size; convert it again")
    return tuple(Part(image, *span) for image, span in zip((dataset, alpha), SPANS[channels], strict=True))


def refuse_alpha(channels: int, *, engine: str) -> None:
    """For an engine that reads one image of a sample.

    Raises:
        EngineError: alpha is asked for.
    """
    if channels == 4:
        raise EngineError(f"engine {engine!r} makes images of 1 or 3 channels; use engine='native' for channels=4")


@numba.njit(nogil=True, cache=True)
def grey(pixels):
    """The luma of pixels, by ITU-R BT.601: uint8 [h, w, 3] to uint8 [h, w, 1]. The bits are libjpeg's and Pillow's."""
    height, width = pixels.shape[0], pixels.shape[1]
    made = np.empty((height, width, 1), np.uint8)
    for y in range(height):
        for x in range(width):
            red, green, blue = np.int64(pixels[y, x, 0]), np.int64(pixels[y, x, 1]), np.int64(pixels[y, x, 2])
            made[y, x, 0] = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    return made
