"""Where running services are found: a file for each, readable by their user alone.

It holds what is needed to connect, the token among it: who can read it may use the service.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from loader.errors import EngineError

FOLDER_VARIABLE = "REDUCED_SAMPLING_SERVICES"
_ADVICE = f"set {FOLDER_VARIABLE} to a folder of yours"


@dataclass(frozen=True)
class Entry:
    """One running service.

    Args:
        name: what trainers connect to.
        address: Ray's, host:port.
        token: Ray's; every call carries it.
        host, pid, started: the serving process, and when the kernel started it.
        session: Ray's folder on this machine.
        node: the address of this machine's part of the cluster.
    """

    name: str
    address: str
    token: str
    host: str
    pid: int
    started: int | None
    session: str
    node: str

    @property
    def here(self) -> bool:
        """Whether it was started on this machine."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether its process is there; True for one on another machine."""
        return not self.here or start_time(self.pid) == self.started


def folder() -> Path:
    """Where the entries lie, made if need be: $REDUCED_SAMPLING_SERVICES, or in the user's runtime folder."""
    given = os.environ.get(FOLDER_VARIABLE)
    base = os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(given) if given else Path(base) / "reduced-sampling-loader"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = path.stat().st_uid
    except OSError as error:
        raise EngineError(f"{path} cannot be made ({error.strerror}); {_ADVICE}") from None
    if owner != os.getuid():
        raise EngineError(f"{path} belongs to another user; {_ADVICE}")
    return path


def check_name(name: str) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name):
        raise EngineError(f"service name {name!r}: give letters, digits, '-', '_' and '.', at most 64")
    return name


def write(entry: Entry) -> Path:
    """Make a service known.

    Raises:
        EngineError: its entry cannot be written.
    """
    path = folder() / f"{entry.name}.json"
    partial = path.with_suffix(".partial")
    try:
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:
            json.dump(asdict(entry), file)
        partial.replace(path)
    except OSError as error:
        raise EngineError(f"{path} cannot be written ({error.strerror}); {_ADVICE}") from None
    return path


def remove(entry: Entry) -> None:
    """Forget a service, unless another one has taken its name."""
    with contextlib.suppress(EngineError):
        if read(entry.name) == entry:
            (folder() / f"{entry.name}.json").unlink(missing_ok=True)


def read(name: str) -> Entry:
    """The service of that name.

    Raises:
        EngineError: there is none.
    """
    path = folder() / f"{check_name(name)}.json"
    try:
        return Entry(**json.loads(path.read_text()))
    except FileNotFoundError:
        known = ", ".join(sorted(names())) or "none"
        raise EngineError(
            f"there is no service {name!r} (running: {known}); start it: python -m loader serve FILE --name {name}"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise EngineError(f"{path} cannot be read ({error}); start the service again") from None


def names() -> list[str]:
    """The services whose process is there."""
    found = []
    for path in folder().glob("*.json"):
        with contextlib.suppress(EngineError):
            if read(path.stem).alive:
                found.append(path.stem)
    return found


def start_time(pid: int) -> int | None:
    """When the kernel started a process, in its ticks; None if there is none. Tells a reused pid apart."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])
