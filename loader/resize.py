"""The one resize of all engines: a separable triangle filter over a window, fused with the output.

`antialias` widens the filter to the reduction's scale, as PIL, torchvision (antialias=True) and
DALI (antialias=True) do; `linear` takes the two nearest pixels. Pixel centres are at half
integers; pixels outside the window are never read, so that the result depends on the window alone.
The arithmetic is float32 without contraction or reordering: the same bits on any machine.
"""

from __future__ import annotations

from typing import Literal

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

Interpolation = Literal["antialias", "linear"]
INTERPOLATIONS = ("antialias", "linear")
_ROWS = 4  # that are resized together


@numba.njit(nogil=True, cache=True)
def taps(offset, length, target, antialias, divisor=1):
    """First pixel, number of pixels and weights of each target pixel along one axis.

    The window is `length` pixels from `offset` on; the first pixels are counted from the axis's
    start. Weights behind a pixel's last one are 0.

    Where the axis was made smaller by a whole `divisor`, the window is still said in pixels of before: it may then
    begin and end within a pixel.
    """
    start, span = offset / divisor, length / divisor
    whole = int(np.floor(start))
    within = start - whole
    end = int(np.ceil(within + span))
    scale = span / target
    radius = max(scale, 1.0) if antialias else 1.0
    first = np.empty(target, np.int64)
    count = np.empty(target, np.int64)
    weights = np.zeros((target, int(np.ceil(radius)) * 2 + 1), np.float32)
    triangle = np.empty(weights.shape[1], np.float64)
    for i in range(target):
        center = within + (i + 0.5) * scale
        low = max(int(np.floor(center - radius + 0.5)), 0)
        high = min(int(np.floor(center + radius + 0.5)), end)
        total = 0.0
        for k in range(high - low):
            triangle[k] = max(0.0, 1.0 - abs(low + k + 0.5 - center) / radius)
            total += triangle[k]
        for k in range(high - low):
            weights[i, k] = triangle[k] / total
        first[i] = whole + low
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
    if count == 3:
        for i in range(size):
            row[i] = w0 * np.float32(a[i]) + w1 * np.float32(b[i]) + w2 * np.float32(c[i])
        return
    d, w3 = flat[first + 3, begin:end], weights[3]
    for i in range(size):
        row[i] = w0 * np.float32(a[i]) + w1 * np.float32(b[i]) + w2 * np.float32(c[i]) + w3 * np.float32(d[i])
    for k in range(4, count):
        d, w = flat[first + k, begin:end], weights[k]
        for i in range(size):
            row[i] += w * np.float32(d[i])


@intrinsic
def _blend_pixel(typing_context, rows, across, at, weights, first, count, lines, along, to):
    """line[to : to + 4] = a half to round by + Σ weights[first + k] · row[at + 3k : at + 3k + 4], k < count.

    For `_ROWS` rows, `across` floats from one to the next, and as many lines, `along` floats from one to the next:
    together they load a weight once. Four floats in one register: the three channels, and one more that the next
    pixel writes over. Numba vectorises loops, but not the few statements of a pixel: by hand, that is a third of their
    time. Nothing is checked: all floats and weights must be there.
    """

    def generate(context, builder, signature, arguments):
        vector, index = ir.VectorType(ir.FloatType(), 4), ir.IntType(32)
        arrays = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 3, 6))
        rows_at, weights_at, lines_at = arrays
        _, across, at, _, first, count, _, along, to = arguments
        half = ir.Constant(vector, [0.5] * 4)
        sums = [cgutils.alloca_once_value(builder, half) for _ in range(_ROWS)]
        nothing, everywhere = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(index, 4), [0] * 4)
        with cgutils.for_range(builder, count) as loop:
            weight = builder.load(builder.gep(weights_at, [builder.add(first, loop.index)]))
            weight = builder.insert_element(nothing, weight, index(0))
            weight = builder.shuffle_vector(weight, nothing, everywhere)
            place = builder.add(at, builder.mul(loop.index, loop.index.type(3)))
            for one in sums:
                pixel = builder.load(builder.bitcast(builder.gep(rows_at, [place]), vector.as_pointer()))
                pixel.align = 4
                builder.store(builder.fadd(builder.load(one), builder.fmul(weight, pixel)), one)
                place = builder.add(place, across)
        for one in sums:
            place = builder.bitcast(builder.gep(lines_at, [to]), vector.as_pointer())
            builder.store(builder.load(one), place).align = 4
            to = builder.add(to, along)
        return context.get_dummy_value()

    number = types.int64
    return types.void(rows, number, number, weights, number, number, lines, number, number), generate


