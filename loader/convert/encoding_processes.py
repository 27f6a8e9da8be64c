"""Encoding in processes of their own, since much of it holds Python's lock: one for each thread of a conversion.

A process is given an image's number and its file over a pipe, by its path or as bytes, and answers with what a `.beton`
stores of it. The next request is sent before the last one is answered, so that a process need not wait for it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any, BinaryIO

from budgetloader import apart
from budgetloader.convert.encoding import Encoded, Encoder
from budgetloader.convert.sources import Files, Source, file_of, image_of
from budgetloader.errors import DatasetError
from budgetloader.parallel import cores

LEAST_IMAGES = 500  # for each process: fewer are encoded sooner than it starts
_REQUEST, _ANSWER = struct.Struct("<QQ"), struct.Struct("<IQ")
_END_SECONDS = 5.0
_PIPE_BYTES = 1 << 20  # an image fits, so that a process writes it and goes on without waiting
_AT_ONCE = 2  # requests that a process has: the one that it is at, and the next


@contextmanager
def encoders(encoder: Encoder, source: Source, settings: Any) -> Iterator[tuple[Callable[[int], Encoded], int | None]]:
    """What encodes image i, and how many threads should call it: the encoder itself, or processes.

    Args:
        encoder: of this process.
        source, settings: of the conversion; `settings` is a `budgetloader.convert.Settings`.
    """
    count = settings.threads or cores()
    if count < 2 or not source.plain or len(source) < LEAST_IMAGES * count:
        yield encoder, settings.threads
        return
    how = {**asdict(settings), "quality": encoder.quality, "subsampling": encoder.subsampling}
    paths = source.read.paths if isinstance(source.read, Files) else None
    how["by_path"] = paths is not None
    workers = [_Worker(how) for _ in range(count)]
    free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for worker in workers * _AT_ONCE:
        free.put(worker)

    def encode(i: int) -> Encoded:
        assert source.read is not None, "a plain source has files"
        try:
            data = source.read(i) if paths is None else os.fsencode(paths[i])
        except Exception:
            return encoder(i)  # which says what is wrong with it
        worker = free.get()
        try:
            return worker.encode(i, data)
        finally:
            free.put(worker)

    try:
        yield encode, _AT_ONCE * count
    finally:
        for worker in workers:
            worker.end()
        for worker in workers:
            worker.close()


class _Worker:
    """A process that encodes one image after the other. Called from several threads."""

    def __init__(self, settings: dict[str, Any]) -> None:
        command = apart.command("budgetloader.convert.encoding_processes", json.dumps(settings))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pipesize=_PIPE_BYTES)
        self._sending = threading.Lock()
        self._answered = threading.Event()  # the request before
        self._answered.set()

    def encode(self, number: int, data: bytes) -> Encoded:
        to, back = self._process.stdin, self._process.stdout
        assert to is not None and back is not None
        answered = threading.Event()
        try:
            with self._sending:  # answers come in the order of the requests
                before, self._answered = self._answered, answered
                to.write(_REQUEST.pack(number, len(data)))
                to.write(data)
                to.flush()
            before.wait()
            said, size = _ANSWER.unpack(_read(back, _ANSWER.size))
            fields = json.loads(_read(back, said))
            content = _read(back, size)
        except (OSError, EOFError):
            status = self._process.wait()
            raise DatasetError(
                f"a process that converts ended with status {status} at image {number} (-9: the memory was full?); "
                "give fewer --threads"
            ) from None
        finally:
            answered.set()
        return Encoded.unpacked(fields, content)

    def end(self) -> None:
        """Have the process end, which may be at work."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]

    def close(self) -> None:
        """Wait until it has ended; kill it where that takes too long."""
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]


def _read(file: BinaryIO | Any, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError
    return data


def _serve(settings: SimpleNamespace, requests: BinaryIO, answers: BinaryIO) -> None:
    """Encode until the requests end."""
    held, max_pixels = b"", settings.max_pixels  # held: the request's path or bytes

    def read(_: int) -> bytes:
        return file_of(os.fsdecode(held), max_pixels=max_pixels) if settings.by_path else held

    load = lambda i: image_of(read(i), max_pixels=max_pixels)  # noqa: E731
    encoder = Encoder(Source([], [], (), load, lossy=True, read=read, plain=True), settings)
    while head := requests.read(_REQUEST.size):
        number, size = _REQUEST.unpack(head)
        held = _read(requests, size)
        fields, content = encoder(number).packed()
        said = json.dumps(fields).encode()
        answers.write(_ANSWER.pack(len(said), len(content)) + said)
        answers.write(content)
        answers.flush()


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which closes the pipe
    answers = sys.stdout.buffer
    sys.stdout = io.TextIOWrapper(io.BytesIO())  # nothing else is written there
    with contextlib.suppress(BrokenPipeError, EOFError):
        _serve(SimpleNamespace(**json.loads(sys.argv[1])), sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main()
