"""Sets that several machines write at once: each makes a shard, and a list of the shards makes them one set.

A shard is a `.beton` of its own, of a stretch of the source's images, with the labels and classes of the whole source.
It appears when it is whole. The list is written when all shards are there and agree: until then there is no set, and
whichever machine failed makes its shard again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from budgetloader.convert.resuming import identity_of
from budgetloader.convert.sources import Filled, Source
from budgetloader.dataset import Dataset
from budgetloader.errors import ArgumentError, DatasetError
from budgetloader.joined import JoinedDataset
from budgetloader.paths import local
from budgetloader.storage import is_address, open_files
from budgetloader.storage.address import Address
from budgetloader.storage.client import Remote
from budgetloader.storage.traffic import Counter
from budgetloader.storage.upload import stored

SUFFIX = ".shards.json"
MOST_SHARDS = 9999
_FORMAT = "budgetloader shards 1"
_MOST_BYTES = 4 << 20  # of a list: 10,000 shards take 1.2 MB
_NAME = re.compile(r"[^/\\?#\x00-\x1f]{1,255}\.beton")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


def is_list(path: Any) -> bool:
    """Whether a path or an address is that of a list of shards."""
    return isinstance(path, (str, os.PathLike)) and str(os.fspath(path)).endswith(SUFFIX)


def shard_path(path: str | os.PathLike, number: int, of: int) -> str:
    """Where shard `number` (from 1) of a set lies: `train.0002-of-0008.beton` beside `train.beton`.

    Raises:
        ArgumentError: there is no such shard, or the set's name does not end in .beton.
    """
    text = os.fspath(path)
    if not 1 <= number <= of <= MOST_SHARDS:
        raise ArgumentError(f"shard {number}/{of}: give NUMBER/OF, with 1 <= NUMBER <= OF <= {MOST_SHARDS:,}")
    if not text.endswith(".beton"):
        raise ArgumentError(f"{text}: give the whole set's name, which ends in .beton")
    return f"{text.removesuffix('.beton')}.{number:04}-of-{of:04}.beton"


def list_path(path: str | os.PathLike) -> str:
    """Where the list of a set's shards lies: `train.shards.json` beside `train.beton`."""
    return os.fspath(path).removesuffix(".beton") + SUFFIX


def part_of(source: Source, number: int, of: int, *, settings: Any) -> Source:
    """The images of a shard: a stretch of the source's, so that the shards in their order are the source in its own.

    Args:
        source: the whole one, the same on every machine: the same names, in the same order.
        number, of: which shard, from 1, of how many.
        settings: of the conversion, a `budgetloader.convert.converting.Settings`.

    Raises:
        ArgumentError: there is no such shard, or it would be empty.
    """
    if not 1 <= number <= of <= MOST_SHARDS:
        raise ArgumentError(f"shard {number}/{of}: give NUMBER/OF, with 1 <= NUMBER <= OF <= {MOST_SHARDS:,}")
    start, stop = (number - 1) * len(source) // of, number * len(source) // of
    if start == stop:
        raise ArgumentError(f"shard {number}/{of} of {len(source):,} images would be empty; make fewer shards")
    read, load = source.read, source.load
    return dataclasses.replace(
        source,
        names=source.names[start:stop],
        labels=source.labels[start:stop],
        load=lambda i: load(start + i),
        read=None if read is None else lambda i: read(start + i),
        columns=tuple(Filled(one.field, _Stretch(one.values, start, stop)) for one in source.columns),
        notes={**source.notes, "shard": {"number": number, "of": of, "source": _digest(source, settings)}},
    )


class _Stretch(Sequence[Any]):
    """A stretch of values, none of which is looked at before it is needed."""

    def __init__(self, values: Sequence[Any], start: int, stop: int) -> None:
        self._values, self._start, self._count = values, start, stop - start

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < self._count:
            raise IndexError(i)
        return self._values[self._start + i]


def _digest(source: Source, settings: Any) -> str:
    """What tells sources and settings apart, whose shards do not go together."""
    state = hashlib.blake2b(identity_of(source, settings).encode(), digest_size=16)
    fields = [[one.field.name, one.field.note()] for one in source.columns]
    state.update(json.dumps([list(source.classes), [int(label) for label in source.labels], fields]).encode())
    return state.hexdigest()


