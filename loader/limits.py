"""Limits on what is read from files, checked before anything is allocated.

An image of 700 bytes can say that it has 900 million pixels, or go over them 2,000 times.
"""

from __future__ import annotations

import sys

from budgetloader.errors import DatasetError

MAX_PIXELS = 89_478_485  # of an image; what Pillow warns at: 256 MiB of RGB
MAX_SCANS = 100  # of a JPEG; progressive ones have about ten
MAX_LABEL = (1 << 31) - 1
LARGEST_SIDE = 65_500  # pixels of a JPEG; libjpeg's limit
MAX_FIELDS = 64  # of a file; FFCV's headers have room for more
_SOS = int.from_bytes(b"\xff\xda", sys.byteorder)


def check_max_pixels(pixels: int) -> int:
    """The limit, if it is one."""
    if not isinstance(pixels, int) or isinstance(pixels, bool) or not 1 <= pixels <= 65_535**2:
        raise DatasetError(f"max_pixels {pixels!r} is outside 1 … {65_535**2:,}")
    return pixels


def max_bytes(max_pixels: int) -> int:
    """The most bytes of a stored JPEG: those of its pixels, and room for headers."""
    return 3 * max_pixels + (1 << 16)


def check_pixels(width: int, height: int, *, most: int) -> None:
    """Refuse an image of more pixels than the limit.

    Raises:
        DatasetError: says how to raise it.
    """
    if width * height > most:
        raise DatasetError(
            f"{width:,} × {height:,} pixels are more than {most:,}; if it is meant, raise max_pixels (--max-pixels)"
        )


def check_scans(data: bytes) -> None:
    """Refuse a JPEG of more scans than any encoder makes: each goes over all of its pixels.

    Raises:
        DatasetError: it has more than `MAX_SCANS`.
    """
    import numpy as np  # the help of a command does without

    # As words of two bytes, at even places and at odd ones: eight times as fast as `bytes.count`.
    words = [np.frombuffer(data, np.uint16, count=(len(data) - first) // 2, offset=first) for first in (0, 1) if data]
    count = sum(int(np.count_nonzero(word == _SOS)) for word in words)
    if count > MAX_SCANS:
        raise DatasetError(f"{count:,} scans are more than {MAX_SCANS}: no encoder makes such a JPEG")
