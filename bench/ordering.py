"""Which operations on devices are ordered, and which accesses to memory are not: vector clocks.

A clock per stream, and one for the host, counts operations; a stream's clock holds what of the others' it
comes after, by queueing, events and waiting. Two accesses to the same memory, one of them a write, that
nothing orders are a fault, whatever their true timing would have been. Memory that is freed is given out
again as soon as torch's allocators might do so, so that a buffer which is taken again too early is such a
pair, too.
"""

from __future__ import annotations

import bisect
import random
import threading
import weakref
from dataclasses import dataclass, field

import torch

Clock = dict[str, int]
HOST = "host"
PINNED = "pinned"  # the place of pinned memory; of a device's it is such as "cuda:0"


def join(clock: Clock, other: Clock) -> None:
    """Come after what another clock comes after."""
    for owner, count in other.items():
        if clock.get(owner, 0) < count:
            clock[owner] = count


@dataclass(frozen=True)
class Access:
    """An operation's access to memory."""

    owner: str
    count: int
    what: str

    def before(self, clock: Clock) -> bool:
        return clock.get(self.owner, 0) >= self.count


@dataclass(eq=False)
class Block:
    """Physical memory, given out again after it was freed."""

    place: str
    size: int
    stream: str  # that it was allocated on
    write: Access | None = None
    reads: dict[str, Access] = field(default_factory=dict)
    users: set[str] = field(default_factory=set)  # streams of record_stream
    foreign: bool = False  # another library's, of which torch's record_stream knows nothing
    pending: list[Clock] = field(default_factory=list)  # events of those streams, since it was freed


class Order:
    """The clocks of one process's devices.

    Args:
        seed: of random choices: whether an event has passed, whether freed memory is taken again.

    Attributes:
        faults: descriptions of what was wrong.
        waits: names of the streams that the host waited for, such as "cuda:0 default".
    """

    def __init__(self, seed: int) -> None:
        self.faults: list[str] = []
        self.waits: list[str] = []
        self._random = random.Random(seed)
        self._clocks: dict[str, Clock] = {HOST: {}}
        self._lock = threading.RLock()

    @property
    def streams(self) -> list[str]:
        return [name for name in self._clocks if name != HOST]

    def clock(self, owner: str) -> Clock:
        return self._clocks.setdefault(owner, {})

    def record(self, stream: str) -> Clock:
        """An event: the stream's clock of now."""
        with self._lock:
            clock = self.clock(stream)
            join(clock, self.clock(HOST))
            return dict(clock)

    def stream_waits(self, stream: str, event: Clock) -> None:
        with self._lock:
            join(self.clock(stream), event)

    def host_waits(self, event: Clock, what: str) -> None:
        with self._lock:
            self.waits.append(what)
            join(self.clock(HOST), event)

    def passed(self, event: Clock) -> bool:
        """Whether the host sees that an event has passed: it may have, whenever it is asked."""
        with self._lock:
            if self._random.random() < 0.5:
                return False
            join(self.clock(HOST), event)
            return True

    def host_accesses(self, *, reads: list[Block], writes: list[Block], what: str) -> None:
        with self._lock:
            self._access(HOST, reads, writes, what)

    def launch(self, stream: str, *, reads: list[Block], writes: list[Block], what: str) -> None:
        """Queue an operation."""
        with self._lock:
            join(self.clock(stream), self.clock(HOST))
            self._access(stream, reads, writes, what)

    def fault(self, message: str) -> None:
        if message not in self.faults:
            self.faults.append(message)

    def _access(self, owner: str, reads: list[Block], writes: list[Block], what: str) -> None:
        clock = self.clock(owner)
        clock[owner] = count = clock.get(owner, 0) + 1
        access = Access(owner, count, what)
        for block in reads:
            self._compare(block, access, [block.write])
            block.reads[owner] = access
        for block in writes:
            self._compare(block, access, [block.write, *block.reads.values()])
            block.write, block.reads = access, {}

    def _compare(self, block: Block, access: Access, earlier: list[Access | None]) -> None:
        for other in earlier:
            if other is not None and other.owner != access.owner and not other.before(self.clock(access.owner)):
                self.fault(
                    f"{block.place} memory: {access.what} on {access.owner} is not ordered after "
                    f"{other.what} on {other.owner}"
                )


class Memory:
    """Memory as torch's allocators would give it out.

    Args:
        order: is told when an allocator has asked whether events have passed.
        seed: of random choices.
    """

    def __init__(self, order: Order, seed: int) -> None:
        self._order = order
        self._random = random.Random(seed)
        self._starts: list[int] = []
        self._blocks: dict[int, Block] = {}
        self._freed: list[Block] = []
        self._lock = threading.RLock()

    def block(self, tensor: torch.Tensor) -> Block | None:
        """A tensor's block, if its memory is a device's or pinned."""
        storage = tensor.untyped_storage()
        return self.at(storage.data_ptr()) if storage.nbytes() else None

    def at(self, address: int) -> Block | None:
        with self._lock:
            i = bisect.bisect_right(self._starts, address) - 1
            if i < 0:
                return None
            block = self._blocks[self._starts[i]]
            return block if address < self._starts[i] + block.size else None

    def allocate(self, tensor: torch.Tensor, place: str, stream: str) -> Block | None:
        """Say that the memory of a new tensor is a device's, or pinned."""
        storage = tensor.untyped_storage()
        start, size = storage.data_ptr(), storage.nbytes()
        if not size:
            return None
        with self._lock:
            block = self._taken_again(place, size, stream) or Block(place, size, stream)
            bisect.insort(self._starts, start)
            self._blocks[start] = block
        weakref.finalize(storage, self._free, start).atexit = False
        return block

    def _free(self, start: int) -> None:
        with self._lock:
            self._starts.remove(start)
            block = self._blocks.pop(start)
            if block.place == PINNED:
                self._order.host_accesses(reads=[], writes=[block], what="giving back")
            block.pending = [dict(self._order.clock(user)) for user in block.users]
            block.users = set()
            self._freed.append(block)

    def _taken_again(self, place: str, size: int, stream: str) -> Block | None:
        """Freed memory that torch may give out again: at once on its own stream, else after the others' events."""
        for block in self._freed:
            if (block.place, block.size, block.stream) != (place, size, stream):
                continue
            if block.pending and self._random.random() < 0.5:
                continue
            for event in block.pending:  # the allocator has asked, and they had passed
                join(self._order.clock(HOST), event)
            block.pending = []
            self._freed.remove(block)
            return block
        return None
