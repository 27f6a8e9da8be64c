"""An object's index: fetched once, and kept by the object's version for the next time it is opened."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from budgetloader import beton
from budgetloader.errors import StorageError
from budgetloader.storage.address import ENDPOINTS
from budgetloader.storage.client import Remote
from budgetloader.storage.folder import open_private, private_folder, replace_private

FIRST_BYTES = 64 << 10  # of the first request: the header, and what says where the rest of the index stands
_MAGIC = b"RRSINDX1"
_HEAD = struct.Struct("<8sIQ")  # magic, CRC-32 of what follows, bytes of the description
_log = logging.getLogger("budgetloader")


class Spans:
    """Which bytes of an object are there: [start, stop) pairs that neither touch nor overlap."""

    def __init__(self) -> None:
        self.all: list[tuple[int, int]] = []

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The parts of [start, stop) that are not there."""
        found = []
        for first, last in self.all:
            if last <= start or first >= stop:
                continue
            if first > start:
                found.append((start, first))
            start = max(start, last)
        if start < stop:
            found.append((start, stop))
        return found

    def add(self, start: int, stop: int) -> None:
        """[start, stop) is there now."""
        if start >= stop:
            return
        apart = [span for span in self.all if span[1] < start or span[0] > stop]
        touching = [span for span in self.all if span not in apart]
        start, stop = min([start, *(s for s, _ in touching)]), max([stop, *(s for _, s in touching)])
        self.all = sorted([*apart, (start, stop)])


def likely_spans(first: bytes | memoryview, size: int) -> list[tuple[int, int]]:
    """Where the index of a `.beton` is likely to stand, to fetch it at once; what is missed is fetched when it is read.

    Args:
        first: the object's beginning.
        size: of the object, bytes.
    """
    first = bytes(first)
    if len(first) < beton.HEADER.itemsize + beton.FIELD.itemsize:
        return []
    header = np.frombuffer(first, beton.HEADER, count=1)[0]
    fields, count, table = int(header["num_fields"]), int(header["num_samples"]), int(header["alloc_table_ptr"])
    start = beton.HEADER.itemsize + fields * beton.FIELD.itemsize
    if header["version"] != beton.VERSION or start > len(first) or not 0 < table <= size or count > size:
        return []
    described = np.frombuffer(first, beton.FIELD, count=fields, offset=beton.HEADER.itemsize)
    types = [int(kind) for kind in described["type_id"]]
    if set(types) - set(beton.FIELD_TYPES):
        return [(table, size)]
    front = start + count * beton.metadata_type(types).itemsize
    return [(0, min(front + 4 * count + (64 << 10), table)), (table, size)]


def folder_of(remote: Remote, cache: str | os.PathLike | None) -> Path | None:
    """The folder in which this version of an object is kept, made if need be; None where there can be none.

    Args:
        remote: opened.
        cache: the user's folder; None: the usual place, where only indices are kept.

    Raises:
        StorageError: the user's folder cannot be used.
    """
    endpoints = [os.environ.get(name, "") for name in ENDPOINTS]
    told = json.dumps([remote.address.root, remote.address.key, remote.version, remote.size, endpoints])
    name = hashlib.blake2b(told.encode(), digest_size=12).hexdigest()
    if cache is not None:
        return private_folder(private_folder(cache) / name)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    try:
        return private_folder(private_folder(Path(home) / "budgetloader") / name)
    except StorageError as error:
        _log.warning("the index of %s is not kept: %s", remote.address.url, error)
        return None


def load(folder: Path, remote: Remote) -> list[tuple[int, memoryview]]:
    """The parts of an index that was kept, as (offset, bytes); [] where there is none, or a damaged one.

    Raises:
        StorageError: the file is not this cache's own.
    """
    try:
        with os.fdopen(open_private(folder / "index"), "rb") as file:
            whole = memoryview(file.read())
    except FileNotFoundError:
        return []
    with contextlib.suppress(ValueError, KeyError, TypeError, struct.error):
        magic, checksum, told_bytes = _HEAD.unpack_from(whole)
        if magic == _MAGIC and zlib.crc32(whole[_HEAD.size :]) == checksum:
            told: Any = json.loads(bytes(whole[_HEAD.size : _HEAD.size + told_bytes]))
            if told["version"] == remote.version and told["size"] == remote.size:
                return _parts(whole[_HEAD.size + told_bytes :], told["spans"], remote.size)
    _log.warning("the index that was kept of %s is damaged, and is fetched again", remote.address.url)
    return []


def _parts(data: memoryview, spans: list[list[int]], size: int) -> list[tuple[int, memoryview]]:
    found, at = [], 0
    for start, stop in spans:
        if not 0 <= start < stop <= size or at + stop - start > len(data):
            raise ValueError("spans")
        found.append((start, data[at : at + stop - start]))
        at += stop - start
    return found


def save(folder: Path, remote: Remote, spans: Spans, data: Any) -> None:
    """Keep an index; where it cannot be kept, that is no error.

    Args:
        folder: of this version of the object.
        remote: the object.
        spans: which bytes are there.
        data: uint8 [size], the object's bytes.
    """
    told = json.dumps({"version": remote.version, "size": remote.size, "spans": spans.all}).encode()
    parts = [told, *(data[start:stop].data for start, stop in spans.all)]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    try:
        replace_private(folder / "index", [_HEAD.pack(_MAGIC, checksum, len(told)), *parts])
    except OSError as error:
        _log.warning("the index of %s is not kept in %s: %s", remote.address.url, folder, error.strerror)
