"""Datasets in object storage: opened by their address, fetched ahead of the engine, kept in a cache on a local disk.

An address opens as a `RemoteDataset`, which has all that a `Dataset` has. Its samples come to a sparse file in which
they stand at the offsets that they have in the object, so that engines read it as they read a local file. The stream
of batch plans, which is known for the whole training, says what to fetch next, and what to drop last.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Sequence
from typing import Any

from budgetloader.dataset import Dataset
from budgetloader.errors import ArgumentError
from budgetloader.storage.address import in_store, is_address, path_of

__all__ = ["is_address", "open_file", "open_files"]
_OPENED_AT_ONCE = 8  # files of a set


def open_file(
    path: str | os.PathLike,
    *,
    cache: str | os.PathLike | None = None,
    cache_bytes: float | None = None,
    **options: Any,
) -> Dataset:
    """Open a `.beton` file wherever it is.

    Args:
        path: of a file on this machine, or an address such as s3://bucket/train.beton.
        cache, cache_bytes: as in `BudgetLoader`; for addresses only.
        options: as in `Dataset`.

    Raises:
        DatasetError: it cannot be opened; a `StorageError` where the store or the cache is to blame.
        ArgumentError: a cache for a file that is on this machine.
    """
    address = in_store(path)
    if address is not None:
        from budgetloader.storage.dataset import RemoteDataset

        return RemoteDataset(address.url, cache=cache, cache_bytes=cache_bytes, **options)
    if cache is not None or cache_bytes is not None:
        name, value = ("cache", cache) if cache is not None else ("cache_bytes", cache_bytes)
        raise ArgumentError(f"{name}={str(value)!r} is for files in object storage; {path} is on this machine")
    return Dataset(path_of(path) if is_address(path) else path, **options)


def open_files(
    paths: Sequence[str | os.PathLike],
    *,
    cache: str | os.PathLike | None = None,
    cache_bytes: float | None = None,
    **options: Any,
) -> list[Dataset]:
    """Open several files; those in object storage share the cache's bytes equally. Arguments as in `open_file`.

    Raises:
        ArgumentError: a cache, and no file in object storage.
    """
    far = [path for path in paths if in_store(path) is not None]
    if not far:
        return [open_file(path, cache=cache, cache_bytes=cache_bytes, **options) for path in paths]
    share = None if cache_bytes is None else cache_bytes / len(far)
    stored: dict[str, Any] = {"cache": cache, "cache_bytes": share}
    there = set(far)

    def opened(path: str | os.PathLike) -> Dataset:
        return open_file(path, **(stored if path in there else {}), **options)

    with concurrent.futures.ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:  # most of the time goes into waiting
        return list(pool.map(opened, paths))
