"""The record of a study: a row of JSON for each run, appended as it ends, by any number of processes.

Who trains which run is settled by locks on files, which end with the process that holds them: one that is killed leaves
nothing behind that has to be cleared, and its run is begun again by whoever comes next.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from budgetloader.errors import LoaderError

Row = dict[str, Any]
_SAME = ("weights", "correct", "samples")  # what a run gives again on the same machine


class RecordError(LoaderError):
    """A record that cannot be read, or rows that contradict each other."""


def read(path: Path) -> dict[str, Row]:
    """The rows of a record by the names of their runs; {} where there is none.

    A last line without its end (a process was killed while it wrote) is left out.

    Raises:
        RecordError: a line is no row.
    """
    if not path.exists():
        return {}
    found: dict[str, Row] = {}
    for number, line in enumerate(path.read_text().splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
            name = row["name"]
        except (ValueError, TypeError, KeyError):
            raise RecordError(f"{path}, line {number} is no row of a record; remove it") from None
        found.setdefault(name, row)
    return found


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":  # what a killed process began
                _cut(file, size)
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _cut(file: Any, size: int) -> None:
    file.seek(0)
    file.truncate(file.read(size).rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)


def merge(path: Path, others: Iterable[Path]) -> int:
    """Add the rows of other records that this one lacks, in the order of their names; how many there are then.

    Raises:
        RecordError: a run has other weights in two records of the same processor.
    """
    rows = read(path)
    for other in others:
        for name, row in read(other).items():
            mine = rows.setdefault(name, row)
            if mine["cpu"] == row["cpu"] and any(mine[key] != row[key] for key in _SAME):
                raise RecordError(f"{name} has other results in {other} than in {path}, on the same processor")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(json.dumps(rows[name], ensure_ascii=False) + "\n" for name in sorted(rows)))
    os.replace(partial, path)
    return len(rows)


@contextlib.contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """Whether a run is this process's to train; it is nobody else's while the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name.replace("/", "_")
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True  # the file stays: removed, it could be locked twice
