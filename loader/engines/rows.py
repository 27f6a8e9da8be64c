"""Some rows of a batch at a time: cropped in one compiled call, decoded one by one, resized in another call.

Python's lock is held for the decoder's calls alone, and for what a task of many rows costs once. What is not plain
(a damaged image, a file that is not mapped) is left to the caller, row by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import simplejpeg

from budgetloader.dataset import Dataset
from budgetloader.engines.base import Job, Output
from budgetloader.engines.buffers import BufferPool, tone
from budgetloader.engines.channels import Part, grey
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
_MCU, _CALL_PIXELS = 16, 1000  # pixels: what a window has besides, on average, and a decoder's call is worth
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
def unite(which, samples, windows, leaders):
    """Find rows that show parts of one image, and are decoded together in less time than each by itself.

    Args:
        which: int64, the rows to look at.
        samples: int64 [n].
        windows: int64 [n, 4]; of a leader, it becomes what all its rows show together.
        leaders: int64 [n], 0 … n − 1; of a row that another one's image shows, it becomes that row.
    """
    for b in range(1, len(which)):
        i = which[b]
        for a in range(b):
            j = which[a]
            if leaders[j] != j or samples[j] != samples[i]:
                continue
            top, left = min(windows[i, 0], windows[j, 0]), min(windows[i, 1], windows[j, 1])
            bottom = max(windows[i, 0] + windows[i, 2], windows[j, 0] + windows[j, 2])
            right = max(windows[i, 1] + windows[i, 3], windows[j, 1] + windows[j, 3])
            alone = _effort(windows[i, 2], windows[i, 3]) + _effort(windows[j, 2], windows[j, 3])
            if _effort(bottom - top, right - left) <= alone:
                windows[j, 0], windows[j, 1], windows[j, 2], windows[j, 3] = top, left, bottom - top, right - left
                leaders[i] = j
                break


@numba.njit(nogil=True, cache=True)
def _effort(height, width):
    """What decoding a window takes, in pixels: whole MCUs, and the call itself."""
    return (height + _MCU) * (width + _MCU) + _CALL_PIXELS


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
    """
    head, place, lengths, to = np.zeros(FIELDS, np.int64), np.zeros(2, np.int64), np.empty(1024, np.int64), 0
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
            _note(rows[i], _IN_FILE, begin, end, 0, 0, height, width, divisor)
        elif size > 0:
            sof = head[SOF]  # in what was written
            part_height = (np.int64(out[sof + 5]) << 8) | out[sof + 6]
            part_width = (np.int64(out[sof + 7]) << 8) | out[sof + 8]
            _note(rows[i], _IN_SCRATCH, to, to + size, place[0], place[1], part_height, part_width, divisor)
            to += size


