"""CIFAR's pickles, read without running code that they may hold.

A pickle is a program. This reads it with the standard library's own interpreter in Python, whose worst is an
exception (the one in C can be made to crash, and to allocate what a pickle says), and gives it nothing to call but
stand-ins for the few names that arrays are pickled by. What comes out is made of dicts, lists, strings, bytes,
integers and uint8 arrays, or it is an error.
"""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from budgetloader.errors import DatasetError

_MOST_BYTES = 1 << 30  # CIFAR's largest file has 155 MB


def cifar_folder(root: str | Path) -> Path | None:
    """The folder in `root`, or `root` itself, that holds CIFAR's pickles; None if there is none."""
    for child in ("", "cifar-10-batches-py", "cifar-100-python"):
        for meta in ("batches.meta", "meta"):
            if (Path(root) / child / meta).is_file():
                return Path(root) / child
    return None


class _StandIn:
    """Something that a pickle may name and nothing else; it has no attributes that could be set."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes what it was given")


class _Array(_StandIn):
    """`numpy.ndarray` while it is unpickled: bytes, and the shape that they have."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not dtype.uint8:
            raise pickle.UnpicklingError("it has an array that is not of uint8")
        sides = isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)
        if not sides or len(shape) > 8 or not isinstance(data, bytes):
            raise pickle.UnpicklingError("it has an array of no shape")
        count = 1
        for side in shape:
            count *= side
        if count != len(data):
            raise pickle.UnpicklingError(f"it has an array of {len(data):,} bytes that says it has {count:,}")
        self.value = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Dtype(_StandIn):
    """`numpy.dtype` while it is unpickled: whether it is uint8."""

    __slots__ = ("uint8",)

    def __init__(self, name: object) -> None:
        self.uint8 = name in ("u1", b"u1", "|u1", b"|u1")

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields: of one byte there is none."""


class _Call(_StandIn):
    """A function that a pickle may call."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: Any) -> Any:
        if self._name == "_reconstruct":
            return _Array()
        if self._name == "dtype":
            return _Dtype(arguments[0])
        if self._name == "encode" and len(arguments) == 2 and arguments[1] in ("latin1", b"latin1"):
            return arguments[0].encode("latin1") if isinstance(arguments[0], str) else arguments[0]
        raise pickle.UnpicklingError(f"it calls {self._name}")


class _PlainUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    _ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {str(module)[:40]}.{str(name)[:40]}")
        return _Call(name)

    def get_extension(self, code: int) -> NoReturn:
        raise pickle.UnpicklingError("it asks for an extension")


def load(path: Path) -> dict:
    """A CIFAR file: a dict of lists, integers, strings, bytes and uint8 arrays.

    Raises:
        DatasetError: it is anything else.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > _MOST_BYTES:
                raise DatasetError(f"{path} has {size:,} bytes, and no pickle of CIFAR's has {_MOST_BYTES:,}")
            data = file.read(_MOST_BYTES)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    return loads(data, name=str(path))


def loads(data: bytes, *, name: str) -> dict:
    """The same from a file's bytes. `name` is the file's, for the error."""
    try:
        # From memory: whatever length a pickle names, no more is read than there is.
        found = _plain(_PlainUnpickler(io.BytesIO(data), encoding="bytes").load())
        if not isinstance(found, dict):
            raise pickle.UnpicklingError("it holds no dict")
        return found
    except Exception as error:  # a program of a stranger's can end in any way
        why = str(error) or type(error).__name__
        raise DatasetError(f"{name} is no pickle of CIFAR's ({why[:200]}); download it again") from None


def _plain(value: Any, depth: int = 4) -> Any:
    """The value, if it is made of what CIFAR's files are made of."""
    if depth and isinstance(value, dict) and all(type(key) in (str, bytes, int) for key in value):
        return {key: _plain(member, depth - 1) for key, member in value.items()}
    if depth and isinstance(value, list):
        return [_plain(member, depth - 1) for member in value]
    if type(value) in (str, bytes, int):
        return value
    if isinstance(value, _Array) and value.value is not None:
        return value.value
    raise pickle.UnpicklingError(f"it holds a {type(value).__name__}")
