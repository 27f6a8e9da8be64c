"""FFCV's `.beton` file: its layout, and a writer that never leaves half a file behind.

Layout (little-endian; read off files that FFCV 1.0.2 writes): header, one descriptor per field, the
samples' metadata, then from a multiple of the page size on the images' bytes, none of them across a
page's border, and at the end the allocation table. FFCV ignores a descriptor's `arguments` for
images and integers; we note there where our own JSON notes (class names and the like) stand, in the
gap before the first page.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal

import numpy as np

from loader.errors import DatasetError

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
TYPE_FLOAT, TYPE_INT, TYPE_IMAGE = 0, 1, 2
FIELD_TYPES = {TYPE_FLOAT: np.dtype("<f8"), TYPE_INT: np.dtype("<i8"), TYPE_IMAGE: IMAGE}
MODE_JPEG = 0

_NOTES_MAGIC = b"RRSNOTES"
_NOTES = struct.Struct("<8sQQ")  # magic, where the notes start, their bytes


def metadata_type(type_ids: Sequence[int]) -> np.dtype:
    """The metadata of one sample whose fields have these types; field i is called 'f<i>'."""
    return np.dtype([("", FIELD_TYPES[t]) for t in type_ids], align=True)


def parse_notes(arguments: bytes, read: Callable[[int, int], bytes]) -> dict:
    """Our notes, or {} for a file that somebody else wrote. `read(start, stop)` gives bytes."""
    magic, start, size = _NOTES.unpack_from(arguments)
    if magic != _NOTES_MAGIC:
        return {}
    try:
        notes = json.loads(read(start, start + size))
    except ValueError:
        raise DatasetError("its notes are damaged; convert it again") from None
    return notes if isinstance(notes, dict) else {}


def fingerprint(samples: np.ndarray, sizes: np.ndarray) -> str:
    """16 hex digits that tell datasets apart: a hash of metadata and sizes, not of pixels."""
    state = hashlib.blake2b(samples.tobytes(), digest_size=8)
    state.update(np.ascontiguousarray(sizes, dtype="<u8").tobytes())
    return state.hexdigest()


class Writer:
    """Writes JPEGs and labels to a `.beton` file; a context manager.

    Everything goes to `<path>.partial`, whose header is written last; only a file that is whole is
    renamed to `path`. Whatever ends the `with` block early leaves `path` as it was.

    Args:
        path: the file to make.
        capacity: the most samples that will be added.
        notes: JSON-able facts to keep with the file; more can be added until the block ends.
        exists: what to do where `path` exists: "raise" or "replace".

    Raises:
        DatasetError: `path` exists, its folder does not, another process writes it, or the disk is
            full.
    """

    _NOTES_SPARE_BYTES = 4096  # for what is added to the notes later

    def __init__(
        self, path: str | Path, *, capacity: int, notes: dict, exists: Literal["raise", "replace"] = "raise"
    ) -> None:
        self.path = Path(path)
        self.notes = dict(notes)
        self.count = 0
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._exists = exists
        self._samples = np.zeros(capacity, metadata_type((TYPE_IMAGE, TYPE_INT)))
        self._sizes = np.zeros(capacity, "<u8")
        self._metadata_start = HEADER.itemsize + 2 * FIELD.itemsize
        self._notes_start = self._metadata_start + self._samples.nbytes
        self._notes_room = len(json.dumps(self.notes)) + self._NOTES_SPARE_BYTES
        self._end = _next_page(self._notes_start + self._notes_room)
        self._file: BinaryIO

    def __enter__(self) -> Writer:
        if self.path.is_dir():
            raise DatasetError(f"{self.path} is a folder; give the name of a file")
        if self.path.exists() and self._exists != "replace":
            raise DatasetError(f"{self.path} exists; choose another name, or pass --overwrite to replace it")
        try:
            # Not mode "wb": that would empty the file of a process that is still writing it.
            self._file = os.fdopen(os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        except OSError as error:
            raise DatasetError(f"cannot write {self._partial}: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise DatasetError(f"another process is writing {self._partial}; wait for it or end it") from None
        self._file.truncate(0)
        self._file.seek(self._end)
        return self

    def add(self, jpeg: bytes, *, width: int, height: int, label: int) -> None:
        """Append one sample: a whole JPEG, its size in pixels and its label."""
        if len(jpeg) > PAGE_BYTES:
            raise DatasetError(
                f"sample {self.count}: its JPEG of {len(jpeg):,} bytes is over a page of {PAGE_BYTES:,}; "
                "make the image smaller with --max-side"
            )
        start = self._end
        if start % PAGE_BYTES + len(jpeg) > PAGE_BYTES:
            start = _next_page(start)
        with self._clear_errors():
            if start != self._end:
                self._file.seek(start)
            self._file.write(jpeg)
        self._samples[self.count] = ((MODE_JPEG, width, height, start), label)
        self._sizes[self.count] = len(jpeg)
        self._end = start + len(jpeg)
        self.count += 1

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
            if kind is not None:
                self._partial.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a full disk was reported already
                self._file.close()

    def _finish(self) -> None:
        if not self.count:
            raise DatasetError(f"no sample was added to {self.path}; nothing is written")
        samples, sizes = self._samples[: self.count], self._sizes[: self.count]
        self.notes["fingerprint"] = fingerprint(samples, sizes)
        notes = json.dumps(self.notes).encode()
        if len(notes) > self._notes_room:
            raise DatasetError(f"notes of {len(notes):,} bytes do not fit into {self._notes_room:,}")
        table = np.zeros(self.count, ALLOCATION)
        table["sample_id"] = np.arange(self.count)
        table["ptr"], table["size"] = samples["f0"]["data_ptr"], sizes
        fields = np.zeros(2, FIELD)
        fields["type_id"] = TYPE_IMAGE, TYPE_INT
        for row, name in zip(fields["name"], (b"image", b"label"), strict=True):
            row[: len(name)] = np.frombuffer(name, np.uint8)
        marker = _NOTES.pack(_NOTES_MAGIC, self._notes_start, len(notes))
        fields["arguments"][0, : len(marker)] = np.frombuffer(marker, np.uint8)
        header = np.zeros(1, HEADER)
        header[0] = (VERSION, len(fields), PAGE_BYTES, self.count, self._end)

        self._file.seek(self._end)
        self._file.write(table.tobytes())
        self._file.seek(self._notes_start)
        self._file.write(notes)
        self._file.seek(HEADER.itemsize)
        self._file.write(fields.tobytes() + samples.tobytes())
        self._sync()
        self._file.seek(0)  # a file without a header does not open: it comes when all else is on disk
        self._file.write(header.tobytes())
        self._sync()
        os.replace(self._partial, self.path)

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            raise DatasetError(f"cannot write {self._partial}: {why}; nothing was kept of it") from None


def _next_page(offset: int) -> int:
    return -(-offset // PAGE_BYTES) * PAGE_BYTES
