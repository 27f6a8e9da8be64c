"""A run's folder: one run at a time writes to it, and only files that runs wrote are removed.

with runs.held(out):            # a second run with this folder, or this checkpoint, is refused
    if fresh:
        runs.clear(out)         # what earlier runs noted, and nothing else
    runs.note(out, checkpoint)  # before it is written
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_LOCK, _NOTES = ".run.lock", ".run.json"


class RunError(RuntimeError):
    """A folder that another run has, or that cannot be written to."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder is this process's for as long as the block lasts; made if need be.

    Raises:
        RunError: another process has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise RunError(f"{folder} cannot be written to ({error.strerror}); choose another --out") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"another run is writing to {folder}; wait for it, or choose another --out") from None
        yield  # the lock file stays: removed, it could be locked twice
    finally:
        os.close(descriptor)


def note(folder: Path, *paths: Path) -> None:
    """Remember that this run writes these files, all of them in the folder.

    Raises:
        ValueError: one is not.
    """
    known = dict.fromkeys(_noted(folder))
    for path in paths:
        known[str(path.resolve().relative_to(folder.resolve()))] = None
    partial = folder / f"{_NOTES}.partial"
    partial.write_text(json.dumps(list(known)))
    os.replace(partial, folder / _NOTES)


def clear(folder: Path) -> list[Path]:
    """Remove the files that runs have noted in this folder; which they were.

    Whatever else is there stays: the folder may be a home, and the notes may be anybody's.
    """
    removed = []
    root = folder.resolve()
    for name in _noted(folder):
        path = folder / name
        with contextlib.suppress(OSError, ValueError):
            path.parent.resolve().relative_to(root)  # ValueError: it is elsewhere, or behind a link
            if stat.S_ISREG(path.lstat().st_mode):
                path.unlink()
                removed.append(path)
    (folder / _NOTES).unlink(missing_ok=True)
    return removed


def _noted(folder: Path) -> list[str]:
    try:
        names = json.loads((folder / _NOTES).read_text())
    except (OSError, ValueError, RecursionError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
