"""Arrays as a part of a state: in its JSON where they are small, beside it where they are large."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from budgetloader.errors import ResumeError

INLINE_BYTES = 32 << 10  # of compressed arrays that a state holds itself
_TRIED = 4  # times as many bytes are compressed, to see whether they are few enough then
_MOST_BYTES = 1 << 40
_DTYPES = ("float32", "int64", "uint8")

Arrays = dict[str, np.ndarray]


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Tells contents apart: 32 hex digits."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        state.update(array.tobytes())
    return state.hexdigest()[:32]


def pack(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What a state says of some arrays: their digest, and the arrays themselves where they are small. JSON-able."""
    said: dict[str, Any] = {"digest": digest(arrays)}
    if sum(array.nbytes for array in arrays.values()) > _TRIED * INLINE_BYTES:  # numbers do not shrink by so much
        return said
    head = json.dumps({name: [array.dtype.name, len(array)] for name, array in arrays.items()})
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    packed = zlib.compress(head.encode() + b"\n" + body)
    if len(packed) <= INLINE_BYTES:
        said["content"] = base64.b64encode(packed).decode()
    return said


def unpack(said: Any, beside: Mapping[str, np.ndarray] | None) -> Arrays:
    """The arrays of which a state speaks.

    Args:
        said: what `pack` gave.
        beside: the arrays that were kept beside the state, or None.

    Raises:
        ResumeError: they are not there, or others.
    """
    if not isinstance(said, dict) or not isinstance(said.get("digest"), str):
        raise ResumeError(f"the state's chosen samples are damaged ({str(said)[:60]!r})")
    if beside is not None:
        arrays = {str(name): np.asarray(array) for name, array in beside.items()}
    elif "content" in said:
        arrays = _inline(said["content"])
    else:
        raise ResumeError(
            "the state names the samples that were chosen by their digest alone, because they are many: give what "
            "selection_state() gave beside it, as load_state_dict(state, selection=…)"
        )
    if digest(arrays) != said["digest"]:
        raise ResumeError(
            f"the chosen samples have digest {digest(arrays)}, and the state was taken with {said['digest']}; give "
            "what selection_state() gave at the same time"
        )
    return arrays


def _inline(text: Any) -> Arrays:
    """The arrays in a state's own text, without a byte more than it says that they have."""
    try:
        opened = zlib.decompressobj()
        data = opened.decompress(base64.b64decode(text, validate=True), (_TRIED + 1) * INLINE_BYTES)
        head, _, body = data.partition(b"\n")
        arrays, at = {}, 0
        for name, (dtype, count) in json.loads(head).items():
            if dtype not in _DTYPES or not isinstance(count, int) or not 0 <= count < _MOST_BYTES:
                raise ValueError(f"{name} of {dtype}")
            size = count * np.dtype(dtype).itemsize
            if len(body) - at < size:
                raise ValueError(f"{name} is cut short")
            arrays[name] = np.frombuffer(body, dtype, count, at)
            at += size
    except (ValueError, TypeError, AttributeError, zlib.error, RecursionError) as error:
        raise ResumeError(f"the state's chosen samples are damaged ({str(error)[:80]})") from None
    return arrays
