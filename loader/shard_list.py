"""Sets of several files that a list names: `train.shards.json`, which `budgetloader gather` writes.

The list is JSON. Its files lie beside it, and each is the one that was listed, or opening it is an error.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from budgetloader.dataset import Dataset
from budgetloader.errors import DatasetError
from budgetloader.joined import JoinedDataset
from budgetloader.storage import open_file, open_files
from budgetloader.storage.address import in_store, path_of

SUFFIX = ".shards.json"
FORMAT = "budgetloader shards 1"
MOST_SHARDS = 9999
_MOST_BYTES = 4 << 20  # of a list: 10,000 shards take 1.2 MB
_NAME = re.compile(r"[^/\\?#\x00-\x1f]{1,255}\.beton")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


def is_list(path: Any) -> bool:
    """Whether a path or an address is that of a list of shards."""
    return isinstance(path, (str, os.PathLike)) and str(os.fspath(path)).endswith(SUFFIX)


def open_set(path: str | os.PathLike, **options: Any) -> Dataset | JoinedDataset:
    """A file, or the set of a list of shards.

    Args:
        path: of either: a path, or an address.
        options: as `budgetloader.storage.open_file` takes them.

    Raises:
        DatasetError: it cannot be opened; see `open_list`.
    """
    return open_list(path, **options) if is_list(path) else open_file(path, **options)


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
    address = in_store(place)
    if address is not None:
        from budgetloader.storage.client import Remote
        from budgetloader.storage.traffic import Counter

        remote = Remote(address, counter=Counter())
        data = bytes(remote.open(_MOST_BYTES))
        size = remote.size
    else:
        try:
            with open(os.open(path_of(place), os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                data = file.read(_MOST_BYTES)
        except OSError as error:
            raise DatasetError(f"{place} cannot be read: {error.strerror}") from None
    if size > _MOST_BYTES:
        raise DatasetError(f"{place} is no list of shards: it has {size:,} bytes, more than {_MOST_BYTES:,}")
    return data


def _parse(data: bytes, place: str) -> list[tuple[str, int, str]]:
    """(file, samples, fingerprint) of each shard."""
    try:
        told = json.loads(data)
        if told["format"] != FORMAT or not 1 <= len(told["shards"]) <= MOST_SHARDS:
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
