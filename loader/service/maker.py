"""Batches that a bridge makes, as an engine of the trainer."""

from __future__ import annotations

import logging
import mmap
import os
import time
from collections import deque
from itertools import chain, islice
from typing import Any

import numpy as np

from budgetloader.batch import Batch
from budgetloader.budget import Budget
from budgetloader.engines.base import Job, Work
from budgetloader.engines.buffers import BufferPool, buffer_dtype, tone
from budgetloader.engines.upload import uploader
from budgetloader.errors import CorruptSampleError, EngineError
from budgetloader.plans import BatchPlan
from budgetloader.selections import Chosen
from budgetloader.service import wire
from budgetloader.service.blocks import AHEAD, BLOCK, Spec, spans
from budgetloader.service.connection import POLL_SECONDS, Bridge, BridgeEnded
from budgetloader.service.failures import check_alive, gone
from budgetloader.service.lending import Borrower
from budgetloader.service.protocol import BatchAnswer, BatchRequest, BlockIds, Buffer, Setup

_log = logging.getLogger("budgetloader")
_COPIED = (
    "service %r: batches are copied, which costs time: the object store's memory is not found (another version of Ray, "
    "or a hidden /proc)"
)
_RESTARTS = 5  # of the bridge, without a batch in between


class BridgeMaker:
    """Has batches made by a bridge, and starts it again where it ends; see `budgetloader.engines.base_threaded.Maker`.

    Args:
        job: the engine's.
        work: where decoding is counted.
        bridge: closed with this.
        budget: the trainer's.
        seed: the stream's.
    """

    def __init__(self, job: Job, work: Work, bridge: Bridge, *, budget: Budget, seed: int) -> None:
        self.depth = job.capacity
        self._work, self._bridge = work, bridge
        self._ends = [*(budget.epoch_samples(epoch) for epoch in range(len(budget.batches))), 0]
        self._uploader = uploader(job)
        output = self._uploader.host
        layout: Any = output.layout  # Output has checked these
        dtype: Any = str(buffer_dtype(output))
        rows: Any = tuple(tuple(map(float, row)) for row in tone(output))
        self._setup = Setup(
            spec=Spec(
                fingerprint=bridge.index.fingerprint,
                image_size=output.image_size,
                interpolation=output.interpolation,
                crop=output.crop,
                seed=seed,
                on_corrupt=job.on_corrupt,
                channels=output.channels,  # type: ignore[arg-type]  # Output has checked it
            ),
            schedule=str(budget.schedule),
            layout=layout,
            dtype=dtype,
            tone=rows,
        )
        self._shared: dict[int, tuple[int, tuple[int, int, int, int]]] = {}  # address → descriptor, shape
        self._pool = BufferPool(output, job.batch_size, allocate=self._allocate)  # type: ignore[arg-type]
        self._pending: deque[tuple[BatchPlan, np.ndarray]] = deque()
        self._borrower: Borrower | None = None
        self._chosen: Chosen | None = None
        self._told: set[tuple[int, int]] = set()  # blocks, by (epoch, number), whose samples this bridge knows
        self._broken: BaseException | None = None
        self._restarts = 0
        self._said = False  # that batches are copied
        try:
            bridge.send(self._setup, [])
        except BridgeEnded as error:
            self._broken = error

    def follow(self, chosen: Chosen) -> None:
        """Draw what the loader draws; called before the first batch is begun."""
        self._chosen = chosen

    def enter(self) -> None:
        self._uploader.enter()

    def begin(self, plan: BatchPlan) -> None:
        try:
            buffer = self._pool.take(len(plan))
            self._pending.append((plan, buffer))
            if self._broken is None:
                self._request(plan, buffer)
        except BridgeEnded as error:
            self._broken = error

    def finish(self, plan: BatchPlan) -> Batch:
        answer = self._answer()
        begun, buffer = self._pending.popleft()
        assert begun is plan, "batches are answered in order"
        if isinstance(answer, BaseException):
            raise answer
        try:
            return self._made(plan, buffer, answer)
        except (
            ValueError,
            OverflowError,
            OSError,
        ) as error:  # a loan outside the store's memory, a row outside the batch
            raise EngineError(f"service {self._bridge.entry.name!r} gives a batch that cannot be ({error})") from None

    def _made(self, plan: BatchPlan, buffer: np.ndarray, answer: BatchAnswer) -> Batch:
        """The batch that an answer stands for."""
        self._restarts = 0
        if answer.decoded:
            self._work.add_decoded(plan.epoch, answer.decoded)
        self._work.add_busy(answer.decode_busy_seconds, stage="decode")
        self._bridge.index.store_wait_seconds += answer.store_seconds
        if answer.copied and not self._said:
            self._said = True
            _log.warning(_COPIED, self._bridge.entry.name)
        if answer.loan is not None:
            if self._borrower is None:
                raise ValueError("a loan without descriptors")
            buffer = self._borrower.array(answer.loan.number, offset=answer.loan.offset, shape=buffer.shape)
        samples, labels = plan.samples.copy(), self._bridge.index.labels
        for row, sample in answer.replaced:
            if row >= len(samples) or sample >= len(labels):
                raise ValueError(f"sample {sample} of {len(labels)} in row {row} of {len(samples)}")
            samples[row] = sample
        # The memory is shared with the bridge, and not pinned: a device gets a copy.
        sent = self._uploader.send(buffer, labels[samples], foreign=True)
        return Batch(sent.images, sent.labels, plan, samples, sent.arrival)

    def give_up(self) -> None:
        """Called by another thread: whatever `finish` waits for is not wanted any more."""
        self._bridge.given_up = True

    def close(self) -> None:
        self._settle()
        self._uploader.close()
        self._bridge.close()
        for descriptor, _ in self._shared.values():
            os.close(descriptor)
        self._shared.clear()

    def _answer(self) -> BatchAnswer | BaseException:
        while True:
            try:
                if self._broken is not None:
                    self._restart()
                answer, descriptors = self._bridge.answer(BatchAnswer)
                if descriptors:
                    self._borrow(descriptors)
                return answer
            except BridgeEnded as error:
                self._broken = error
            except (EngineError, CorruptSampleError) as error:
                return error

    def _borrow(self, descriptors: list[int]) -> None:
        """Take the two descriptors that come with a bridge's first loan."""
        if len(descriptors) != 2:
            count = len(descriptors)
            wire.close_all(descriptors)
            raise EngineError(f"{count} descriptors came with a batch, in place of 2")
        self._settle()
        self._borrower = Borrower(*descriptors)

    def _settle(self) -> None:
        """Make what this bridge has lent the trainer's own; the next bridge lends its own."""
        if self._borrower is not None:
            self._borrower.settle()
            self._borrower = None

    def _restart(self) -> None:
        """Start the bridge again, and ask again for all that it owed; what it makes is the same."""
        entry = self._bridge.entry
        deadline = time.monotonic() + 2 * POLL_SECONDS
        while entry.alive and time.monotonic() < deadline:  # it may have ended a moment before the service did
            time.sleep(0.05)
        self._restarts += 1
        check_alive(entry)
        if self._restarts > _RESTARTS:
            raise gone(entry, f"the connection to it breaks: {self._bridge.last_words()}")
        self._bridge.close()
        self._settle()
        _, descriptors = self._bridge.start()
        wire.close_all(descriptors)  # of the dataset, which is known
        self._bridge.send(self._setup, [])
        self._told.clear()
        for address, (descriptor, shape) in self._shared.items():
            self._bridge.send(Buffer(address, shape), [descriptor])
        for plan, buffer in self._pending:
            self._request(plan, buffer)
        self._broken = None

    def _request(self, plan: BatchPlan, buffer: np.ndarray) -> None:
        this, following = self._reach(plan)
        self._tell(plan, this, following)
        request = BatchRequest(
            buffer=buffer.ctypes.data,
            epoch=plan.epoch,
            step=plan.step,
            spans=tuple(spans(plan.positions)),
            ends=(this, following),
            returned=tuple(self._borrower.returned()) if self._borrower is not None else (),
        )
        self._bridge.send(request, [])

    def _reach(self, plan: BatchPlan) -> tuple[int, int]:
        """How many positions the plan's epoch has, and the next one, as far as that is known."""
        if self._chosen is None:
            return self._ends[plan.epoch], self._ends[plan.epoch + 1]
        after = plan.epoch + 1
        known = after < len(self._chosen.steps) and self._chosen.ready(after)
        # The epoch may have been changed since the plan was made: then nobody will take the batch.
        this = max(self._chosen.end(plan.epoch), int(plan.positions.max()) + 1)
        return this, self._chosen.end(after) if known else 0

    def _tell(self, plan: BatchPlan, this: int, following: int) -> None:
        """Say which samples stand in the blocks that a batch needs, and in some behind them, if that must be said."""
        chosen = self._chosen
        if chosen is None or chosen.uniform:
            return
        needed = np.unique(plan.positions // BLOCK).tolist()
        rest = ((plan.epoch, number) for number in range(needed[-1] + 1, -(-this // BLOCK)))
        after = ((plan.epoch + 1, number) for number in range(-(-following // BLOCK)))
        ahead = islice(chain(rest, after), AHEAD)
        for epoch, number in (*((plan.epoch, number) for number in needed), *ahead):
            if (epoch, number) not in self._told:
                stop = min((number + 1) * BLOCK, chosen.size)
                ids = chosen.ids(epoch, np.arange(number * BLOCK, stop, dtype=np.int64))
                self._bridge.send(BlockIds(epoch, number, tuple(ids.tolist())), [])
                self._told.add((epoch, number))
        self._told = {block for block in self._told if block[0] >= plan.epoch - 1}

    def _allocate(self, shape: tuple[int, int, int, int], dtype: np.dtype) -> np.ndarray:
        """Anonymous memory that both processes see."""
        size = int(np.prod(shape)) * dtype.itemsize
        descriptor = os.memfd_create("batch")
        os.ftruncate(descriptor, size)
        array = np.frombuffer(mmap.mmap(descriptor, size), dtype).reshape(shape)
        self._shared[array.ctypes.data] = (descriptor, shape)
        if self._broken is None:
            try:
                self._bridge.send(Buffer(array.ctypes.data, shape), [descriptor])
            except BridgeEnded as error:  # the next one is told of all buffers
                self._broken = error
        return array
