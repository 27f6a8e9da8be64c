"""Reading a `.beton` file: memory-mapped, and checked when it is opened.

What stands in memory is the index: 32 bytes per sample. Image bytes are handed out as views of the
map.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from loader import beton
from loader.errors import CorruptSampleError, DatasetError


class Dataset:
    """A `.beton` file of JPEGs and integer labels, ours or FFCV's.

    Args:
        path: the file.

    Attributes:
        heights, widths: int64 [D], pixels.
        labels: int64 [D].
        classes: the classes' names, or () where the file does not know them.
        fields, image_field: the fields' names, and which of them is the image.
        notes: what the writer noted ({} for a file of FFCV's own).
        fingerprint: 16 hex digits that tell datasets apart.

    Raises:
        DatasetError: no such file, another format or version, truncated, other fields than one
            image and one integer, raw pixels, or offsets that point outside the file.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        try:
            size = self.path.stat().st_size
            # As a plain array, whose slices cost a tenth of a memmap's. A file that somebody cuts short
            # while it is mapped ends the process (SIGBUS); `convert` replaces files and never does that.
            self._bytes = np.memmap(self.path, np.uint8, mode="r").view(np.ndarray) if size else np.empty(0, np.uint8)
        except FileNotFoundError:
            raise DatasetError(f"{self.path} does not exist; make it with: python -m loader convert") from None
        except OSError as error:
            raise DatasetError(f"{self.path} cannot be read: {error.strerror}") from None
        try:
            self._open()
        except DatasetError as error:
            raise DatasetError(f"{self.path}: {error}") from None

    def __len__(self) -> int:
        return len(self.labels)

    def jpeg(self, sample: int) -> np.ndarray:
        """The bytes of one sample: uint8 [size], a read-only view of the map."""
        start = self.starts[sample]
        return self._bytes[start : start + self.sizes[sample]]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.notes.get("classes", ()))

    @property
    def file_bytes(self) -> np.ndarray:
        """The whole file: uint8, read-only, memory-mapped."""
        return self._bytes

    def _read(self, start: int, stop: int) -> bytes:
        if not 0 <= start <= stop <= len(self._bytes):
            raise DatasetError(f"is truncated or damaged: it ends before byte {stop:,}; convert it again")
        return self._bytes[start:stop].tobytes()

    def _open(self) -> None:
        if len(self._bytes) < beton.HEADER.itemsize:
            raise DatasetError("is no .beton file (too short); make one with: python -m loader convert")
        header = np.frombuffer(self._read(0, beton.HEADER.itemsize), beton.HEADER)[0]
        if header["version"] != beton.VERSION or not 1 <= header["num_fields"] <= 64:
            raise DatasetError("is no .beton file of version 2; make one with: python -m loader convert")
        count, table_start = int(header["num_samples"]), int(header["alloc_table_ptr"])
        end = beton.HEADER.itemsize + int(header["num_fields"]) * beton.FIELD.itemsize
        fields = np.frombuffer(self._read(beton.HEADER.itemsize, end), beton.FIELD)
        samples, image, label = self._metadata(fields, count, start=end)
        table = self._table(table_start)
        self.fields = tuple(row["name"].tobytes().split(b"\0")[0].decode("ascii", "replace") for row in fields)
        self.image_field = self.fields[image]
        self.notes = beton.parse_notes(fields[image]["arguments"].tobytes(), self._read)
        images = samples[f"f{image}"]
        if np.any(images["mode"] != beton.MODE_JPEG):
            first = int(np.flatnonzero(images["mode"] != beton.MODE_JPEG)[0])
            raise DatasetError(f"sample {first} is stored as raw pixels; write the file with write_mode='jpg'")
        self.heights = images["height"].astype(np.int64)
        self.widths = images["width"].astype(np.int64)
        self.labels = samples[f"f{label}"].astype(np.int64)
        self.starts = images["data_ptr"].astype(np.int64)
        self.sizes = _sizes(self.starts, table, end=table_start)
        if (self.heights == 0).any() or (self.widths == 0).any():
            raise DatasetError("has an image of no pixels; convert it again")
        self.fingerprint = beton.fingerprint(samples, self.sizes)

    def _metadata(self, fields: np.ndarray, count: int, *, start: int) -> tuple[np.ndarray, int, int]:
        types = [int(t) for t in fields["type_id"]]
        if set(types) - set(beton.FIELD_TYPES) or types.count(beton.TYPE_IMAGE) != 1 or beton.TYPE_INT not in types:
            raise DatasetError(f"has fields of types {types}; one image (2) and an integer (1) are needed")
        if count == 0:
            raise DatasetError("has no samples")
        layout = beton.metadata_type(types)
        samples = np.frombuffer(self._read(start, start + count * layout.itemsize), layout)
        return samples, types.index(beton.TYPE_IMAGE), types.index(beton.TYPE_INT)

    def _table(self, start: int) -> np.ndarray:
        if start == 0 or (len(self._bytes) - start) % beton.ALLOCATION.itemsize:
            raise DatasetError("is truncated or damaged: its allocation table is not whole; convert it again")
        return np.frombuffer(self._read(start, len(self._bytes)), beton.ALLOCATION)


def _sizes(starts: np.ndarray, table: np.ndarray, *, end: int) -> np.ndarray:
    """Each image's bytes, looked up in the allocation table by where it starts: int64 [D]."""
    pointers, sizes = table["ptr"].astype(np.int64), table["size"].astype(np.int64)
    order = np.argsort(pointers, kind="stable")
    pointers, sizes = pointers[order], sizes[order]
    found = np.searchsorted(pointers, starts)
    known = found < len(pointers)
    known[known] = pointers[found[known]] == starts[known]
    if not known.all():
        raise DatasetError(f"sample {int(np.flatnonzero(~known)[0])} has no allocation; convert it again")
    sizes = sizes[found]
    outside = (starts < 0) | (sizes <= 0) | (sizes > end) | (starts > end - sizes)
    if outside.any():
        raise DatasetError(f"sample {int(np.flatnonzero(outside)[0])} lies outside the file; convert it again")
    return sizes


def corrupt(dataset: Dataset, sample: int, why: str) -> CorruptSampleError:
    """The error for a sample that does not decode."""
    return CorruptSampleError(
        f"{dataset.path}: sample {sample} does not decode ({why}); convert it again, or pass on_corrupt='replace'",
        sample=sample,
    )
