"""Plain clients of object storage, which read ranges and do nothing with them: what a store can give at all."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Read = Callable[[int, int], Any]
"""Reads the bytes from one offset to another."""


def obstore_reader(root: str, key: str) -> Read:
    """Reads an object as the loader does: of s3://bucket, or of a web server."""
    import obstore
    from obstore.store import from_url

    store = from_url(root, client_options={"allow_http": True})
    return lambda start, stop: obstore.get(store, key, options={"range": (start, stop)}).buffer()


def s3fs_reader(bucket: str, key: str, *, connections: int) -> Read | None:
    """Reads an object with s3fs; None where that is not installed."""
    try:
        import s3fs
    except ImportError:
        return None
    system = s3fs.S3FileSystem(
        key=os.environ["AWS_ACCESS_KEY_ID"],
        secret=os.environ["AWS_SECRET_ACCESS_KEY"],
        client_kwargs={"endpoint_url": os.environ["AWS_ENDPOINT_URL"]},
        config_kwargs={"max_pool_connections": connections},
    )
    return lambda start, stop: system.cat_file(f"{bucket}/{key}", start=start, end=stop)


def draw(dataset: Any, count: int, draws: np.random.Generator) -> list[tuple[int, int]]:
    """Where so many samples, drawn at random, begin and end in a file."""
    samples = draws.integers(0, len(dataset), count)
    return [(int(dataset.starts[i]), int(dataset.starts[i] + dataset.sizes[i])) for i in samples]


def rate(wanted: Sequence[tuple[int, int]], read: Read, *, threads: int) -> dict[str, float]:
    """How fast threads read ranges: requests and megabytes per second, and this process's milliseconds for a request.

    Raises:
        RuntimeError: other bytes came than were asked for.
    """
    with ThreadPoolExecutor(threads) as pool:
        began, worked = time.perf_counter(), own_seconds()
        sizes = list(pool.map(lambda span: len(read(*span)), wanted))
        seconds, own = time.perf_counter() - began, own_seconds() - worked
    if sizes != [stop - start for start, stop in wanted]:
        raise RuntimeError("a server gave other bytes than it was asked for")
    return {
        "requests_per_second": len(wanted) / seconds,
        "megabytes_per_second": sum(sizes) / 1e6 / seconds,
        "client_ms_per_request": 1000 * own / len(wanted),
    }


def own_seconds() -> float:
    """The processor time that this process has had, seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
