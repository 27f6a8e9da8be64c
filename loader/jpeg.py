"""JPEGs that can be cropped without decoding: restart markers, and a table of the segments' lengths.

A baseline JPEG with a restart marker every few MCUs is a row of segments that decode independently
of each other (ITU-T T.81, B.2.4.4 and E.1.4). We keep the segments' lengths in an APP11 segment in
front of the frame header, so that the segments of any window are found without reading the others.
Any decoder reads such a file as the ordinary JPEG that it is.

The segment table, big-endian as JPEG is: "RRSX", version (u8, 1), a zero, the number of segments of
the image (u32), the number of the first one in this APP11 (u32), then a u16 for each: the bytes
from its start to the next one's start, its marker included (for the last: to the end-of-image
marker). A table above one APP11's 64 KB goes on in the next.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from loader.errors import DatasetError

if TYPE_CHECKING:
    from PIL import Image

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]
SUBSAMPLINGS: dict[str, tuple[int, int]] = {"4:4:4": (8, 8), "4:2:2": (16, 8), "4:2:0": (16, 16)}  # MCU in pixels
_APP11, _SOF0, _SOF1, _SOS, _DRI, _EOI = 0xEB, 0xC0, 0xC1, 0xDA, 0xDD, 0xD9
_TABLE_HEAD = struct.Struct(">4sBxII")
_TABLE_MAGIC = b"RRSX"
_TABLE_MOST = (0xFFFF - 2 - _TABLE_HEAD.size) // 2


class JpegError(DatasetError):
    """Bytes that are no JPEG of the kind that is needed; the message says why."""


@dataclass(frozen=True)
class Frame:
    """What a JPEG's headers say.

    Attributes:
        width, height: pixels.
        components: 1 (grey), 3 or 4.
        mcu_width, mcu_height: pixels of an MCU.
        baseline: sequential Huffman coding with 8 bits, in one scan (SOF0 or SOF1).
        interval: MCUs between restart markers, 0 where there are none.
        start: where the entropy-coded bytes start.
        segments: entries of the segment table; empty where the file has none.
    """

    width: int
    height: int
    components: int
    mcu_width: int
    mcu_height: int
    baseline: bool
    interval: int
    start: int
    segments: np.ndarray


def interval_for(width_mcus: int, *, most: int = 4) -> int:
    """MCUs per segment: the largest divisor of the image's width in MCUs up to `most`.

    It must divide the width, so that no segment goes from one row of MCUs on to the next.
    """
    return max(i for i in range(1, most + 1) if width_mcus % i == 0)


def encode(image: Image.Image, *, quality: int, subsampling: Subsampling, interval: int = 4) -> bytes:
    """An RGB image as an indexed baseline JPEG (Huffman tables optimised: they pay for the markers).

    Args:
        image: mode RGB.
        quality: 1 … 100, libjpeg's scale.
        subsampling: of the chroma.
        interval: the most MCUs per segment (see `interval_for`).
    """
    mcu_width = SUBSAMPLINGS[subsampling][0]
    blocks = interval_for(-(-image.width // mcu_width), most=interval)
    buffer = io.BytesIO()
    image.save(
        buffer, "JPEG", quality=quality, subsampling=subsampling, optimize=True, restart_marker_blocks=blocks
    )
    return add_table(buffer.getvalue())


def add_table(data: bytes) -> bytes:
    """The same JPEG with a segment table in front of its frame header.

    Raises:
        JpegError: it is not baseline, has no restart markers, or they do not fit its rows.
    """
    frame = read_frame(data)
    if not frame.baseline or not frame.interval:
        raise JpegError("is no baseline JPEG with restart markers")
    columns = -(-frame.width // frame.mcu_width)
    if columns % frame.interval:
        raise JpegError(f"has a restart interval of {frame.interval}, which does not divide its {columns} MCUs a row")
    body = np.frombuffer(data, np.uint8, offset=frame.start)
    marks = np.flatnonzero((body[:-1] == 0xFF) & (body[1:] >= 0xD0) & (body[1:] <= _EOI))
    if not marks.size or body[marks[-1] + 1] != _EOI or not (body[marks[:-1] + 1] < 0xD8).all():
        raise JpegError("has other markers than restarts in its only scan")
    lengths = np.diff(np.concatenate(([0], marks[:-1] + 2, marks[-1:])))
    rows = -(-frame.height // frame.mcu_height)
    if len(lengths) != columns // frame.interval * rows or lengths.max() > 0xFFFF:
        raise JpegError("has another number of segments than its size asks for")
    at = _frame_header(data)
    return data[:at] + _table(lengths) + data[at:]


def _table(lengths: np.ndarray) -> bytes:
    parts = []
    for first in range(0, len(lengths), _TABLE_MOST):
        payload = lengths[first : first + _TABLE_MOST].astype(">u2").tobytes()
        head = _TABLE_HEAD.pack(_TABLE_MAGIC, 1, len(lengths), first)
        parts.append(struct.pack(">BBH", 0xFF, _APP11, 2 + len(head) + len(payload)) + head + payload)
    return b"".join(parts)


def _frame_header(data: bytes) -> int:
    return next(at for code, at, _ in _headers(data) if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC))


def _headers(data: bytes | np.ndarray):
    """(code, where the marker starts, payload) of each header segment, the scan's as the last."""
    view = memoryview(data)
    if bytes(view[:2]) != b"\xff\xd8":
        raise JpegError("is no JPEG")
    at = 2
    while at + 4 <= len(view):
        if view[at] != 0xFF:
            raise JpegError("has a damaged header")
        code = view[at + 1]
        if code == 0xFF:  # a fill byte
            at += 1
            continue
        length = view[at + 2] << 8 | view[at + 3]
        if length < 2 or at + 2 + length > len(view):
            break
        yield code, at, view[at + 4 : at + 2 + length]
        at += 2 + length
        if code == _SOS:
            return
    raise JpegError("ends in its header")


