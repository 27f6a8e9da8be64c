"""A stand-in for torch's GPUs: it executes on the CPU, and checks the order of the operations.

    with FakeCUDA(devices=2) as fake:
        ...  # code that uses torch.device("cuda:0"), streams, events and pinned memory
    assert not fake.order.faults

Every operation on device or pinned memory is logged with the stream it was queued on, what it reads and
what it writes; `bench/ordering.py` says what is wrong with that. torch's functions are caught twice: where they
are called (what names a device gets the CPU instead), and where they are executed (what they read and write
is known there). The host's threads are taken as ordered in the way in which they ran: what is checked is the
devices against the host and against each other. `budgetloader.bench.interleaving` makes the threads run in many ways.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from budgetloader.bench.ordering import PINNED, Block, Clock, Memory, Order


class FakeCUDA:
    """See the module.

    Args:
        devices: how many there seem to be.
        kind: "cuda", or "mps": one device without streams.
        home: numbers of the devices that may be touched; default: all.
        seed: of the random choices, see `budgetloader.bench.ordering`.
        capability, name: of the devices.
        on_operation: called before each operation, for a scheduler.

    Attributes:
        order: the clocks, and the faults that they found.
        failures: name → exception: raised in place of the next operation whose name begins so.
    """

    def __init__(
        self,
        *,
        devices: int = 1,
        kind: str = "cuda",
        home: set[int] | None = None,
        seed: int = 0,
        capability: tuple[int, int] = (7, 5),
        name: str = "Fake T4",
        on_operation: Callable[[], None] | None = None,
    ) -> None:
        self.devices, self.kind, self.capability, self.name = devices, kind, capability, name
        self.order = Order(seed)
        self.memory = Memory(self.order, seed)
        self.failures: dict[str, Exception] = {}
        self.on_operation = on_operation or (lambda: None)
        self.thread = _ThreadState()
        self._home = {f"{kind}:{i}" for i in (range(devices) if home is None else home)}
        self._streams = 0

    def __enter__(self) -> FakeCUDA:
        # FFCV asks for a GPU once, as it is imported: it must not be told of one that goes away again.
        with contextlib.suppress(ImportError):
            import budgetloader.engines.ffcv  # noqa: F401
        # Before anything is replaced: it looks at torch.cuda's functions when it is first imported.
        importlib.import_module("torch._dynamo")
        self._stack = ExitStack()
        patch = self._stack.enter_context
        if self.kind == "cuda":
            for name, value in _torch_cuda(self).items():
                patch(mock.patch.object(torch.cuda, name, value))
            patch(mock.patch.object(torch.Tensor, "record_stream", self._record_stream()))
        else:
            patch(mock.patch.object(torch.backends.mps, "is_available", lambda: True))
        run, fake = threading.Thread.run, self

        def run_under_it(thread: threading.Thread) -> None:
            with fake.modes():
                run(thread)

        patch(mock.patch.object(threading.Thread, "run", run_under_it))
        patch(self.modes())
        return self

    def __exit__(self, *details: Any) -> None:
        self._stack.close()

    @contextmanager
    def modes(self) -> Iterator[None]:
        """In a thread: torch's functions see the devices."""
        with _Functions(self), _Operations(self):
            yield

    # Devices and streams

    def device(self, given: Any) -> torch.device | None:
        """One of the fake's devices, or None for a device of another kind."""
        if isinstance(given, int):
            return torch.device(self.kind, given)
        if not isinstance(given, (str, torch.device)):
            return None
        found = torch.device(given)
        if found.type != self.kind:
            return None
        return torch.device(self.kind, self.thread.device if found.index is None else found.index)

    def stream_of(self, place: str) -> str:
        """The calling thread's current stream of a device."""
        return self.thread.streams.get(place, f"{place} default")

    def new_stream(self, place: str) -> str:
        self.touch(place, "a stream")
        self._streams += 1
        return f"{place} stream {self._streams}"

    def touch(self, place: str, what: str) -> None:
        if place not in self._home:
            self.order.fault(f"{what} on {place}, which belongs to another process")

    def host_writes(self, array: Any) -> None:
        """To be called when the host has written to an array that may be pinned."""
        block = self.memory.at(array.ctypes.data)
        if block is not None:
            self.order.host_accesses(reads=[], writes=[block], what="a write of the host")

    def _record_stream(self) -> Callable[[torch.Tensor, Stream], None]:
        def record_stream(tensor: torch.Tensor, stream: Stream) -> None:
            block = self.memory.block(tensor)
            if block is not None and block.stream != stream.name and not block.foreign:
                block.users.add(stream.name)

        return record_stream

    # Where torch's functions are executed

    def operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        """One operation of torch, logged."""
        name = func._schema.name.partition("::")[2]
        self.on_operation()
        for key in [key for key in self.failures if name.startswith(key)]:
            raise self.failures.pop(key)
        out = func(*args, **kwargs)
        inputs = _tensors((args, kwargs))
        known = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        new = [tensor for tensor in _tensors(out) if tensor.untyped_storage().data_ptr() not in known]
        blocks = [self.memory.block(tensor) for tensor in inputs]
        places = sorted({block.place for block in blocks if block is not None} - {PINNED})
        target = self.thread.target
        if target is None:
            target = places[0] if places else ""
        made = [self._allocate(tensor, target) for tensor in new if target]
        written = [_written(func, args, tensor) for tensor in inputs]
        if (not new and not any(written)) or name.startswith("empty"):
            return out  # a view, or nothing but memory
        if len(places) > 1 and name != "copy_":
            self.order.fault(f"{name} reads from several devices: {', '.join(places)}")
        reads = [b for b, w in zip(blocks, written, strict=True) if b is not None and not w]
        writes = [b for b, w in zip(blocks, written, strict=True) if b is not None and w]
        writes += [block for block in made if block is not None]
        pageable = any(b is None and t.dim() for b, t in zip(blocks, inputs, strict=True))
        blocking = name != "copy_" or not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        self._log(name, reads, writes, pageable=pageable, blocking=blocking)
        return out

    def _allocate(self, tensor: torch.Tensor, place: str) -> Block | None:
        current = f"{self.kind}:{self.thread.device}"
        self.touch(current if place == PINNED else place, "an allocation")
        return self.memory.allocate(tensor, place, place if place == PINNED else self.stream_of(place))

    def _log(self, name: str, reads: list[Block], writes: list[Block], *, pageable: bool, blocking: bool) -> None:
        on_device = [block for block in (*writes, *reads) if block.place != PINNED]
        if not on_device:
            self.order.host_accesses(reads=reads, writes=writes, what=name)
            return
        stream = self.stream_of(on_device[0].place)
        self.touch(on_device[0].place, name)
        if pageable and name != "copy_":
            self.order.fault(f"{name} on {stream} reads memory of the host")
        self.order.launch(stream, reads=reads, writes=writes, what=name)
        crosses = name == "copy_" and (pageable or len(on_device) < len(reads) + len(writes))
        if name == "_local_scalar_dense" or (crosses and (blocking or pageable)):
            self.order.host_waits(self.order.record(stream), stream)

    # Where they are called

    def call(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """One of torch's functions, with the fake's devices in its arguments."""
        name = getattr(func, "__name__", "")
        block = self.memory.block(args[0]) if args and isinstance(args[0], torch.Tensor) else None
        on_device = block is not None and block.place != PINNED
        if func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return torch.device(block.place) if block and on_device else func(*args)
        if name == "is_pinned":
            return block is not None and not on_device
        if name in ("to", "cpu", "cuda") and isinstance(args[0], torch.Tensor):
            return self._to(name, func, args, kwargs)
        if name in ("numpy", "__array__") and block and on_device:
            raise TypeError(f"can't convert {block.place} tensor to numpy")
        if name == "tolist" and on_device:
            return self._moved(args[0], None, blocking=True).tolist()
        pinned, device = kwargs.pop("pin_memory", False), self.device(kwargs.get("device"))
        if device is None and not pinned:
            return func(*args, **kwargs)
        kwargs["device"] = "cpu"
        with self._target(PINNED if pinned else str(device)):
            return func(*args, **kwargs)

    def _to(self, name: str, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        tensor, *rest = args
        given = next((a for a in rest if isinstance(a, (str, torch.device, int)) and not isinstance(a, bool)), None)
        given = kwargs.pop("device", given)
        given = {"cuda": "cuda" if given is None else given, "cpu": "cpu"}.get(name, given)
        if given is None:
            return func(*args, **kwargs)
        block, device = self.memory.block(tensor), self.device(given)
        here = block.place if block is not None and block.place != PINNED else None
        non_blocking = kwargs.pop("non_blocking", False)
        if here != (str(device) if device is not None else None):
            tensor = self._moved(tensor, device, blocking=not non_blocking)
        for dtype in (a for a in rest if isinstance(a, torch.dtype)):
            kwargs["dtype"] = dtype
        return torch.Tensor.to(tensor, **kwargs) if kwargs else tensor

    def _moved(self, tensor: torch.Tensor, device: torch.device | None, *, blocking: bool) -> torch.Tensor:
        with self._target(str(device) if device is not None else ""):
            there = torch.empty_like(tensor)
        return there.copy_(tensor, non_blocking=not blocking)

    @contextmanager
    def _target(self, place: str) -> Iterator[None]:
        before, self.thread.target = self.thread.target, place
        try:
            yield
        finally:
            self.thread.target = before


class _ThreadState(threading.local):
    """The state that torch keeps for each thread."""

    def __init__(self) -> None:
        self.device = 0
        self.streams: dict[str, str] = {}
        self.target: str | None = None  # where new memory is to be; "": the host's


class _Functions(TorchFunctionMode):
    def __init__(self, fake: FakeCUDA) -> None:
        super().__init__()
        self._fake = fake

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._fake.call(func, args, dict(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __init__(self, fake: FakeCUDA) -> None:
        super().__init__()
        self._fake = fake

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._fake.operation(func, args, kwargs or {})


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _written(func: Any, args: Any, tensor: torch.Tensor) -> bool:
    pairs = zip(func._schema.arguments, args, strict=False)
    return any(a.alias_info is not None and a.alias_info.is_write and value is tensor for a, value in pairs)


class Stream:
    """torch.cuda.Stream."""

    def __init__(self, fake: FakeCUDA, place: str, name: str) -> None:
        self._fake, self.place, self.name = fake, place, name
        self.device = torch.device(place)

    def wait_event(self, event: Event) -> None:
        self._fake.on_operation()
        self._fake.touch(self.place, "a wait")
        self._fake.order.stream_waits(self.name, event.clock)

    def wait_stream(self, other: Stream) -> None:
        self._fake.order.stream_waits(self.name, self._fake.order.record(other.name))

    def synchronize(self) -> None:
        self._fake.on_operation()
        self._fake.order.host_waits(self._fake.order.record(self.name), self.name)


class Event:
    """torch.cuda.Event."""

    def __init__(self, fake: FakeCUDA) -> None:
        self._fake = fake
        self.clock: Clock = {}
        self._on: Stream | None = None

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or torch.cuda.current_stream()  # type: ignore[assignment]
        assert stream is not None
        if self._on is not None and self._on.place != stream.place:
            raise RuntimeError(f"an event of {self._on.place} is recorded on {stream.place}")
        self._fake.on_operation()
        self._fake.touch(stream.place, "an event")
        self._on, self.clock = stream, self._fake.order.record(stream.name)

    def wait(self, stream: Stream | None = None) -> None:
        (stream or torch.cuda.current_stream()).wait_event(self)  # type: ignore[arg-type]

    def query(self) -> bool:
        self._fake.on_operation()
        self._fake.touch(f"{self._fake.kind}:{self._fake.thread.device}", "a look at an event")
        return not self.clock or self._fake.order.passed(self.clock)

    def synchronize(self) -> None:
        self._fake.on_operation()
        self._fake.touch(f"{self._fake.kind}:{self._fake.thread.device}", "a wait for an event")
        if self._on is not None:
            self._fake.order.host_waits(self.clock, self._on.name)

    def elapsed_time(self, end: Event) -> float:
        assert self._on and end._on, "both were recorded"
        if self._on.place != end._on.place:
            raise RuntimeError(f"events of {self._on.place} and {end._on.place} have no time between them")
        return float(sum(end.clock.values()) - sum(self.clock.values()))


def _torch_cuda(fake: FakeCUDA) -> dict[str, Any]:
    """torch.cuda's names."""
    state = fake.thread

    def place(device: Any = None) -> str:
        return str(fake.device("cuda" if device is None else device))

    def current_stream(device: Any = None) -> Stream:
        return Stream(fake, place(device), fake.stream_of(place(device)))

    @contextmanager
    def device(which: Any) -> Iterator[None]:
        before, state.device = state.device, int(place(which).partition(":")[2])
        try:
            yield
        finally:
            state.device = before

    @contextmanager
    def stream(which: Stream) -> Iterator[None]:
        with device(which.place):
            before = fake.stream_of(which.place)
            state.streams[which.place] = which.name
            try:
                yield
            finally:
                state.streams[which.place] = before
        fake.touch(place(), "a stream that is set back")  # torch then sets the device, too, which makes a context there

    def set_device(which: Any) -> None:
        state.device = int(place(which).partition(":")[2])

    def synchronize(which: Any = None) -> None:
        for name in [name for name in fake.order.streams if name.startswith(f"{place(which)} ")]:
            fake.order.host_waits(fake.order.record(name), name)

    major, minor = fake.capability
    return {
        "Stream": lambda device=None: Stream(fake, place(device), fake.new_stream(place(device))),
        "Event": lambda enable_timing=False: Event(fake),
        "current_stream": current_stream,
        "device": device,
        "stream": stream,
        "set_device": set_device,
        "synchronize": synchronize,
        "is_available": lambda: True,
        "device_count": lambda: fake.devices,
        "current_device": lambda: state.device,
        "get_device_properties": lambda which=None: types.SimpleNamespace(name=fake.name, major=major, minor=minor),
    }
