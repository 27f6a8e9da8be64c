"""The one resize of all engines: a separable triangle filter over a window, fused with the output.

`antialias` widens the filter to the reduction's scale, as PIL, torchvision (antialias=True) and
DALI (antialias=True) do; `linear` always takes the two nearest pixels. Pixel centres are at half
integers; pixels outside the window are never read, so that the result depends on the window alone.
The arithmetic is float32 without contraction or reordering: the same bits on any machine.
"""

from __future__ import annotations

from typing import Literal

import numba
import numpy as np

Interpolation = Literal["antialias", "linear"]
INTERPOLATIONS = ("antialias", "linear")


@numba.njit(nogil=True, cache=True)
def taps(offset, length, target, antialias):
    """First pixel, number of pixels and weights of each target pixel along one axis.

    The window is `length` pixels from `offset` on; the first pixels are counted from the axis's
    start. Weights behind a pixel's last one are 0.
    """
    scale = length / target
    radius = max(scale, 1.0) if antialias else 1.0
    first = np.empty(target, np.int64)
    count = np.empty(target, np.int64)
    weights = np.zeros((target, int(np.ceil(radius)) * 2 + 1), np.float32)
    for i in range(target):
        center = (i + 0.5) * scale
        low = max(int(np.floor(center - radius + 0.5)), 0)
        high = min(int(np.floor(center + radius + 0.5)), length)
        total = 0.0
        for k in range(high - low):
            total += max(0.0, 1.0 - abs(low + k + 0.5 - center) / radius)
        for k in range(high - low):
            weights[i, k] = max(0.0, 1.0 - abs(low + k + 0.5 - center) / radius) / total
        first[i] = offset + low
        count[i] = high - low
    return first, count, weights


@numba.njit(nogil=True, cache=True)
def _blend_rows(flat, first, count, weights, begin, end, row):
    """row = Σ weights · rows of `flat`, between two columns. Vectorises."""
    size = end - begin
    a, w0 = flat[first, begin:end], weights[0]
    if count == 1:
        for i in range(size):
            row[i] = w0 * np.float32(a[i])
        return
    b, w1 = flat[first + 1, begin:end], weights[1]
    if count == 2:
        for i in range(size):
            row[i] = w0 * np.float32(a[i]) + w1 * np.float32(b[i])
        return
    c, w2 = flat[first + 2, begin:end], weights[2]
    for i in range(size):
        row[i] = w0 * np.float32(a[i]) + w1 * np.float32(b[i]) + w2 * np.float32(c[i])
    for k in range(3, count):
        d, w = flat[first + k, begin:end], weights[k]
        for i in range(size):
            row[i] += w * np.float32(d[i])


@numba.njit(nogil=True, cache=True)
def _blend_columns(row, first, weights, most, line):
    """line = Σ weights · pixels of `row`, plus a half to round by.

    Unsigned indices spare numba's check for negative ones, and as many taps for every pixel (some of
    weight 0) spare the processor wrong guesses: together they halve the time.
    """
    half = np.float32(0.5)
    for x in range(np.uint64(len(first))):
        at, to = np.uint64(first[x] * 3), np.uint64(3) * x
        red, green, blue = half, half, half
        if most == 2:
            w0, w1 = weights[x, 0], weights[x, 1]
            red = half + w0 * row[at] + w1 * row[at + np.uint64(3)]
            green = half + w0 * row[at + np.uint64(1)] + w1 * row[at + np.uint64(4)]
            blue = half + w0 * row[at + np.uint64(2)] + w1 * row[at + np.uint64(5)]
        else:
            for k in range(most):
                w = weights[x, np.uint64(k)]
                red += w * row[at]
                green += w * row[at + np.uint64(1)]
                blue += w * row[at + np.uint64(2)]
                at += np.uint64(3)
        line[to], line[to + np.uint64(1)], line[to + np.uint64(2)] = red, green, blue


@numba.njit(nogil=True, cache=True, error_model="numpy")
def resample(source, top, left, height, width, antialias, flip, table, out):
    """Resize one window into one image of a batch, mirrored if asked, through a lookup table.

    Args:
        source: uint8 [source_height, source_width, 3]; the window must lie inside (checked).
        antialias, flip: bools.
        table: [3, 256], each channel's output value for each pixel value.
        out: [out_height, out_width, 3] of the table's dtype, any strides.

    Returns:
        False, with `out` untouched, if the window does not lie inside `source`.
    """
    if top < 0 or left < 0 or height < 1 or width < 1:
        return False
    if top + height > source.shape[0] or left + width > source.shape[1]:
        return False
    out_height, out_width = out.shape[0], out.shape[1]
    row_first, row_count, row_weights = taps(top, height, out_height, antialias)
    col_first, col_count, col_weights = taps(0, width, out_width, antialias)
    most = col_count.max()
    flat = source.reshape(source.shape[0], source.shape[1] * 3)
    row = np.zeros((width + most) * 3, np.float32)  # zeros behind the window for taps of weight 0
    line = np.empty(out_width * 3, np.float32)
    values = np.empty(out_width * 3, np.uint8)
    red, green, blue = table[0], table[1], table[2]
    for y in range(out_height):
        _blend_rows(flat, row_first[y], row_count[y], row_weights[y], left * 3, (left + width) * 3, row)
        _blend_columns(row, col_first, col_weights, most, line)
        for i in range(out_width * 3):
            values[i] = np.int32(min(max(line[i], np.float32(0)), np.float32(255)))
        to = out[y]
        for x in range(out_width):
            at = 3 * (out_width - 1 - x if flip else x)
            to[x, 0] = red[values[at]]
            to[x, 1] = green[values[at + 1]]
            to[x, 2] = blue[values[at + 2]]
    return True
