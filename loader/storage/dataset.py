"""A `.beton` file in object storage, as a dataset: the same samples, fetched before they are read."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

import numpy as np

from budgetloader.arguments import check_choice
from budgetloader.dataset import Dataset
from budgetloader.errors import ArgumentError, DatasetError, StorageError
from budgetloader.limits import MAX_PIXELS, check_max_pixels
from budgetloader.storage import index
from budgetloader.storage.address import Address
from budgetloader.storage.client import Patience, Remote
from budgetloader.storage.cost import Cost, measure
from budgetloader.storage.folder import open_private
from budgetloader.storage.ledger import Ledger
from budgetloader.storage.mirror import Mirror
from budgetloader.storage.oracle import Oracle
from budgetloader.storage.pool import Pool
from budgetloader.storage.runs import Runs
from budgetloader.storage.shared import SharedLedger
from budgetloader.storage.source import Source, Ticket
from budgetloader.storage.traffic import Counter, Traffic

_INDEX_PART_BYTES = 4 << 20  # of an index that is fetched, by several requests at a time
_MOST_AHEAD_BYTES = 1 << 62  # the loader's own limit holds
_log = logging.getLogger("budgetloader")


class RemoteDataset(Dataset):
    """A `.beton` file that is read from object storage. See `budgetloader.Dataset`, whose attributes it has.

    Args:
        url: s3://bucket/train.beton, gs://, az:// or https://.
        cache: a folder on a local disk that keeps what was fetched, for other epochs, runs and processes; None:
            nothing is kept but the index.
        cache_bytes: the most that samples may take there; None: as much as they need.
        label_field, image_field, verify, max_pixels: as in `Dataset`.
        fetch: "whole": samples; "window": of each sample its headers and the rows of MCUs that the crop touches, which
            is about three quarters of the bytes with a random resized crop, for up to two requests. It is worth it
            where bytes are dear; engines that decode whole images are given whole samples all the same.
        store: a client of obstore's; default: one that takes endpoint and credentials from the environment.
        patience: with a store that fails.

    Attributes:
        cost: the store, as it was measured.
        ahead_bytes: the most that a loader should fetch ahead.

    Raises:
        StorageError: the object cannot be read, or the cache's folder cannot be used.
        DatasetError: it is no `.beton` file, as in `Dataset`.
    """

    def __init__(
        self,
        url: str,
        *,
        cache: str | os.PathLike | None = None,
        cache_bytes: float | None = None,
        label_field: str | None = None,
        image_field: str | None = None,
        verify: bool = False,
        max_pixels: int = MAX_PIXELS,
        fetch: str = "whole",
        store: Any = None,
        patience: Patience | None = None,
    ) -> None:
        self.url = url
        self.path = url  # type: ignore[assignment]  # for messages
        self._max_pixels = check_max_pixels(max_pixels)
        self._verify, self.mapped = verify, False
        self._others: dict[str, Dataset] = {}
        self._spans, self._spans_lock = index.Spans(), threading.RLock()
        self._images = (0, 0)  # where they stand, once that is known
        self._counter = Counter()
        self._remote = Remote(Address.parse(url), counter=self._counter, store=store, patience=patience)
        most_bytes = _check_cache_bytes(cache, cache_bytes)
        self._windowed = _check_fetch(fetch, cache=cache, verify=verify)
        first = self._remote.open(index.FIRST_BYTES)
        self._folder = index.folder_of(self._remote, cache)
        self._mirror = self._open_mirror(keeps=cache is not None)
        self._bytes = self._mirror.bytes
        try:
            kept = self._bring_index(first)
            self._read_index(label_field, image_field)
            if not kept and self._folder is not None:  # now that it is known to be whole
                index.save(self._folder, self._remote, self._spans, self._bytes)
            self._images = (int(self.starts.min()), int((self.starts + self.sizes).max()))
            if verify and self.checksums is None:
                raise DatasetError("has no checksums to verify (FFCV wrote it, or version 0.1); convert it again")
            self.oracle = Oracle(len(self.labels), wanted=most_bytes is not None)
            self.ahead_bytes = _MOST_AHEAD_BYTES if most_bytes is None else most_bytes // 4
            self._ledger = self._open_ledger(most_bytes, keeps=cache is not None)
        except StorageError:
            raise
        except DatasetError as error:
            raise DatasetError(f"{url}: {error}") from None
        self.cost: Cost = measure(self._remote)
        _log.info("%s: %s", url, self.cost)
        self._source = Source(
            self._remote,
            self._mirror,
            self._ledger,
            starts=self.starts,
            sizes=self.sizes,
            checksums=self.checksums,
            heights=self.heights,
            cost=self.cost,
        )
        self._runs = Runs(self._source)

    # As in `Dataset`

    def jpeg(self, sample: int) -> np.ndarray:
        """The bytes of one sample: uint8 [size], read-only. See `Dataset.jpeg`.

        Raises:
            StorageError: it cannot be fetched.
        """
        data = self._runs.read(int(sample))
        if self._verify:
            self.check_sum(sample, data)
        return data

    def image(self, name: str) -> Dataset:
        """See `Dataset.image`; of a file in object storage, one image of each sample is fetched.

        Raises:
            DatasetError: another one is asked for.
        """
        if name == self.image_field:
            return self
        raise DatasetError(
            f"{self.url}: of each sample, the image {self.image_field!r} is fetched, and {name!r} is not; copy the "
            f"file to this machine, or open it with image_field={name!r}"
        )

    @property
    def plans_mapped(self) -> bool:
        """True: an engine is given a plan when its samples are in the mirror."""
        return True

    def read_at(self, start: int, size: int) -> np.ndarray:
        """Some bytes of the object, fetched: uint8 [size].

        Raises:
            StorageError: they cannot be.
        """
        return self._view(start, start + size)

    def check_unchanged(self) -> None:
        """Nothing: every answer of the store is compared with the version that was opened."""

    @property
    def map_path(self) -> str:
        """A path by which this process can open the mirror, in which the index is whole."""
        return self._mirror.path

    # What fetching needs to know, and what it cost

    def begin(self, samples: np.ndarray) -> Ticket:
        """Fetch samples, ahead of when they are read: int64 [n]. `jpeg` gives views until the ticket is released."""
        return self._source.begin(samples, lend=True)

    def announce(self, samples: np.ndarray, windows: np.ndarray, *, cropped: bool, held: bool = False) -> Ticket:
        """Fetch what a plan needs.

        Args:
            samples: int64 [n].
            windows: int64 [n, 4]: top, left, height and width, pixels.
            cropped: whether nobody will look at the bytes of rows that the windows do not touch.
            held: whether `hold` was asked for the samples.
        """
        if cropped and self._windowed:
            return self._source.begin_windows(samples, windows)
        return self._source.begin(samples, lend=True, counted=not held)

    def hold(self, samples: np.ndarray, held: Ticket | None = None) -> Ticket:
        """Fetch samples ahead of the plans that want them: int64 [n], each once; with those that a ticket holds."""
        return self._source.hold(samples, held)

    def holds(self, *, cropped: bool) -> bool:
        """Whether samples are fetched whole, so that `hold` can fetch neighbours together."""
        return not (cropped and self._windowed)

    def bytes_of(self, samples: np.ndarray) -> int:
        """The bytes of some samples."""
        return int(self.sizes[samples].sum())

    @property
    def traffic(self) -> Traffic:
        """What was asked of the store since the dataset was opened."""
        return self._counter.now()

    def waited(self, seconds: float) -> None:
        """Count time in which a trainer waited for samples."""
        self._counter.waited(seconds)

    def close(self) -> None:
        """End the threads, and let go of the cache. The dataset is not to be used afterwards."""
        if self._source.close():
            self._ledger.close()

    # Opening

    def _open_mirror(self, *, keeps: bool) -> Mirror:
        if not keeps:
            return Mirror.in_memory(self._remote.size)
        assert self._folder is not None
        path = self._folder / "data"
        try:
            return Mirror(open_private(path, create=True), self._remote.size, name=str(path))
        except OSError as error:
            raise StorageError(f"the cache {path} cannot be made: {error.strerror}") from None

    def _open_ledger(self, most_bytes: int | None, *, keeps: bool) -> Ledger:
        if not keeps:
            return Ledger(self._mirror, self.starts, self.sizes, counter=self._counter)
        assert self._folder is not None
        return SharedLedger(
            self._folder,
            self._mirror,
            self.starts,
            self.sizes,
            counter=self._counter,
            most_bytes=most_bytes,
            next_use=self.oracle.next_use,
        )

    def _bring_index(self, first: memoryview) -> bool:
        """Fill in the index, from the cache or from the store; whether the cache had it."""
        kept = index.load(self._folder, self._remote) if self._folder is not None else []
        for start, data in kept or [(0, first)]:
            self._put(start, data)
        if not kept:
            for start, stop in index.likely_spans(first, self._remote.size):
                self._ensure(start, stop)
        return bool(kept)

    def _view(self, start: int, stop: int) -> np.ndarray:
        """Bytes of the index; or of what stands among the images, where the mirror's blocks come and go."""
        if 0 <= start <= stop <= len(self._bytes):
            if start < self._images[1] and stop > self._images[0]:
                return np.frombuffer(self._remote.read(start, stop, what=f"bytes {start:,} … {stop:,}"), np.uint8)
            self._ensure(start, stop)
        return super()._view(start, stop)

    def _ensure(self, start: int, stop: int) -> None:
        """Have bytes of the index in the mirror."""
        with self._spans_lock:
            missing = self._spans.missing(start, stop)
            parts = [
                (low, min(low + _INDEX_PART_BYTES, last))
                for first, last in missing
                for low in range(first, last, _INDEX_PART_BYTES)
            ]
            if len(parts) == 1:
                self._put(parts[0][0], self._remote.read(*parts[0], what="its index"))
            elif parts:
                self._fetch_together(parts)

    def _fetch_together(self, parts: list[tuple[int, int]]) -> None:
        pool, done = Pool(8, name="budgetloader-index"), threading.Semaphore(0)
        found: list[tuple[int, memoryview]] = []
        errors: list[BaseException] = []

        def fetch(start: int, stop: int) -> None:
            try:
                found.append((start, self._remote.read(start, stop, what="its index")))
            except BaseException as error:
                errors.append(error)
            done.release()

        for part in parts:
            pool.submit(lambda part=part: fetch(*part))  # type: ignore[misc]
        for _ in parts:
            done.acquire()
        pool.close()
        if errors:
            raise errors[0]
        for start, data in found:
            self._put(start, data)

    def _put(self, start: int, data: memoryview) -> None:
        stop = start + len(data)
        try:
            self._mirror.write(start, data)
        except OSError as error:
            raise StorageError(f"the index of {self.url} cannot be kept: {error.strerror}; free some room") from None
        self._spans.add(start, stop)


def _check_cache_bytes(cache: Any, cache_bytes: float | None) -> int | None:
    if cache_bytes is None:
        return None
    if cache is None:
        raise ArgumentError(f"cache_bytes={cache_bytes!r} says how large a cache may be; give its folder, too: cache=…")
    if isinstance(cache_bytes, bool) or not isinstance(cache_bytes, (int, float)) or not cache_bytes >= 1 << 20:
        raise ArgumentError(f"cache_bytes={cache_bytes!r}: give a number of bytes, a million at least")
    return int(min(cache_bytes, 1 << 62))


def _check_fetch(fetch: str, *, cache: Any, verify: bool) -> bool:
    """Whether windows are fetched."""
    check_choice(fetch, ("whole", "window"), what="fetch")
    if fetch == "window" and (cache is not None or verify):
        other = "cache=" if cache is not None else "verify=True"
        raise ArgumentError(
            f"fetch='window' does not go with {other}, which needs whole samples; leave one of them out"
        )
    return fetch == "window"
