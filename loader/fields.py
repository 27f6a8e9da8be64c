"""The fields of a sample beside its image: FFCV's types, what we note of them besides, and how values are written.

FFCV's descriptor of a field says its type and, for arrays, dtype and shape. What it has no type for is a field of bytes
to FFCV; our notes say what the bytes are: text, or a list of any length (such as boxes).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from budgetloader.errors import DatasetError, first_line

TYPE_FLOAT, TYPE_INT, TYPE_IMAGE, TYPE_BYTES, TYPE_ARRAY, TYPE_JSON, TYPE_TENSOR = range(7)
ARGUMENTS_BYTES = 1024  # of a descriptor
NAME_BYTES = 16
POINTER = np.dtype("<u8")
STRETCH = np.dtype([("ptr", "<u8"), ("size", "<u8")])
METADATA = {  # what stands in the index; of an image see `budgetloader.beton`
    TYPE_FLOAT: np.dtype("<f8"),
    TYPE_INT: np.dtype("<i8"),
    TYPE_BYTES: STRETCH,
    TYPE_ARRAY: POINTER,
    TYPE_JSON: STRETCH,
    TYPE_TENSOR: POINTER,
}

Kind = Literal["int", "float", "bytes", "json", "array", "tensor", "text", "list", "image"]
Role = Literal["", "boxes", "points", "mask"]
_STORED = {  # each kind as FFCV's type
    "float": TYPE_FLOAT,
    "int": TYPE_INT,
    "image": TYPE_IMAGE,
    "bytes": TYPE_BYTES,
    "text": TYPE_BYTES,
    "list": TYPE_BYTES,
    "array": TYPE_ARRAY,
    "json": TYPE_JSON,
    "tensor": TYPE_TENSOR,
}
_KINDS = {TYPE_FLOAT: "float", TYPE_INT: "int", TYPE_IMAGE: "image", TYPE_BYTES: "bytes", TYPE_JSON: "json"}
_MOST_DIMENSIONS = 32
_ARRAY = np.dtype([("shape", "<u8", _MOST_DIMENSIONS), ("type_length", "<u8")])
# Numbers alone: a dtype of objects would be pointers that a stranger chose.
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|c(8|16))")
_NAME = re.compile(rf"[\x21-\x7e]{{1,{NAME_BYTES}}}")


@dataclass(frozen=True)
class Picture:
    """An image of a sample beside its first one, as it is stored.

    Args:
        data: a whole JPEG, or where `raw` pixels: uint8 [height, width, 3].
        width, height: pixels.
        raw: whether it is pixels.
    """

    data: bytes
    width: int
    height: int
    raw: bool = False


@dataclass(frozen=True)
class Field:
    """One field of a file's samples.

    Args:
        name: 1 … 16 letters of ASCII, without spaces.
        kind: "int" (int64), "float" (float64), "bytes", "json" (whatever JSON can say), "text" (a str), "array" or
            "tensor" (FFCV's NDArrayField and TorchTensorField: an array of one shape and dtype), "list" (as many
            entries as a sample has, each of one shape and dtype; FFCV sees bytes), "image" (a `Picture`; FFCV's
            RGBImageField).
        dtype: of an array, a tensor or a list: numpy's name of a dtype of numbers.
        shape: of an array or a tensor; of a list, that of one entry.
        role: "boxes" (left, top, right, bottom), "points" (x, y, and perhaps whether it is visible), in pixels of the
            stored image, or "mask" (bytes of a PNG of the image's size): they follow the image's crop and flip.
        notes: what else is known of it, JSON-able: "classes" are names for its numbers, "mirrored" the places that a
            mirrored sample's points take, "channels" those of an image.

    Raises:
        DatasetError: a name, a dtype or a shape that a file cannot hold.
    """

    name: str
    kind: Kind
    dtype: str = ""
    shape: tuple[int, ...] = ()
    role: Role = ""
    notes: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in _STORED:
            raise DatasetError(f"field {self.name!r}: kind {self.kind!r} is none of {', '.join(_STORED)}")
        if self.role not in get_args(Role):
            raise DatasetError(f"field {self.name!r}: role {self.role!r} is none of boxes, points, mask")
        if self.kind not in ("array", "tensor", "list"):
            return
        if not isinstance(self.dtype, str) or not _DTYPE.fullmatch(_descr(self.dtype)):
            raise DatasetError(
                f"field {self.name!r}: {str(self.dtype)[:60]!r} is no dtype of numbers, such as 'float32'"
            )
        least = 0 if self.kind == "list" else 1
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in self.shape)
        if not whole or not least <= len(self.shape) <= _MOST_DIMENSIONS:
            raise DatasetError(
                f"field {self.name!r}: shape {self.shape} is not one to {_MOST_DIMENSIONS} whole numbers above 0"
            )

    @property
    def type_id(self) -> int:
        """FFCV's number of its type."""
        return _STORED[self.kind]

    @property
    def scalar(self) -> bool:
        """Whether its values stand in the index itself."""
        return self.kind in ("int", "float")

    @property
    def entry_bytes(self) -> int:
        """Of an array, or of an entry of a list."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    def check_name(self) -> None:
        """Refuse a name that FFCV's descriptor does not hold.

        Raises:
            DatasetError: it is too long, or has other letters than ASCII's.
        """
        if not _NAME.fullmatch(self.name):
            raise DatasetError(
                f"field name {self.name!r} is not 1 … {NAME_BYTES} letters of ASCII without spaces; rename it"
            )

    def descriptor(self) -> bytes:
        """The arguments of FFCV's descriptor, at most 1024 bytes."""
        if self.type_id not in (TYPE_ARRAY, TYPE_TENSOR):
            return b""
        header = np.zeros(1, _ARRAY)
        header["shape"][0][: len(self.shape)] = self.shape
        text = json.dumps(np.dtype(self.dtype).descr).encode()
        header["type_length"] = len(text)
        return header.tobytes() + text

    def note(self) -> dict[str, Any]:
        """What the file's notes say of it; `noted` reads it."""
        return {"kind": self.kind, "dtype": self.dtype, "shape": self.shape, "role": self.role, **self.notes}

    def encode(self, value: Any) -> Any:
        """A value as it is stored: a number of the index, or bytes.

        Raises:
            DatasetError: it is no such value.
        """
        try:
            return _ENCODERS[self.kind](self, value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            why = first_line(error)
            raise DatasetError(f"field {self.name!r} ({self.kind}) cannot hold {str(value)[:60]!r}: {why}") from None


def described(name: str, type_id: int, arguments: bytes) -> Field:
    """The field of a descriptor, which a stranger may have written.

    Raises:
        DatasetError: it is of a type that is not FFCV's, or damaged.
    """
    if type_id in _KINDS:
        return Field(name, _KINDS[type_id])  # type: ignore[arg-type]
    if type_id not in (TYPE_ARRAY, TYPE_TENSOR):
        raise DatasetError(f"field {name!r} is of type {type_id}, which only the program that wrote it knows")
    header = np.frombuffer(arguments[: _ARRAY.itemsize], _ARRAY)[0]
    shape = [int(n) for n in header["shape"]]
    while shape and shape[-1] == 0:
        shape.pop()
    length = int(header["type_length"])
    if not 0 < length <= ARGUMENTS_BYTES - _ARRAY.itemsize:
        raise DatasetError(f"field {name!r} is damaged: its dtype's name has {length:,} bytes")
    try:
        ((_, dtype, *rest),) = json.loads(arguments[_ARRAY.itemsize :][:length])
    except (ValueError, TypeError, RecursionError):
        raise DatasetError(f"field {name!r} is damaged: its dtype cannot be read") from None
    if rest:
        raise DatasetError(f"field {name!r} is of arrays of arrays, which are not read here")
    return Field(name, "array" if type_id == TYPE_ARRAY else "tensor", dtype, tuple(shape))


def noted(stored: Field, note: Any) -> Field:
    """A field with what the file's notes say of it.

    Raises:
        DatasetError: they say what cannot be.
    """
    if not isinstance(note, dict):
        return stored
    known = {"kind", "dtype", "shape", "role"}
    shape, rest = note.get("shape", ()), {key: value for key, value in note.items() if key not in known}
    kind, dtype = note.get("kind"), note.get("dtype", "")
    if not isinstance(kind, str) or not isinstance(shape, (list, tuple)) or not isinstance(note.get("role", ""), str):
        raise DatasetError(f"field {stored.name!r} has notes that are not of the form that we write; convert it again")
    made = Field(stored.name, kind, dtype, tuple(shape), note.get("role", ""), rest)  # type: ignore[arg-type]
    if made.type_id != stored.type_id or (made.kind in ("array", "tensor") and _layout(made) != _layout(stored)):
        raise DatasetError(f"field {stored.name!r} is not what the file's notes say; convert it again")
    return made


def _layout(one: Field) -> tuple[str, tuple[int, ...]]:
    return np.dtype(one.dtype).str, one.shape


def _descr(dtype: str) -> str:
    try:
        return np.dtype(dtype).str if not _DTYPE.fullmatch(dtype) else dtype
    except TypeError:
        return ""


# What values become


def _int(_: Field, value: Any) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("it is no whole number")
    number = int(value)
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError("it is beyond 64 bits")
    return number


def _float(_: Field, value: Any) -> float:
    return float(value)


def _bytes(_: Field, value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8:
            raise TypeError(f"give bytes, or an array of uint8 in place of {value.dtype}")
        return value.tobytes()
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError("give bytes")
    return bytes(value)


def _text(_: Field, value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError("give a str")
    return value.encode()


def _json(_: Field, value: Any) -> bytes:
    return json.dumps(value).encode() + b"\0"  # as FFCV's JSONField ends it


def _array(one: Field, value: Any) -> bytes:
    array = _numbers(one, value)
    if array.shape != one.shape:
        raise ValueError(f"its shape is {array.shape}, and not {one.shape}")
    return array.tobytes()


def _list(one: Field, value: Any) -> bytes:
    array = _numbers(one, value)
    if array.size == 0:
        return b""
    if array.shape[1:] != one.shape:
        raise ValueError(f"its shape is {array.shape}, and not (any number, {', '.join(map(str, one.shape))})")
    return array.tobytes()


def _numbers(one: Field, value: Any) -> np.ndarray:
    """An array of the field's dtype; nothing but digits behind the point is lost."""
    array, dtype = np.asarray(value), np.dtype(one.dtype)
    if array.size and not np.can_cast(array.dtype, dtype, "same_kind"):
        wide = array.dtype.kind in "iu" and dtype.kind in "iu" and _fits(array, dtype)
        if not wide:
            raise TypeError(f"{array.dtype} does not go into {dtype}")
    elif array.dtype.kind in "iu" and dtype.kind in "iu" and not _fits(array, dtype):
        raise ValueError(f"a number is outside {dtype}")
    with np.errstate(over="ignore"):
        made = np.ascontiguousarray(array, dtype)
    if dtype.kind == "f" and array.dtype.kind == "f" and (np.isinf(made) & np.isfinite(array)).any():
        raise ValueError(f"a number is beyond {dtype}")
    return made


def _fits(array: np.ndarray, dtype: np.dtype) -> bool:
    limits = np.iinfo(dtype)
    return not array.size or (int(array.min()) >= limits.min and int(array.max()) <= limits.max)


def _picture(_: Field, value: Any) -> Picture:
    if not isinstance(value, Picture):
        raise TypeError("give a budgetloader.fields.Picture")
    if not (0 < value.width < 1 << 16 and 0 < value.height < 1 << 16):
        raise ValueError(f"it is of {value.width} × {value.height} pixels, and a side has 1 … 65,535")
    return value


_ENCODERS = {
    "image": _picture,
    "int": _int,
    "float": _float,
    "bytes": _bytes,
    "text": _text,
    "json": _json,
    "array": _array,
    "tensor": _array,
    "list": _list,
}