def read_frame(data: bytes | np.ndarray) -> Frame:
    """Parse the headers, and the segment table where there is one.

    Raises:
        JpegError: it is no JPEG, or its headers are damaged.
    """
    size: tuple | None = None
    interval, baseline, pieces, total = 0, False, [], 0
    for code, at, payload in _headers(data):
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            if len(payload) < 6 or len(payload) < 6 + 3 * payload[5] or not payload[5]:
                raise JpegError("has a damaged frame header")
            precision, height, width, count = struct.unpack_from(">BHHB", payload)
            factors = [(payload[7 + 3 * i] >> 4, payload[7 + 3 * i] & 15) for i in range(count)]
            if not all(1 <= h <= 4 and 1 <= v <= 4 for h, v in factors) or not width:
                raise JpegError("has a damaged frame header")
            across, down = (max(f) for f in zip(*factors, strict=True)) if count > 1 else (1, 1)
            size = (width, height, count, 8 * across, 8 * down)
            baseline = code in (_SOF0, _SOF1) and precision == 8
        elif code == _DRI and len(payload) == 2:
            interval = payload[0] << 8 | payload[1]
        elif code == _APP11 and len(payload) >= _TABLE_HEAD.size and bytes(payload[:4]) == _TABLE_MAGIC:
            _, version, total, first = _TABLE_HEAD.unpack_from(payload)
            if version == 1 and first == sum(map(len, pieces)):
                pieces.append(np.frombuffer(payload[_TABLE_HEAD.size :], ">u2").astype(np.int64))
        elif code == _SOS:
            if size is None:
                raise JpegError("has a scan without a frame header")
            segments = np.concatenate(pieces) if pieces else np.empty(0, np.int64)
            whole = payload[0] == size[2] if len(payload) else False
            return Frame(
                *size,
                baseline=baseline and whole,
                interval=interval,
                start=at + 4 + len(payload),
                segments=segments if len(segments) == total else segments[:0],
            )
    raise JpegError("has no scan")
