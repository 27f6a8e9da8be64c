"""Only what a window needs of a JPEG: its headers, and the rows of MCUs that the window touches.

A JPEG with restart markers and a segment table (see `budgetloader.jpeg`) is cropped without the bytes of other rows
being looked at. Where its rows stand is known once its headers were fetched, and kept from then on.
"""

from __future__ import annotations

import threading

import numpy as np

from budgetloader.jpeg import MARGIN, JpegError, read_frame

_LEAST_ROW = 8  # pixels; what an MCU is high at least
FIRST_HEAD_BYTES, _MOST_HEAD_BYTES = 1024, 8192  # of a JPEG whose headers were not read yet
_NONE, _WHOLE = 0, 1  # rows of a sample: not known yet; or it can be read whole only


class Rows:
    """Where the rows of MCUs of each sample stand, as far as its headers were read.

    Args:
        heights: int64 [D], of the images, pixels.
        sizes: int64 [D], of the samples, bytes.
    """

    def __init__(self, heights: np.ndarray, sizes: np.ndarray) -> None:
        self._heights, self._sizes = heights, sizes
        places = -(-heights // _LEAST_ROW) + 1  # of the rows, and of the end of the last
        self._firsts = np.concatenate(([0], np.cumsum(places)))
        self._offsets = np.zeros(int(self._firsts[-1]), np.uint32)  # taken page by page, as it is written
        self._counts = np.zeros(len(heights), np.uint16)  # of offsets; or _NONE, _WHOLE
        self._row_heights = np.zeros(len(heights), np.uint8)
        self._head_bytes = FIRST_HEAD_BYTES
        self._lock = threading.Lock()

    def known(self, sample: int) -> bool:
        """Whether `learn` was told of a sample."""
        return bool(self._counts[sample] != _NONE)

    def head_bytes(self, sample: int) -> int:
        """How much of a sample to read for its headers."""
        return min(self._head_bytes, int(self._sizes[sample]))

    def learn(self, sample: int, head: np.ndarray) -> bool:
        """Note where a sample's rows stand.

        Args:
            sample: its number.
            head: uint8 [n], its first bytes.

        Returns:
            Whether the headers were whole; else read more.
        """
        try:
            frame = read_frame(head)
        except JpegError:
            if len(head) < self._sizes[sample]:
                return False
            self._counts[sample] = _WHOLE
            return True
        with self._lock:  # the next samples' headers are likely to be as long
            self._head_bytes = max(self._head_bytes, min(frame.start, _MOST_HEAD_BYTES))
        self._counts[sample] = _WHOLE
        columns, rows = -(-frame.width // frame.mcu_width), -(-frame.height // frame.mcu_height)
        fits = frame.interval and columns % frame.interval == 0 and frame.height == self._heights[sample]
        if frame.baseline and fits and len(frame.segments) == columns // frame.interval * rows:
            by_row = frame.segments.reshape(rows, -1).sum(axis=1)
            first = self._firsts[sample]
            self._offsets[first : first + rows + 1] = frame.start + np.concatenate(([0], np.cumsum(by_row)))
            self._row_heights[sample], self._counts[sample] = frame.mcu_height, rows + 1
        return True

    def spans(self, sample: int, *, top: int, height: int) -> list[tuple[int, int]]:
        """The bytes of a sample that a window needs, as offsets in it: its headers, and its rows.

        Args:
            sample: one whose headers were read.
            top, height: of the window, pixels.
        """
        size, count = int(self._sizes[sample]), int(self._counts[sample])
        if count <= _WHOLE:
            return [(0, size)]
        first, step = int(self._firsts[sample]), int(self._row_heights[sample])
        rows = self._offsets[first : first + count].astype(np.int64)
        low = max(top - MARGIN, 0) // step
        high = -(-min(top + height + MARGIN, int(self._heights[sample])) // step)
        start, stop = int(rows[low]), int(rows[min(high, count - 1)])
        return [(0, int(rows[0])), (start, min(stop, size))]


def joined(spans: list[tuple[int, int]], *, gap_bytes: int) -> list[tuple[int, int]]:
    """Spans in order, those joined whose gap is cheaper than another request."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if start < stop and found and start - found[-1][1] <= gap_bytes:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        elif start < stop:
            found.append((start, stop))
    return found
