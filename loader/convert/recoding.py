"""From a JPEG to an indexed JPEG without an image of Pillow's between them.

simplejpeg decodes and OpenCV encodes, both with libjpeg-turbo as Pillow does: pixels and bytes are those that Pillow
would have made. Without OpenCV, which is not required, or for any other image, Pillow does it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

import simplejpeg

from budgetloader import jpeg_tables
from budgetloader.convert.sources import opened
from budgetloader.limits import LARGEST_SIDE

_loading = threading.Lock()


@dataclass(frozen=True)
class Recoded:
    """An indexed JPEG, and its size in pixels."""

    data: bytes
    width: int
    height: int


def recode(
    data: bytes,
    *,
    quality: int,
    subsampling: jpeg_tables.Subsampling,
    interval: int,
    optimize: bool,
    max_side: int | None,
    max_pixels: int,
) -> Recoded | None:
    """A JPEG's pixels as an indexed JPEG; None where Pillow is to decide: any other image, or one that is damaged.

    Args:
        data: a file's bytes.
        quality, subsampling, interval, optimize: see `budgetloader.jpeg_tables.encode`.
        max_side: pixels; a larger image is not for this function, as it has to be made smaller.
        max_pixels: of an image; a larger one is not decoded.

    Raises:
        Whatever `budgetloader.convert.sources.image_of` raises of a file that is not to be decoded.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    with _loading:  # OpenCV cannot be imported by two threads at once
        cv2 = _opencv()
    if cv2 is None:
        return None
    with opened(data, max_pixels=max_pixels) as image:  # Pillow refuses what it refuses elsewhere
        (width, height), mode = image.size, image.mode
    if mode != "RGB" or max(width, height) > (max_side or LARGEST_SIDE):
        return None
    try:
        if simplejpeg.decode_jpeg_header(data)[:2] != (height, width):
            return None
        pixels = simplejpeg.decode_jpeg(data, colorspace="BGR")
    except ValueError:
        return None
    columns, rows = jpeg_tables.mcus(width, height, subsampling=subsampling)
    blocks = jpeg_tables.interval_for(columns, most=interval)
    how = {
        cv2.IMWRITE_JPEG_QUALITY: quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{subsampling.replace(':', '')}"),
        cv2.IMWRITE_JPEG_RST_INTERVAL: blocks,
        cv2.IMWRITE_JPEG_OPTIMIZE: int(optimize),
    }
    whole, encoded = cv2.imencode(".jpg", pixels, [number for pair in how.items() for number in pair])
    if not whole:
        return None
    indexed = jpeg_tables.with_table(encoded.tobytes(), columns=columns, rows=rows, interval=blocks)
    return Recoded(indexed, width, height)


@cache
def _opencv() -> Any:
    """OpenCV's module, where it can be imported and is not older than the option for the subsampling (4.7)."""
    try:
        import cv2
    except Exception:  # it is not installed, or lacks a library of the system, or was built for another NumPy
        return None
    return cv2 if hasattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR_420") else None
