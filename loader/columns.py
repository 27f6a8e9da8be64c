"""Reading a file's fields: a column gives the values of any samples, by their numbers.

Numbers of the index are held in memory, 8 bytes per sample. All else is read from the file when it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from budgetloader.checksums import compare
from budgetloader.errors import CorruptSampleError, DatasetError
from budgetloader.fields import Field, Picture


class Stored(Protocol):
    """A file, as far as its columns need it. A `Dataset` is one."""

    mapped: bool

    @property
    def verifies(self) -> bool: ...

    @property
    def path(self) -> Any: ...

    @property
    def file_bytes(self) -> np.ndarray: ...

    def check_unchanged(self) -> None: ...

    def read_at(self, start: int, size: int) -> np.ndarray: ...

    def image(self, name: str) -> Any: ...


class Ragged(Sequence[np.ndarray]):
    """Arrays of different lengths, one behind the other: a sequence of n arrays [length, …].

    Args:
        flat: [lengths together, …], the entries of all.
        lengths: int64 [n], how many of them each has.
    """

    def __init__(self, flat: np.ndarray, lengths: np.ndarray) -> None:
        self.flat, self.lengths = flat, lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return list(self)[row]
        stop = int(self.lengths[: row % len(self) + 1].sum())
        return self.flat[stop - int(self.lengths[row]) : stop]

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(np.split(self.flat, np.cumsum(self.lengths)[:-1]) if len(self) else ())

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray]) -> Ragged:
        """Of arrays of one dtype, and of one shape but for their lengths."""
        return cls(np.concatenate(list(arrays)), np.array([len(one) for one in arrays], np.int64))


class Plain(list[Any]):
    """A list in which there is no array, however deep one looks."""


Values: TypeAlias = np.ndarray | list[Any] | Ragged


class Column(Sequence[Any]):
    """One field of every sample: `column[3]`, `column[[5, 1]]` or `column[:]` are values.

    Attributes:
        field: its name, kind, dtype and shape.
    """

    field: Field

    def __len__(self) -> int:
        raise NotImplementedError

    def take(self, ids: np.ndarray) -> Values:
        """The values of some samples.

        Args:
            ids: int64 [n], numbers of samples.

        Returns:
            Of integers int64 [n], of floats float64 [n], of arrays [n, …], of lists `Ragged`. Of anything else a
            list of n: bytes, str, what JSON says, a `budgetloader.fields.Picture`.

        Raises:
            CorruptSampleError: a sample's value is not of the field's kind.
            DatasetError: the file was cut short or written to.
        """
        raise NotImplementedError

    def check(self, ids: np.ndarray) -> None:
        """Compare the stored bytes of some samples' values with their checksums, where the file has any.

        Raises:
            CorruptSampleError: they differ.
        """

    def __getitem__(self, which: int | slice | ArrayLike) -> Any:
        if isinstance(which, (int, np.integer)):
            if not -len(self) <= which < len(self):
                raise IndexError(f"sample {which} is outside 0 … {len(self) - 1}")
            return self.take(np.array([which % len(self)]))[0]
        return self.take(np.arange(len(self), dtype=np.int64)[which])  # type: ignore[index]

    def __repr__(self) -> str:
        one = self.field
        kind = f"{one.kind} {one.dtype}{list(one.shape)}" if one.dtype else one.kind
        return f"<Column {one.name!r} of {len(self):,}: {kind}>"


class Scalars(Column):
    """Numbers of the index.

    Args:
        field: of kind "int" or "float".
        values: [D].
    """

    def __init__(self, field: Field, values: np.ndarray) -> None:
        self.field, self._values = field, values

    def __len__(self) -> int:
        return len(self._values)

    def take(self, ids: np.ndarray) -> np.ndarray:
        return self._values[ids]


class _InPages(Column):
    """Values that stand in the file's pages, and may have checksums."""

    _file: Stored
    _starts: np.ndarray
    _checksums: np.ndarray | None

    def __len__(self) -> int:
        return len(self._starts)

    def check(self, ids: np.ndarray) -> None:
        compare(self._read(ids), self._checksums, ids, name=self.field.name, path=self._file.path)

    def _verified(self, ids: np.ndarray) -> Any:
        """What `_read` gives, compared with the checksums where the file verifies."""
        found = self._read(ids)
        if self._file.verifies:
            compare(found, self._checksums, ids, name=self.field.name, path=self._file.path)
        return found

    def _read(self, ids: np.ndarray) -> Any:
        """The stored bytes of each value."""
        raise NotImplementedError


class Arrays(_InPages):
    """Arrays of one shape.

    Args:
        field: of kind "array" or "tensor".
        file: where they are.
        starts: int64 [D], checked: the bytes are inside the file.
        checksums: uint32 [D], of the values; None where the file has none.
    """

    def __init__(self, field: Field, file: Stored, starts: np.ndarray, checksums: np.ndarray | None = None) -> None:
        self.field, self._file, self._starts, self._checksums = field, file, starts, checksums
        stored = np.dtype(field.dtype)
        self._stored, self._native = stored, stored.newbyteorder("=")

    def take(self, ids: np.ndarray) -> np.ndarray:
        values = self._verified(ids).view(self._stored).reshape(len(ids), *self.field.shape)
        return values.astype(self._native, copy=False)

    def _read(self, ids: np.ndarray) -> np.ndarray:
        """uint8 [n, size]."""
        starts, size, file = self._starts[ids], self.field.entry_bytes, self._file
        if file.mapped:
            file.check_unchanged()
            data = file.file_bytes
            # Every stretch of so many bytes, of which rows are taken: one copy, and no loop.
            stretches = np.lib.stride_tricks.as_strided(data, (len(data) - size + 1, size), (1, 1), writeable=False)
            return stretches[starts]
        rows = np.empty((len(ids), size), np.uint8)
        for row, start in zip(rows, starts, strict=True):
            row[:] = file.read_at(int(start), size)
        return rows


