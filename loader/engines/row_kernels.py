"""Some rows of a batch in compiled calls: cropped, decoded and resized without Python's lock.

What a row is decoded from, and what it shows, is a row of int64 [n, `COLUMNS`].
"""

from __future__ import annotations

import numba
import numpy as np

from budgetloader.engines import turbojpeg
from budgetloader.engines.channels import grey
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
from budgetloader.resize import resample

_MCU, _CALL_PIXELS = 16, 1000  # pixels: what a window has besides, on average, and a decoder's call is worth
COLUMNS = 8
_FROM, _BEGIN, _END, _TOP, _LEFT, _HEIGHT, _WIDTH, _DIVISOR = range(COLUMNS)
_LEAVE, IN_SCRATCH, IN_FILE, _PIXELS = range(4)  # what a row is decoded from; _PIXELS: it is decoded


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

    Returns:
        The most pixels that one of them has when it is decoded.
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
            most = max(most, _note(rows[i], IN_FILE, begin, end, 0, 0, height, width, divisor))
        elif size > 0:
            sof = head[SOF]  # in what was written
            part_height = (np.int64(out[sof + 5]) << 8) | out[sof + 6]
            part_width = (np.int64(out[sof + 7]) << 8) | out[sof + 8]
            noted = _note(rows[i], IN_SCRATCH, to, to + size, place[0], place[1], part_height, part_width, divisor)
            most, to = max(most, noted), to + size
    return most


@numba.njit(nogil=True, cache=True)
def _note(row, source, begin, end, top, left, height, width, divisor):
    row[_FROM], row[_BEGIN], row[_END], row[_TOP], row[_LEFT] = source, begin, end, top, left
    row[_HEIGHT], row[_WIDTH], row[_DIVISOR] = height, width, divisor
    return -(-height // divisor) * -(-width // divisor)


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


@numba.njit(nogil=True, cache=True, error_model="numpy")
def make_rows(
    mapped, starts, sizes, heights, widths, raw, leading, samples, shown, border, scale_to, scratch, rows, tools, how,
    pixels, behind, begins, windows, flips, antialias, tone, out, to, done,
):  # fmt: skip
    """Crop and decode leading rows, and resize all that each of them shows, while its bytes are in the cache.

    Args:
        mapped, starts, sizes, heights, widths, raw, samples, border, scale_to, rows: see `crop_rows`.
        leading: int64, the rows whose images are decoded.
        shown: int64 [n, 4], what they show; see `unite`.
        scratch: uint8, 2 bytes more than the largest of the samples has.
        tools, how: see `turbojpeg.decode`.
        pixels: uint8, as many bytes as the largest image.
        behind: int64, all rows, those that one leader shows together.
        begins: int64, where those of each leader begin in `behind`.
        windows, flips, antialias, tone, out, to, done: see `resample_rows`.
    """
    channels = out.shape[3]
    for k in range(len(leading)):
        row = rows[leading[k]]
        where = mapped, starts, sizes, heights, widths, raw
        need = channels * crop_rows(*where, leading[k : k + 1], samples, shown, border, scale_to, scratch, rows)
        height, width = -(-row[_HEIGHT] // row[_DIVISOR]), -(-row[_WIDTH] // row[_DIVISOR])
        if row[_FROM] == _PIXELS:
            image = mapped[row[_BEGIN] : row[_END]].reshape((height, width, 3))
            if channels == 1:
                image = grey(image)
        elif row[_FROM] != _LEAVE and need <= len(pixels):
            data = (scratch if row[_FROM] == IN_SCRATCH else mapped)[row[_BEGIN] : row[_END]]
            decoded = pixels[:need]
            if not turbojpeg.decode(tools, data, row[_HEIGHT], row[_WIDTH], row[_DIVISOR], how, channels, decoded):
                continue
            image = decoded.reshape((height, width, channels))
        else:
            continue
        for b in range(begins[k], begins[k + 1] if k + 1 < len(begins) else len(behind)):
            i = behind[b]
            done[i] = _resample_row(image, windows[i], row, border, antialias, flips[i], tone, out[to[i]])
