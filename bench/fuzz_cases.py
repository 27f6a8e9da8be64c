"""The fuzzer's kinds of input. Each case is accepted and works, or is refused with one of our errors."""

from __future__ import annotations

import gc
import json
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from budgetloader.bench.fuzz_jpegs import Jpegs, pictures
from budgetloader.bench.fuzz_kind import NUMBERS, Kind, any_json, mangle


class Betons(Kind):
    """`.beton` headers, field descriptors, indexes and allocation tables."""

    def __init__(self, folder: Path) -> None:
        from budgetloader import beton

        self._corpus: list[tuple[Path, bytes, bytes, int]] = []
        for index, notes in enumerate(({"classes": ["a", "b", "c"]}, {})):
            path = folder / f"{index}.beton"
            with beton.Writer(path, capacity=24, notes=notes) as writer:
                for i, data in enumerate(pictures()[:21]):
                    size = _size_of(data)
                    writer.add(data, width=size[0], height=size[1], label=i % 3)
            whole = path.read_bytes()
            end = int(np.frombuffer(whole, beton.HEADER, 1)["alloc_table_ptr"][0])
            start = beton.HEADER.itemsize + 2 * beton.FIELD.itemsize + 24 * 32 + 8192
            self._corpus.append((path, whole[:start], whole[end:], end))
        self.size = len(self._corpus)

    def run(self, seed: int, number: int) -> bool:
        from budgetloader.dataset import Dataset
        from budgetloader.engines.rendering import Decoder
        from budgetloader.errors import DatasetError

        rng = random.Random(f"beton {seed} {number}")
        path, head, tail, end = rng.choice(self._corpus)
        first, last = bytearray(head), bytearray(tail)
        where = rng.random()
        if where < 0.35:
            mangle(rng, first, within=24)
        elif where < 0.8:
            mangle(rng, first, within=len(first))
        else:
            mangle(rng, last, within=len(last))
        with open(path, "r+b") as file:
            file.write(first[: len(head)])
            file.truncate(rng.choice((end, end, end, rng.randrange(end))) if rng.random() < 0.1 else end)
            file.seek(end)
            file.write(last)
        try:
            dataset = Dataset(path, verify=rng.random() < 0.3, mapped=rng.random() < 0.7)
        except DatasetError:
            return False
        decoder = Decoder(dataset)
        for sample in range(len(dataset)):
            try:
                decoder.decode_whole(sample)
            except DatasetError:
                continue
        return True


def _size_of(data: bytes) -> tuple[int, int]:
    from budgetloader.jpeg import read_frame

    frame = read_frame(data)
    return frame.width, frame.height


class Notes(Kind):
    """The notes of a file, and where they say that its checksums are."""

    _KEYS = ("classes", "checksums", "fingerprint", "writer", "algorithm", "start", "crc32", "quality")

    def __init__(self, folder: Path) -> None:
        sums = np.arange(20, dtype="<u4").tobytes()
        where = {"algorithm": "crc32", "start": 4096, "crc32": zlib.crc32(sums)}
        self._sums = sums
        self._corpus = [{"classes": ["a", "b"], "checksums": where, "writer": "x"}, {"classes": []}, {}]
        self.size = len(self._corpus)

    def run(self, seed: int, number: int) -> bool:
        from budgetloader import beton, checksums
        from budgetloader.errors import DatasetError

        rng = random.Random(f"notes {seed} {number}")
        notes: Any = json.loads(json.dumps(rng.choice(self._corpus)))
        for _ in range(rng.randrange(4)):
            target = notes["checksums"] if rng.random() < 0.4 and isinstance(notes.get("checksums"), dict) else notes
            target[rng.choice(self._KEYS)] = any_json(rng)
        text = bytearray(json.dumps(notes).encode())
        if rng.random() < 0.5:
            mangle(rng, text, within=len(text))
        if rng.random() < 0.05:
            text = bytearray(rng.choice((b"[", b'{"a":', b"9", b'"')) * rng.choice((10, 5000, 100_000)))
        content = bytes(text).ljust(4096, b" ") + self._sums
        size = rng.choice((len(text), len(text), rng.choice(NUMBERS)))

        def read(start: int, stop: int) -> bytes:
            if not 0 <= start <= stop <= len(content):
                raise DatasetError("ends before that")
            return content[start:stop]

        arguments = struct.pack("<8sQQ", b"RRSNOTES", rng.choice((0, 0, 0, *NUMBERS)), size).ljust(1024, b"\0")
        try:
            found = beton.parse_notes(arguments, read)
            checksums.of_samples(found, 20, read)
            checksums.of_values(found, 20, read)
            assert all(isinstance(name, str) for name in found.get("classes", []))
            return True
        except DatasetError:
            return False


