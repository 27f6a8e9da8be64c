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
from collections.abc import Sequence
from typing import Any

from budgetloader.convert.resuming import identity_of
from budgetloader.convert.sources import Filled, Source
from budgetloader.dataset import Dataset
from budgetloader.errors import ArgumentError, DatasetError
from budgetloader.joined import JoinedDataset
from budgetloader.shard_list import FORMAT, MOST_SHARDS, SUFFIX
from budgetloader.storage import open_files
from budgetloader.storage.address import in_store, path_of
from budgetloader.storage.upload import stored


def shard_path(path: str | os.PathLike, number: int, of: int) -> str:
    """Where shard `number` (from 1) of a set lies: `train.0002-of-0008.beton` beside `train.beton`.

    Raises:
        ArgumentError: there is no such shard, or the set's name does not end in .beton.
    """
    text = os.fspath(path)
    _check_number(number, of)
    if not text.endswith(".beton"):
        raise ArgumentError(f"{text}: give the whole set's name, which ends in .beton")
    return f"{text.removesuffix('.beton')}.{number:04}-of-{of:04}.beton"


def _check_number(number: int, of: int) -> None:
    if not 1 <= number <= of <= MOST_SHARDS:
        raise ArgumentError(f"shard {number}/{of}: give NUMBER/OF, with 1 <= NUMBER <= OF <= {MOST_SHARDS:,}")


def list_path(path: str | os.PathLike) -> str:
    """Where the list of a set's shards lies: `train.shards.json` beside `train.beton`."""
    return os.fspath(path).removesuffix(".beton") + SUFFIX


def part_of(source: Source, number: int, of: int, *, settings: Any) -> Source:
    """The images of a shard: a stretch of the source's, so that the shards in their order are the source in its own.

    Args:
        source: the whole one, the same on every machine: the same names, in the same order.
        number, of: which shard, from 1, of how many.
        settings: of the conversion, a `budgetloader.convert.Settings`.

    Raises:
        ArgumentError: there is no such shard, or it would be empty.
    """
    _check_number(number, of)
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
    text = json.dumps({"format": FORMAT, "source": first, "samples": len(joined), "shards": rows}, indent=1)
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
    if in_store(place) is not None:
        with stored(place, replace=replace) as partial:
            partial.write_text(text)
        return
    path = path_of(place)
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
