"""The checksums that a `.beton` has of its samples' bytes: CRC-32, of the image and of each value of another field."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from budgetloader.errors import CorruptSampleError, DatasetError
from budgetloader.limits import MAX_FIELDS


def of_samples(notes: dict, count: int, read: Callable[[int, int], bytes]) -> np.ndarray | None:
    """Each sample's CRC-32: uint32 [count]; None for a file that has none.

    Raises:
        DatasetError: they are damaged, or of a kind that is not known.
    """
    where = notes.get("checksums")
    return None if where is None else _checksums(_object(where), count, read)


def of_values(notes: dict, count: int, read: Callable[[int, int], bytes]) -> dict[str, np.ndarray]:
    """CRC-32s of the samples' values of other fields: name → uint32 [count], of each field whose values are bytes.

    Raises:
        DatasetError: they are damaged, or of a kind that is not known.
    """
    where = _object(notes.get("checksums") or {}).get("fields")
    if where is None:
        return {}
    names = _object(where).get("names")
    if not isinstance(names, list) or len(names) > MAX_FIELDS or not all(isinstance(name, str) for name in names):
        raise DatasetError("its notes are not of the form that we write; convert it again")
    sums = _checksums({"algorithm": "crc32", **where}, count * len(names), read)
    return dict(zip(names, sums.reshape(len(names), count), strict=True))


def _object(where: Any) -> dict:
    if not isinstance(where, dict):
        raise DatasetError(f"its checksums are of an unknown kind ({str(where)[:60]}); convert it again")
    return where


def _checksums(where: dict, count: int, read: Callable[[int, int], bytes]) -> np.ndarray:
    """As many as that, from where the notes say that they are."""
    if where.get("algorithm") != "crc32":
        raise DatasetError(f"its checksums are of an unknown kind ({str(where)[:60]}); convert it again")
    start: Any = where.get("start")
    total: Any = where.get("crc32")
    if not all(isinstance(value, int) and 0 <= value < 1 << 63 for value in (start, total)):
        raise DatasetError("its notes are not of the form that we write; convert it again")
    sums = read(start, start + 4 * count)
    if zlib.crc32(sums) != total:
        raise DatasetError("its checksums are damaged; convert it again")
    return np.frombuffer(sums, "<u4")


def compare(parts: Iterable[Any], checksums: np.ndarray | None, ids: np.ndarray, *, name: str, path: Any) -> None:
    """Compare the bytes of some samples' values with their checksums, if there are any.

    Args:
        parts: bytes of each.
        checksums: uint32 [D].
        ids: int64 [n], the samples.
        name, path: of the field and of its file.

    Raises:
        CorruptSampleError: one differs.
    """
    if checksums is None:
        return
    for sample, part in zip(ids.tolist(), parts, strict=True):
        if zlib.crc32(part) != checksums[sample]:
            what = f"field {name!r} of sample {sample} is not what was written: the checksum differs"
            raise CorruptSampleError(f"{path}: {what}; convert it again", sample=sample)