class States(Kind):
    """State dicts that a loader is asked to resume from."""

    def __init__(self, folder: Path) -> None:
        from budgetloader.cursor import Cursor

        self._steps = (5, 3, 1, 5)
        self._identity = {"seed": 3, "dataset": "abc", "schedule": "R3@4", "batch_size": 8}
        self._cursor = Cursor(self._steps, identity=self._identity)
        self._corpus = []
        for epoch, steps in enumerate(self._steps):
            for step in range(steps):
                self._corpus.append(self._cursor.state_dict(at=(epoch, step)))
        self.size = len(self._corpus)

    def run(self, seed: int, number: int) -> bool:
        from budgetloader.errors import ResumeError

        rng = random.Random(f"state {seed} {number}")
        state: Any = dict(rng.choice(self._corpus))
        for _ in range(rng.randrange(3)):
            state[rng.choice([*state, "other"])] = any_json(rng)
        if rng.random() < 0.2:
            state.pop(rng.choice(list(state)))
        if rng.random() < 0.05:
            state = any_json(rng)
        try:
            self._cursor.load_state_dict(state)
        except ResumeError:
            return False
        assert self._cursor.epoch < len(self._steps) or (self._cursor.epoch, self._cursor.step) == (4, 0)
        if self._cursor.epoch < len(self._steps):
            assert 0 <= self._cursor.step < self._steps[self._cursor.epoch]
        return True


