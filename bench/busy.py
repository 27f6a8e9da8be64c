"""Processes that keep cores busy, for measuring on a machine that is not idle."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Run so many processes that do nothing but compute, each on a core of its own as long as there is one.

    They end with this process, also where it is killed: each waits for the other end of its standard input.
    """
    code = (
        "import sys, threading, os\n"
        "threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()\n"
        "while True: pass"
    )
    running = [subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.communicate()