@numba.njit(nogil=True, cache=True)
def _blend_greys(row, first, weights, most, line):
    """`_blend_columns` of one channel, added up in the same order: a grey image has the bits of a coloured one."""
    half = np.float32(0.5)
    if most == 2:
        for x in range(np.uint64(len(first))):
            at = np.uint64(first[x])
            line[x] = half + weights[x, 0] * row[at] + weights[x, 1] * row[at + np.uint64(1)]
        return
    for x in range(np.uint64(len(first))):
        at, total, own = np.uint64(first[x]), half, weights[x]
        for k in range(np.uint64(most)):
            total += own[k] * row[at + k]
        line[x] = total


@numba.njit(nogil=True, cache=True)
def _blend_columns(rows, first, weights, most, lines, channels):
    """Each line = a half to round by + Σ weights · pixels of its row, with as many taps for every pixel."""
    size, across, along = weights.shape[1], rows.shape[1], lines.shape[1]
    if channels == 1:
        for k in range(_ROWS):
            _blend_greys(rows[k], first, weights, most, lines[k])
    elif most == 2:  # a constant number of taps is unrolled
        for x in range(len(first)):
            _blend_pixel(rows, across, 3 * first[x], weights, x * size, 2, lines, along, 3 * x)  # type: ignore[call-arg]
    elif most == 3:
        for x in range(len(first)):
            _blend_pixel(rows, across, 3 * first[x], weights, x * size, 3, lines, along, 3 * x)  # type: ignore[call-arg]
    elif most == 4:
        for x in range(len(first)):
            _blend_pixel(rows, across, 3 * first[x], weights, x * size, 4, lines, along, 3 * x)  # type: ignore[call-arg]
    else:
        for x in range(len(first)):
            _blend_pixel(rows, across, 3 * first[x], weights, x * size, most, lines, along, 3 * x)  # type: ignore[call-arg]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _tone(line, slope, offset, tone, to, channels):
    """Round a line of pixels down, and write what each stands for."""
    low, high = np.float32(0), np.float32(255)
    if tone.shape[1] == 0:
        for i in range(np.uint64(len(to))):
            to[i] = np.int32(min(max(line[i], low), high))
        return
    if len(slope):
        for i in range(np.uint64(len(to))):
            to[i] = np.float32(np.int32(min(max(line[i], low), high))) * slope[i] + offset[i]
        return
    if channels == 1:
        for x in range(np.uint64(len(to))):
            to[x] = tone[0, np.uint8(min(max(line[x], low), high))]
        return
    for x in range(len(to) // 3):
        for c in range(3):
            at = np.uint64(3 * x + c)
            to[at] = tone[c, np.uint8(min(max(line[at], low), high))]


def _rows(out):
    """(an image as rows of channels·width values, True) where it lies so in memory, else (a row to fill, False)."""


@overload(_rows)
def _rows_of(out):
    if out.layout == "C":
        return lambda out: (out.reshape(out.shape[0], out.shape[1] * out.shape[2]), True)
    return lambda out: (np.empty((1, out.shape[1] * out.shape[2]), out.dtype), False)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def resample(source, top, left, height, width, antialias, flip, tone, out, divisor=1):
    """Resize one window into one image of a batch, mirrored if asked, and give its values another scale.

    Args:
        source: uint8 [source_height, source_width, channels], of 3 channels or 1; the window must lie inside (checked).
        top, left, height, width: the window, in pixels of `divisor` times the source's size.
        antialias, flip: bools.
        tone: what a pixel's value v becomes in each channel c: float32 [channels, 2] for v · tone[c, 0] +
            tone[c, 1], rounded twice; [channels, 256] of `out`'s dtype for tone[c, v]; [channels, 0] for v.
        out: [out_height, out_width, channels], any strides.
        divisor: by how much the source was made smaller when it was decoded: 1, 2, 4 or 8.

    Returns:
        False, with `out` untouched, if the window does not lie inside `source`.
    """
    channels = source.shape[2]
    if (channels != 3 and channels != 1) or out.shape[2] != channels or tone.shape[0] != channels:
        return False
    if top < 0 or left < 0 or height < 1 or width < 1:
        return False
    first, last = left // divisor, -(-(left + width) // divisor)
    if -(-(top + height) // divisor) > source.shape[0] or last > source.shape[1]:
        return False
    out_height, out_width = out.shape[0], out.shape[1]
    row_first, row_count, row_weights = taps(top, height, out_height, antialias, divisor)
    col_first, col_count, col_weights = taps(left % divisor, width, out_width, antialias, divisor)
    most = col_count.max()
    if flip:
        col_first, col_weights = col_first[::-1].copy(), col_weights[::-1].copy()
    flat = source.reshape(source.shape[0], source.shape[1] * channels)
    # Behind the window: zeros for taps of weight 0, and a fourth channel for the last pixel.
    blended = np.zeros((_ROWS, (last - first + most) * channels + 1), np.float32)
    lines = np.empty((_ROWS, out_width * channels + 1), np.float32)
    affine = out_width if tone.shape[1] == 2 else 0
    slope, offset = np.empty(affine * channels, np.float32), np.empty(affine * channels, np.float32)
    for x in range(affine):
        for c in range(channels):
            slope[channels * x + c], offset[channels * x + c] = tone[c, 0], tone[c, 1]
    rows, in_place = _rows(out)
    begin, end = first * channels, last * channels
    for above in range(0, out_height, _ROWS):
        below = min(above + _ROWS, out_height)
        for y in range(above, below):
            _blend_rows(flat, row_first[y], row_count[y], row_weights[y], begin, end, blended[y - above])
        _blend_columns(blended, col_first, col_weights, most, lines, channels)
        for y in range(above, below):
            to = rows[y if in_place else 0]
            _tone(lines[y - above], slope, offset, tone, to, channels)
            if not in_place:
                for x in range(out_width):
                    for c in range(channels):
                        out[y, x, c] = to[channels * x + c]
    return True


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _tone_pixels(pixels, tone, out):
    size, channels = pixels.shape[1], tone.shape[0]
    affine = tone.shape[1] == 2
    slope, offset = np.empty(size, np.float32), np.empty(size, np.float32)
    if affine:
        for i in range(size):
            slope[i], offset[i] = tone[i % channels, 0], tone[i % channels, 1]
    for y in range(pixels.shape[0]):
        row, to = pixels[y], out[y]
        if affine:
            for i in range(np.uint64(size)):
                to[i] = np.float32(row[i]) * slope[i] + offset[i]
        else:
            for c in range(channels):
                for i in range(c, size, channels):
                    to[i] = tone[c, row[i]]


def apply_tone(images: np.ndarray, tone: np.ndarray, out: np.ndarray) -> None:
    """Write images that are resized already with another scale.

    Args:
        images: uint8 [n, h, w, channels], contiguous.
        tone: see `resample`.
        out: [n, h, w, channels], contiguous.
    """
    if images.shape != out.shape or not (images.flags.c_contiguous and out.flags.c_contiguous):
        raise ValueError(f"images {images.shape} and out {out.shape} must be contiguous and of one shape")
    if images.shape[3] != tone.shape[0]:
        raise ValueError(f"images {images.shape} and a tone of {tone.shape[0]} channels do not go together")
    if tone.shape[1] == 0:
        np.copyto(out, images)
        return
    rows = (images.shape[0] * images.shape[1], images.shape[2] * images.shape[3])
    _tone_pixels(images.reshape(rows), tone, out.reshape(rows))