class Wires(Kind):
    """Requests of a trainer to its bridge, and the answers, both of them mangled."""

    _SPEC: ClassVar[dict[str, Any]] = {
        "fingerprint": "f",
        "image_size": 8,
        "interpolation": "antialias",
        "crop": "resized",
        "seed": 1,
        "on_corrupt": "raise",
    }

    def __init__(self, folder: Path) -> None:
        setup = {"op": "setup", "spec": self._SPEC, "schedule": "R3", "layout": "channels_last", "dtype": "uint8",
                 "tone": [[], [], []]}  # fmt: skip
        buffer = {"op": "buffer", "id": 1, "shape": [16, 8, 8, 3]}
        batch = {"op": "batch", "buffer": 1, "epoch": 0, "step": 0, "spans": [[0, 8]], "ends": [64, 64], "returned": []}
        self._messages: list[dict[str, Any]] = [setup, buffer, batch, {"op": "status"}, batch, batch]
        self._answers: list[dict[str, Any]] = [
            {"op": "batch", "replaced": [], "decoded": 3, "decode_busy_seconds": 0.1, "copied": 0},
            {"op": "batch", "replaced": [[1, 2]], "decoded": 0, "decode_busy_seconds": 0.0, "copied": 1},
            {"op": "batch", "decoded": 0, "decode_busy_seconds": 0.0, "copied": 0, "loan": {"number": 0, "offset": 0}},
            {"op": "failure", "message": "it is gone", "kind": "gone"},
            {"op": "failure", "message": "bad", "kind": "sample", "sample": 3},
        ]
        self.size = len(self._messages) + len(self._answers)

    def run(self, seed: int, number: int) -> bool:
        rng = random.Random(f"wire {seed} {number}")
        if number % 100 == 0:
            gc.collect()  # maps hold descriptors, and some are in cycles
        return self._to_bridge(rng) if rng.random() < 0.5 else self._to_trainer(rng)

    def _to_bridge(self, rng: random.Random) -> bool:
        from budgetloader.service import bridge, wire

        near, far = wire.pair()
        with near, far:
            answering = bridge.BridgeProcess(far)
            answering._link = _Link()  # type: ignore[assignment]
            answering._served = _served()
            for message in self._messages:
                changed = _changed(rng, message) if rng.random() < 0.4 else message
                memory = os.memfd_create("buffer")
                os.ftruncate(memory, rng.choice((16 * 8 * 8 * 3, 16 * 8 * 8 * 3, 0, 100)))
                near.setblocking(False)
                try:
                    _send(rng, near, changed, [memory] if changed.get("op") == "buffer" else [])
                except OSError:
                    break
                finally:
                    os.close(memory)
            near.shutdown(1)  # SHUT_WR
            try:
                answering.run()
                return True
            except bridge.NONSENSE:  # the process ends
                return False

    def _to_trainer(self, rng: random.Random) -> bool:
        from budgetloader.errors import LoaderError
        from budgetloader.service import connection, wire

        near, far = wire.pair()
        made = object.__new__(connection.Bridge)
        made.entry, made.given_up, made._wire = _Entry(), False, near  # type: ignore[assignment]
        with near, far:
            answer = rng.choice(self._answers)
            descriptors = [
                os.memfd_create("loan") for _ in range(rng.choice((0, 2, 2, 1, 3)) if "loan" in answer else 0)
            ]
            for descriptor in descriptors:
                os.ftruncate(descriptor, rng.choice((1 << 16, 0, 10)))
            _send(rng, far, _changed(rng, answer) if rng.random() < 0.8 else answer, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            far.shutdown(1)
            maker, plan = _maker(made)
            maker.begin(plan)
            try:
                batch = maker.finish(plan)
                assert tuple(batch.images.shape) == (8, 3, 8, 8) and int(batch.images.sum()) >= 0
                return True
            except (LoaderError, connection.BridgeEnded):
                return False
            finally:
                maker._settle()
                for descriptor, _ in maker._shared.values():
                    os.close(descriptor)


def _changed(rng: random.Random, message: dict[str, Any]) -> dict[str, Any]:
    """A message with other values in some places, however deep."""
    changed = json.loads(json.dumps(message))
    for _ in range(rng.choice((1, 1, 2))):
        target: Any = changed
        while True:
            keys = list(target) if isinstance(target, dict) else list(range(len(target)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(target[key], (dict, list)) and target[key] and rng.random() < 0.6:
                target = target[key]
                continue
            if isinstance(target, dict) and rng.random() < 0.15:
                del target[key]
            else:
                target[key] = any_json(rng)
            break
    return changed


def _send(rng: random.Random, end: Any, message: dict[str, Any], descriptors: list[int]) -> None:
    import socket

    from budgetloader.service import wire

    if rng.random() < 0.1:
        data = bytearray(json.dumps(message).encode())
        mangle(rng, data, within=len(data))
        socket.send_fds(end, [bytes(data) or b"x"], descriptors)
        return
    wire.send(end, json.dumps(message).encode(), descriptors)


class _Entry:
    name, pid, alive = "fuzzed", 1, True


class _Link:
    """A service that gives every block at once."""

    entry = _Entry()

    class ray:
        class exceptions:
            class RayError(Exception):
                pass

            class RayTaskError(RayError):
                cause = None

            class WorkerCrashedError(RayError):
                pass

            class OutOfMemoryError(RayError):
                pass

            class GetTimeoutError(RayError):
                pass

        get: ClassVar[Callable] = staticmethod(lambda contents, timeout: contents)

    def call(self, method: str, *arguments: Any) -> Any:
        from budgetloader.service.exchange import Taken
        from budgetloader.service.status import ServiceStatus

        if method != "take":
            return ServiceStatus("p", 64, 0.0, 1, 0, 0, 0, 0, 0, 0, ())
        wanted = arguments[2]
        return Taken([[_part(rows)] for _, rows in wanted], [False] * len(wanted), 0, 1)

    def tell(self, method: str, *arguments: Any) -> None:
        pass


def _part(rows: int) -> Any:
    from budgetloader.errors import EngineError
    from budgetloader.service.blocks import BLOCK, Content, Part

    if not 0 < rows <= BLOCK:
        raise EngineError(f"{rows} rows")  # as the coordinator says
    return Part(0, rows, Content(np.zeros((rows, 8, 8, 3), np.uint8), {}, {}, 0.0))


def _served() -> Any:
    from budgetloader.service.exchange import ServedDataset

    sizes = np.full(64, 40)
    return ServedDataset("p", (("p", 64),), "f", (), False, 1 << 24, 1, sizes, sizes, np.arange(64))


class _Index:
    heights = widths = np.full(64, 40)
    labels = np.arange(64)
    fingerprint, classes, capacity_bytes, store_wait_seconds = "f", (), 1 << 30, 0.0

    def __len__(self) -> int:
        return 64


def _maker(made: Any) -> Any:
    from budgetloader.engines.base import Job, Output, Work
    from budgetloader.plans import Planner
    from budgetloader.schedule import Schedule
    from budgetloader.service.maker import BridgeMaker

    schedule = Schedule.full(epochs=1)
    made.index = _Index()
    made.send = lambda message, descriptors: None
    planner = Planner(made.index, schedule=schedule, batch_size=8, seed=0)
    job = Job(made.index, Output(8, "uint8"), 8, 1, 3, "raise", planner.replacement)
    budget = schedule.budget(64, batch_size=8)
    maker = BridgeMaker(job, Work(), made, budget=budget, seed=0)
    maker._restarts = 99  # a process that ended is not started again here
    return maker, planner.plan(0, 0)


KINDS: dict[str, type[Kind]] = {"beton": Betons, "jpeg": Jpegs, "notes": Notes, "state": States, "wire": Wires}
