"""Going on with a conversion that was interrupted: what it had encoded is copied, not encoded again.

While `convert --resume` writes `x.beton.partial`, it notes in `x.beton.partial.journal` what it has encoded and where
that lies. Where it is interrupted, both stay. The next run with the same source and settings names them
`x.beton.resumed`, and copies each image from there that is noted and whole, by its checksum, into a new file. All of
these are gone when the file is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

from budgetloader.convert.encoding import Encoded
from budgetloader.convert.sources import Source
from budgetloader.errors import DatasetError

_VERSION = 1
_MOST_LINE = 4096  # bytes of a journal's line


class Journal:
    """Notes what a conversion has encoded, and gives what an earlier one had.

    Args:
        path: of the `.beton` that is made.
        identity: of the source and the settings: see `identity_of`.

    Attributes:
        copied: images that were taken over.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self._partial = path.with_name(path.name + ".partial")
        self._resumed = path.with_name(path.name + ".resumed")
        self._identity = identity
        self.copied = self._noted = 0
        self._files = contextlib.ExitStack()
        self._old: BinaryIO | None = None
        self._earlier: BinaryIO | None = None  # its journal
        self._notes: TextIO | None = None

    def open(self) -> None:
        """Take over what an earlier conversion left; called before the partial file is written to.

        Raises:
            DatasetError: another process writes it.
        """
        if _length(_journal(self._partial), self._identity) > _length(_journal(self._resumed), self._identity):
            _refuse_locked(self._partial)
            os.replace(self._partial, self._resumed)
            os.replace(_journal(self._partial), _journal(self._resumed))
        if _length(_journal(self._resumed), self._identity) and self._resumed.is_file():
            self._old, self._earlier = self._open(self._resumed), self._open(_journal(self._resumed))
        self._notes = self._open(_journal(self._partial), "w")
        self._notes.write(json.dumps({"version": _VERSION, "identity": self._identity}) + "\n")

    def encoder(self, encode: Callable[[int], Encoded], count: int) -> Callable[[int], Encoded]:
        """The same for images 0 … count − 1, which takes what is known from the earlier file. From any thread."""
        if self._earlier is None:
            return encode
        lines = np.full(count, -1, np.int64)  # where each image's line begins: 8 bytes, and not the line
        for place, number, _ in _entries(_journal(self._resumed), self._identity):
            if 0 <= number < count:
                lines[number] = place

        def encoded(i: int) -> Encoded:
            return (self._stored(int(lines[i])) if lines[i] >= 0 else None) or encode(i)

        return encoded

    def note(self, number: int, encoded: Encoded, *, start: int) -> None:
        """Note an image that was written at a place of the partial file."""
        assert self._notes is not None, "it is open"
        fields = {**encoded.packed()[0], "data": [start, len(encoded.data), zlib.crc32(encoded.data)]}
        self._notes.write(json.dumps([number, fields]) + "\n")
        self._noted += 1

    def finish(self, *, whole: bool) -> None:
        """Close, and remove all if the file is whole."""
        self._files.close()
        if self._notes is not None and not self._noted:
            _journal(self._partial).unlink(missing_ok=True)
        if whole:
            for path in (_journal(self._partial), self._resumed, _journal(self._resumed)):
                path.unlink(missing_ok=True)

    def _open(self, path: Path, mode: str = "rb") -> Any:
        return self._files.enter_context(open(path, mode, opener=_no_links))

    def _stored(self, place: int) -> Encoded | None:
        """What a line stands for; None where it cannot be, or its bytes are not whole."""
        assert self._old is not None and self._earlier is not None, "they are open"
        try:
            line = os.pread(self._earlier.fileno(), _MOST_LINE, place).partition(b"\n")[0]
            _, entry = json.loads(line)
            start, size, crc = entry["data"]
            data = os.pread(self._old.fileno(), size, start)
            encoded = Encoded.unpacked({key: value for key, value in entry.items() if key != "data"}, data)
        except (TypeError, ValueError, KeyError, OSError, OverflowError):
            return None
        if len(data) != size or zlib.crc32(data) != crc:
            return None
        self.copied += 1
        return encoded


@contextmanager
def resumable(path: Path, source: Source, settings: Any, *, resume: bool) -> Iterator[Journal | None]:
    """A journal for as long as a conversion takes; None where it shall not be resumed.

    Args:
        path: of the `.beton` that is made.
        source, settings: of the conversion.
        resume: whether to keep what is done where it is interrupted, and to go on from what was kept.
    """
    if not resume:
        yield None
        return
    journal = Journal(path, identity_of(source, settings))
    whole = False
    try:
        journal.open()
        yield journal
        whole = True
    finally:
        journal.finish(whole=whole)


def identity_of(source: Source, settings: Any) -> str:
    """What two conversions agree in that encode the same images alike: the names, and the settings but for threads."""
    how = {name: str(value) for name, value in asdict(settings).items() if name not in ("threads", "on_bad")}
    state = hashlib.blake2b(json.dumps(how, sort_keys=True).encode(), digest_size=16)
    for name in source.names:
        state.update(os.fsencode(name) + b"\0")
    return state.hexdigest()


def _journal(path: Path) -> Path:
    return path.with_name(path.name + ".journal")


def _entries(path: Path, identity: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(place of the line, number, fields) of each image that a journal notes, up to its first line that is not whole.

    There are none if it is of another conversion.
    """
    with contextlib.suppress(OSError, ValueError, TypeError), open(path, "rb", opener=_no_links) as file:
        if json.loads(file.readline(_MOST_LINE)) != {"version": _VERSION, "identity": identity}:
            return
        place = file.tell()
        while line := file.readline(_MOST_LINE):
            number, fields = json.loads(line)
            if not isinstance(number, int) or not isinstance(fields, dict):
                return
            yield place, number, fields
            place += len(line)


def _length(path: Path, identity: str) -> int:
    return sum(1 for _ in _entries(path, identity))


def _refuse_locked(path: Path) -> None:
    """See that no process is writing a file.

    Raises:
        DatasetError: one is.
    """
    with contextlib.suppress(FileNotFoundError), open(path, "rb", opener=_no_links) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DatasetError(f"another process is writing {path}; wait for it or end it") from None


def _no_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)
