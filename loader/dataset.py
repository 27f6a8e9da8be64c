"""Reading a `.beton` file: memory-mapped, and checked when it is opened.

What stands in memory is the index: 32 bytes per sample. Image bytes are handed out as views of the
map.
"""

from __future__ import annotations

import contextlib
import copy
import os
import stat
import zlib

import numpy as np

from budgetloader import beton, checksums
from budgetloader.columns import Column
from budgetloader.errors import CorruptSampleError, DatasetError
from budgetloader.file_columns import Columns
from budgetloader.limits import MAX_PIXELS, check_max_pixels, max_bytes
from budgetloader.paths import local

_AT_ONCE = 1 << 20  # samples of an index that are checked at a time: a hole of 1 TB is none


class Dataset:
    """A `.beton` file of JPEGs and integer labels, written by `budgetloader convert` or by FFCV.

    Args:
        path: the file.
        label_field: the integer field that holds the labels; default: the only one, or the one named "label".
        image_field: the field that holds the images; default: the only one, or the one named "image".
        verify: compare each sample's bytes with the checksum that the file has of them, when they are read.
        max_pixels: of an image; a file that has larger ones is refused.
        mapped: False: samples are read, not memory-mapped, which costs a copy: a file that is cut short, or a disk
            that fails, is an error then wherever it happens, and not the process's end (SIGBUS). Engine "ffcv" maps.

    Attributes:
        heights, widths: int64 [D], pixels.
        labels: int64 [D]; −1 where the file has no integers.
        classes: the classes' names, or () where the file does not know them.
        raw: bool [D], which samples are stored as pixels, uint8 [height, width, 3], and not as a JPEG; empty: none.
        checksums: uint32 [D], CRC-32 of each sample's bytes, or None where the file has none.
        value_checksums: by the name of another field whose values are bytes, CRC-32 of each: uint32 [D].
        fields, image_field, label_field: the fields' names, and which of them are the image and the label (None: none
            is). `column` reads any of them.
        notes: what the writer noted ({} for a file of FFCV's own).
        fingerprint: 16 hex digits that tell datasets apart.

    Raises:
        DatasetError: no such file, another format or version, truncated, damaged, no image or several in a sample,
            several integers of which none is known to be the label, offsets that point outside the file,
            sizes above the limits, labels that no class has; with `verify`, no checksums.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        label_field: str | None = None,
        image_field: str | None = None,
        verify: bool = False,
        max_pixels: int = MAX_PIXELS,
        mapped: bool = True,
    ) -> None:
        self.path = local(path)
        self._max_pixels = check_max_pixels(max_pixels)
        self._verify, self.mapped = verify, mapped
        self._others: dict[str, Dataset] = {}
        self._open_file()
        try:
            self._read_index(label_field, image_field)
            if verify and self.checksums is None:
                raise DatasetError("has no checksums to verify (FFCV wrote it, or version 0.1); convert it again")
        except DatasetError as error:
            raise DatasetError(f"{self.path}: {error}") from None

    def _open_file(self) -> None:
        try:
            # Without O_NONBLOCK, opening a named pipe would wait for a writer.
            self._file = os.fdopen(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK), "rb")
            found = os.fstat(self._file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise DatasetError(f"{self.path} is no file; give the .beton itself")
            self._as_opened = (found.st_size, found.st_mtime_ns)
            # As a plain array, whose slices cost a tenth of a memmap's.
            empty = np.empty(0, np.uint8)
            self._bytes = np.memmap(self._file, np.uint8, mode="r").view(np.ndarray) if found.st_size else empty
        except FileNotFoundError:
            raise DatasetError(f"{self.path} does not exist; make it with: budgetloader convert") from None
        except IsADirectoryError:
            raise DatasetError(
                f"{self.path} cannot be read: it is a folder; make a file of it with: budgetloader convert"
            ) from None
        except OSError as error:
            raise DatasetError(f"{self.path} cannot be read: {error.strerror}") from None

    def __len__(self) -> int:
        return len(self.labels)

    def jpeg(self, sample: int) -> np.ndarray:
        """The bytes of one sample: uint8 [size], read-only, a view of the map where there is one.

        Raises:
            DatasetError: the file was cut short or written to since it was opened.
            CorruptSampleError: with `verify`, its checksum is not that of its bytes.
        """
        self.check_unchanged()
        start, size = self.starts[sample], self.sizes[sample]
        data = self._bytes[start : start + size] if self.mapped else self.read_at(int(start), int(size))
        if self._verify:
            self.check_sum(sample, data)
        return data

    def column(self, name: str) -> Column:
        """A field's values: `column(name)[3]`, `[[5, 1]]` or `[:]`. See `budgetloader.columns.Column`.

        Raises:
            DatasetError: there is no such field, or its entries in the index are damaged.
        """
        return self._columns.get(name)

    def image(self, name: str) -> Dataset:
        """The same samples with another image of theirs: a dataset whose `jpeg`, sizes and so on are that image's.

        Args:
            name: of an image field.

        Raises:
            DatasetError: there is no such image, or its entries in the index are damaged.
        """
        if name == self.image_field:
            return self
        if name not in self._others:
            other = copy.copy(self)
            other._others = {}
            try:
                other._read_index(self.label_field, name)
                other._verify = (
                    self._verify and other.checksums is not None
                )  # an older file has the first image's alone
            except DatasetError as error:
                raise DatasetError(f"{self.path}: {error}") from None
            self._others[name] = other
        return self._others[name]

    def check_unchanged(self) -> None:
        """Refuse a file that somebody has cut short or written to: its samples are not those of the index.

        A file that was replaced by renaming another over it, as `convert --overwrite` does, stays readable as it was.

        Raises:
            DatasetError: it was.
        """
        found = os.fstat(self._file.fileno())
        if (found.st_size, found.st_mtime_ns) != self._as_opened:
            raise DatasetError(
                f"{self.path} was cut short or written to while it was in use ({self._as_opened[0]:,} bytes then, "
                f"{found.st_size:,} now); convert it to a new file, and open that"
            )

    def intact(self, sample: int) -> bool:
        """Whether a sample may be decoded straight from the map: True unless `verify` finds it damaged."""
        try:
            self.jpeg(sample)
        except CorruptSampleError:
            return False
        return True

    @property
    def plans_mapped(self) -> bool:
        """Whether the samples of the plans that an engine was given can be read from `file_bytes`."""
        return self.mapped

    @property
    def verifies(self) -> bool:
        """Whether samples are compared with their checksums."""
        return self._verify

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.notes.get("classes", ()))

    @property
    def file_bytes(self) -> np.ndarray:
        """The whole file: uint8, read-only, memory-mapped."""
        return self._bytes

    def read_at(self, start: int, size: int) -> np.ndarray:
        """Some bytes of the file, read and not mapped: uint8 [size]."""
        try:
            data = os.pread(self._file.fileno(), size, start)
        except OSError as error:
            raise DatasetError(f"{self.path} cannot be read at byte {start:,}: {error.strerror}") from None
        if len(data) != size:
            raise DatasetError(f"{self.path} ends before byte {start + size:,}; it was cut short while it was in use")
        return np.frombuffer(data, np.uint8)

    def will_need(self, start: int, stop: int) -> None:
        """Have the system read a part of the file into its page cache, while others are worked on."""
        with contextlib.suppress(OSError):  # a file system that cannot is read when it is needed
            os.posix_fadvise(self._file.fileno(), start, stop - start, os.POSIX_FADV_WILLNEED)

    def check_sum(self, sample: int, data: np.ndarray) -> None:
        """Compare a sample's bytes, uint8 [size], with its checksum, which the file has.

        Raises:
            CorruptSampleError: they differ.
        """
        assert self.checksums is not None
        if zlib.crc32(data.data) != self.checksums[sample]:
            raise corrupt(self, sample, "its bytes are not those that were written: the checksum differs")

    def _read(self, start: int, stop: int) -> bytes:
        return self._view(start, stop).tobytes()

    def _view(self, start: int, stop: int) -> np.ndarray:
        if not 0 <= start <= stop <= len(self._bytes):
            raise DatasetError(f"is truncated or damaged: it ends before byte {stop:,}; convert it again")
        return self._bytes[start:stop]

    def _read_index(self, label_field: str | None, image_field: str | None = None) -> None:
        if len(self._bytes) < beton.HEADER.itemsize:
            raise DatasetError("is no .beton file (too short); make one with: budgetloader convert")
        header = np.frombuffer(self._read(0, beton.HEADER.itemsize), beton.HEADER)[0]
        if header["version"] != beton.VERSION or not 1 <= header["num_fields"] <= 64:
            raise DatasetError("is no .beton file of version 2; make one with: budgetloader convert")
        count, table_start = int(header["num_samples"]), int(header["alloc_table_ptr"])
        end = beton.HEADER.itemsize + int(header["num_fields"]) * beton.FIELD.itemsize
        fields = np.frombuffer(self._read(beton.HEADER.itemsize, end), beton.FIELD)
        self.fields = tuple(row["name"].tobytes().split(b"\0")[0].decode("ascii", "replace") for row in fields)
        image, label = _image_and_label(
            [int(kind) for kind in fields["type_id"]], self.fields, label_field, image_field
        )
        self.image_field, self.label_field = self.fields[image], None if label is None else self.fields[label]
        first = [int(kind) for kind in fields["type_id"]].index(beton.TYPE_IMAGE)  # which the notes are of
        samples = self._metadata(fields, count, start=end)
        images = samples[f"f{image}"]
        self._check_images(images)
        table = self._table(table_start, most=count * len(fields))
        self.notes = beton.parse_notes(fields[image]["arguments"].tobytes(), self._read)
        self.heights = images["height"].astype(np.int64)
        self.widths = images["width"].astype(np.int64)
        self.raw = beton.raw_samples(images["mode"])
        without = np.broadcast_to(np.int64(-1), count)
        self.labels = without if label is None else samples[f"f{label}"].astype(np.int64)
        self.starts = images["data_ptr"].astype(np.int64)
        ends = {"end": table_start, "most": max_bytes(self._max_pixels)}
        self.sizes = _sizes(self.starts, table, **ends)
        beton.check_raw(self.raw, self.heights, self.widths, self.sizes)
        self.fingerprint = written = beton.fingerprint(samples, self.sizes)
        if image != first and "fingerprint" in self.notes:
            written = beton.fingerprint(
                samples, _sizes(samples[f"f{first}"]["data_ptr"].astype(np.int64), table, **ends)
            )
        if self.notes.get("fingerprint", written) != written:
            raise DatasetError("its index is damaged: it is not the one that was written; convert it again")
        self.value_checksums = checksums.of_values(self.notes, count, self._read)
        first_sums = checksums.of_samples(self.notes, count, self._read)
        self.checksums = first_sums if image == first else self.value_checksums.get(self.image_field)
        self._columns = Columns(
            self,
            fields,
            samples,
            notes=self.notes.get("fields"),
            end=table_start,
            most=int(header["page_size"]),
            checksums=self.value_checksums,
        )
        self._check_labels()

    def _metadata(self, fields: np.ndarray, count: int, *, start: int) -> np.ndarray:
        if count == 0:
            raise DatasetError("has no samples")
        layout = beton.metadata_type([int(kind) for kind in fields["type_id"]])
        return self._view(start, start + count * layout.itemsize).view(layout)

    def _check_images(self, images: np.ndarray) -> None:
        """Check the sizes in the index before they are used: a stranger's file may hold any numbers."""
        for first in range(0, len(images), _AT_ONCE):
            some = images[first : first + _AT_ONCE]
            pixels = some["height"].astype(np.int64) * some["width"].astype(np.int64)
            for wrong, why in (
                (some["mode"] > beton.MODE_RAW, "is neither a JPEG nor pixels; convert it again"),
                (pixels == 0, "is an image of no pixels; convert it again"),
                (
                    pixels > self._max_pixels,
                    f"has more pixels than {self._max_pixels:,}; if it is meant, open it as Dataset(…, max_pixels=…)",
                ),
            ):
                if wrong.any():
                    raise DatasetError(f"sample {first + int(np.flatnonzero(wrong)[0])} {why}")

    def _check_labels(self) -> None:
        if not self.classes:
            return
        wrong = (self.labels < 0) | (self.labels >= len(self.classes))
        if wrong.any():
            sample = int(np.flatnonzero(wrong)[0])
            raise DatasetError(
                f"sample {sample} has label {self.labels[sample]}, and the file has classes 0 … "
                f"{len(self.classes) - 1}; convert it again"
            )

    def _table(self, start: int, *, most: int) -> np.ndarray:
        size = len(self._bytes) - start
        if start == 0 or size % beton.ALLOCATION.itemsize or size > most * beton.ALLOCATION.itemsize:
            raise DatasetError("is truncated or damaged: its allocation table is not whole; convert it again")
        return np.frombuffer(self._read(start, len(self._bytes)), beton.ALLOCATION)


