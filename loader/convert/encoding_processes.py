"""Encoding in processes of their own, since Pillow holds Python's lock: one for each thread of a conversion.

A process is given an image's number and its file's bytes over a pipe, and answers with what a `.beton` stores of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import queue
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any, BinaryIO

from budgetloader import apart
from budgetloader.convert.encoding import Encoded, Encoder
from budgetloader.convert.sources import Source, image_of
from budgetloader.errors import DatasetError
from budgetloader.parallel import cores

LEAST_IMAGES = 500  # for each process: fewer are encoded sooner than it starts
_REQUEST, _ANSWER = struct.Struct("<QQ"), struct.Struct("<IQ")
_END_SECONDS = 5.0


@contextmanager
def encoders(encoder: Encoder, source: Source, settings: Any) -> Iterator[Callable[[int], Encoded]]:
    """What encodes image i, from as many threads as the settings say: the encoder itself, or processes.

    Args:
        encoder: of this process.
        source, settings: of the conversion; `settings` is a `budgetloader.convert.Settings`.
    """
    count = settings.threads or cores()
    if count < 2 or not source.plain or len(source) < LEAST_IMAGES * count:
        yield encoder
        return
    how = {**asdict(settings), "quality": encoder.quality, "subsampling": encoder.subsampling}
    workers = [_Worker(how) for _ in range(count)]
    free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for worker in workers:
        free.put(worker)

    def encode(i: int) -> Encoded:
        assert source.read is not None, "a plain source has files"
        try:
            data = source.read(i)
        except Exception:
            return encoder(i)  # which says what is wrong with it
        worker = free.get()
        try:
            return worker.encode(i, data)
        finally:
            free.put(worker)

    try:
        yield encode
    finally:
        for worker in workers:
            worker.close()


class _Worker:
    """A process that encodes one image after the other."""

    def __init__(self, settings: dict[str, Any]) -> None:
        command = apart.command("budgetloader.convert.encoding_processes", json.dumps(settings))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def encode(self, number: int, data: bytes) -> Encoded:
        to, back = self._process.stdin, self._process.stdout
        assert to is not None and back is not None
        try:
            to.write(_REQUEST.pack(number, len(data)))
            to.write(data)
            to.flush()
            said, size = _ANSWER.unpack(_read(back, _ANSWER.size))
            fields = json.loads(_read(back, said))
            content = _read(back, size)
        except (OSError, EOFError):
            status = self._process.wait()
            raise DatasetError(
                f"a process that converts ended with status {status} at image {number} (-9: the memory was full?); "
                "give fewer --threads"
            ) from None
        return Encoded.unpacked(fields, content)

    def close(self) -> None:
        """End the process, which may be at work."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
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
    held = b""
    source = Source(
        [], [], (), lambda _: image_of(held, max_pixels=settings.max_pixels), lossy=True, read=lambda _: held
    )
    encoder = Encoder(source, settings)
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
