"""A process that outlives a service's server and clears up behind it, also after kill -9.

Run as a script, with the standard library alone: python guard.py DESCRIPTOR FOLDER ENTRY. When the other end of
the pipe DESCRIPTOR closes, the server has ended, in whatever way. The guard then kills the service's processes (some of
Ray's take half a minute to notice by themselves), and removes FOLDER and ENTRY.

A process is the service's if it was started with FOLDER in its environment, as `MARK`. Ray's agents write their title
over their environment: a process that has a title of Ray's and a file open in FOLDER is the service's, too. A user's
process that merely reads a file in FOLDER is left alone.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import time

MARK = "BUDGETLOADER_SESSION"


def processes_of(folder: str, *, spared: set[int]) -> list[int]:
    """The processes of the service that has this folder, without those to be spared."""
    mark, found = f"{MARK}={folder}".encode(), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if int(pid) in spared:
                continue
            with open(f"/proc/{pid}/environ", "rb") as file:
                marked = mark in file.read().split(b"\0")
            if marked or (_is_rays(pid) and _has_open(pid, folder)):
                found.append(int(pid))
    return found


def _is_rays(pid: str) -> bool:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read(5) == b"ray::"


def _has_open(pid: str, folder: str) -> bool:
    for descriptor in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(descriptor.path).startswith(folder + "/"):
                return True
    return False


def clear(folder: str, entry: str, *, spared: set[int]) -> None:
    """Kill a service's processes, and remove its folder, its entry and its lock."""
    for _ in range(50):
        pids = processes_of(folder, spared=spared)
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not pids:
            break
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)
    lock = os.path.splitext(entry)[0] + ".lock"
    with contextlib.suppress(OSError, ValueError), open(os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)) as held:
        _lock(held.fileno(), folder, entry)
        if os.path.samestat(os.fstat(held.fileno()), os.stat(lock)):
            if _session(entry) == folder:
                os.unlink(entry)
            os.unlink(lock)


def _lock(descriptor: int, folder: str, entry: str) -> None:
    """Lock it, or raise OSError where another server has the name: it has written its entry, or keeps the lock.

    A server that was killed may hold its lock for a moment longer than its end of the pipe.
    """
    for _ in range(20):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _session(entry) not in (None, folder):
            break
        time.sleep(0.05)
    raise BlockingIOError


def _session(entry: str) -> str | None:
    """The folder of the server that wrote an entry; None where there is none."""
    with contextlib.suppress(OSError, ValueError, AttributeError), open(entry) as file:
        return json.load(file).get("session")
    return None


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    descriptor, folder, entry = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    spared = {os.getpid(), os.getppid()}  # a server that still runs ends by itself
    os.read(descriptor, 1)
    clear(folder, entry, spared=spared)


if __name__ == "__main__":
    main()
