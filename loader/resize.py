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
def _taps(size, offset, length, target, antialias):
    """First pixel, number of pixels and weights of each target pixel along one axis.

    `offset` and `length` are the window along the axis of `size` pixels; the first pixels are
    counted from the axis's start.
    """
    scale = length / target
    radius = max(scale, 1.0) if antialias else 1.0
    first = np.empty(target, np.int64)
    count = np.empty(target, np.int64)
    weights = np.empty((target, int(np.ceil(radius)) * 2 + 1), np.float32)
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
    row_first, row_count, row_weights = _taps(source.shape[0], top, height, out_height, antialias)
    col_first, col_count, col_weights = _taps(source.shape[1], 0, width, out_width, antialias)
    row = np.empty(width * 3, np.float32)
    begin, end = left * 3, (left + width) * 3
    flat = source.reshape(source.shape[0], source.shape[1] * 3)
    for y in range(out_height):
        line = flat[row_first[y], begin:end]
        weight = row_weights[y, 0]
        for i in range(width * 3):
            row[i] = weight * np.float32(line[i])
        for k in range(1, row_count[y]):
            line = flat[row_first[y] + k, begin:end]
            weight = row_weights[y, k]
            for i in range(width * 3):
                row[i] += weight * np.float32(line[i])
        for x in range(out_width):
            red = green = blue = np.float32(0.5)
            at = col_first[x] * 3
            for k in range(col_count[x]):
                weight = col_weights[x, k]
                red += weight * row[at]
                green += weight * row[at + 1]
                blue += weight * row[at + 2]
                at += 3
            to = out_width - 1 - x if flip else x
            out[y, to, 0] = table[0, min(max(int(red), 0), 255)]
            out[y, to, 1] = table[1, min(max(int(green), 0), 255)]
            out[y, to, 2] = table[2, min(max(int(blue), 0), 255)]
    return True
