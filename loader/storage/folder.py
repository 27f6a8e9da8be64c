"""A cache's folder: this user's alone. What somebody else could have written there is never read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from budgetloader.errors import StorageError


def private_folder(path: str | os.PathLike) -> Path:
    """A folder that only this user can write to; made if need be, with mode 0700.

    Raises:
        StorageError: it is a link or no folder, somebody else's, or others may write to it.
    """
    path = Path(path)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        raise StorageError(f"cache folder {path} cannot be made: {error.strerror}; choose another one") from None
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISDIR(found.st_mode):
        raise StorageError(f"cache folder {path} is a link or no folder; choose another one")
    if found.st_uid != os.geteuid():
        raise StorageError(f"cache folder {path} belongs to user {found.st_uid}; choose another one")
    if found.st_mode & 0o022:
        raise StorageError(
            f"cache folder {path} can be written to by others (mode {stat.S_IMODE(found.st_mode):o}); choose another "
            f"one, or: chmod go-w {path}"
        )
    return path


def open_private(path: Path, *, create: bool = False) -> int:
    """A descriptor of a file of a private folder, to read and write; made with mode 0600.

    Raises:
        FileNotFoundError: it is not there, and not to be made.
        StorageError: it is a link, no ordinary file, somebody else's, or known by other names, too.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"{path} cannot be used as a cache: {error.strerror}; remove it") from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink > 1 or found.st_mode & 0o022:
        os.close(descriptor)
        raise StorageError(f"{path} is not a file of this cache's own; remove it")
    return descriptor


def replace_private(path: Path, parts: list[bytes]) -> None:
    """Write a file at once: after a crash it is the old one or the new one.

    Raises:
        OSError: the disk is full, or fails.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


class Lock:
    """Lets one thread of one process in at a time; the kernel lets go of it when a process ends, however it ends.

    A thread that has it may take it again, as one does that is interrupted by the collector of garbage.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = open_private(path, create=True)
        self._threads, self._depth = threading.RLock(), 0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        with self._threads:
            if not self._depth:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
