"""A sparse file in which an object's bytes stand at the offsets that they have in the object.

Engines read it as they read a local file; only what was fetched takes room.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import weakref

import numpy as np

from budgetloader.errors import StorageError

BLOCK = 4096  # bytes; what file systems give out and take back
_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02
_libc = ctypes.CDLL(None, use_errno=True)


class Mirror:
    """The sparse file.

    Args:
        descriptor: of the file, to read and write; closed with the mirror, or when it is forgotten.
        size: of the object, bytes.
        name: for errors.

    Attributes:
        bytes: uint8 [size], the file's map, read-only. Where nothing was fetched it is 0.
    """

    def __init__(self, descriptor: int, size: int, *, name: str) -> None:
        self.descriptor, self.size, self._name = descriptor, size, name
        if os.fstat(descriptor).st_size != size:
            os.ftruncate(descriptor, size)
        mapped = mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ)
        self.bytes = np.frombuffer(mapped, np.uint8)
        self._finalizer = weakref.finalize(self, os.close, descriptor)
        self._finalizer.atexit = False  # threads may write to the end

    @classmethod
    def in_memory(cls, size: int) -> Mirror:
        """One that no disk has, for bytes that are dropped as soon as they were used."""
        try:
            descriptor = os.memfd_create("budgetloader", os.MFD_CLOEXEC)
            return cls(descriptor, size, name="memory")
        except OSError as error:
            raise StorageError(f"no room for an object of {size:,} bytes to be mapped: {error.strerror}") from None

    @property
    def path(self) -> str:
        """A path by which this process can open it."""
        return f"/proc/self/fd/{self.descriptor}"

    def write(self, start: int, data: memoryview) -> None:
        """Put bytes where they belong.

        Raises:
            OSError: the disk is full, or fails.
        """
        while len(data):
            written = os.pwrite(self.descriptor, data, start)
            start, data = start + written, data[written:]

    def drop(self, start: int, stop: int) -> None:
        """Give the whole blocks between two offsets back to the file system; they read as 0 from then on.

        Raises:
            StorageError: this file system cannot.
        """
        start, stop = -(-start // BLOCK) * BLOCK, stop // BLOCK * BLOCK
        if start >= stop:
            return
        flags, length = _KEEP_SIZE | _PUNCH_HOLE, stop - start
        while _libc.fallocate(self.descriptor, flags, ctypes.c_int64(start), ctypes.c_int64(length)) != 0:
            number = ctypes.get_errno()
            if number != errno.EINTR:
                raise StorageError(
                    f"the file system of {self._name} cannot free a part of a file ({os.strerror(number)}); leave "
                    "cache_bytes out, or choose a folder on another disk"
                )

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    def close(self) -> None:
        """Close the file; what is mapped stays so for as long as somebody looks at it."""
        self._finalizer()
