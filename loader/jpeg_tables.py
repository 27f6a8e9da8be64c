"""Writing the JPEGs that can be cropped without decoding: baseline, with restart markers and a table of the segments.

See `budgetloader.jpeg`, which reads them; it needs numba's compiler, and this does not.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Literal

import numpy as np

from budgetloader.errors import DatasetError
from budgetloader.pillow import jpeg_bytes

if TYPE_CHECKING:
    from PIL import Image

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]
SUBSAMPLINGS: dict[str, tuple[int, int]] = {"4:4:4": (8, 8), "4:2:2": (16, 8), "4:2:0": (16, 16)}  # MCU in pixels
APP11 = 0xEB
_SOS, _EOI = 0xDA, 0xD9
_TABLE_HEAD = struct.Struct(">4sBxII")
_TABLE_MAGIC = b"RRSX"
_TABLE_MOST = (0xFFFF - 2 - _TABLE_HEAD.size) // 2


class JpegError(DatasetError):
    """Bytes that are no JPEG of the kind that is needed; the message says why."""


def interval_for(width_mcus: int, *, most: int) -> int:
    """MCUs per segment: the largest divisor of the image's width in MCUs up to `most`.

    It must divide the width, so that no segment goes from one row of MCUs on to the next.
    """
    return max(i for i in range(1, most + 1) if width_mcus % i == 0)


def encode(
    image: Image.Image, *, quality: int, subsampling: Subsampling, interval: int = 2, optimize: bool = True
) -> bytes:
    """An image as an indexed baseline JPEG.

    Args:
        image, quality, subsampling: mode RGB, or L with "4:4:4"; 1 … 100, libjpeg's scale; of the chroma.
        interval: the most MCUs per segment (see `interval_for`).
        optimize: Huffman tables of its own: they pay for the markers' bytes.
    """
    columns, rows = mcus(image.width, image.height, subsampling=subsampling)
    blocks = interval_for(columns, most=interval)
    how = {"quality": quality, "subsampling": subsampling, "restart_marker_blocks": blocks, "optimize": optimize}
    return with_table(jpeg_bytes(image, **how), columns=columns, rows=rows, interval=blocks)


def mcus(width: int, height: int, *, subsampling: Subsampling) -> tuple[int, int]:
    """The MCUs of an image: in a row, and their rows."""
    across, down = SUBSAMPLINGS[subsampling]
    return -(-width // across), -(-height // down)


def with_table(data: bytes, *, columns: int, rows: int, interval: int) -> bytes:
    """A JPEG that an encoder has just made, with a segment table behind its JFIF header.

    Args:
        data: baseline, in one scan.
        columns, rows, interval: its MCUs, and those between two restart markers.

    Raises:
        JpegError: its segments are not as many as that.
    """
    start = 2
    while data[start + 1] != _SOS:
        start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    body = np.frombuffer(data, np.uint8, offset=start)
    marks = np.flatnonzero((body[:-1] == 0xFF) & (body[1:] >= 0xD0) & (body[1:] <= _EOI))
    if not marks.size or body[marks[-1] + 1] != _EOI or not (body[marks[:-1] + 1] < 0xD8).all():
        raise JpegError("has other markers than restarts in its only scan")
    lengths = np.diff(np.concatenate(([0], marks[:-1] + 2, marks[-1:])))
    if len(lengths) != columns // interval * rows or lengths.max() > 0xFFFF:
        raise JpegError("has another number of segments than its size asks for")
    # JFIF's own segment, where there is one, has to stay the first.
    at = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2
    return data[:at] + _table(lengths) + data[at:]


def _table(lengths: np.ndarray) -> bytes:
    parts = []
    for first in range(0, len(lengths), _TABLE_MOST):
        payload = lengths[first : first + _TABLE_MOST].astype(">u2").tobytes()
        head = _TABLE_HEAD.pack(_TABLE_MAGIC, 1, len(lengths), first)
        parts.append(struct.pack(">BBH", 0xFF, APP11, 2 + len(head) + len(payload)) + head + payload)
    return b"".join(parts)
