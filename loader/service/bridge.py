"""The process between a trainer and the service: Ray's driver, in the trainer's stead.

Ray ends a driver's process when its cluster's node dies, at once and without an error; a trainer is not
to end so. It starts this process and talks to it over a socket pair: JSON both ways, and the batches'
memory as file descriptors: of the object store's own (see `lending`) where that is possible, else of anonymous
shared memory, which nobody has to clean up. The trainer itself never imports Ray, and its own use of Ray is
not disturbed.

Messages of the trainer:

- {"op": "hello", "entry", "label"}: connect; the answer describes the dataset, its arrays attached.
- {"op": "status"}: the answer is the coordinator's.
- {"op": "setup", "spec", "schedule", "layout", "dtype", "tone"}: what batches look like; no answer.
- {"op": "buffer", "id", "shape"}, memory attached: where batches are written to; no answer.
- {"op": "batch", "buffer", "epoch", "step", "spans", "ends", "returned"}: make one of the positions in `spans`;
  `ends` are how far this epoch's and the next one's budgets go. Answers come in order: what was `decoded` for
  it, the labels of the samples that were `replaced` by row, and either the buffer is written, or the answer has
  a "loan" in it (see `lending`), which the trainer will name in `returned`.

An answer with "error" in it says what failed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import select
import signal
import socket
import sys
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from loader.errors import CorruptSampleError, EngineError, LoaderError
from loader.service import LOOPBACK, NAMESPACE, SHARE, registry
from loader.service.blocks import BLOCK, Key, Part, Spans, Spec, runs
from loader.service.lending import Lender

GONE_SECONDS = 4.0  # without a sign of life; an error follows within 5
_RESTART_SECONDS = 120.0  # that a coordinator may take to be there again, while its cluster is alive
_RETRY_SECONDS = 0.1
_ANSWER_SECONDS = 3.0
_AHEAD = 6  # blocks, at most, that are asked for before a batch needs them; half of them at a time
_TRAINERS = 8  # that the memory is divided among, until the service says how many there are
_UNDER_WAY = 3  # blocks that a trainer's batches are being made of
_LENT = 6  # blocks, at most, of which a trainer has batches: those prefetched, and some more
MESSAGE_BYTES = 1 << 20


def set_environment(token: str, *, host: str) -> None:
    """What Ray reads from the environment when it is imported.

    Args:
        token: of the cluster.
        host: this machine's address in it.
    """
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = token
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["AUTOSCALER_METRIC_PORT"] = "-1"  # no port: it would be open to all, without the token
    # Ray takes a loopback address for a mistake, and listens everywhere, unless it is told that this machine
    # cannot be part of a cluster (the variable is named after the systems where that is so).
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0" if host == LOOPBACK else "1"


def check_token(address: str, *, name: str) -> None:
    """Ask a cluster whether it knows this process's token: Ray itself would try for half a minute.

    Raises:
        EngineError: it does not.
        ConnectionError: nobody answers there.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConnectionError(f"{address} does not answer: {_line(error)}") from None
    level = os.environ.get("RAY_BACKEND_LOG_LEVEL")
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "error"  # it warns, too, and once is enough
    try:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]
        from ray.exceptions import AuthenticationError
    except ImportError:  # not where this version of Ray has it: it finds out by itself
        return
    finally:
        os.environ.pop("RAY_BACKEND_LOG_LEVEL")
        if level is not None:
            os.environ["RAY_BACKEND_LOG_LEVEL"] = level
    try:
        GcsClient(address=address)
    except AuthenticationError:
        raise EngineError(
            f"service {name!r} at {address} does not answer to this token; take the one that its server has"
        ) from None
    except Exception:  # whatever else is wrong, Ray says in `init`
        return


