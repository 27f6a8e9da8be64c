"""Where running services are found: a file (an entry) for each, which its user alone can read.

An entry holds what is needed to connect, with the token: who can read it can use the service. Who could write it could
send a trainer to a service of his own, so entries and folders that others can write to are refused.

A server holds a lock on its name for as long as it lives, so only one of two that want a name gets it. The folder may
be shared by machines (a home on a file server): a server touches its entry every few seconds, and a name whose entry
on another machine has not been touched for long is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from budgetloader.errors import EngineError, ServiceGoneError

FOLDER_VARIABLE = "BUDGETLOADER_SERVICES"
BEAT_SECONDS = 10.0
_DEAD_SECONDS = 6 * BEAT_SECONDS
_MOST_BYTES = 1 << 16
_ADVICE = f"set {FOLDER_VARIABLE} to a folder of yours"


@dataclass(frozen=True)
class Entry:
    """One running service.

    Args:
        name: what trainers connect to.
        address: Ray's, host:port.
        token: Ray's; every call carries it.
        host, boot: of the machine that serves: its name, and the kernel's id of this boot.
        pid, started: the process that serves, and when the kernel started it.
        session: its folder on this machine.
        node: the address of this machine's part of the cluster.
    """

    name: str
    address: str
    token: str
    host: str
    boot: str
    pid: int
    started: int | None
    session: str
    node: str

    @property
    def here(self) -> bool:
        """Whether it was started on this machine, and since its last boot."""
        return (self.host, self.boot) == (socket.gethostname(), boot())

    @property
    def alive(self) -> bool:
        """Whether its process runs; False for one on another machine."""
        return self.here and start_time(self.pid) == self.started


def folder() -> Path:
    """The folder of entries, made if need be: $BUDGETLOADER_SERVICES, or one in the user's runtime folder.

    Raises:
        EngineError: it cannot be made, or others could write to it.
    """
    given = os.environ.get(FOLDER_VARIABLE)
    base = os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(given) if given else Path(base) / "budgetloader"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = path.stat()
    except OSError as error:
        raise EngineError(f"{path} cannot be made ({error.strerror}); {_ADVICE}") from None
    _check_private(path, found)
    return path


def _check_private(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise EngineError(f"{path} belongs to another user; {_ADVICE}")
    if found.st_mode & 0o022:
        raise EngineError(f"{path} can be written by others; chmod go-w {path}, or {_ADVICE}")


def check_name(name: str) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name, re.ASCII):
        raise EngineError(f"service name {name!r}: give letters, digits, '-', '_' and '.', at most 64")
    return name


def path_of(name: str) -> Path:
    """The file of a service of that name."""
    return folder() / f"{check_name(name)}.json"


@contextlib.contextmanager
def reserved(name: str) -> Iterator[None]:
    """Hold a name for as long as the block lasts.

    Raises:
        EngineError: another process has it, here or on a machine that shares the folder.
    """
    lock = path_of(name).with_suffix(".lock")
    descriptor = _lock(lock, name)
    try:
        with contextlib.suppress(FileNotFoundError):
            entry, touched = _read(name)
            if not entry.here and _now(lock.parent) - touched < _DEAD_SECONDS:
                raise EngineError(
                    f"service {name!r} is running on machine {entry.host}, which shares {lock.parent}; give another "
                    f"--name, or {_ADVICE}, on this machine alone"
                )
            path_of(name).unlink()  # of a server that was killed: one that lives holds the lock
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(path: Path, name: str) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise EngineError(f"{path} cannot be written ({error.strerror}); {_ADVICE}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise EngineError(f"service {name!r} is running already; give another --name, or stop that one") from None
        except FileNotFoundError:  # another process let go of the name between the two calls
            pass
        except OSError as error:
            os.close(descriptor)
            raise EngineError(f"{path} cannot be locked ({error.strerror}); {_ADVICE}, on a local disk") from None
        os.close(descriptor)


def write(entry: Entry) -> Path:
    """Make a service known; its name is `reserved`.

    Raises:
        EngineError: its entry cannot be written.
    """
    path = path_of(entry.name)
    partial = path.with_suffix(".partial")
    try:
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:
            json.dump(asdict(entry), file)
        partial.replace(path)
    except OSError as error:
        raise EngineError(f"{path} cannot be written ({error.strerror}); {_ADVICE}") from None
    return path


def beat(entry: Entry) -> None:
    """Tell machines that share the folder that a service is alive; called every `BEAT_SECONDS`."""
    with contextlib.suppress(OSError, EngineError):
        os.utime(path_of(entry.name))


def remove(entry: Entry) -> None:
    """Forget a service, unless another one has taken its name."""
    with contextlib.suppress(EngineError):
        if read(entry.name) == entry:
            path_of(entry.name).unlink(missing_ok=True)


def read(name: str) -> Entry:
    """The service of that name, on whatever machine.

    Raises:
        ServiceGoneError: none of that name is running.
        EngineError: its entry cannot be read, or others could have written it.
    """
    try:
        return _read(name)[0]
    except FileNotFoundError:
        known = ", ".join(sorted(names())) or "none"
        raise ServiceGoneError(
            f"there is no service {name!r} (running: {known}); start it: budgetloader serve FILE --name {name}"
        ) from None


def find(name: str) -> Entry:
    """The service of that name on this machine, to connect to.

    Raises:
        ServiceGoneError: none of that name is running.
        EngineError: it runs on another machine, or its entry cannot be read.
    """
    entry = read(name)
    if not entry.here:
        raise EngineError(
            f"service {name!r} was started on machine {entry.host} (this one is {socket.gethostname()}), or before "
            f"the last boot; to use it from here, serve it on {entry.host} with --host, and run budgetloader join "
            f"here, with {FOLDER_VARIABLE} set to a folder of this machine alone"
        )
    return entry


def names() -> list[str]:
    """The services whose process runs on this machine."""
    found = []
    for path in folder().glob("*.json"):
        with contextlib.suppress(EngineError, FileNotFoundError):
            if _read(path.stem)[0].alive:
                found.append(path.stem)
    return found


def _read(name: str) -> tuple[Entry, float]:
    """An entry, and when it was touched, by the clock of the folder's file system."""
    path = path_of(name)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
                raise EngineError(f"{path} is no entry of a service; remove it")
            _check_private(path, found)
            entry = Entry(**json.loads(file.read(_MOST_BYTES)))
        if entry.name != name or not all(isinstance(value, (str, int, type(None))) for value in asdict(entry).values()):
            raise ValueError(f"it is of {entry.name!r}")
        return entry, found.st_mtime
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise EngineError(f"{path} cannot be read ({error}); start the service again") from None


def _now(parent: Path) -> float:
    """The time by the clock of the machine that has the folder, which need not be this one."""
    with tempfile.TemporaryFile(dir=parent) as file:
        return os.fstat(file.fileno()).st_mtime


def boot() -> str:
    """The kernel's id of this boot; the same in all containers of a machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def start_time(pid: int) -> int | None:
    """When the kernel started a process, in ticks; None if it does not run. Tells apart processes that reuse a pid."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])
