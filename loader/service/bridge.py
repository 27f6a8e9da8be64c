"""The process between a trainer and the service: Ray's driver, in the trainer's stead.

Ray ends a driver's process when its cluster's node dies, at once and without an error; a trainer is not
to end so. It starts this process and talks to it over a socket pair: JSON both ways, and the batches'
memory as file descriptors: of the object store's own (see `lending`) where that is possible, else of anonymous
shared memory, which nobody has to clean up. The trainer itself never imports Ray, and its own use of Ray is
not disturbed.

Messages of the trainer:

- {"op": "hello", "entry", "label"}: connect; the answer describes the dataset, its arrays attached (see `wire` for
  how large messages go).
- {"op": "status"}: the answer is the coordinator's.
- {"op": "setup", "spec", "schedule", "layout", "dtype", "tone"}: what batches look like; no answer.
- {"op": "buffer", "id", "shape"}, memory attached: where batches are written to; no answer.
- {"op": "batch", "buffer", "epoch", "step", "spans", "ends", "returned"}: make one of the positions in `spans`;
  `ends` are how far this epoch's and the next one's budgets go. Answers come in order: what was `decoded` for
  it, the samples that stand in for others (`replaced`) by row, and either the buffer is written, or the answer has
  a "loan" in it (see `lending`), which the trainer will name in `returned`.

An answer with "error" in it says what failed.
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
from typing import Any

import numpy as np

from budgetloader.errors import CorruptSampleError, LoaderError
from budgetloader.service import registry, wire
from budgetloader.service.assembler import Assembler
from budgetloader.service.blocks import Spec
from budgetloader.service.link import Link, line

_LAYOUTS, _DTYPES, _MOST_SIDE = ("channels_last", "contiguous"), ("uint8", "uint16", "float32"), 65_535
_GOODBYE_SECONDS = 2.0  # in which this process ends by itself once its trainer has


# What a message without sense ends in, where it is used.
NONSENSE = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, OSError)


class _Bridge:
    """Answers a trainer's messages until it closes its end."""

    def __init__(self, end: socket.socket) -> None:
        self._wire = end
        self._link: Link | None = None
        self._label = ""
        self._index: dict[str, Any] = {}
        self._assembler: Assembler | None = None
        self._buffers: dict[int, np.ndarray] = {}
        self._dtype = np.dtype(np.uint8)
        self._queue: deque[tuple[dict[str, Any], list[int]]] = deque()
        self._operations = {"hello": self._hello, "status": self._status, "buffer": self._buffer, "batch": self._batch}

    def run(self) -> None:
        while self._queue or self._receive(wait="wait"):
            while self._receive(wait="poll"):  # to know all that is wanted before the first is asked for
                pass
            if not self._queue:
                continue
            message, descriptors = self._queue.popleft()
            answer: dict[str, Any] | None
            attached: list[int] = []
            try:
                answer, attached = self._operations[message["op"]](message, descriptors)
            except CorruptSampleError as error:
                answer = {"error": str(error), "sample": error.sample}
            except LoaderError as error:
                answer = {"error": str(error)}
            if answer is None:
                continue
            try:
                wire.send(self._wire, answer, attached)
            except OSError:  # the trainer closed its end, and is not there for the answer
                break
            for descriptor in attached:  # the trainer's now; what they stand for stays open here, too
                os.close(descriptor)
        if self._assembler is not None:
            self._assembler.leave()

    def _receive(self, *, wait: str) -> bool:
        if wait == "poll" and not select.select([self._wire], [], [], 0)[0]:
            return False
        came = wire.receive(self._wire)
        if came is None:
            return False
        message, descriptors = came
        operation = message.get("op")
        if operation != "buffer" or len(descriptors) != 1:
            for descriptor in descriptors:
                os.close(descriptor)
            descriptors = []
        if operation == "setup":  # at once: batches that came with it are noted next
            self._setup(message)
            return True
        if operation not in self._operations:
            raise wire.WireError(f"operation {str(operation)[:40]!r} is not known")
        if operation == "batch":
            if self._assembler is None:
                raise wire.WireError("a batch is asked for before it was said what batches look like")
            self._check_batch(message)
            self._assembler.take_back(message["returned"])
            self._assembler.want(message["epoch"], message["spans"], message["ends"])
        self._queue.append((message, descriptors))
        return True

    def _hello(self, message: dict[str, Any], _: list[int]) -> tuple[dict[str, Any], list[int]]:
        self._link, self._label = Link(registry.Entry(**message["entry"])), message["label"]
        self._index = index = self._link.call("index")
        arrays = np.stack([np.asarray(index.pop(name), np.int64) for name in ("heights", "widths", "labels")])
        index["samples"] = arrays.shape[1]
        descriptor = os.memfd_create("index")
        os.ftruncate(descriptor, arrays.nbytes)
        with mmap.mmap(descriptor, arrays.nbytes) as memory:
            memory[:] = arrays.tobytes()
        return index, [descriptor]

    def _status(self, message: dict[str, Any], _: list[int]) -> tuple[dict[str, Any], list[int]]:
        assert self._link is not None
        return self._link.call("status"), []

    def _check_batch(self, message: dict[str, Any]) -> None:
        """Nothing is looped over or allocated by a number that a batch cannot have."""
        numbers = [message["epoch"], message["step"], *message["ends"], *message["returned"]]
        numbers += [end for span in message["spans"] for end in span]
        samples, rows = self._index["samples"], sum(stop - start for start, stop in message["spans"])
        positions = all(0 <= start < stop <= samples for start, stop in message["spans"])
        if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers) or not positions or not rows:
            raise wire.WireError("a batch is of positions that the dataset does not have")
        if len(message["ends"]) != 2 or max(message["ends"]) > samples:
            raise wire.WireError("a budget is beyond the dataset")

    def _setup(self, message: dict[str, Any]) -> None:
        if self._link is None or message["dtype"] not in _DTYPES or message["layout"] not in _LAYOUTS:
            raise wire.WireError("what batches look like is not to be understood")
        size, number = message["spec"]["image_size"], message["spec"]["seed"]
        if type(size) is not int or not 0 < size <= _MOST_SIDE or type(number) is not int or not 0 <= number < 1 << 64:
            raise wire.WireError(f"images of {str(size)[:20]} pixels, seed {str(number)[:30]}")
        self._dtype = np.dtype(message["dtype"])
        tone = np.array(message["tone"], self._dtype if self._dtype.itemsize == 2 else np.float32).reshape(3, -1)
        self._assembler = Assembler(
            self._link,
            label=self._label,
            schedule=message["schedule"],
            spec=Spec(**message["spec"]),
            layout=message["layout"],
            tone=tone,
            capacity_bytes=self._index["capacity_bytes"],
            workers=self._index["workers"],
            samples=self._index["samples"],
            path=self._index["path"],
        )

    def _buffer(self, message: dict[str, Any], descriptors: list[int]) -> tuple[None, list[int]]:
        (descriptor,) = descriptors
        try:
            memory = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        self._buffers[message["id"]] = np.frombuffer(memory, self._dtype).reshape(message["shape"])
        return None, []

    def _batch(self, message: dict[str, Any], _: list[int]) -> tuple[dict[str, Any], list[int]]:
        assert self._assembler is not None
        out = self._buffers[message["buffer"]]
        size, rows = self._assembler.image_size, sum(stop - start for start, stop in message["spans"])
        fits = out.shape[1:] in ((size, size, 3), (3, size, size))
        if out.ndim != 4 or not fits or rows > len(out):
            raise wire.WireError(f"a batch of {rows:,} images of {size} pixels does not fit its buffer {out.shape}")
        return self._assembler.make(message["epoch"], message["step"], message["spans"], out)


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
        _Bridge(socket.socket(fileno=end)).run()
    except (wire.WireError, *NONSENSE) as error:
        print(f"the trainer's message makes no sense: {line(error) or type(error).__name__}", file=sys.stderr)
        os._exit(1)
    os._exit(0)  # without waiting for Ray's threads


if __name__ == "__main__":
    main()
