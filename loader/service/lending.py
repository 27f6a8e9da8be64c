"""Batches without a copy: a part of the object store's own memory, lent to a trainer.

Ray neither frees nor moves an object while a process has it. The bridge has the block, and gives the trainer two
descriptors: the store's memory, a part of which the trainer maps privately (nobody else sees what it writes there), and
the very connection through which the bridge holds the block. The store lets go of a block when that connection is
closed by all who have it: a batch in a trainer's hands stays as it is, even if the bridge is killed.

Ray has no call for either descriptor. Where they are not found, batches are copied.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import stat
import struct
import weakref
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from budgetloader.service.protocol import Loan, ProtocolError

_SEARCHES = 5  # for the store: a search takes as long as an image
_LEAST_BYTES = 1 << 17  # Ray keeps objects below 100 KiB elsewhere
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, since Linux 5.14; not in mmap


@dataclass(frozen=True, slots=True)
class Store:
    """The object store, as this process has it mapped.

    Attributes:
        start, stop: the addresses.
        offset: in the store's memory, of the first of them.
        descriptors: of the memory (to read), and of this process's connection to it.
    """

    start: int
    stop: int
    offset: int
    descriptors: tuple[int, int]

    def where(self, array: np.ndarray) -> int | None:
        """An array's offset in the store's memory, if all of it is there."""
        address = array.ctypes.data
        inside = self.start <= address and address + array.nbytes <= self.stop
        return address - self.start + self.offset if inside else None


def find_store(array: np.ndarray) -> Store | None:
    """The store that an array lies in, or None where that is not the store, or it cannot be reached."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        start, stop, offset, file = _mapping(array.ctypes.data)
        connection, server = _connection()
        try:
            return Store(start, stop, offset, (_memory(server, file), connection))
        except BaseException:
            os.close(connection)
            raise
    return None


def _mapping(address: int) -> tuple[int, int, int, tuple[int, int]]:
    """Start, stop, offset and (device, inode) of the store's mapping that an address is in; see proc_pid_maps(5).

    Ray puts what the store has no room for into files on a disk; those are not the store.
    """
    with open("/proc/self/maps") as maps:
        for line in maps:
            addresses, _, offset, device, inode, *path = line.split(maxsplit=5)
            start, stop = (int(end, 16) for end in addresses.split("-"))
            if start <= address < stop and path and path[0].startswith("/dev/shm/plasma"):
                major, minor = (int(part, 16) for part in device.split(":"))
                return start, stop, int(offset, 16), (os.makedev(major, minor), int(inode))
    raise StopIteration


def _connection() -> tuple[int, int]:
    """A copy of the descriptor of the one connection to the store, and the process at its other end."""
    found = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                with socket.socket(fileno=os.dup(descriptor)) as peer:
                    if peer.family == socket.AF_UNIX and "plasma_store" in os.path.basename(str(peer.getpeername())):
                        size = struct.calcsize("3i")
                        server, _, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
                        found.append((descriptor, server))
    ((descriptor, server),) = found  # ValueError if there is not one
    return os.dup(descriptor), server


def _memory(server: int, file: tuple[int, int]) -> int:
    """A descriptor of the store's memory, to read: its file has no name any more, but its process has it open."""
    for entry in os.scandir(f"/proc/{server}/fd"):
        with contextlib.suppress(OSError):
            found = os.stat(entry.path)
            if (found.st_dev, found.st_ino) == file:
                return os.open(entry.path, os.O_RDONLY)
    raise StopIteration


class Lender:
    """What a bridge has lent to its trainer."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self._searches_left = _SEARCHES
        self._introduced = False
        self._held: dict[int, tuple[np.ndarray, set[int]]] = {}  # by address: arrays, and their loans
        self._loans: dict[int, int] = {}
        self._next = 0

    @property
    def store_bytes(self) -> int | None:
        """The size of the store on this machine, once it is known."""
        return self._store.stop - self._store.start if self._store is not None else None

    @property
    def lost(self) -> bool:
        """Whether batches are copied because the store cannot be found: another version of Ray, a hidden /proc."""
        return self._store is None and not self._searches_left

    def lend(self, images: np.ndarray, *, of: np.ndarray, most: int) -> tuple[Loan, list[int]] | None:
        """Lend images, if that is possible.

        Args:
            images: contiguous.
            of: the array in the store that they are a part of; it is held until they are returned.
            most: arrays to hold at a time; a trainer that keeps more gets copies.

        Returns:
            The loan, and the descriptors that go with the first one; None where nothing can be lent.
        """
        name = of.ctypes.data
        if name not in self._held and len(self._held) >= most:
            return None
        if self._store is None and self._searches_left and of.nbytes >= _LEAST_BYTES:
            self._searches_left -= 1
            self._store = find_store(images)
        offset = self._store.where(images) if self._store is not None else None
        if self._store is None or offset is None:
            return None
        loan, self._next = self._next, self._next + 1
        self._loans[loan] = name
        self._held.setdefault(name, (of, set()))[1].add(loan)
        descriptors = [] if self._introduced else list(self._store.descriptors)
        self._introduced = True
        return Loan(loan, offset), descriptors

    def take_back(self, loans: Iterable[int]) -> None:
        """Let go of what the trainer has returned.

        Raises:
            ProtocolError: it does not have one of these loans.
        """
        for loan in loans:
            name = self._loans.pop(loan, None)
            if name is None:
                raise ProtocolError(f"loan {loan} is returned, and is not out")
            loans_of_it = self._held[name][1]
            loans_of_it.remove(loan)
            if not loans_of_it:
                del self._held[name]


class Borrower:
    """What one bridge has lent a trainer. The descriptors are closed with the last loan.

    A process that the trainer forks inherits them, and holds them until it ends.

    Args:
        memory, connection: the descriptors.
    """

    def __init__(self, memory: int, connection: int) -> None:
        self._memory = memory
        self._lent: set[int] = set()  # not returned yet
        self._out: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()
        self._close = weakref.finalize(self, _close, memory, connection)
        self._close.atexit = False

    def array(self, loan: int, *, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        """A loan as uint8 [shape], to read and to write; it counts as returned when no array shows it any more."""
        size = int(np.prod(shape))
        within = offset % mmap.ALLOCATIONGRANULARITY
        try:
            memory = mmap.mmap(
                self._memory,
                within + size,
                flags=mmap.MAP_PRIVATE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
                offset=offset - within,
            )
        finally:  # where mapping fails, it is returned with the next request
            self._lent.add(loan)
        self._out[loan] = memory
        weakref.finalize(memory, _keep, self).atexit = False  # this lives as long as the last loan
        return np.frombuffer(memory, np.uint8, size, within).reshape(shape)

    def returned(self) -> list[int]:
        """The loans whose arrays are gone, each once."""
        # Looked up, and not told by a finalizer: a signal's exception in one would lose the loan.
        gone = [loan for loan in self._lent if self._out.get(loan) is None]
        self._lent.difference_update(gone)
        return gone

    def settle(self) -> None:
        """Copy what is still used to the trainer's own memory, and let go of the store. Nothing more can be lent."""
        try:
            for memory in list(self._out.values()):
                memory.madvise(_POPULATE_WRITE)  # copies each private page, with its content
        except OSError:  # an older kernel, or no memory for copies: the store is let go of with the last loan
            return
        self._close()


def _keep(_: object) -> None:
    """Does nothing: a finalizer keeps its arguments until it is called."""


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
