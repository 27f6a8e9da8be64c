"""The bridge: a process between a trainer and the service, which is Ray's driver in the trainer's stead.

Ray ends a driver's process at once and without an error when its cluster's node dies; a trainer must not end so. The
trainer starts this process and exchanges the messages of `protocol` with it. Batches go as file descriptors: of the
object store's own memory (see `lending`) where that is possible, else of anonymous shared memory, which nobody has to
clean up. The trainer itself never imports Ray, and its own use of Ray is not disturbed.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque

import numpy as np

from budgetloader.errors import LoaderError, first_line
from budgetloader.service import wire
from budgetloader.service.assembler import Assembler
from budgetloader.service.exchange import ServedDataset
from budgetloader.service.link import Link
from budgetloader.service.protocol import (
    Answer,
    BatchRequest,
    BlockIds,
    Buffer,
    Failure,
    Hello,
    ProtocolError,
    Request,
    Setup,
    Welcome,
    decode_request,
    encode,
)

_GOODBYE_SECONDS = 2.0  # in which this process ends by itself once its trainer has
# What a request that makes no sense ends in.
NONSENSE = (ProtocolError, wire.WireError)


class BridgeProcess:
    """Answers a trainer's requests until the trainer closes its end."""

    def __init__(self, end: socket.socket) -> None:
        self._wire = end
        self._link: Link | None = None
        self._label = ""
        self._served: ServedDataset | None = None
        self._setup: Setup | None = None
        self._assembler: Assembler | None = None
        self._buffers: dict[int, np.ndarray] = {}
        self._queue: deque[Request] = deque()

    def run(self) -> None:
        """Answer requests.

        Raises:
            ProtocolError, WireError: one of them makes no sense.
        """
        while self._queue or self._receive():
            while select.select([self._wire], [], [], 0)[0] and self._receive():
                pass  # to know all that is wanted before the first block is asked for
            if not self._queue:
                continue
            answer, attached = self._answer(self._queue.popleft())
            try:
                wire.send(self._wire, encode(answer), attached)
            except OSError:  # the trainer closed its end, and does not wait for the answer
                break
            wire.close_all(attached)  # the trainer has copies; what they stand for stays open here, too
        if self._assembler is not None:
            self._assembler.leave()

    def _receive(self) -> bool:
        """Take a request; False where the trainer has closed its end.

        A `Setup`, a `Buffer` or `BlockIds` have no answer, and are done at once.
        """
        came = wire.receive(self._wire)
        if came is None:
            return False
        data, descriptors = came
        try:
            request = decode_request(data)
            if isinstance(request, Buffer):
                self._add_buffer(request, descriptors)
                return True
        finally:
            wire.close_all(descriptors)
        if isinstance(request, Setup):
            self._set_up(request)
            return True
        if isinstance(request, BlockIds):
            if self._assembler is None or self._served is None:
                raise ProtocolError("a block's samples come before a setup says what batches look like")
            request.check(samples=len(self._served.labels))
            self._assembler.know(request.epoch, request.number, request.ids)
            return True
        if isinstance(request, BatchRequest):
            if self._assembler is None or self._served is None:
                raise ProtocolError("a batch is asked for before a setup says what batches look like")
            request.check(samples=self._assembler.positions)
            self._assembler.take_back(request.returned)
            self._assembler.want(request.epoch, request.spans, request.ends)
        self._queue.append(request)
        return True

    def _answer(self, request: Request) -> tuple[Answer, list[int]]:
        try:
            if isinstance(request, Hello):
                return self._connect(request)
            if isinstance(request, BatchRequest):
                return self._make(request)
            if self._link is None:
                raise ProtocolError("a status is asked for before a service is connected to")
            return self._link.call("status"), []
        except LoaderError as error:
            return Failure.of(error), []

    def _connect(self, request: Hello) -> tuple[Welcome, list[int]]:
        self._link, self._label = Link(request.entry), request.label
        self._served = served = self._link.call("index")
        arrays = np.stack([np.asarray(a, np.int64) for a in (served.heights, served.widths, served.labels)])
        descriptor = os.memfd_create("index")
        os.ftruncate(descriptor, arrays.nbytes)
        with mmap.mmap(descriptor, arrays.nbytes) as memory:
            memory[:] = arrays.tobytes()
        welcome = Welcome(
            path=served.path,
            files=served.files,
            fingerprint=served.fingerprint,
            classes=served.classes,
            verifies=served.verifies,
            capacity_bytes=served.capacity_bytes,
            workers=served.workers,
            samples=len(served.labels),
        )
        return welcome, [descriptor]

    def _set_up(self, setup: Setup) -> None:
        if self._link is None or self._served is None or self._setup is not None:
            raise ProtocolError("a setup comes before a service is connected to, or a second time")
        self._setup = setup
        self._assembler = Assembler(self._link, self._served, setup, label=self._label)

    def _add_buffer(self, buffer: Buffer, descriptors: list[int]) -> None:
        """Map a buffer's memory."""
        if self._setup is None or len(descriptors) != 1:
            raise ProtocolError(f"a buffer comes before a setup, or with {len(descriptors)} descriptors in place of 1")
        dtype = np.dtype(self._setup.dtype)
        try:
            size = os.fstat(descriptors[0]).st_size
            if size != buffer.size * dtype.itemsize:
                raise ProtocolError(f"a buffer of shape {buffer.shape} has {size:,} bytes")
            memory = mmap.mmap(descriptors[0], size)
        except (OSError, ValueError, OverflowError) as error:
            raise ProtocolError(f"a buffer cannot be mapped ({error})") from None
        self._buffers[buffer.id] = np.frombuffer(memory, dtype).reshape(buffer.shape)

    def _make(self, request: BatchRequest) -> tuple[Answer, list[int]]:
        assert self._assembler is not None and self._setup is not None, "checked when the request came"
        out, side, channels = self._buffers.get(request.buffer), self._setup.spec.image_size, self._setup.spec.channels
        shape = (side, side, channels) if self._setup.layout == "channels_last" else (channels, side, side)
        if out is None or out.shape[1:] != shape or request.samples > len(out):
            raise ProtocolError(f"a batch of {request.samples:,} images of {side} pixels does not fit its buffer")
        return self._assembler.make(request.epoch, request.step, request.spans, out)


def _end_with_the_trainer(end: int, trainer: int) -> None:
    """End this process soon after its trainer did, or closed its end: the main thread may be deep in Ray.

    Args:
        end: this process's end of the connection.
        trainer: the process at the other one.
    """
    poll = select.poll()
    poll.register(end, 0)  # that the other end is closed is always told
    while os.getppid() == trainer and not poll.poll(500):
        pass
    time.sleep(_GOODBYE_SECONDS)
    os._exit(0)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's
    end = int(sys.argv[1])
    threading.Thread(target=_end_with_the_trainer, args=(os.dup(end), os.getppid()), daemon=True).start()
    try:
        BridgeProcess(socket.socket(fileno=end)).run()
    except NONSENSE as error:
        print(f"the trainer's request makes no sense: {first_line(error)}", file=sys.stderr)
        os._exit(1)
    os._exit(0)  # without waiting for Ray's threads


if __name__ == "__main__":
    main()
