"""JPEGs that can be cropped without decoding: restart markers, and a table of the segments' lengths.

A baseline JPEG with a restart marker every few MCUs is a row of segments that decode independently
of each other (ITU-T T.81, B.2.4.4 and E.1.4). We keep the segments' lengths in an APP11 segment in
front, so that the segments of any window are found without reading the others.
Any decoder reads such a file as the ordinary JPEG that it is.

The segment table, big-endian as JPEG is: "RRSX", version (u8, 1), a zero, the number of segments of
the image (u32), the number of the first one in this APP11 (u32), then a u16 for each: the bytes
from its start to the next one's start, its marker included (for the last: to the end-of-image
marker). A table above one APP11's 64 KB goes on in the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from budgetloader.jpeg_tables import APP11, JpegError, with_table
from budgetloader.limits import MAX_SCANS

_SOF1, _SOS, _DRI, _EOI = 0xC1, 0xDA, 0xDD, 0xD9
MARGIN = 2  # pixels around a window that chroma upsampling looks at
NARROW = 4  # pixels; libjpeg-turbo does not smooth the chroma of images up to this wide


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


def add_table(data: bytes) -> bytes:
    """The same JPEG with a segment table behind its JFIF header.

    Raises:
        JpegError: it is not baseline, has no restart markers, or they do not fit its rows.
    """
    frame = read_frame(data)
    if not frame.baseline or not frame.interval:
        raise JpegError("is no baseline JPEG with restart markers")
    columns, rows = -(-frame.width // frame.mcu_width), -(-frame.height // frame.mcu_height)
    if columns % frame.interval:
        raise JpegError(f"has a restart interval of {frame.interval}, which does not divide its {columns} MCUs a row")
    return with_table(data, columns=columns, rows=rows, interval=frame.interval)


def read_frame(data: bytes | np.ndarray) -> Frame:
    """Parse the headers, and the segment table where there is one.

    Raises:
        JpegError: it is no JPEG, or its headers are damaged.
    """
    data = np.frombuffer(data, np.uint8)
    head = np.zeros(FIELDS, np.int64)
    status = parse_into(data, head, np.empty(0, np.int64))
    segments = np.empty(head[SEGMENTS], np.int64)
    if status == _OK and len(segments):
        status = parse_into(data, head, segments)
    if status != _OK:
        raise JpegError(_PROBLEMS[status])
    width, height, components, mcu_width, mcu_height, baseline, interval, start, _, _ = head.tolist()
    return Frame(width, height, components, mcu_width, mcu_height, bool(baseline), interval, start, segments)


_OK, _NO_JPEG, _DAMAGED, _ENDS, NO_TABLE, _BAD_SEGMENTS, _NO_ROOM, _OUTSIDE = range(0, -8, -1)
_PROBLEMS = {
    _NO_JPEG: "is no JPEG",
    _DAMAGED: "has a damaged header",
    _ENDS: "ends in its header",
    NO_TABLE: "has no segment table",
    _BAD_SEGMENTS: "has segments that are not where its table says",
    _OUTSIDE: "is smaller than the window",
}
FIELDS = 10
WIDTH_OF, HEIGHT_OF, _COMPONENTS, _MCU_WIDTH, _MCU_HEIGHT, BASELINE, _INTERVAL, START, SOF, SEGMENTS = range(FIELDS)


@numba.njit(nogil=True, cache=True)
def parse_into(data, head, lengths):
    """Fill `head` with what the headers say, and `lengths` with the segment table where it fits.

    `head[SEGMENTS]` is the table's number of entries, 0 where there is none or it is not whole.
    """
    size = len(data)
    head[:] = 0
    if size < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return _NO_JPEG
    at, listed, total = 2, 0, 0
    while at + 4 <= size:
        if data[at] != 0xFF:
            return _DAMAGED
        code = data[at + 1]
        if code == 0xFF:  # a fill byte
            at += 1
            continue
        length = (np.int64(data[at + 2]) << 8) | data[at + 3]
        body, end = at + 4, at + 2 + length
        if length < 2 or end > size:
            return _ENDS
        if 0xC0 <= code <= 0xCF and code != 0xC4 and code != 0xC8 and code != 0xCC:
            if end - body < 6 or data[body + 5] == 0 or end - body < 6 + 3 * np.int64(data[body + 5]):
                return _DAMAGED
            count = np.int64(data[body + 5])
            across, down = 1, 1
            for i in range(count):
                h, v = np.int64(data[body + 7 + 3 * i] >> 4), np.int64(data[body + 7 + 3 * i] & 15)
                if h < 1 or h > 4 or v < 1 or v > 4:
                    return _DAMAGED
                if count > 1:  # a single component's MCU is one block, whatever its factors
                    across, down = max(across, int(h)), max(down, int(v))
            head[HEIGHT_OF] = (np.int64(data[body + 1]) << 8) | data[body + 2]
            head[WIDTH_OF] = (np.int64(data[body + 3]) << 8) | data[body + 4]
            if head[WIDTH_OF] == 0 or head[HEIGHT_OF] == 0:
                return _DAMAGED
            head[_COMPONENTS], head[_MCU_WIDTH], head[_MCU_HEIGHT] = count, 8 * across, 8 * down
            head[BASELINE] = code <= _SOF1 and data[body] == 8
            head[SOF] = at
        elif code == _DRI and length == 4:
            head[_INTERVAL] = (np.int64(data[body]) << 8) | data[body + 1]
        elif code == APP11 and end - body >= 14 and _is_table(data, body):
            total, first = _u32(data, body + 6), _u32(data, body + 10)
            entries = (end - body - 14) // 2
            if first == listed:
                for i in range(min(entries, len(lengths) - listed)):
                    lengths[listed + i] = (np.int64(data[body + 14 + 2 * i]) << 8) | data[body + 15 + 2 * i]
                listed += entries
        elif code == _SOS:
            if head[WIDTH_OF] == 0 or end == body:
                return _DAMAGED
            head[BASELINE] = head[BASELINE] and data[body] == head[_COMPONENTS]
            head[START] = end
            head[SEGMENTS] = total if listed == total else 0
            return _OK
        at = end
    return _ENDS


@numba.njit(nogil=True, cache=True, inline="always")
def _is_table(data, at):
    # "RRSX", version 1
    return data[at] == 82 and data[at + 1] == 82 and data[at + 2] == 83 and data[at + 3] == 88 and data[at + 4] == 1


@numba.njit(nogil=True, cache=True, inline="always")
def _u32(data, at):
    value = np.int64(0)
    for i in range(4):
        value = (value << 8) | data[at + i]
    return value


@numba.njit(nogil=True, cache=True)
def _columns_of(left, width, image_width, step):
    """The first segment of a row that a window needs, and the one behind its last."""
    first = max(left - MARGIN, 0) // step
    last = -(-min(left + width + MARGIN, image_width) // step)
    if first > 0 and min(last * step, image_width) - first * step <= NARROW:
        first -= 1  # alone, so narrow a column would be decoded without the smoothing that the whole image gets
    return first, last


@numba.njit(nogil=True, cache=True)
def crop_into(data, top, left, height, width, out, head, lengths, place):
    """Write the smaller JPEG to `out`; its bytes, or a negative status.

    `place` becomes (top, left) of the written JPEG in the image.
    """
    status = parse_into(data, head, lengths)
    if status != _OK:
        return status
    total, interval = head[SEGMENTS], head[_INTERVAL]
    mcu_width, mcu_height = head[_MCU_WIDTH], head[_MCU_HEIGHT]
    if top < 0 or left < 0 or height < 1 or width < 1:
        return _OUTSIDE
    if top + height > head[HEIGHT_OF] or left + width > head[WIDTH_OF]:
        return _OUTSIDE
    columns = -(-head[WIDTH_OF] // mcu_width)
    rows = -(-head[HEIGHT_OF] // mcu_height)
    if total == 0 or head[BASELINE] == 0 or interval == 0 or columns % interval != 0:
        return NO_TABLE
    across = columns // interval
    if total != across * rows:
        return _BAD_SEGMENTS
    if total > len(lengths) or len(out) < len(data) + 2:
        return _NO_ROOM
    first_row = max(top - MARGIN, 0) // mcu_height
    last_row = -(-min(top + height + MARGIN, head[HEIGHT_OF]) // mcu_height)
    step = interval * mcu_width
    first, last = _columns_of(left, width, head[WIDTH_OF], step)

    to = _copy_headers(data, head, out)
    new_height = min(last_row * mcu_height, head[HEIGHT_OF]) - first_row * mcu_height
    new_width = min(last * step, head[WIDTH_OF]) - first * step
    sof = head[SOF]  # where the copy has it now
    out[sof + 5], out[sof + 6] = new_height >> 8, new_height & 0xFF
    out[sof + 7], out[sof + 8] = new_width >> 8, new_width & 0xFF

    at, number = head[START], 0
    for segment in range(last_row * across):
        row, column = segment // across, segment % across
        length = lengths[segment]
        end = at + length
        if end > len(data) or length < 2:
            return _BAD_SEGMENTS
        if row >= first_row and first <= column < last:
            bytes_of_it = length
            if segment < total - 1:
                if data[end - 2] != 0xFF or data[end - 1] != 0xD0 + segment % 8:
                    return _BAD_SEGMENTS
                bytes_of_it = length - 2
            if number:
                out[to], out[to + 1] = 0xFF, 0xD0 + (number - 1) % 8
                to += 2
            out[to : to + bytes_of_it] = data[at : at + bytes_of_it]
            to += bytes_of_it
            number += 1
        at = end
    out[to], out[to + 1] = 0xFF, _EOI
    place[0], place[1] = first_row * mcu_height, first * step
    return to + 2


@numba.njit(nogil=True, cache=True)
def _copy_headers(data, head, out):
    """Copy the headers a decoder needs (no APPn but JFIF's and Adobe's, which say what the colours
    are, and no comment); `head[SOF]` becomes the frame header's place in `out`. The bytes written.
    """
    out[0], out[1] = 0xFF, 0xD8
    at, to = 2, 2
    while at < head[START]:  # `parse_into` has been through these and found them whole
        code = data[at + 1]
        if code == 0xFF:
            at += 1
            continue
        length = 2 + ((np.int64(data[at + 2]) << 8) | data[at + 3])
        if code != 0xFE and (code < 0xE0 or code > 0xEF or code == 0xE0 or code == 0xEE):
            if at == head[SOF]:
                head[SOF] = to
            out[to : to + length] = data[at : at + length]
            to += length
        at += length
    return to


@numba.njit(nogil=True, cache=True)
def count_scans(data, start):
    """Start-of-scan markers from `start` on. (In entropy-coded bytes 0xFF is followed by 0 or a restart's number.)"""
    found = 0
    for i in range(start, len(data) - 1):
        if data[i] == 0xFF and data[i + 1] == _SOS:
            found += 1
    return found


class SizeCheck:
    """Refuses a JPEG that is not of the size that it should have, before anything is allocated for it."""

    def __init__(self) -> None:
        self._head = np.zeros(FIELDS, np.int64)
        self._none = np.empty(0, np.int64)

    def __call__(self, data: np.ndarray, *, height: int, width: int) -> None:
        """Read a JPEG's headers: uint8 [n].

        Raises:
            JpegError: it is none, has another size, or goes over its pixels more than `MAX_SCANS` times.
        """
        status = parse_into(data, self._head, self._none)
        if status != _OK:
            raise JpegError(_PROBLEMS[status])
        if self._head[HEIGHT_OF] != height or self._head[WIDTH_OF] != width:
            raise JpegError("its size is not the one in the index")
        if not self._head[BASELINE] and count_scans(data, self._head[START]) >= MAX_SCANS:
            raise JpegError(f"has more than {MAX_SCANS} scans")


class Cropper:
    """Crops JPEGs without decoding them; one per thread, for its scratch memory.

    The segments that cover the window and a margin of 2 pixels (which chroma upsampling looks at)
    are copied, their restart markers renumbered, and the frame header is given the new size. What
    comes out decodes to exactly the pixels that the whole image has there.
    """

    def __init__(self) -> None:
        self._head = np.zeros(FIELDS, np.int64)
        self._place = np.zeros(2, np.int64)
        self._lengths = np.empty(1024, np.int64)
        self._out = np.empty(1 << 17, np.uint8)

    def crop(
        self, data: np.ndarray, *, top: int, left: int, height: int, width: int, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, int, int]:
        """The part of a JPEG that shows a window, as a JPEG.

        Args:
            data: uint8 [n], a JPEG; one that cannot be cropped (no segment table) comes back whole.
            top, left, height, width: the window, pixels.
            out: uint8 [at least n + 2] to write to; default: memory that the next call takes again.

        Returns:
            uint8 bytes (a view of `out`, or of `data`), and the top and left that they begin at.

        Raises:
            JpegError: it is no JPEG, the window is not inside it, or the table is wrong.
        """
        while True:
            room = self._out if out is None else out
            size = crop_into(data, top, left, height, width, room, self._head, self._lengths, self._place)
            if size > 0:
                return room[:size], int(self._place[0]), int(self._place[1])
            if size == NO_TABLE:
                return data, 0, 0
            if size != _NO_ROOM:
                raise JpegError(_PROBLEMS[size])
            if self._head[SEGMENTS] > len(self._lengths):
                self._lengths = np.empty(2 * self._head[SEGMENTS], np.int64)
            elif out is None:
                self._out = np.empty(2 * (len(data) + 2), np.uint8)
            else:
                raise JpegError(f"needs {len(data) + 2} bytes to be cropped in, and got {len(out)}")