class Link:
    """A connection to a service's cluster and coordinator."""

    def __init__(self, entry: registry.Entry) -> None:
        self.entry = entry
        self._check_alive()
        set_environment(entry.token, host=entry.node)
        try:
            import ray
        except ImportError:
            raise EngineError("Ray is not installed; pip install 'reduced-sampling-loader[service]'") from None
        self.ray = ray
        try:
            check_token(entry.address, name=entry.name)
        except ConnectionError as error:  # its server may take a moment longer to end
            raise gone(entry, error) from None
        try:
            ray.init(
                address=entry.address,
                _node_ip_address=entry.node,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            message = f"service {entry.name!r} at {entry.address} does not answer ({_line(error)}); start it again"
            raise EngineError(message) from None
        self._coordinator: Any = None

    def call(self, method: str, *arguments: Any) -> Any:
        """Ask the coordinator, and again while it restarts.

        Raises:
            EngineError: nobody was there for `GONE_SECONDS`, or it refused.
        """
        ray = self.ray
        began = alive = time.monotonic()
        while True:
            self._check_alive()
            try:
                if self._coordinator is None:
                    self._coordinator = ray.get_actor(f"coordinator-{self.entry.name}", namespace=NAMESPACE)
                    alive = time.monotonic()  # the cluster answered
                return ray.get(getattr(self._coordinator, method).remote(*arguments), timeout=GONE_SECONDS / 2)
            except ray.exceptions.RayTaskError as error:
                raise EngineError(f"service {self.entry.name!r}: {error.cause}") from None
            except (ray.exceptions.RayError, ValueError, ConnectionError) as error:
                self._coordinator = None
                now = time.monotonic()
                if now - alive > GONE_SECONDS or now - began > _RESTART_SECONDS:
                    raise gone(self.entry, f"no answer for {now - began:.0f} s: {_line(error)}") from None
                time.sleep(_RETRY_SECONDS)

    def tell(self, method: str, *arguments: Any) -> None:
        """The same without an answer or an error. It waits a moment: what is sent just before an end is lost."""
        if self._coordinator is not None and self.entry.alive:
            with contextlib.suppress(self.ray.exceptions.RayError):
                self.ray.get(getattr(self._coordinator, method).remote(*arguments), timeout=1)

    def _check_alive(self) -> None:
        if not self.entry.alive:
            raise gone(self.entry, f"process {self.entry.pid} has ended")


def gone(entry: registry.Entry, why: object) -> EngineError:
    """The error of a service that is not there any more."""
    return EngineError(
        f"service {entry.name!r} is gone ({_line(why)}); start it again, connect, and load_state_dict to go on"
    )


def _line(text: object) -> str:
    return str(text).strip().partition("\n")[0]


class Assembler:
    """Puts batches together from blocks.

    Args:
        link: to the service.
        label, schedule: the trainer's, for people to see.
        spec: what the images depend on.
        layout: of a batch's buffer, "channels_last" or "contiguous".
        tone: what to write for a pixel; see `loader.resize.resample`.
        capacity_bytes: of all blocks that the service keeps.
        workers: that decode for it.
    """

    def __init__(
        self,
        link: Link,
        *,
        label: str,
        schedule: str,
        spec: Spec,
        layout: str,
        tone: np.ndarray,
        capacity_bytes: int,
        workers: int,
    ) -> None:
        self._link, self._spec, self._layout, self._tone = link, spec, layout, tone
        self._trainer = uuid.uuid4().hex
        self._label, self._schedule = label, schedule
        self._wanted: Counter[Key] = Counter()  # how many batches under way need it
        self._ends: dict[int, int] = {}  # positions of each epoch's budget
        self._references: dict[Key, list[Part]] = {}
        self._values: dict[Key, list[Part]] = {}
        self._last: Key | None = None
        self._ahead: list[Key] = []
        self._capacity_bytes, self._workers = capacity_bytes, workers
        plain = layout == "channels_last" and tone.shape[1] == 0  # what a block has is what a batch has
        self._lender = Lender() if plain else None
        self._share(_TRAINERS)
        self._emitted, self._waited, self._decoded = 0, 0.0, 0
        self._decode_seconds, self._decode_rows = 0.0, 0  # of all parts that came, whenever they were decoded

    def want(self, epoch: int, spans: Spans, ends: Sequence[int]) -> None:
        """Note what a batch will need, and what those after it, up to `ends` of its epoch's order and the next one's.

        The next question to the service asks for all that is noted.
        """
        keys = self._keys(epoch, spans)
        self._wanted.update(keys)
        self._ends.update({epoch: ends[0], epoch + 1: ends[1]})
        rest = (Key(self._spec, epoch, number) for number in range(keys[-1].number + 1, _blocks(ends[0])))
        following = (Key(self._spec, epoch + 1, number) for number in range(_blocks(ends[1])))
        ahead = list(islice(chain(rest, following), self._most_ahead))
        for key in set(self._ahead) - set(ahead):
            if self._wanted[key] <= 0:
                self._drop(key)
        self._ahead = ahead

    def make(self, epoch: int, step: int, spans: Spans, out: np.ndarray) -> tuple[dict[str, Any], list[int]]:
        """Write a batch that was noted to `out`, or lend it: the answer to it, with its descriptors.

        Raises:
            CorruptSampleError: one of its samples does not decode.
            EngineError: the service is gone.
        """
        asked = time.perf_counter()
        keys = self._keys(epoch, spans)
        missing = [key for key in self._ahead if key not in self._references]
        if 2 * len(missing) >= self._most_ahead or any(key not in self._references for key in keys):
            self._ask(epoch, step, [])
        try:
            blocks = {key.number: self._block(key, epoch, step) for key in keys}
        finally:
            self._release(keys)
        self._waited += time.perf_counter() - asked
        pieces = [
            (part, rows, to)
            for number, whole, into in runs(spans)
            for part, rows, to in _overlaps(blocks[number], whole, into)
        ]
        replaced, loan = [], None
        for part, rows, to in pieces:
            content = part.content
            for row, (message, sample) in content["corrupt"].items():
                if rows.start <= row < rows.stop:
                    raise CorruptSampleError(message, sample=sample)
            for row, label in content["replaced"].items():
                if rows.start <= row < rows.stop:
                    replaced.append([row - rows.start + to.start, label])
            images = content["images"][rows]
            if len(pieces) == 1 and self._lender is not None:
                loan = self._lender.lend(images, of=content["images"], most=self._most_lent)
            if loan is None:
                self._copy(images, out[to])
        self._emitted += pieces[-1][2].stop
        busy, decoded = self._decode_busy(self._decoded), self._decoded
        self._decoded = 0
        lent, descriptors = loan or ({}, [])
        return {"replaced": replaced, "decoded": decoded, "decode_busy_seconds": busy, **lent}, descriptors

    def _decode_busy(self, samples: int) -> float:
        """How long the service's workers are at work while so many samples are decoded for this trainer.

        The others are taken to have as many decoded as this one: they share what it asked for, or ask for as much.
        """
        each = self._decode_seconds / max(self._decode_rows, 1)
        return samples * each * self._sharing / self._workers

    def take_back(self, loans: list[int]) -> None:
        """The trainer does not need these any more."""
        if self._lender is not None:
            self._lender.take_back(loans)

    def leave(self) -> None:
        """Say goodbye, and keep nothing but what is lent."""
        self._references.clear()
        self._values.clear()
        self._link.tell("leave", self._trainer, self._emitted)

    def _share(self, trainers: int) -> None:
        """Divide the memory: what is kept for blocks under way and ahead, and what is not for lent ones."""
        self._sharing = max(trainers, 1)
        each = self._sharing * self._spec.block_bytes
        self._most_ahead = max(1, min(_AHEAD, self._capacity_bytes // each - _UNDER_WAY))
        memory_bytes = int(self._capacity_bytes / SHARE)
        if self._lender is not None and self._lender.store_bytes is not None:
            memory_bytes = min(memory_bytes, self._lender.store_bytes)  # a joined machine may have less
        self._most_lent = min(_LENT, int(memory_bytes * (1 - SHARE)) // each)

    def _keys(self, epoch: int, spans: Spans) -> list[Key]:
        return [Key(self._spec, epoch, number) for number in dict.fromkeys(number for number, _, _ in runs(spans))]

    def _block(self, key: Key, epoch: int, step: int) -> list[Part]:
        """A block's parts, asked for again where they were lost."""
        ray = self._link.ray
        while key not in self._values:
            if key not in self._references:
                self._ask(epoch, step, [])
            try:
                parts = self._references[key]
                contents = ray.get([part.content for part in parts], timeout=GONE_SECONDS / 2)
                self._values[key] = [part._replace(content=c) for part, c in zip(parts, contents, strict=True)]
                self._decode_seconds += sum(content["seconds"] for content in contents)
                self._decode_rows += sum(len(content["images"]) for content in contents)
            except ray.exceptions.GetTimeoutError:
                self._link.call("status")  # it may just be slow; this raises if nobody is there
            except ray.exceptions.RayTaskError as error:
                raise EngineError(f"service {self._link.entry.name!r}: {error.cause}") from None
            except ray.exceptions.RayError:
                # Whatever was lost with a worker or the coordinator is asked for once more, with all that is
                # not here yet.
                lost = [(k, r) for k, r in self._references.items() if k not in self._values]
                for k, _ in lost:
                    del self._references[k]
                time.sleep(_RETRY_SECONDS)
                self._ask(epoch, step, lost)
        return self._values[key]

    def _ask(self, epoch: int, step: int, lost: list[tuple[Key, list[Part]]]) -> None:
        """Ask for every block that is wanted and not asked for yet."""
        keys = [key for key in dict.fromkeys((*self._wanted, *self._ahead)) if key not in self._references]
        report = {
            "name": self._label,
            "schedule": self._schedule,
            "epoch": epoch,
            "step": step,
            "emitted": self._emitted,
            "waited_seconds": self._waited,
        }
        wanted = [(key, min(BLOCK, self._ends[key.epoch] - key.number * BLOCK)) for key in keys]
        references, decoded, trainers = self._link.call("take", self._trainer, report, wanted, lost)
        self._share(trainers)
        self._references.update(zip(keys, references, strict=True))
        self._decoded += decoded

    def _release(self, keys: list[Key]) -> None:
        """Let go of blocks that no batch under way needs, but for the last one: the next may begin in it."""
        self._wanted.subtract(keys)
        if self._last is not None and self._last != keys[-1] and self._wanted[self._last] <= 0:
            self._drop(self._last)
        self._last = keys[-1]
        for key in keys[:-1]:
            if self._wanted[key] <= 0 and key not in self._ahead:
                self._drop(key)

    def _drop(self, key: Key) -> None:
        del self._wanted[key]
        self._references.pop(key, None)
        self._values.pop(key, None)

    def _copy(self, images: np.ndarray, out: np.ndarray) -> None:
        if self._tone.shape[1]:
            from loader.resize import apply_tone  # numba's import costs a trainer half a second

            toned = out if self._layout == "channels_last" else np.empty(images.shape, out.dtype)
            apply_tone(images, self._tone, toned)
            images = toned
        if images is not out:
            np.copyto(out, images if self._layout == "channels_last" else images.transpose(0, 3, 1, 2))


def _overlaps(parts: list[Part], rows: slice, to: slice) -> Iterator[tuple[Part, slice, slice]]:
    """Some rows of a block as rows of its parts, and where in the batch they go."""
    for part in parts:
        start, stop = max(rows.start, part.start), min(rows.stop, part.stop)
        if start < stop:
            row = to.start + start - rows.start
            yield part, slice(start - part.start, stop - part.start), slice(row, row + stop - start)


def _blocks(end: int) -> int:
    """The blocks of the positions up to `end`."""
    return -(-end // BLOCK)


class _Bridge:
    """Answers a trainer's messages until it closes its end."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire
        self._link: Link | None = None
        self._label, self._capacity_bytes, self._workers = "", 0, 1
        self._assembler: Assembler | None = None
        self._buffers: dict[int, np.ndarray] = {}
        self._dtype = np.dtype(np.uint8)
        self._queue: deque[tuple[dict[str, Any], list[int]]] = deque()

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
                answer, attached = getattr(self, "_" + message["op"])(message, descriptors)
            except CorruptSampleError as error:
                answer = {"error": str(error), "sample": error.sample}
            except LoaderError as error:
                answer = {"error": str(error)}
            if answer is None:
                continue
            try:
                socket.send_fds(self._wire, [json.dumps(answer).encode()], attached)
            except OSError:  # the trainer closed its end, and is not there for the answer
                break
            for descriptor in attached:  # the trainer's now; what they stand for stays open here, too
                os.close(descriptor)
        if self._assembler is not None:
            self._assembler.leave()

    def _receive(self, *, wait: str) -> bool:
        if wait == "poll" and not select.select([self._wire], [], [], 0)[0]:
            return False
        try:
            data, descriptors, _, _ = socket.recv_fds(self._wire, MESSAGE_BYTES, 4)
        except OSError:
            return False
        if not data:
            return False
        message = json.loads(data)
        if message["op"] == "setup":  # at once: batches that came with it are noted next
            self._setup(message)
            return True
        if message["op"] == "batch":
            assert self._assembler is not None
            self._assembler.take_back(message["returned"])
            self._assembler.want(message["epoch"], message["spans"], message["ends"])
        self._queue.append((message, descriptors))
        return True

    def _hello(self, message: dict[str, Any], _: list[int]) -> tuple[dict[str, Any], list[int]]:
        self._link, self._label = Link(registry.Entry(**message["entry"])), message["label"]
        index = self._link.call("index")
        self._capacity_bytes, self._workers = index["capacity_bytes"], index["workers"]
        arrays = np.stack([np.asarray(index.pop(name), np.int64) for name in ("heights", "widths", "labels")])
        descriptor = os.memfd_create("index")
        os.ftruncate(descriptor, arrays.nbytes)
        with mmap.mmap(descriptor, arrays.nbytes) as memory:
            memory[:] = arrays.tobytes()
        return {**index, "samples": arrays.shape[1]}, [descriptor]

    def _status(self, message: dict[str, Any], _: list[int]) -> tuple[dict[str, Any], list[int]]:
        assert self._link is not None
        return self._link.call("status"), []

    def _setup(self, message: dict[str, Any]) -> None:
        assert self._link is not None
        self._dtype = np.dtype(message["dtype"])
        tone = np.array(message["tone"], self._dtype if self._dtype.itemsize == 2 else np.float32).reshape(3, -1)
        self._assembler = Assembler(
            self._link,
            label=self._label,
            schedule=message["schedule"],
            spec=Spec(**message["spec"]),
            layout=message["layout"],
            tone=tone,
            capacity_bytes=self._capacity_bytes,
            workers=self._workers,
        )

    def _buffer(self, message: dict[str, Any], descriptors: list[int]) -> tuple[None, list[int]]:
        (descriptor,) = descriptors
        memory = mmap.mmap(descriptor, 0)
        os.close(descriptor)
        self._buffers[message["id"]] = np.frombuffer(memory, self._dtype).reshape(message["shape"])
        return None, []

    def _batch(self, message: dict[str, Any], _: list[int]) -> tuple[dict[str, Any], list[int]]:
        assert self._assembler is not None
        out = self._buffers[message["buffer"]]
        return self._assembler.make(message["epoch"], message["step"], message["spans"], out)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's
    _Bridge(socket.socket(fileno=int(sys.argv[1]))).run()
    os._exit(0)  # without waiting for Ray's threads


if __name__ == "__main__":
    main()