def _image_and_label(
    types: list[int], names: tuple[str, ...], label: str | None, image: str | None
) -> tuple[int, int | None]:
    """The numbers of the fields that are the image and the label (None: no field is an integer)."""
    if set(types) - set(beton.FIELD_TYPES) or beton.TYPE_IMAGE not in types:
        raise DatasetError(f"has fields of types {types}; an image (2) is needed, and types above 6 are not known")
    integers = _places(types, names, beton.TYPE_INT, "integer", "label", label)
    chosen = _places(types, names, beton.TYPE_IMAGE, "image", "image", image)
    assert chosen is not None
    return chosen, integers


def _places(
    types: list[int], names: tuple[str, ...], kind: int, what: str, usual: str, asked: str | None
) -> int | None:
    """The number of the one field of a type that is meant; None if there is none of that type."""
    numbers = [number for number, found in enumerate(types) if found == kind]
    places = {names[number]: number for number in reversed(numbers)}  # of two with one name, the first
    shown = ", ".join(repr(names[number]) for number in numbers) or "none"
    if asked is not None and asked not in places:
        raise DatasetError(f"has no {what} field {asked!r} for {usual}_field; it has {shown}")
    if asked is None and len(numbers) > 1 and usual not in places:
        raise DatasetError(
            f"has several {what} fields ({shown}) and none named {usual!r}; say which one holds the {usual}s, as "
            f"{usual}_field={names[numbers[0]]!r}"
        )
    if not numbers:
        return None
    return places[asked or (usual if usual in places else names[numbers[0]])]


