"""FFCV's `.beton` file: its layout, and a writer that never leaves half a file behind.

Layout (little-endian; read off files that FFCV 1.0.2 writes): header, one descriptor per field, the
samples' metadata, then from a multiple of the page size on the images' bytes, none of them across a
page's border, and at the end the allocation table. FFCV ignores a descriptor's `arguments` for
images and integers; we note there where our own JSON notes (class names and the like) stand, in the
gap before the first page. Behind the notes there are checksums of the samples' bytes, see
`budgetloader.checksums`. What a sample has of other fields (see `budgetloader.fields`) stands behind
its image.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import struct
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import numpy as np

from budgetloader.errors import DatasetError
from budgetloader.fields import METADATA, TYPE_IMAGE, Field, Picture
from budgetloader.fields import TYPE_FLOAT as TYPE_FLOAT
from budgetloader.fields import TYPE_INT as TYPE_INT
from budgetloader.limits import MAX_FIELDS, MAX_LABEL

VERSION = 2
PAGE_BYTES = 8 << 20
HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD = np.dtype([("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True)
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
FIELD_TYPES = {**METADATA, TYPE_IMAGE: IMAGE}
MODE_JPEG, MODE_RAW = 0, 1

_NOTES_MAGIC = b"RRSNOTES"
_NOTES = struct.Struct("<8sQQ")  # magic, where the notes start, their bytes
_MOST_NOTES_BYTES = 256 << 20


def metadata_type(type_ids: Sequence[int]) -> np.dtype:
    """The metadata of one sample whose fields have these types; field i is called 'f<i>'."""
    return np.dtype([("", FIELD_TYPES[t]) for t in type_ids], align=True)


def parse_notes(arguments: bytes, read: Callable[[int, int], bytes]) -> dict:
    """Our notes, or {} for a file that somebody else wrote. `read(start, stop)` gives bytes.

    Raises:
        DatasetError: they are damaged, or none that we write.
    """
    magic, start, size = _NOTES.unpack_from(arguments)
    if magic != _NOTES_MAGIC:
        return {}
    if size > _MOST_NOTES_BYTES:
        raise DatasetError(f"its notes of {size:,} bytes are more than {_MOST_NOTES_BYTES:,}; convert it again")
    try:
        notes = json.loads(read(start, start + size))
    except (ValueError, RecursionError):
        raise DatasetError("its notes are damaged; convert it again") from None
    classes = notes.get("classes", []) if isinstance(notes, dict) else None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise DatasetError("its notes are not of the form that we write; convert it again")
    return notes


def checked(fields: Sequence[Field]) -> tuple[Field, ...]:
    """Fields that one file can hold.

    Raises:
        DatasetError: too many, a name twice, or one that FFCV's descriptor does not hold.
    """
    names = [one.name for one in fields]
    for one in fields:
        one.check_name()
        if names.count(one.name) > 1:
            raise DatasetError(f"two fields are named {one.name!r}; rename one")
    if len(fields) > MAX_FIELDS:
        raise DatasetError(f"{len(fields)} fields are more than the {MAX_FIELDS} of a file; leave some out")
    return tuple(fields)


def fingerprint(samples: np.ndarray, sizes: np.ndarray) -> str:
    """16 hex digits that tell datasets apart: a hash of metadata and sizes, not of pixels."""
    state = hashlib.blake2b(np.ascontiguousarray(samples).view(np.uint8).data, digest_size=8)
    state.update(np.ascontiguousarray(sizes, dtype="<u8").view(np.uint8).data)
    return state.hexdigest()


def raw_samples(modes: np.ndarray) -> np.ndarray:
    """Which samples are pixels: bool [D], or [0] where none is."""
    raw = np.asarray(modes) == MODE_RAW
    return raw if raw.any() else np.zeros(0, np.bool_)


def check_raw(raw: np.ndarray, heights: np.ndarray, widths: np.ndarray, sizes: np.ndarray) -> None:
    """Refuse pixels of another number than their image has.

    Raises:
        DatasetError: names the sample.
    """
    wrong = np.flatnonzero(raw & (sizes != 3 * heights * widths)) if len(raw) else raw
    if len(wrong):
        sample = int(wrong[0])
        raise DatasetError(
            f"sample {sample} has {sizes[sample]:,} bytes of pixels, and {widths[sample]} × {heights[sample]} of three "
            "colours are another number; convert it again"
        )


class Writer:
    """Writes JPEGs and labels to a `.beton` file; a context manager.

    Everything goes to `<path>.partial`, whose header is written last; only a file that is whole is
    renamed to `path`. Whatever ends the `with` block early leaves `path` as it was.

    Args:
        path: the file to make.
        capacity: the most samples that will be added.
        notes: JSON-able facts to keep with the file; more can be added until the block ends.
        fields: what samples have besides image and label.
        labelled: False: they have no label.
        exists: what to do where `path` exists: "raise" or "replace".
        keep: leave `<path>.partial` where the block ends early.

    Attributes:
        last_start: where the bytes of the last sample begin.

    Raises:
        DatasetError: `path` exists, its folder does not, another process writes it, or the disk is
            full.
    """

    _NOTES_SPARE_BYTES = 4096  # for what is added to the notes later

    def __init__(
        self,
        path: str | Path,
        *,
        capacity: int,
        notes: dict,
        fields: Sequence[Field] = (),
        labelled: bool = True,
        exists: Literal["raise", "replace"] = "raise",
        keep: bool = False,
    ) -> None:
        self.path, self._keep, self.last_start = Path(path), keep, 0
        label = (Field("label", "int"),) if labelled else ()
        self._fields = checked((Field("image", "image"), *label, *fields))
        self._columns, self._labelled = tuple(fields), labelled
        self.notes = {**notes, "fields": {f.name: f.note() for f in fields}} if fields else dict(notes)
        self.count = 0
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._exists = exists
        self._samples = np.zeros(capacity, metadata_type([f.type_id for f in self._fields]))
        self._sizes = np.zeros(capacity, "<u8")
        self._others = array("Q")  # sample, start and size of each value that is no image
        self._metadata_start = HEADER.itemsize + len(self._fields) * FIELD.itemsize
        self._notes_start = self._metadata_start + self._samples.nbytes
        self._notes_room = len(json.dumps(self.notes)) + self._NOTES_SPARE_BYTES
        self._sums = np.zeros((1 + sum(not one.scalar for one in fields), capacity), "<u4")  # images', then values'
        self._sums_start = self._notes_start + self._notes_room
        self._end = _next_page(self._sums_start + self._sums.nbytes)
        self._file: BinaryIO

    def __enter__(self) -> Writer:
        if self.path.is_dir():
            raise DatasetError(f"{self.path} is a folder; give the name of a file")
        if self.path.exists() and self._exists != "replace":
            raise DatasetError(f"{self.path} exists; choose another name, or pass --overwrite to replace it")
        self._file = self._locked()
        self._file.truncate(0)
        self._file.seek(self._end)
        return self

    def _locked(self) -> BinaryIO:
        """The file, locked, to write to."""
        while True:
            try:
                # Not mode "wb": that would empty the file of a process that is still writing it.
                file = os.fdopen(os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b")
            except OSError as error:
                raise DatasetError(f"cannot write {self._partial}: {error.strerror}") from None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                raise DatasetError(f"another process is writing {self._partial}; wait for it or end it") from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self._partial)):
                    return file
            # Another process finished between the two: this is its file, whole and renamed.
            file.close()

    def add(
        self,
        jpeg: bytes,
        *,
        width: int,
        height: int,
        label: int | None = None,
        values: Mapping[str, Any] | None = None,
        mode: int = MODE_JPEG,
    ) -> None:
        """Append one sample.

        Args:
            jpeg: a whole JPEG, or with MODE_RAW pixels: uint8 [height, width, 3].
            width, height: its size in pixels.
            label: 0 … 2³¹ − 1; None where the file has no labels.
            values: of the other fields, by name.
            mode: MODE_RAW where `jpeg` is pixels, uint8 [height, width, 3].
        """
        if self._labelled and (label is None or not 0 <= label <= MAX_LABEL):
            raise DatasetError(f"sample {self.count}: label {label} is outside 0 … {MAX_LABEL:,}")
        encoded = self._encoded(values or {})  # before anything is written
        self._fit(jpeg, "its JPEG", "make the image smaller with --max-side")
        with self._clear_errors():
            start = self._append(jpeg)
            self._samples["f0"][self.count], self.last_start = (mode, width, height, start), start
            if self._labelled:
                self._samples["f1"][self.count] = label
            sums = [zlib.crc32(jpeg)]
            for place, (column, value) in enumerate(zip(self._columns, encoded, strict=True), 1 + self._labelled):
                if not column.scalar:
                    data = _bytes_of(value)
                    sums.append(zlib.crc32(data))
                    value = self._put(column, value, data)
                self._samples[f"f{place}"][self.count] = value
        self._sizes[self.count] = len(jpeg)
        self._sums[:, self.count] = sums
        self.count += 1

    def _encoded(self, values: Mapping[str, Any]) -> list[Any]:
        """The values of the other fields, as they are stored."""
        names = [column.name for column in self._columns]
        if set(names) != set(values):
            raise DatasetError(
                f"sample {self.count} has values of {sorted(values)}, and the fields are {sorted(names)}"
            )
        encoded = []
        for column in self._columns:
            try:
                encoded.append(column.encode(values[column.name]))
            except DatasetError as error:
                raise DatasetError(f"sample {self.count}: {error}") from None
            if not column.scalar:
                self._fit(
                    _bytes_of(encoded[-1]), f"its field {column.name!r}", "keep such values in a file of their own"
                )
        return encoded

    def _fit(self, data: bytes, what: str, advice: str) -> None:
        if len(data) > PAGE_BYTES:
            raise DatasetError(
                f"sample {self.count}: {what} of {len(data):,} bytes is over a page of {PAGE_BYTES:,}; {advice}"
            )

    def _append(self, data: bytes) -> int:
        """Write bytes behind what there is, on one page; where they start."""
        start = self._end
        if start % PAGE_BYTES + len(data) > PAGE_BYTES:
            start = _next_page(start)
        if start != self._end:
            self._file.seek(start)
        self._file.write(data)
        self._end = start + len(data)
        return start

    def _put(self, column: Field, value: bytes | Picture, data: bytes) -> Any:
        """Write a value of another field, of these bytes; what stands for it in the index."""
        start = self._append(data or b"\0")  # FFCV finds a value by where it starts, which is its alone
        self._others.extend((self.count, start, len(data)))
        if isinstance(value, Picture):
            return (MODE_RAW if value.raw else MODE_JPEG, value.width, value.height, start)
        return start if FIELD_TYPES[column.type_id].names is None else (start, len(data))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._clear_errors():
                    self._finish()
        except BaseException:
            kind = DatasetError
            raise
        finally:
            if kind is not None and not self._keep:
                self._partial.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a full disk was reported already
                self._file.close()

    def _finish(self) -> None:
        if not self.count:
            raise DatasetError(f"no sample was added to {self.path}; nothing is written")
        samples, sizes = self._samples[: self.count], self._sizes[: self.count]
        self.notes["fingerprint"] = fingerprint(samples, sizes)
        sums, others = self._sums[0, : self.count].tobytes(), self._sums[1:, : self.count].tobytes()
        self.notes["checksums"] = {"algorithm": "crc32", "start": self._sums_start, "crc32": zlib.crc32(sums)}
        if others:
            self.notes["checksums"]["fields"] = {
                "names": [one.name for one in self._columns if not one.scalar],
                "start": self._sums_start + len(sums),
                "crc32": zlib.crc32(others),
            }
        notes = json.dumps(self.notes).encode()
        if len(notes) > self._notes_room:
            raise DatasetError(f"notes of {len(notes):,} bytes do not fit into {self._notes_room:,}")
        images = np.zeros(self.count, ALLOCATION)
        images["sample_id"] = np.arange(self.count)
        images["ptr"], images["size"] = samples["f0"]["data_ptr"], sizes
        table = np.concatenate([images, np.array(self._others, np.uint64).view(ALLOCATION)])
        fields = self._descriptors(_NOTES.pack(_NOTES_MAGIC, self._notes_start, len(notes)))
        header = np.zeros(1, HEADER)
        header[0] = (VERSION, len(fields), PAGE_BYTES, self.count, self._end)

        self._file.seek(self._end)
        self._file.write(table.tobytes())
        self._file.seek(self._notes_start)
        self._file.write(notes)
        self._file.seek(self._sums_start)
        self._file.write(sums + others)
        self._file.seek(HEADER.itemsize)
        self._file.write(fields.tobytes() + samples.tobytes())
        self._sync()
        self._file.seek(0)  # a file without a header does not open: it comes when all else is on disk
        self._file.write(header.tobytes())
        self._sync()
        os.replace(self._partial, self.path)

    def _descriptors(self, marker: bytes) -> np.ndarray:
        """Of all fields; the image's arguments are where our notes are."""
        rows = np.zeros(len(self._fields), FIELD)
        for row, one in zip(rows, self._fields, strict=True):
            row["type_id"] = one.type_id
            arguments = marker if one.type_id == TYPE_IMAGE else one.descriptor()
            for part, data in (("name", one.name.encode()), ("arguments", arguments)):
                row[part][: len(data)] = np.frombuffer(data, np.uint8)
        return rows

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            raise DatasetError(
                f"cannot write {self._partial}: {why}; {'what is done' if self._keep else 'nothing'} was kept of it"
            ) from None


def _bytes_of(value: bytes | Picture) -> bytes:
    return value.data if isinstance(value, Picture) else value


def _next_page(offset: int) -> int:
    return -(-offset // PAGE_BYTES) * PAGE_BYTES