class Stretches(_InPages):
    """Values of any length.

    Args:
        field: of kind "bytes", "text", "json" or "list".
        file: where they are.
        starts, sizes: int64 [D], checked: the bytes are inside the file.
        checksums: uint32 [D], of the values; None where the file has none.
    """

    def __init__(
        self,
        field: Field,
        file: Stored,
        starts: np.ndarray,
        sizes: np.ndarray,
        checksums: np.ndarray | None = None,
    ) -> None:
        self.field, self._file, self._starts, self._checksums = field, file, starts, checksums
        self._sizes, self._decode = sizes, _DECODERS.get(field.kind, bytes)

    def take(self, ids: np.ndarray) -> list[Any] | Ragged:
        parts = self._verified(ids)
        if self.field.kind == "list":
            return self._list(b"".join(parts), self._sizes[ids], ids)
        found = Plain()
        try:
            for part in parts:
                found.append(self._decode(part))
        except (ValueError, RecursionError):
            raise self._corrupt(ids[len(found)]) from None
        return found

    def _read(self, ids: np.ndarray) -> list[bytes]:
        file, sizes = self._file, self._sizes[ids]
        file.check_unchanged()
        places = zip(self._starts[ids].tolist(), sizes.tolist(), strict=True)
        if file.mapped:
            mapped = memoryview(file.file_bytes)  # type: ignore[arg-type]  # whose slices cost half of an array's
            return [mapped[start : start + size].tobytes() for start, size in places]
        return [file.read_at(start, size).tobytes() for start, size in places]

    def _list(self, data: bytes, sizes: np.ndarray, ids: np.ndarray) -> Ragged:
        field, stored = self.field, np.dtype(self.field.dtype)
        lengths, rest = np.divmod(sizes, field.entry_bytes)
        if rest.any():
            raise self._corrupt(ids[rest.argmax()])
        flat = np.frombuffer(data, stored).reshape(-1, *field.shape)
        return Ragged(flat.astype(stored.newbyteorder("=")), lengths)  # a copy, which may be written to

    def _corrupt(self, sample: int) -> CorruptSampleError:
        what = f"field {self.field.name!r} of sample {sample} is no {self.field.kind}"
        return CorruptSampleError(f"{self._file.path}: {what}; convert it again", sample=int(sample))


class Imaged(Protocol):
    """Samples with one image each. A `Dataset` is one."""

    heights: np.ndarray
    widths: np.ndarray
    raw: np.ndarray

    def jpeg(self, sample: int) -> np.ndarray: ...


class Images(Column):
    """Images beside the first one.

    Args:
        field: of kind "image".
        count: of samples.
        images: gives the samples with this image; called when it is first looked at.
    """

    def __init__(self, field: Field, count: int, images: Callable[[], Imaged]) -> None:
        self.field, self._count, self._images = field, count, images

    def __len__(self) -> int:
        return self._count

    def take(self, ids: np.ndarray) -> list[Picture]:
        of = self._images()  # which a file keeps
        sizes = zip(ids.tolist(), of.widths[ids].tolist(), of.heights[ids].tolist(), strict=True)
        return [Picture(of.jpeg(i).tobytes(), w, h, len(of.raw) > 0 and bool(of.raw[i])) for i, w, h in sizes]


class Joined(Column):
    """Columns of several files, one after the other.

    Args:
        parts: of one kind, dtype and shape.

    Raises:
        DatasetError: they are not.
    """

    def __init__(self, parts: Sequence[Column]) -> None:
        self.field = parts[0].field
        for part in parts[1:]:
            if part.field != self.field:
                raise DatasetError(f"field {self.field.name!r} is not the same in all files: {parts[0]!r} and {part!r}")
        self._parts = tuple(parts)
        self._firsts = np.cumsum((0, *(len(part) for part in parts)))

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def take(self, ids: np.ndarray) -> Values:
        if not len(ids):
            return self._parts[0].take(ids)
        places = np.searchsorted(self._firsts, ids, side="right") - 1
        whole: np.ndarray | None = None
        found: list[Any] = [None] * len(ids)
        for part in np.unique(places).tolist():
            rows = np.flatnonzero(places == part)
            values = self._parts[part].take(ids[rows] - self._firsts[part])
            if isinstance(values, np.ndarray):
                if whole is None:
                    whole = np.empty((len(ids), *values.shape[1:]), values.dtype)
                whole[rows] = values
            else:
                for row, value in zip(rows.tolist(), values, strict=True):
                    found[row] = value
        if whole is not None:
            return whole
        return Ragged.of(found) if self.field.kind == "list" else found


def _read_json(data: bytes) -> Any:
    text = data.partition(b"\0")[0].decode()
    try:
        value, end = _raw_decode(text)
        if end == len(text):
            return value
    except ValueError:
        pass
    return json.loads(text)  # which passes over white space, and says what is wrong


_raw_decode = json.JSONDecoder().raw_decode  # in a third of the time of `json.loads`


_DECODERS: dict[str, Callable[[bytes], Any]] = {"json": _read_json, "text": bytes.decode, "bytes": bytes}