def _sizes(starts: np.ndarray, table: np.ndarray, *, end: int, most: int) -> np.ndarray:
    """Each image's bytes, looked up in the allocation table by where it starts: int64 [D]."""
    pointers, sizes = table["ptr"].astype(np.int64), table["size"].astype(np.int64)
    if not (sizes > 0).all():  # FFCV gives a value of no bytes the next one's place
        pointers, sizes = pointers[sizes > 0], sizes[sizes > 0]
    in_order = len(pointers) >= len(starts) and np.array_equal(pointers[: len(starts)], starts)
    if in_order and (pointers[1:] > pointers[:-1]).all():  # as we write it: nothing has to be looked for
        sizes = sizes[: len(starts)]
    else:
        sizes = _looked_up(starts, pointers, sizes)
    outside = (starts < 0) | (sizes <= 0) | (sizes > end) | (starts > end - sizes)
    if outside.any():
        raise DatasetError(f"sample {int(np.flatnonzero(outside)[0])} lies outside the file; convert it again")
    if sizes.max() > most:
        sample = int(sizes.argmax())
        raise DatasetError(
            f"sample {sample} has {sizes[sample]:,} bytes, which no JPEG of that size has; convert it again"
        )
    return sizes


def _looked_up(starts: np.ndarray, pointers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The sizes of what begins at `starts`, where allocations are in any order."""
    order = np.argsort(pointers, kind="stable")
    pointers, sizes = pointers[order], sizes[order]
    found = np.searchsorted(pointers, starts)
    known = found < len(pointers)
    known[known] = pointers[found[known]] == starts[known]
    if not known.all():
        raise DatasetError(f"sample {int(np.flatnonzero(~known)[0])} has no allocation; convert it again")
    return sizes[found]


def corrupt(dataset: Dataset, sample: int, why: str) -> CorruptSampleError:
    """The error for a sample that does not decode."""
    return CorruptSampleError(
        f"{dataset.path}: sample {sample} does not decode ({why}); convert it again, or pass on_corrupt='replace'",
        sample=sample,
        why=why,
    )
