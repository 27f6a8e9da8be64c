"""A process that outlives a service's server and clears up behind it, also after kill -9.

Run as a script, with the standard library alone: python guard.py DESCRIPTOR FOLDER. When the other end of
the pipe DESCRIPTOR closes, which is when the server has ended, however that was, it kills what still has
a file open in FOLDER (every Ray process logs there; some take half a minute to notice), and removes FOLDER.
"""

import contextlib
import os
import shutil
import signal
import sys
import time


def users_of(folder: str, *, spared: set[int]) -> list[int]:
    """The processes that have a file open below `folder`, but for those to be spared."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor.path).startswith(folder + "/") and int(pid) not in spared:
                        found.append(int(pid))
                        break
    return found


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    descriptor, folder = int(sys.argv[1]), sys.argv[2]
    spared = {os.getpid(), os.getppid()}  # the server, where it lives on, ends by itself
    os.read(descriptor, 1)
    for _ in range(50):
        pids = users_of(folder, spared=spared)
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not pids:
            break
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
