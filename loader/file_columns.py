"""The columns of one file, checked against what its index says: a stranger's file may hold any numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from budgetloader.columns import Arrays, Column, Images, Scalars, Stored, Stretches
from budgetloader.errors import DatasetError
from budgetloader.fields import Field, described, noted

MOST_BYTES = 256 << 20  # of one sample's field; FFCV's own limit is the file's page, usually of 8 MiB


class Columns:
    """The columns of one file, made when they are first asked for.

    Args:
        file: where values are.
        descriptors: the header's, of `budgetloader.beton.FIELD`.
        samples: the index, with a part f0, f1, … for each.
        notes: what the file's notes say of the fields, which a stranger may have written.
        end: of the file's data, bytes: what lies behind is refused.
        most: bytes of one value.
        checksums: by field, uint32 [D], of the values; of the fields that have them.
    """

    def __init__(
        self,
        file: Stored,
        descriptors: np.ndarray,
        samples: np.ndarray,
        *,
        notes: Any,
        end: int,
        most: int,
        checksums: Mapping[str, np.ndarray],
    ) -> None:
        self._file, self._descriptors, self._samples = file, descriptors, samples
        self._notes = notes if isinstance(notes, dict) else {}
        self._end, self._most, self._checksums = end, min(most, MOST_BYTES), checksums
        self._names = [row["name"].tobytes().split(b"\0")[0].decode("ascii", "replace") for row in descriptors]
        self._made: dict[str, Column] = {}

    def get(self, name: str) -> Column:
        """The column of a field. See `budgetloader.Dataset.column`."""
        if name not in self._made:
            try:
                self._made[name] = self._make(name)
            except DatasetError as error:
                raise DatasetError(f"{self._file.path}: {error}") from None
        return self._made[name]

    def _make(self, name: str) -> Column:
        if name not in self._names:
            raise DatasetError(f"there is no field {name!r}; there are {', '.join(map(repr, self._names))}")
        place = self._names.index(name)
        row, metadata = self._descriptors[place], self._samples[f"f{place}"]
        field = noted(described(name, int(row["type_id"]), row["arguments"].tobytes()), self._notes.get(name))
        if field.kind == "image":
            return Images(field, len(metadata), lambda: self._file.image(name))
        if field.scalar:
            return Scalars(field, metadata.astype("<i8" if field.kind == "int" else "<f8"))
        if field.kind in ("array", "tensor"):
            starts = metadata.astype(np.uint64)
            sizes = np.full(len(starts), min(field.entry_bytes, 1 << 62), np.uint64)
        else:
            starts, sizes = metadata["ptr"].astype(np.uint64), metadata["size"].astype(np.uint64)
        _check(field, starts, sizes, end=self._end, most=self._most)
        starts, sizes = np.where(sizes > 0, starts, 0).astype(np.int64), sizes.astype(np.int64)
        if field.kind in ("array", "tensor"):
            return Arrays(field, self._file, starts, self._checksums.get(name))
        return Stretches(field, self._file, starts, sizes, self._checksums.get(name))


def _check(field: Field, starts: np.ndarray, sizes: np.ndarray, *, end: int, most: int) -> None:
    long = sizes > np.uint64(most)
    if long.any():
        sample = int(long.argmax())
        raise DatasetError(
            f"field {field.name!r} of sample {sample} has {int(sizes[sample]):,} bytes, more than the "
            f"{most:,} that a value may have; convert it again"
        )
    outside = (sizes > 0) & ((sizes > np.uint64(end)) | (starts > np.uint64(end) - np.minimum(sizes, np.uint64(end))))
    if outside.any():
        raise DatasetError(
            f"field {field.name!r} of sample {int(outside.argmax())} lies outside the file; convert it again"
        )
