"""The system's libjpeg-turbo, called from compiled code: an image is decoded without Python's lock.

simplejpeg's libjpeg-turbo is linked into its extension, and each of its calls takes the lock and gives it back. With
images of a few pixels that is most of their time, and threads wait for each other. Where the system has the library
itself (Debian's libturbojpeg0), compiled code decodes a task's rows through its C interface, which has been the same
since version 1.4. It is used if it gives simplejpeg's pixels; what it refuses is left to simplejpeg.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import logging
import sys
import weakref
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import simplejpeg
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_NAMES = {"linux": "libturbojpeg.so.0", "darwin": "libturbojpeg.0.dylib"}
_FAST_UPSAMPLING, _FAST_DCT = 256, 2048  # turbojpeg.h: TJFLAG_FASTUPSAMPLE, TJFLAG_FASTDCT
_RGB, _GREY = 0, 6  # TJPF_RGB and TJPF_GRAY
_OF_RGB, _OF_GREY = 0, 2  # TJCS_RGB, TJCS_YCbCr (1) and TJCS_GRAY; behind them CMYK and YCCK
_SHARP = 16  # pixels; from here on no other scale than the one that is meant makes an image of the size asked for
_log = logging.getLogger("budgetloader")

Tools = tuple[int, int, int]
"""Of a thread: its decompressor, and the addresses of tjDecompressHeader3 and tjDecompress2."""


@dataclass(frozen=True)
class Library:
    """A libjpeg-turbo that decodes as simplejpeg does.

    Attributes:
        name: the file's name.
        loaded: the library, which stays loaded for as long as this is there.
    """

    name: str
    loaded: Any

    def tools(self, owner: object) -> Tools | None:
        """What `decode` needs, for one thread; the decompressor is freed with its owner. None: there is no memory."""
        handle = self.loaded.tjInitDecompress()
        if not handle:
            return None
        weakref.finalize(owner, self.loaded.tjDestroy, handle).atexit = False
        header, decompress = (
            ctypes.cast(function, ctypes.c_void_p).value
            for function in (self.loaded.tjDecompressHeader3, self.loaded.tjDecompress2)
        )
        assert header and decompress
        return handle, header, decompress


@functools.cache
def library() -> Library | None:
    """The system's libjpeg-turbo; None where there is none, or it decodes otherwise than simplejpeg."""
    name = _NAMES.get(sys.platform)
    if name is None or ctypes.sizeof(ctypes.c_ulong) != 8:
        return None
    try:
        found = Library(name, _declared(ctypes.CDLL(name)))
    except (OSError, AttributeError):
        return None
    if not _agrees(found):
        _log.warning("%s is not used: it decodes otherwise than simplejpeg does", name)
        return None
    return found


def flags(*, fast: bool) -> int:
    """What the library is asked for; see `Output.fast_decode`."""
    return _FAST_UPSAMPLING | _FAST_DCT if fast else 0


def _declared(loaded: Any) -> Any:
    """The library with the types of what is called of it, as turbojpeg.h has them."""
    pointer, count, number = ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int
    loaded.tjInitDecompress.restype, loaded.tjInitDecompress.argtypes = pointer, []
    loaded.tjDestroy.argtypes = [pointer]
    loaded.tjDecompressHeader3.argtypes = [pointer, pointer, count, *[ctypes.POINTER(number)] * 4]
    loaded.tjDecompress2.argtypes = [pointer, pointer, count, pointer, *[number] * 5]
    return loaded


def _agrees(found: Library) -> bool:
    """Whether it decodes some images of noise, of every chroma subsampling, as simplejpeg does."""
    noise = ((np.arange(33 * 39 * 3, dtype=np.uint32) * 2654435761) >> np.uint32(24)).astype(np.uint8)
    pixels, out = noise.reshape(33, 39, 3), np.empty((33, 39, 3), np.uint8)
    handle = found.loaded.tjInitDecompress()
    if not handle:
        return False
    try:
        for subsampling in ("444", "422", "420", "440", "Gray"):
            data = simplejpeg.encode_jpeg(pixels, quality=90, colorsubsampling=subsampling)
            for fast, (kind, colours) in itertools.product((False, True), ((_RGB, "RGB"), (_GREY, "Gray"))):
                wanted = simplejpeg.decode_jpeg(data, colorspace=colours, fastdct=fast, fastupsample=fast)
                height, width, count = wanted.shape
                shape = out.ctypes.data, width, count * width, height, kind, flags(fast=fast)
                if found.loaded.tjDecompress2(handle, data, len(data), *shape):
                    return False
                if not np.array_equal(out.ravel()[: wanted.size], wanted.ravel()):
                    return False
    finally:
        found.loaded.tjDestroy(handle)
    return True


def _foreign(kinds: str) -> Any:
    """How compiled code calls a C function by its address: "p" is a pointer, "l" a long and "i" an int, as int64."""
    pointer, long, number = ir.IntType(8).as_pointer(), ir.IntType(64), ir.IntType(32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, given = arguments[0], [builder.extract_value(arguments[1], i) for i in range(len(kinds))]
        c_types = [{"p": pointer, "l": long, "i": number}[kind] for kind in kinds]
        values = [
            builder.inttoptr(value, pointer) if kind == "p" else builder.trunc(value, number) if kind == "i" else value
            for kind, value in zip(kinds, given, strict=True)
        ]
        function = builder.inttoptr(address, ir.FunctionType(number, c_types).as_pointer())
        return builder.sext(builder.call(function, values), long)

    return types.int64(types.int64, types.UniTuple(types.int64, len(kinds))), generate


@intrinsic
def _header(typing_context, address, arguments):  # type: ignore[no-untyped-def]
    return _foreign("pplpppp")


@intrinsic
def _decompress(typing_context, address, arguments):  # type: ignore[no-untyped-def]
    return _foreign("pplpiiiii")


@numba.njit(nogil=True, cache=True)
def decode(tools, data, height, width, divisor, how, channels, pixels):
    """Decode a JPEG; whether it could be done.

    Args:
        tools: of this thread.
        data: uint8, contiguous.
        height, width: what its headers have to say.
        divisor: 1, 2, 4 or 8, by which it is made smaller.
        how: see `flags`.
        channels: 3, or 1: the luma.
        pixels: uint8 [⌈height / divisor⌉ · ⌈width / divisor⌉ · channels], contiguous, to write to.
    """
    handle, header, decompress = tools
    down, across = -(-height // divisor), -(-width // divisor)
    if (channels != 3 and channels != 1) or len(pixels) != channels * down * across:
        return False
    if divisor > 1 and max(height, width) < _SHARP:
        return False
    found = np.empty(4, np.int32)  # width, height, subsampling, colours
    at = np.int64(found.ctypes.data)
    start, size = np.int64(data.ctypes.data), np.int64(len(data))
    told = np.int64(handle), start, size, at, at + np.int64(4), at + np.int64(8), at + np.int64(12)
    if _header(np.int64(header), told) != 0:  # type: ignore[call-arg]
        return False
    least = _OF_RGB if channels == 3 else _OF_RGB + 1  # simplejpeg makes the luma of the few others
    if found[0] != width or found[1] != height or found[3] < least or found[3] > _OF_GREY:
        return False
    to, pitch = np.int64(pixels.ctypes.data), np.int64(channels * across)
    kind = np.int64(_RGB if channels == 3 else _GREY)
    made = np.int64(handle), start, size, to, np.int64(across), pitch, np.int64(down), kind, np.int64(how)
    return _decompress(np.int64(decompress), made) == 0  # type: ignore[call-arg]
