"""Other images of a sample as targets: cut and mirrored as the first one is, or shown whole.

A file may have several image fields: a depth map, a mask, a second camera. Windows are the plan's, in pixels of the
first image; an image of another size is cut where the same part of it is shown. It is one definition for all engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
import simplejpeg

from budgetloader.arguments import check_choice, check_count
from budgetloader.columns import Column
from budgetloader.engines.channels import grey
from budgetloader.errors import ArgumentError, CorruptSampleError
from budgetloader.fields import Picture
from budgetloader.jpeg import Cropper, JpegError, SizeCheck
from budgetloader.spatial import Shown, Spatial

FILTERS = ("area", "nearest")
WINDOWS = ("crop", "whole")


class Image(Spatial):
    """Another image of each sample: uint8 [n, channels, size, size].

    Args:
        asked: an image field.
        filter: "area": each pixel is the mean of what it covers. "nearest": the pixel at its centre, for masks and
            classes; store those as pixels (`Picture(…, raw=True)`), or at quality 100, since JPEG changes numbers.
        window: "crop": the part that the batch's image shows, mirrored where that is. "whole": all of it, never
            mirrored.
        size: height and width, pixels; None: those of the batch's images.
        channels: 3 or 1 (grey); None: as the file's notes say, else 3.
        fill: what stands outside the stored image, with crop="pad".
    """

    slow = True

    def __init__(
        self,
        asked: Any,
        *,
        filter: str = "area",
        window: str = "crop",
        size: int | None = None,
        channels: int | None = None,
        fill: int = 0,
    ) -> None:
        check_choice(filter, FILTERS, what="filter")
        check_choice(window, WINDOWS, what="window")
        if channels not in (None, 1, 3):
            raise ArgumentError(f"channels={channels!r}: give 1 (grey) or 3, or leave it out")
        if isinstance(fill, bool) or not isinstance(fill, int) or not 0 <= fill <= 255:
            raise ArgumentError(f"fill={fill!r}: give a pixel's value, 0 … 255")
        self.parts = {"pictures": asked}
        self._nearest, self._whole, self._fill = filter == "nearest", window == "whole", fill
        self._size = None if size is None else check_count(size, what="size")
        self._channels = channels

    def move(self, values: Mapping[str, Any], rows: Shown) -> np.ndarray:
        size = self._size or rows.image_size
        windows, flips = rows.geometry
        channels = self._channels or _noted(self.parts["pictures"], rows.dataset)
        made = np.empty((len(rows.ids), size, size, channels), np.uint8)
        decoder = _Decoder(channels)
        for row, (sample, picture) in enumerate(zip(rows.ids.tolist(), values["pictures"], strict=True)):
            if not isinstance(picture, Picture):
                raise ArgumentError(
                    f"targets=Image(…) is of a field that holds {type(picture).__name__}; give an image field"
                )
            first = int(rows.dataset.heights[sample]), int(rows.dataset.widths[sample])
            window = (0, 0, *first) if self._whole else tuple(windows[row].tolist())
            shown = _Shown(window, first, (picture.height, picture.width), size)
            flip = bool(flips[row]) and not self._whole
            try:
                pixels, top, left = decoder(picture, *shown.bounds())
            except (JpegError, ValueError) as error:
                raise CorruptSampleError(f"sample {sample}: its other image {error}", sample=sample) from None
            where = (top, left, *shown.numbers)
            _show(pixels, *where, flip, self._nearest, self._fill, made[row])  # type: ignore[call-arg]
        return made.transpose(0, 3, 1, 2)


def _noted(asked: Any, dataset: Any) -> int:
    """The channels of a field, as the file's notes have them; 3 where they say nothing."""
    if isinstance(asked, str) and asked in getattr(dataset, "fields", ()):
        asked = dataset.column(asked)
    noted = asked.field.notes.get("channels") if isinstance(asked, Column) else None
    return 1 if noted == 1 else 3


