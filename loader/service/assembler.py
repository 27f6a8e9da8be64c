"""Batches out of a service's blocks, in the bridge."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

import numpy as np

from budgetloader.errors import CorruptSampleError, EngineError
from budgetloader.parallel import cores
from budgetloader.service import SHARE
from budgetloader.service.blocks import AHEAD, BLOCK, Key, Part, Spans, runs
from budgetloader.service.exchange import Progress, ServedDataset, Taken
from budgetloader.service.failures import samples_of, worker_ended
from budgetloader.service.lending import Lender
from budgetloader.service.link import GONE_SECONDS, RETRY_SECONDS, Link
from budgetloader.service.protocol import BatchAnswer, Loan, ProtocolError, Setup

_TRAINERS = 8  # that the memory is divided among, until the service says how many there are
_UNDER_WAY = 3  # blocks that a trainer's batches are being made of
_MOST_POSITIONS = 1 << 60
_LENT = 6  # blocks, at most, of which a trainer has batches: those prefetched, and some more


class Assembler:
    """Puts batches together from blocks.

    Args:
        link: to the service.
        served: its dataset.
        setup: what the trainer's batches look like.
        label: the trainer's, for people to see.
    """

    def __init__(self, link: Link, served: ServedDataset, setup: Setup, *, label: str) -> None:
        self._samples, self._path = len(served.labels), served.path
        self._link, self._spec, self._layout, self._tone = link, setup.spec, setup.layout, setup.tone_array
        self._trainer = uuid.uuid4().hex
        self._label, self._schedule = label, setup.schedule
        self._wanted: Counter[Key] = Counter()  # how many batches under way need it
        self._ends: dict[int, int] = {}  # positions of each epoch's budget
        self._ids: dict[tuple[int, int], bytes] = {}  # (epoch, block) → its samples, where it is known by them
        self._references: dict[Key, list[Part]] = {}
        self._values: dict[Key, list[Part]] = {}
        self._older: set[Key] = set()  # blocks that another trainer had asked for before
        self._tried: set[Key] = set()  # those of them that failed and were asked for again
        self._last: Key | None = None
        self._ahead: list[Key] = []
        self._capacity_bytes, self._workers = served.capacity_bytes, served.workers
        plain = self._layout == "channels_last" and self._tone.shape[1] == 0  # what a block has is what a batch has
        self._lender = Lender() if plain else None
        self._share(_TRAINERS)
        self._emitted, self._waited, self._decoded = 0, 0.0, 0
        self._copied = 0  # batches that were copied because the object store's memory was not found
        self._cpu_seconds = time.process_time()
        self._decode_seconds, self._decode_rows = 0.0, 0  # of all parts that came, whenever they were decoded

    @property
    def positions(self) -> int:
        """The most that an epoch's order may have: one with samples of its own may draw a sample more than once."""
        return _MOST_POSITIONS if self._ids else self._samples

    def know(self, epoch: int, number: int, ids: bytes) -> None:
        """Note which samples stand in a block. From the first on, blocks are known by their samples."""
        for old in [known for known in self._ids if known[0] < epoch - 2]:
            del self._ids[old]
        self._ids[epoch, number] = ids

    def want(self, epoch: int, spans: Spans, ends: Sequence[int]) -> None:
        """Note which blocks a batch needs, and those after it, up to the ends of its epoch's budget and the next one's.

        The next request to the service asks for all that is noted.
        """
        keys = self._keys(epoch, spans)
        self._wanted.update(keys)
        self._move_ends({epoch: ends[0], epoch + 1: ends[1]})
        rest = ((epoch, number) for number in range(keys[-1].number + 1, _blocks(ends[0])))
        following = ((epoch + 1, number) for number in range(_blocks(ends[1])))
        places = islice(chain(rest, following), self._most_ahead)
        ahead = [self._key(*place) for place in places if not self._ids or place in self._ids]
        for key in set(self._ahead) - set(ahead):
            if self._wanted[key] <= 0:
                self._drop(key)
        self._ahead = ahead

    def make(self, epoch: int, step: int, spans: Spans, out: np.ndarray) -> tuple[BatchAnswer, list[int]]:
        """Make a batch that was noted, and answer with its descriptors: it is lent, or written to `out`.

        Args:
            epoch, step: whose batch it is.
            spans: its positions.
            out: at least as many images, in the setup's dtype and layout.

        Raises:
            CorruptSampleError: one of its samples does not decode.
            ProtocolError: requests contradict each other.
            ServiceGoneError: the service has ended.
            EngineError: it refuses, or cannot decode.
        """
        began, waited = time.perf_counter(), self._waited
        keys = self._keys(epoch, spans)
        missing = [key for key in self._ahead if key not in self._references]
        if 2 * len(missing) >= self._most_ahead or any(key not in self._references for key in keys):
            self._ask(epoch, step, [])
        try:
            blocks = {key.number: self._block(key, epoch, step) for key in keys}
            shared = {key.number for key in keys if key in self._older}
        finally:
            self._release(keys)
        self._waited += time.perf_counter() - began
        pieces = [
            (part, rows, to)
            for number, whole, into in runs(spans)
            for part, rows, to in _overlaps(blocks[number], whole, into)
        ]
        if sum(rows.stop - rows.start for _, rows, _ in pieces) != sum(stop - start for start, stop in spans):
            raise ProtocolError(f"another batch of epoch {epoch} came with a smaller budget")
        replaced = tuple(row for piece in pieces for row in _replaced(*piece))  # raises before anything is lent
        loan, descriptors = self._deliver(pieces, out)
        self._emitted += pieces[-1][2].stop
        busy = self._busy(sum(to.stop - to.start for number, _, to in runs(spans) if number not in shared))
        decoded, self._decoded = self._decoded, 0
        stored = (self._waited - waited) * _store_share(blocks.values())
        return BatchAnswer(decoded, busy, self._copied, replaced, loan, stored), descriptors

    def _deliver(self, pieces: list[tuple[Part, slice, slice]], out: np.ndarray) -> tuple[Loan | None, list[int]]:
        """Lend a batch that lies in one part, if that is possible; else copy it."""
        if len(pieces) == 1 and self._lender is not None:
            part, rows, _ = pieces[0]
            images = part.content.images
            lent = self._lender.lend(images[rows], of=images, most=self._most_lent)
            self._copied += self._lender.lost
            if lent is not None:
                return lent
        for part, rows, to in pieces:
            self._copy(part.content.images[rows], out[to])
        return None, []

    def _busy(self, samples: int) -> float:
        """How long the service's workers are at work while so many samples are decoded for this trainer.

        With what this process works itself, on the same cores. It assumes that the other trainers need as many samples:
        they share what this one asked for, or ask for as much. It is counted as samples are handed over, not as they
        are asked for: blocks that are decoded ahead for a short training's end belong to the time of that end.
        """
        each = self._decode_seconds / max(self._decode_rows, 1)
        cpu, self._cpu_seconds = self._cpu_seconds, time.process_time()
        own = self._cpu_seconds - cpu  # this process takes its part of the cores that the workers decode on
        return samples * each * self._sharing / self._workers + own / cores()

    def take_back(self, loans: Sequence[int]) -> None:
        """The trainer does not use these loans any more.

        Raises:
            ProtocolError: it never had one of them.
        """
        if self._lender is not None:
            self._lender.take_back(loans)

    def leave(self) -> None:
        """Tell the service that the trainer leaves, and keep nothing but what is lent."""
        self._references.clear()
        self._values.clear()
        self._link.tell("leave", self._trainer, self._emitted)

    def _share(self, trainers: int) -> None:
        """Divide the memory among the trainers: how many blocks to ask for ahead, and how many to lend."""
        self._sharing = max(trainers, 1)
        each = self._sharing * self._spec.block_bytes
        self._most_ahead = max(1, min(AHEAD, self._capacity_bytes // each - _UNDER_WAY))
        memory_bytes = int(self._capacity_bytes / SHARE)
        if self._lender is not None and self._lender.store_bytes is not None:
            memory_bytes = min(memory_bytes, self._lender.store_bytes)  # a joined machine may have less
        self._most_lent = min(_LENT, int(memory_bytes * (1 - SHARE)) // each)

    def _keys(self, epoch: int, spans: Spans) -> list[Key]:
        return [self._key(epoch, number) for number in dict.fromkeys(number for number, _, _ in runs(spans))]

    def _key(self, epoch: int, number: int) -> Key:
        if not self._ids:
            return Key(self._spec, epoch, number)
        if (epoch, number) not in self._ids:
            raise ProtocolError(f"a batch needs block {number} of epoch {epoch}, whose samples were not told")
        return Key(self._spec, epoch, number, self._ids[epoch, number])

    def _move_ends(self, ends: dict[int, int]) -> None:
        """Note how far epochs reach; where one reaches further than before, its last block is asked for again."""
        grown = {epoch for epoch, end in ends.items() if end > self._ends.get(epoch, end)}
        for key in [key for key in self._references if key.epoch in grown]:
            self._references.pop(key)
            self._values.pop(key, None)
        for epoch, end in ends.items():  # of plans that were dropped, some may still be wanted
            self._ends[epoch] = max(end, self._ends.get(epoch, 0))

    def _block(self, key: Key, epoch: int, step: int) -> list[Part]:
        """A block's parts; they are asked for again where they were lost."""
        ray = self._link.ray
        while key not in self._values:
            if key not in self._references:
                self._ask(epoch, step, [])
            try:
                parts = self._references[key]
                contents = ray.get([part.content for part in parts], timeout=GONE_SECONDS / 2)
                self._values[key] = [part._replace(content=c) for part, c in zip(parts, contents, strict=True)]
                self._decode_seconds += sum(content.seconds for content in contents)
                self._decode_rows += sum(len(content.images) for content in contents)
            except ray.exceptions.GetTimeoutError:
                self._link.call("status")  # it may just be slow; this raises if the service has ended
            except (
                ray.exceptions.RayTaskError,
                ray.exceptions.WorkerCrashedError,
                ray.exceptions.OutOfMemoryError,
            ) as error:
                parts = self._references[key]
                self._forget(key)
                if key in self._older:  # it may have failed long ago, for another: it is tried once for this trainer
                    self._older.remove(key)
                    self._tried.add(key)
                    continue
                raise self._failed(key, parts, error) from None
            except ray.exceptions.RayError:
                # What was lost with a worker or the coordinator is asked for again, with all that has not come yet.
                lost = [(k, r) for k, r in self._references.items() if k not in self._values]
                for k, _ in lost:
                    del self._references[k]
                time.sleep(RETRY_SECONDS)
                self._ask(epoch, step, lost)
        return self._values[key]

    def _failed(self, key: Key, parts: list[Part], error: Exception) -> EngineError:
        why = getattr(error, "cause", None)
        if why is None:
            ids = samples_of(key, parts[0].start, parts[-1].stop, samples=self._samples)
            why = worker_ended(key, ids, self._path)
        return EngineError(f"service {self._link.entry.name!r}: {why}")

    def _forget(self, key: Key) -> None:
        """Have a block that failed decoded again by whoever asks next: the cause may be gone by then."""
        self._link.tell("forget", [(key, self._references.pop(key))])

    def _ask(self, epoch: int, step: int, lost: list[tuple[Key, list[Part]]]) -> None:
        """Ask for every block that is wanted and not asked for yet."""
        keys = [key for key in dict.fromkeys((*self._wanted, *self._ahead)) if key not in self._references]
        progress = Progress(
            name=self._label,
            schedule=self._schedule,
            epoch=epoch,
            step=step,
            emitted=self._emitted,
            waited_seconds=self._waited,
            copied=self._copied,
        )
        wanted = [(key, min(BLOCK, self._ends[key.epoch] - key.number * BLOCK)) for key in keys]
        taken = Taken(*self._link.call("take", self._trainer, progress, wanted, lost))
        self._older.update(
            key for key, cached in zip(keys, taken.cached, strict=True) if cached and key not in self._tried
        )
        self._share(taken.trainers)
        self._references.update(zip(keys, taken.blocks, strict=True))
        self._decoded += taken.decoded

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
        self._older.discard(key)

    def _copy(self, images: np.ndarray, out: np.ndarray) -> None:
        if self._tone.shape[1]:
            from budgetloader.resize import apply_tone  # numba's import costs a trainer half a second

            toned = out if self._layout == "channels_last" else np.empty(images.shape, out.dtype)
            apply_tone(images, self._tone, toned)
            images = toned
        if images is not out:
            np.copyto(out, images if self._layout == "channels_last" else images.transpose(0, 3, 1, 2))


def _replaced(part: Part, rows: slice, to: slice) -> Iterator[tuple[int, int]]:
    """(row of the batch, sample) where, among some rows of a part, another sample stands in.

    Raises:
        CorruptSampleError: one of them does not decode.
    """
    for row, (message, sample) in part.content.corrupt.items():
        if rows.start <= row < rows.stop:
            raise CorruptSampleError(message, sample=sample)
    for row, sample in part.content.replaced.items():
        if rows.start <= row < rows.stop:
            yield row - rows.start + to.start, sample


def _overlaps(parts: list[Part], rows: slice, to: slice) -> Iterator[tuple[Part, slice, slice]]:
    """Some rows of a block as rows of its parts, and where in the batch they go."""
    for part in parts:
        start, stop = max(rows.start, part.start), min(rows.stop, part.stop)
        if start < stop:
            row = to.start + start - rows.start
            yield part, slice(start - part.start, stop - part.start), slice(row, row + stop - start)


def _store_share(blocks: Iterable[list[Part]]) -> float:
    """The share of the time that blocks took to be made in which that waited for object storage, 0 … 1."""
    contents = [part.content for parts in blocks for part in parts]
    waited = sum(content.store_seconds for content in contents)
    return waited / (waited + sum(content.seconds for content in contents)) if waited else 0.0


def _blocks(end: int) -> int:
    """The blocks of the positions up to `end`."""
    return -(-end // BLOCK)
