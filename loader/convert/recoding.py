"""From a JPEG to an indexed JPEG without an image of Pillow's between them, which saves a sixth of the time.

simplejpeg decodes and OpenCV encodes, both with libjpeg-turbo as Pillow does: pixels and bytes are those that Pillow
would have made. Without OpenCV, which is not required, or for any other image, Pillow does it.
"""

from __future__ import annotations

import importlib.util
import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

import simplejpeg

from budgetloader import jpeg
from budgetloader.limits import LARGEST_SIDE, check_pixels, check_scans

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
    subsampling: jpeg.Subsampling,
    interval: int,
    optimize: bool,
    max_side: int | None,
    max_pixels: int,
) -> Recoded | None:
    """A JPEG's pixels as an indexed JPEG; None where Pillow is to decide: any other image, or one that is damaged.

    Args:
        data: a file's bytes.
        quality, subsampling, interval, optimize: see `budgetloader.jpeg.encode`.
        max_side: pixels; a larger image is not for this function, as it has to be made smaller.
        max_pixels: of an image; a larger one is not decoded.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    with _loading:  # OpenCV cannot be imported by two threads at once
        cv2 = _opencv()
    if cv2 is None:
        return None
    try:
        frame = jpeg.read_frame(data)
    except jpeg.JpegError:
        return None
    if frame.components != 3 or max(frame.width, frame.height) > (max_side or LARGEST_SIDE):
        return None
    check_pixels(frame.width, frame.height, most=max_pixels)
    check_scans(data)
    try:
        pixels = simplejpeg.decode_jpeg(data, colorspace="BGR")
    except ValueError:
        return None
    if pixels.shape != (frame.height, frame.width, 3):
        return None
    blocks = jpeg.interval_for(-(-frame.width // jpeg.SUBSAMPLINGS[subsampling][0]), most=interval)
    how = {
        cv2.IMWRITE_JPEG_QUALITY: quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{subsampling.replace(':', '')}"),
        cv2.IMWRITE_JPEG_RST_INTERVAL: blocks,
        cv2.IMWRITE_JPEG_OPTIMIZE: int(optimize),
    }
    whole, encoded = cv2.imencode(".jpg", pixels, [number for pair in how.items() for number in pair])
    return Recoded(jpeg.add_table(encoded.tobytes()), frame.width, frame.height) if whole else None


@cache
def _opencv() -> Any:
    """OpenCV's module, where it is installed and not older than the option for the subsampling (4.7)."""
    if importlib.util.find_spec("cv2") is None:
        return None
    import cv2

    return cv2 if hasattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR_420") else None