class _Shown:
    """Where a window of the first image lies in another one, in whole numbers.

    Args:
        window: top, left, height, width in pixels of the first image; it may reach outside.
        first, other: height and width of the two images.
        size: of what is made.

    Attributes:
        numbers: top, left, height and width of the window, the two images' heights and widths.
    """

    def __init__(self, window: tuple[int, ...], first: tuple[int, int], other: tuple[int, int], size: int) -> None:
        self.numbers = (*window, *first, *other)
        self._size = size

    def bounds(self) -> tuple[int, int, int, int]:
        """Top, left, height and width of the pixels of the other image that are looked at: one at least."""
        top, left, height, width, *sides = self.numbers
        found = []
        for start, length, first, other in ((top, height, sides[0], sides[2]), (left, width, sides[1], sides[3])):
            low = min(max(start * other // first, 0), other - 1)
            high = min(max(-(-(start + length) * other // first), low + 1), other)
            found.append((low, high - low))
        return found[0][0], found[1][0], found[0][1], found[1][1]


class _Decoder:
    """Decodes parts of images, into memory of its own."""

    def __init__(self, channels: int) -> None:
        self._channels, self._cropper, self._check = channels, Cropper(), SizeCheck()

    def __call__(self, picture: Picture, top: int, left: int, height: int, width: int) -> tuple[np.ndarray, int, int]:
        """Pixels that hold the part, uint8 [h, w, channels], and the top and left that they begin at.

        Raises:
            JpegError: it is no JPEG of its size.
            ValueError: it does not decode.
        """
        data = np.frombuffer(picture.data, np.uint8)
        if picture.raw:
            whole = data.reshape(picture.height, picture.width, 3)
            if self._channels == 3:
                return whole, 0, 0
            return grey(whole), 0, 0
        self._check(data, height=picture.height, width=picture.width)
        part, y, x = self._cropper.crop(data, top=top, left=left, height=height, width=width)
        pixels = simplejpeg.decode_jpeg(part, colorspace="Gray" if self._channels == 1 else "RGB")
        if pixels.shape[0] < top + height - y or pixels.shape[1] < left + width - x:
            raise ValueError("is not of the size that the index says")
        return pixels, y, x


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _show(pixels, at_top, at_left, top, left, height, width, h, w, other_h, other_w, flip, nearest, fill, out):
    """Fill one image [size, size, channels] from a part of another image, whose first pixel is at (at_top, at_left).

    The window is in pixels of an image of h × w, and this one is of other_h × other_w.
    """
    size, channels = out.shape[0], out.shape[2]
    total = np.empty(channels, np.float64)
    for y in range(size):
        # Pixel y reaches from (top + y · height / size) on, in the first image, and its centre is half a pixel behind.
        begin_y, end_y = (size * top + y * height) * other_h, (size * top + (y + 1) * height) * other_h
        middle_y = (begin_y + end_y) // (2 * size * h)
        for x in range(size):
            begin_x, end_x = (size * left + x * width) * other_w, (size * left + (x + 1) * width) * other_w
            to = size - 1 - x if flip else x
            if nearest:
                middle_x = (begin_x + end_x) // (2 * size * w)
                inside = 0 <= middle_y < other_h and 0 <= middle_x < other_w
                for c in range(channels):
                    out[y, to, c] = pixels[middle_y - at_top, middle_x - at_left, c] if inside else fill
                continue
            total[:] = 0.0
            for i in range(begin_y // (size * h), -(-end_y // (size * h))):
                weight_y = min(end_y, (i + 1) * size * h) - max(begin_y, i * size * h)
                for j in range(begin_x // (size * w), -(-end_x // (size * w))):
                    weight_x = min(end_x, (j + 1) * size * w) - max(begin_x, j * size * w)
                    inside = 0 <= i < other_h and 0 <= j < other_w
                    for c in range(channels):
                        value = np.int64(pixels[i - at_top, j - at_left, c]) if inside else fill
                        total[c] += np.float64(weight_y) * np.float64(weight_x) * value
            area = np.float64(end_y - begin_y) * np.float64(end_x - begin_x)
            for c in range(channels):
                out[y, to, c] = np.uint8(min(total[c] / area + 0.5, 255.0))
