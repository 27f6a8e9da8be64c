"""A service in a process of its own, for benches that measure or break it."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from budgetloader import apart
from budgetloader.bench.child import end

START_SECONDS = 180.0  # that a service has until it serves
_END_SECONDS = 60.0


def start(path: str | Path, *, name: str, memory: str, log: IO[str] | None = None) -> subprocess.Popen[str]:
    """A service that serves.

    Args:
        path: the `.beton`.
        name, memory: see `budgetloader serve`.
        log: where its messages go; None: where this process's go.

    Raises:
        RuntimeError: it did not start.
    """
    command = apart.command("budgetloader", "serve", str(path), "--name", name, "--memory", memory)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout
    limit = threading.Timer(START_SECONDS, process.kill)
    limit.start()
    try:
        serves = process.stdout.readline().startswith("serving")
    finally:
        limit.cancel()
    if not serves:
        stop(process)
        raise RuntimeError("the service did not start; see its message above")
    return process


def stop(process: subprocess.Popen[str]) -> None:
    """End a service, and wait until it has."""
    process.terminate()
    end(process, seconds=_END_SECONDS)


@contextlib.contextmanager
def serving(path: str | Path, *, name: str, memory: str) -> Iterator[subprocess.Popen[str]]:
    """A service for as long as the block lasts; see `start`."""
    process = start(path, name=name, memory=memory)
    try:
        yield process
    finally:
        stop(process)


def below(pid: int) -> list[int]:
    """Every process below one."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found: list[int] = []
    level = {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found.extend(level)
    return found