@numba.njit(nogil=True, cache=True)
def _note(row, source, begin, end, top, left, height, width, divisor):
    row[_FROM], row[_BEGIN], row[_END], row[_TOP], row[_LEFT] = source, begin, end, top, left
    row[_HEIGHT], row[_WIDTH], row[_DIVISOR] = height, width, divisor


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _resample_row(source, window, row, border, antialias, flip, tone, out):
    top, left = window[0] - row[_TOP], window[1] - row[_LEFT]
    if border == 0:
        return resample(source, top, left, window[2], window[3], antialias, flip, tone, out, row[_DIVISOR])
    padded = np.zeros((source.shape[0] + 2 * border, source.shape[1] + 2 * border, source.shape[2]), np.uint8)
    padded[border:-border, border:-border] = source
    return resample(padded, top + border, left + border, window[2], window[3], antialias, flip, tone, out, 1)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def resample_rows(which, leaders, pixels, at, mapped, rows, windows, flips, border, antialias, tone, out, to, done):
    """Resize rows whose images are decoded into a batch; `done` says which could be.

    Args:
        which: int64, the rows to do.
        leaders: int64 [n], of each row, that whose decoded image shows it, too: see `unite`.
        pixels: uint8, the decoded images.
        at: int64 [n], where each begins; below 0: it is not decoded.
        mapped: uint8, the file, where `rows` says that pixels are in it.
        rows: int64 [n, 8], of `crop_rows`.
        windows, flips: int64 [n, 4] and bool [n].
        border: black pixels around an image.
        antialias, tone: see `resample`.
        out: [batch, h, w, channels], any strides.
        to: int64 [n], which images of `out` they are.
        done: bool [n], filled.
    """
    channels = out.shape[3]
    for i in which:
        leader = leaders[i]
        row = rows[leader]
        height, width = -(-row[_HEIGHT] // row[_DIVISOR]), -(-row[_WIDTH] // row[_DIVISOR])
        if row[_FROM] == _PIXELS:
            stored = mapped[row[_BEGIN] : row[_END]].reshape((height, width, 3))
            if channels == 1:
                shown = grey(stored)
                done[i] = _resample_row(shown, windows[i], row, border, antialias, flips[i], tone, out[to[i]])
            else:
                done[i] = _resample_row(stored, windows[i], row, border, antialias, flips[i], tone, out[to[i]])
        elif at[leader] >= 0:
            decoded = pixels[at[leader] : at[leader] + height * width * channels].reshape((height, width, channels))
            done[i] = _resample_row(decoded, windows[i], row, border, antialias, flips[i], tone, out[to[i]])


class RowRenderer:
    """Renders what is plain of some rows of a batch; one per thread, for its scratch memory.

    Args:
        job: what to make.
        output: the format to write.
        part: the channels to make; default: all, of the job's images.

    Attributes:
        shared: rows of the last call that were cut from what was decoded for another.
    """

    def __init__(self, job: Job, output: Output, part: Part | None = None) -> None:
        self._part = part or Part(job.dataset, 0, output.channels)
        self._parts = _plain(self._part.dataset)
        self._tone = self._part.tone(tone(output))
        self._antialias = job.output.interpolation == "antialias"
        self._border = PAD if job.output.crop == "pad" else 0
        self._scaling = job.output.decode_scaling
        self._options = decoder_options(fast=job.output.fast_decode, grey=self._part.count == 1)
        self._scratch, self._pixels = np.empty(0, np.uint8), np.empty(0, np.uint8)
        self.shared = 0

    def render(self, plan: BatchPlan, which: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Render rows of a plan.

        Args:
            plan: of the batch.
            which: int64 [n], its rows to make.
            images: all of the batch, [batch, h, w, channels] with any strides.

        Returns:
            bool [n]: which of them are made. The others were left, and are perhaps half written.

        Raises:
            DatasetError: the file was cut short or written to.
        """
        rows = _Rows(which, plan.samples[which], plan.windows[which], plan.flips[which])
        out, done = self._part.of(images), np.zeros(len(which), np.bool_)
        self.shared = 0
        for first, file in self._parts:
            inside = rows.samples - first
            mine = np.flatnonzero((inside >= 0) & (inside < len(file)))
            if len(mine):
                self._render(file, mine, inside, rows, out, done)
        return done

    def compile(self, output: Output) -> None:
        """Compile, or load from numba's cache, what a batch of this output needs."""
        pool = BufferPool(output, 1)
        none = np.empty(0, np.int64)
        rows = _Rows(none, none, np.empty((0, 4), np.int64), np.empty(0, np.bool_))
        for _, file in self._parts[:1]:
            images = self._part.of(pool.images(pool.take(1)))
            self._render(file, none, none, rows, images[:0], np.zeros(0, np.bool_))

    def _render(
        self, file: Dataset, mine: np.ndarray, samples: np.ndarray, rows: _Rows, out: np.ndarray, done: np.ndarray
    ) -> None:
        """Render the rows of one file."""
        file.check_unchanged()  # the compiled code reads the map without a check
        mapped, sizes = file.file_bytes, file.sizes
        shown, leaders = rows.windows.copy(), np.arange(len(samples))
        if not self._scaling:  # which may make each window smaller in another way
            unite(mine, samples, shown, leaders)
        leading = mine[leaders[mine] == mine]
        self._scratch = _at_least(self._scratch, int(sizes[samples[leading]].sum()) + 2 * len(leading))
        found, at = np.empty((len(samples), _COLUMNS), np.int64), np.full(len(samples), -1, np.int64)
        where = mapped, file.starts, sizes, file.heights, file.widths, file.raw
        scale_to = min(out.shape[1:3]) if self._scaling and not self._border else 0
        crop_rows(*where, leading, samples, shown, self._border, scale_to, self._scratch, found)
        # Rows behind their leaders, and where those of each leader begin.
        behind = mine[np.argsort(leaders[mine], kind="stable")]
        begins = np.searchsorted(leaders[behind], leading)
        shape = self._border, self._antialias, self._tone, out, rows.which, done
        begin, filled = 0, 0
        for number, (source, first, last, _, _, height, width, divisor) in enumerate(found[leading].tolist()):
            if source in (_IN_SCRATCH, _IN_FILE):
                height, width = -(-height // divisor), -(-width // divisor)
                need = self._part.count * height * width
                if filled and filled + need > max(_AT_ONCE_BYTES, len(self._pixels)):
                    some = behind[begin : begins[number]]
                    resample_rows(some, leaders, self._pixels, at, mapped, found, rows.windows, rows.flips, *shape)
                    begin, filled = begins[number], 0
                if need > len(self._pixels):
                    self._pixels = np.empty(max(need, _AT_ONCE_BYTES), np.uint8)
                data = (self._scratch if source == _IN_SCRATCH else mapped)[first:last]
                if self._decode(data, self._pixels[filled : filled + need], height, width, divisor):
                    at[leading[number]] = filled
                    filled += need
        resample_rows(behind[begin:], leaders, self._pixels, at, mapped, found, rows.windows, rows.flips, *shape)
        self.shared += int(np.count_nonzero(done[mine] & (leaders[mine] != mine)))

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
        return decoded.shape == (height, width, self._part.count)


@dataclass(frozen=True)
class _Rows:
    """Some rows of a plan: which they are, their samples, windows and flips."""

    which: np.ndarray
    samples: np.ndarray
    windows: np.ndarray
    flips: np.ndarray


def decoder_options(*, fast: bool, grey: bool = False) -> dict[str, Any]:
    """What simplejpeg is asked for; see `Output.fast_decode`. Grey is the luma that a JPEG stores."""
    options: dict[str, Any] = {"fastdct": True, "fastupsample": True} if fast else {}
    return {**options, "colorspace": "Gray"} if grey else options


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
