"""The ledger of a mirror on disk that several processes fill and read, without a daemon.

Everything that must be right after kill -9 is held by the kernel: a lock on a file ends with its process. Each process
has a slot: a locked file with a byte per sample, 1 while it is pinned. Where the lock can be had, the process is gone,
and what it pinned or was fetching counts no longer. Records are changed under the folder's lock, but for the one that
says that bytes have arrived; that is written when they have.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from budgetloader.errors import StorageError
from budgetloader.storage.folder import Lock, open_private
from budgetloader.storage.ledger import BUSY, COUNT, FETCHING, LOW, PRESENT, SPARE_BYTES, Ledger, NextUse
from budgetloader.storage.mirror import BLOCK, Mirror
from budgetloader.storage.traffic import Counter

_MAGIC, _HEADER_BYTES = b"RRSMAP1\0", 4096
_MOST_SLOTS = 1024
_SPARE_SHARE = 50  # a fiftieth of the cache is freed at a time, at most


class SharedLedger(Ledger):
    """The records of a mirror in a cache's folder.

    Args:
        folder: of this object's version alone, private to this user.
        mirror, starts, sizes, counter: as in `Ledger`.
        most_bytes: that the samples may take on the disk; None: as many as there are.
        next_use: says what is needed when.

    Raises:
        StorageError: the folder's files are not a cache's, or the disk is full.
    """

    def __init__(
        self,
        folder: Path,
        mirror: Mirror,
        starts: np.ndarray,
        sizes: np.ndarray,
        *,
        counter: Counter,
        most_bytes: int | None,
        next_use: NextUse = lambda: None,
    ) -> None:
        super().__init__(mirror, starts, sizes, counter=counter)
        self._folder, self._most_bytes, self._next_use = folder, most_bytes, next_use
        # What a sample takes, at most: the blocks that it has a part of.
        self._room = -(-(starts + sizes) // BLOCK) * BLOCK - starts // BLOCK * BLOCK
        self._lock = Lock(folder / "lock")
        self._slot_files: dict[int, int] = {}
        self._finalizer = weakref.finalize(self, _let_go, self._slot_files, self._lock)
        self._finalizer.atexit = False  # threads may be at work to the end; the kernel closes what is open
        self._pid = os.getpid()
        with self._lock.held():
            self._records = self._map_records()
            self.slot, self._shown = self._take_slot()
            self._forget({self.slot})
            self._used = self._count()

    # As in `Ledger`

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        if self._pid != os.getpid():
            raise StorageError(f"the cache {self._folder} was opened before this process was forked; open it here")
        with self._threads, self._lock.held():
            yield

    def _show(self, samples: np.ndarray) -> None:
        self._shown[samples] = 1

    def _hide(self, samples: np.ndarray) -> None:
        self._shown[samples] = 0

    def _bury(self, slots: np.ndarray) -> None:
        gone = {slot for slot in np.unique(slots).tolist() if slot != self.slot and not self._lives(slot)}
        if gone:
            self._forget(gone)

    def _make_room(self, samples: np.ndarray) -> None:
        if not len(samples):
            return
        if self._most_bytes is None:
            return self._publish()
        self._used += int(self._room[samples].sum())
        if self._used > self._most_bytes or self._stale():
            self._used = self._count()
            excess = self._used - self._most_bytes
            if excess > 0:
                self._used -= self._evict(excess + min(SPARE_BYTES, self._most_bytes // _SPARE_SHARE))
        self._publish()

    def _let_go(self, samples: np.ndarray) -> None:
        """They stay, until there is no room."""

    def _evict(self, wanted_bytes: int) -> int:
        pinned = self._shown != 0
        for slot in self._others():
            if self._lives(slot):
                pinned |= self._pins_of(slot) != 0
        free = np.flatnonzero((self._records & PRESENT != 0) & ~pinned)
        if not len(free):
            return 0
        last_first = self._last_first(free, wanted_bytes)
        sums = np.cumsum(self._room[last_first])
        victims = last_first[: int(np.searchsorted(sums, wanted_bytes)) + 1]
        self._drop(victims)
        self._counter.add(evicted=len(victims))
        return int(self._room[victims].sum())

    @property
    def closed(self) -> bool:
        return super().closed or not self._finalizer.alive

    def close(self) -> None:
        self._finalizer()

    # Its own

    def _last_first(self, samples: np.ndarray, wanted_bytes: int) -> np.ndarray:
        """The samples that should go, and perhaps more, in the order in which they should: those that are needed last,
        or never, first (L. A. Belady, IBM Systems Journal 5, 1966)."""
        uses = self._next_use()
        if uses is None:
            return samples
        soonest_last = -uses[samples]
        some = 2 * int(wanted_bytes / max(float(self._room[samples].mean()), 1.0)) + 64
        if some < len(samples):  # a whole sort would take ten times as long
            chosen = np.argpartition(soonest_last, some)[:some]
            if int(self._room[samples[chosen]].sum()) >= wanted_bytes:
                return samples[chosen[np.argsort(soonest_last[chosen], kind="stable")]]
        return samples[np.argsort(soonest_last, kind="stable")]

    def _count(self) -> int:
        return int(self._room[self._records & BUSY != 0].sum())

    def _stale(self) -> bool:
        """Whether another process has claimed or dropped samples since this one counted."""
        return int(self._header[1]) != self._changes

    def _publish(self) -> None:
        self._header[1] += np.uint64(1)
        self._changes = int(self._header[1])

    def _map_records(self) -> np.ndarray:
        path, size = self._folder / "map", _HEADER_BYTES + 8 * len(self._starts)
        descriptor = open_private(path, create=True)
        try:
            if os.fstat(descriptor).st_size != size:
                os.ftruncate(descriptor, 0)
                os.posix_fallocate(descriptor, 0, size)  # written by its map, which must not meet a full disk
            mapped = mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            raise StorageError(f"the cache {self._folder} cannot be written: {why}") from None
        finally:
            os.close(descriptor)
        words = np.frombuffer(mapped, np.uint64)
        self._header, records = words[: _HEADER_BYTES // 8], words[_HEADER_BYTES // 8 :]
        magic = np.frombuffer(_MAGIC, np.uint64)[0]
        if self._header[0] != magic:  # new, or cut off before it was whole
            records[:] = 0
            self._header[0] = magic
        self._changes = int(self._header[1])
        return records

    def _take_slot(self) -> tuple[int, np.ndarray]:
        for slot in range(1, _MOST_SLOTS):
            descriptor = open_private(self._slot_path(slot), create=True)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                continue
            self._slot_files[slot] = descriptor
            os.ftruncate(descriptor, 0)
            os.posix_fallocate(descriptor, 0, len(self._starts))
            mapped = mmap.mmap(descriptor, len(self._starts), mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            return slot, np.frombuffer(mapped, np.uint8)
        raise StorageError(f"the cache {self._folder} is in use by {_MOST_SLOTS - 1} loaders already; use another one")

    def _slot_path(self, slot: int) -> Path:
        return self._folder / f"user-{slot:04}"

    def _others(self) -> list[int]:
        """The slots that some other process has, or had."""
        names = (name for name in os.listdir(self._folder) if name.startswith("user-") and name[5:].isdecimal())
        return [slot for slot in map(int, (name[5:] for name in names)) if slot != self.slot]

    def _lives(self, slot: int) -> bool:
        """Whether the process of another slot is there: whether it holds its lock."""
        descriptor = self._slot_files.get(slot)
        if descriptor is None:
            try:
                descriptor = self._slot_files[slot] = open_private(self._slot_path(slot))
            except FileNotFoundError:
                return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False

    def _pins_of(self, slot: int) -> np.ndarray:
        shown = np.frombuffer(os.pread(self._slot_files[slot], len(self._starts), 0), np.uint8)
        if len(shown) < len(self._starts):  # it has just begun, and pins nothing yet
            shown = np.concatenate((shown, np.zeros(len(self._starts) - len(shown), np.uint8)))
        return shown

    def _forget(self, slots: set[int]) -> None:
        """What these were fetching is not on its way."""
        words = self._records
        lost = np.flatnonzero((words & BUSY == FETCHING) & np.isin(words & LOW, np.array(sorted(slots), np.uint64)))
        self._records[lost] &= COUNT


def _let_go(slot_files: dict[int, int], lock: Lock) -> None:
    """Give a slot back, and with it all that it pinned."""
    for descriptor in slot_files.values():
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a map of the file would hold it
        os.close(descriptor)
    slot_files.clear()
    lock.close()
