"""Some rows of a batch at a time: cropped, decoded and resized in one compiled call, without Python's lock.

Where the system has no libjpeg-turbo of its own, rows are decoded by simplejpeg between two compiled calls, each under
the lock for a few microseconds. What is not plain (a damaged image, a file that is not mapped) is left to the caller,
row by row.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import simplejpeg

from budgetloader.dataset import Dataset
from budgetloader.engines import turbojpeg
from budgetloader.engines.base import Job, Output
from budgetloader.engines.buffers import BufferPool, tone
from budgetloader.joined import JoinedDataset
from budgetloader.jpeg import (
    BASELINE,
    FIELDS,
    HEIGHT_OF,
    NO_TABLE,
    SEGMENTS,
    SOF,
    START,
    WIDTH_OF,
    count_scans,
    crop_into,
    parse_into,
)
from budgetloader.limits import MAX_SCANS
from budgetloader.plans import BatchPlan
from budgetloader.resize import resample
from budgetloader.windows import PAD

_AT_ONCE_BYTES = 1 << 20  # of decoded pixels between the decoder and the resize: they should still be in the cache
_COLUMNS = 8
_FROM, _BEGIN, _END, _TOP, _LEFT, _HEIGHT, _WIDTH, _DIVISOR = range(_COLUMNS)
_LEAVE, _IN_SCRATCH, _IN_FILE, _PIXELS = range(4)  # what a row is decoded from; _PIXELS: it is decoded


@numba.njit(nogil=True, cache=True)
def divisor_of(height, width, target):
    """By how much a decoder may make a window smaller, so that it is no smaller than the target: 1, 2, 4 or 8."""
    divisor = 1
    while divisor < 8 and min(height, width) >= 2 * divisor * target:
        divisor *= 2
    return divisor


@numba.njit(nogil=True, cache=True)
def crop_rows(mapped, starts, sizes, heights, widths, raw, which, samples, windows, border, scale_to, scratch, rows):
    """Crop rows of a plan, and say in `rows` where the bytes of each are, and what they show.

    Args:
        mapped: uint8, the file.
        starts, sizes, heights, widths: int64 [D], of the file's samples.
        raw: bool [D], which samples are pixels; or empty.
        which: int64, the rows to do.
        samples: int64 [n], of each row, the sample's number in this file.
        windows: int64 [n, 4].
        border: pixels that windows may reach outside an image; the whole of it is decoded then.
        scale_to: the size that windows need not be decoded larger than; 0: they are not made smaller.
        scratch: uint8, as large as all of the samples, and 2 bytes for each.
        rows: int64 [n, 8], filled: a row that is not plain is left.

    Returns:
        The most bytes that one of them has when it is decoded.
    """
    head, place, lengths, to = np.zeros(FIELDS, np.int64), np.zeros(2, np.int64), np.empty(1024, np.int64), 0
    most = 0
    for i in which:
        rows[i, _FROM] = _LEAVE
        sample = samples[i]
        begin, end = starts[sample], starts[sample] + sizes[sample]
        height, width = heights[sample], widths[sample]
        if len(raw) and raw[sample]:
            _note(rows[i], _PIXELS, begin, end, 0, 0, height, width, 1)
            continue
        data = mapped[begin:end]
        if parse_into(data, head, lengths[:0]) != 0 or head[HEIGHT_OF] != height or head[WIDTH_OF] != width:
            continue
        if head[BASELINE] == 0 and count_scans(data, head[START]) >= MAX_SCANS:
            continue
        if head[SEGMENTS] > len(lengths):
            lengths = np.empty(2 * head[SEGMENTS], np.int64)
        out = scratch[to : to + len(data) + 2]
        top, left, h, w = windows[i, 0], windows[i, 1], windows[i, 2], windows[i, 3]
        if border > 0:
            top, left, h, w = 0, 0, height, width
        size = crop_into(data, top, left, h, w, out, head, lengths, place)
        divisor = divisor_of(h, w, scale_to) if scale_to > 0 else 1
        if size == NO_TABLE:
            most = max(most, _note(rows[i], _IN_FILE, begin, end, 0, 0, height, width, divisor))
        elif size > 0:
            sof = head[SOF]  # in what was written
            part_height = (np.int64(out[sof + 5]) << 8) | out[sof + 6]
            part_width = (np.int64(out[sof + 7]) << 8) | out[sof + 8]
            noted = _note(rows[i], _IN_SCRATCH, to, to + size, place[0], place[1], part_height, part_width, divisor)
            most, to = max(most, noted), to + size
    return most


@numba.njit(nogil=True, cache=True)
def _note(row, source, begin, end, top, left, height, width, divisor):
    row[_FROM], row[_BEGIN], row[_END], row[_TOP], row[_LEFT] = source, begin, end, top, left
    row[_HEIGHT], row[_WIDTH], row[_DIVISOR] = height, width, divisor
    return 3 * -(-height // divisor) * -(-width // divisor)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _resample_row(source, window, row, border, antialias, flip, tone, out):
    top, left = window[0] - row[_TOP], window[1] - row[_LEFT]
    if border == 0:
        return resample(source, top, left, window[2], window[3], antialias, flip, tone, out, row[_DIVISOR])
    padded = np.zeros((source.shape[0] + 2 * border, source.shape[1] + 2 * border, 3), np.uint8)
    padded[border:-border, border:-border] = source
    return resample(padded, top + border, left + border, window[2], window[3], antialias, flip, tone, out, 1)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def resample_rows(which, pixels, at, mapped, rows, windows, flips, border, antialias, tone, out, done):
    """Resize rows whose images are decoded into a batch; `done` says which could be.

    Args:
        which: int64, the rows to do.
        pixels: uint8, the decoded images.
        at: int64 [n], where each begins; below 0: it is not decoded.
        mapped: uint8, the file, where `rows` says that pixels are in it.
        rows: int64 [n, 8], of `crop_rows`.
        windows, flips: int64 [n, 4] and bool [n].
        border: black pixels around an image.
        antialias, tone: see `resample`.
        out: [n, h, w, 3], any strides.
        done: bool [n], filled.
    """
    for i in which:
        row = rows[i]
        height, width = -(-row[_HEIGHT] // row[_DIVISOR]), -(-row[_WIDTH] // row[_DIVISOR])
        if row[_FROM] == _PIXELS:
            stored = mapped[row[_BEGIN] : row[_END]].reshape((height, width, 3))
            done[i] = _resample_row(stored, windows[i], row, border, antialias, flips[i], tone, out[i])
        elif at[i] >= 0:
            decoded = pixels[at[i] : at[i] + height * width * 3].reshape((height, width, 3))
            done[i] = _resample_row(decoded, windows[i], row, border, antialias, flips[i], tone, out[i])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def decode_rows(which, tools, how, scratch, pixels, mapped, rows, windows, flips, border, antialias, tone, out, done):
    """Decode and resize rows; `done` says which could be.

    Args:
        which: int64, the rows to do.
        tools, how: see `turbojpeg.decode`.
        scratch: uint8, what `crop_rows` wrote.
        pixels: uint8, as many bytes as `crop_rows` asks for.
        mapped, rows, windows, flips, border, antialias, tone, out, done: see `resample_rows`.
    """
    for i in which:
        row = rows[i]
        height, width = -(-row[_HEIGHT] // row[_DIVISOR]), -(-row[_WIDTH] // row[_DIVISOR])
        if row[_FROM] == _PIXELS:
            image = mapped[row[_BEGIN] : row[_END]].reshape((height, width, 3))
        elif row[_FROM] != _LEAVE:
            data = (scratch if row[_FROM] == _IN_SCRATCH else mapped)[row[_BEGIN] : row[_END]]
            decoded = pixels[: 3 * height * width]
            if not turbojpeg.decode(tools, data, row[_HEIGHT], row[_WIDTH], row[_DIVISOR], how, decoded):
                continue
            image = decoded.reshape((height, width, 3))
        else:
            continue
        done[i] = _resample_row(image, windows[i], row, border, antialias, flips[i], tone, out[i])


class RowRenderer:
    """Renders what is plain of some rows of a batch; one per thread, for its scratch memory.

    Args:
        job: what to make.
        output: the format to write.
    """

    def __init__(self, job: Job, output: Output) -> None:
        self._parts = _plain(job.dataset)
        self._tone = tone(output)
        self._antialias = job.output.interpolation == "antialias"
        self._border = PAD if job.output.crop == "pad" else 0
        self._scaling, self._options = job.output.decode_scaling, decoder_options(fast=job.output.fast_decode)
        library, self._how = turbojpeg.library(), turbojpeg.flags(fast=job.output.fast_decode)
        self._tools = None if library is None else library.tools(self)
        self._scratch, self._pixels = np.empty(0, np.uint8), np.empty(0, np.uint8)

    def render(self, plan: BatchPlan, rows: slice, out: np.ndarray) -> np.ndarray:
        """Render rows of a plan.

        Args:
            plan, rows: what to make.
            out: those rows' images, [n, h, w, 3] with any strides.

        Returns:
            bool [n]: which of them are made. The others were left, and are perhaps half written.

        Raises:
            DatasetError: the file was cut short or written to.
        """
        samples, windows, flips = plan.samples[rows], np.ascontiguousarray(plan.windows[rows]), plan.flips[rows]
        done = np.zeros(len(samples), np.bool_)
        for first, part in self._parts:
            inside = samples - first
            which = np.flatnonzero((inside >= 0) & (inside < len(part)))
            if len(which):
                self._render(part, which, inside, windows, flips, out, done)
        return done

    def compile(self, output: Output) -> None:
        """Compile, or load from numba's cache, what a batch of this output needs."""
        pool = BufferPool(output, 1)
        nothing = np.empty(0, np.int64), np.empty((0, 4), np.int64), np.empty(0, np.bool_)
        samples, windows, flips = nothing
        for _, part in self._parts[:1]:
            out = pool.images(pool.take(1))
            self._render(part, samples, samples, windows, flips, out[:0], flips)

    def _render(
        self,
        part: Dataset,
        which: np.ndarray,
        samples: np.ndarray,
        windows: np.ndarray,
        flips: np.ndarray,
        out: np.ndarray,
        done: np.ndarray,
    ) -> None:
        """Render the rows of one file."""
        part.check_unchanged()  # the compiled code reads the map without a check
        mapped, sizes = part.file_bytes, part.sizes
        self._scratch = _at_least(self._scratch, int(sizes[samples[which]].sum()) + 2 * len(which))
        rows = np.empty((len(samples), _COLUMNS), np.int64)
        where = mapped, part.starts, sizes, part.heights, part.widths, part.raw
        scale_to = min(out.shape[1:3]) if self._scaling and not self._border else 0
        most = crop_rows(*where, which, samples, windows, self._border, scale_to, self._scratch, rows)
        shape = mapped, rows, windows, flips, self._border, self._antialias, self._tone, out, done
        if self._tools is not None:
            self._pixels = _at_least(self._pixels, most)
            decode_rows(which, self._tools, self._how, self._scratch, self._pixels, *shape)
        else:
            self._one_by_one(which, *shape)

    def _one_by_one(self, which: np.ndarray, mapped: np.ndarray, rows: np.ndarray, *shape: Any) -> None:
        """Decode rows by simplejpeg, and resize what was decoded now and then."""
        at, begin, filled = np.full(len(rows), -1, np.int64), 0, 0
        for end, (source, first, last, _, _, height, width, divisor) in enumerate(rows[which].tolist()):
            if source in (_IN_SCRATCH, _IN_FILE):
                height, width = -(-height // divisor), -(-width // divisor)
                need = 3 * height * width
                if filled and filled + need > max(_AT_ONCE_BYTES, len(self._pixels)):
                    resample_rows(which[begin:end], self._pixels, at, mapped, rows, *shape)
                    begin, filled = end, 0
                if need > len(self._pixels):
                    self._pixels = np.empty(max(need, _AT_ONCE_BYTES), np.uint8)
                data = (self._scratch if source == _IN_SCRATCH else mapped)[first:last]
                if self._decode(data, self._pixels[filled : filled + need], height, width, divisor):
                    at[which[end]] = filled
                    filled += need
        resample_rows(which[begin:], self._pixels, at, mapped, rows, *shape)

    def _decode(self, data: np.ndarray, pixels: np.ndarray, height: int, width: int, divisor: int) -> bool:
        """Whether a JPEG decodes to so many pixels."""
        try:
            if divisor == 1:
                decoded = simplejpeg.decode_jpeg(data, buffer=pixels, **self._options)
            else:
                least = {"min_height": height, "min_width": width}
                decoded = simplejpeg.decode_jpeg(data, buffer=pixels, **least, **self._options)
        except ValueError:
            return False
        return decoded.shape == (height, width, 3)


def decoder_options(*, fast: bool) -> dict[str, bool]:
    """What simplejpeg is asked for; see `Output.fast_decode`."""
    return {"fastdct": True, "fastupsample": True} if fast else {}


def _plain(dataset: Any) -> list[tuple[int, Dataset]]:
    """The files whose map may be read without a check of each sample, and the number of each one's first sample."""
    parts = dataset.parts if isinstance(dataset, JoinedDataset) else (dataset,)
    found, first = [], 0
    for part in parts:
        if isinstance(part, Dataset) and part.plans_mapped and not part.verifies:
            found.append((first, part))
        first += len(part)
    return found


def _at_least(memory: np.ndarray, size: int) -> np.ndarray:
    return memory if len(memory) >= size else np.empty(size + size // 4, np.uint8)