def gather(path: str | os.PathLike, of: int, *, replace: bool = False) -> tuple[str, JoinedDataset]:
    """Make a set of its shards, by writing the list of them; nothing is copied.

    Args:
        path: the set's name, as `convert` was given it: a path, or an address.
        of: how many shards there are.
        replace: whether a list may be there already.

    Returns:
        Where the list is, to give to `BudgetLoader`, and the set.

    Raises:
        DatasetError: a shard is missing, or was made of other images, labels or settings; or there is a list already.
    """
    places = [shard_path(path, number, of) for number in range(1, of + 1)]
    parts = open_files(places)
    first = _told(parts[0], 1, of)
    for number, part in enumerate(parts[1:], start=2):
        if _told(part, number, of) != first:
            raise DatasetError(
                f"{part.path} and {parts[0].path} were made of other images, labels or settings; convert one again, "
                "from the same source"
            )
    joined = JoinedDataset(parts)
    rows = [
        {"file": place.rpartition("/")[2], "samples": len(part), "fingerprint": part.fingerprint}
        for place, part in zip(places, parts, strict=True)
    ]
    text = json.dumps({"format": _FORMAT, "source": first, "samples": len(joined), "shards": rows}, indent=1)
    _write(list_path(path), text + "\n", replace=replace)
    return list_path(path), joined


def _told(part: Dataset, number: int, of: int) -> str:
    """Which source and settings a shard says it was made of."""
    shard = part.notes.get("shard")
    if not isinstance(shard, dict) or (shard.get("number"), shard.get("of")) != (number, of):
        raise DatasetError(
            f"{part.path} is not shard {number} of {of}; make it: budgetloader convert --shard {number}/{of}"
        )
    return str(shard.get("source"))


def _write(place: str, text: str, *, replace: bool) -> None:
    if is_address(place) and Address.parse(place).local is None:
        with stored(place, replace=replace) as partial:
            partial.write_text(text)
        return
    path = _here(place)
    if path.exists() and not replace:
        raise DatasetError(f"{path} exists; choose another name, or pass --overwrite to replace it")
    partial = path.with_name(path.name + ".partial")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def open_list(place: str | os.PathLike, **options: Any) -> JoinedDataset:
    """The set of a list of shards.

    Args:
        place: of the list: a path, or an address.
        options: as `budgetloader.storage.open_files` takes them.

    Raises:
        DatasetError: it is no list, or a shard is missing, or is another one than was listed.
    """
    text = os.fspath(place)
    rows = _parse(_read(text), text)
    folder = text.rpartition("/")[0]
    parts = open_files([f"{folder}/{name}" if folder else name for name, _, _ in rows], **options)
    for part, (_, samples, fingerprint) in zip(parts, rows, strict=True):
        if (len(part), part.fingerprint) != (samples, fingerprint):
            raise DatasetError(
                f"{part.path} is another file than {text} lists ({len(part):,} samples, {part.fingerprint}; listed are "
                f"{samples:,}, {fingerprint}); make the list again: budgetloader gather"
            )
    return JoinedDataset(parts)


def _read(place: str) -> bytes:
    if is_address(place) and Address.parse(place).local is None:
        remote = Remote(Address.parse(place), counter=Counter())
        data = bytes(remote.open(_MOST_BYTES))
        size = remote.size
    else:
        path = _here(place)
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                data = file.read(_MOST_BYTES)
        except OSError as error:
            raise DatasetError(f"{place} cannot be read: {error.strerror}") from None
    if size > _MOST_BYTES:
        raise DatasetError(f"{place} is no list of shards: it has {size:,} bytes, more than {_MOST_BYTES:,}")
    return data


def _here(place: str) -> Path:
    if is_address(place):
        path = Address.parse(place).local
        assert path is not None
        return path
    return local(place)


def _parse(data: bytes, place: str) -> list[tuple[str, int, str]]:
    """(file, samples, fingerprint) of each shard."""
    try:
        told = json.loads(data)
        if told["format"] != _FORMAT or not 1 <= len(told["shards"]) <= MOST_SHARDS:
            raise ValueError
        return [_row(row) for row in told["shards"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DatasetError(f"{place} is no list of shards that `budgetloader gather` wrote; make it again") from None


def _row(row: dict[str, Any]) -> tuple[str, int, str]:
    """A shard's entry. Its file lies beside the list, and nowhere else."""
    name, samples, fingerprint = row["file"], row["samples"], row["fingerprint"]
    plain = isinstance(name, str) and _NAME.fullmatch(name) and not name.startswith(".") and "%2f" not in name.lower()
    whole = isinstance(samples, int) and not isinstance(samples, bool) and samples > 0
    if not (plain and whole and isinstance(fingerprint, str) and _FINGERPRINT.fullmatch(fingerprint)):
        raise ValueError
    return name, samples, fingerprint
