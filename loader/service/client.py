"""The trainer's side of the service: batches that a process of its own puts together (see `bridge`)."""

from __future__ import annotations

import dataclasses
import logging
import math
import mmap
import operator
import os
import socket
import time
from collections import deque
from typing import Any

import numpy as np

from budgetloader.batch import Batch
from budgetloader.budget import Budget
from budgetloader.engines.base import Job, Work
from budgetloader.engines.base_threaded import ThreadedEngine
from budgetloader.engines.buffers import BufferPool, buffer_dtype, tone
from budgetloader.engines.upload import uploader
from budgetloader.errors import CorruptSampleError, EngineError
from budgetloader.loader import BudgetLoader
from budgetloader.plans import BatchPlan
from budgetloader.service import SHARE, registry
from budgetloader.service.blocks import BLOCK, Spec, spans
from budgetloader.service.connection import POLL_SECONDS, Bridge, BridgeEnded
from budgetloader.service.lending import Borrower
from budgetloader.service.link import gone

_LABEL_LETTERS = 200
_log = logging.getLogger("budgetloader")
_COPIED = (
    "service %r: batches are copied, which costs time: the object store's memory is not to be found (another version "
    "of Ray, or a hidden /proc)"
)
_RESTARTS = 5  # of the bridge without a batch in between


def connect(name: str, *, batch_size: int, image_size: int, **options: Any) -> BudgetLoader:
    """A `BudgetLoader` whose images come from a running service.

    Several connections share what they both want: the same seed, image_size, interpolation, crop and
    on_corrupt. Schedules, batch sizes, dtypes, ranks and speeds may differ. The service decodes a few blocks
    of 256 images ahead of the foremost trainer, also of the epoch to come.

    Args:
        name: the service's, as `budgetloader serve` was given it.
        batch_size, image_size, options: as for `BudgetLoader`, without `engine` and `workers`;
            `sampling` must be "independent", and `train` True.
        label: among the options: what `budgetloader top` calls this trainer.

    Raises:
        EngineError: there is no such service, or it is gone: within 5 seconds, now and later. Start it
            again, connect, and `load_state_dict` to go on.
    """
    label = str(options.pop("label", f"{socket.gethostname()}:{os.getpid()}"))[:_LABEL_LETTERS]
    for option in ("engine", "workers"):
        if option in options:
            raise EngineError(f"{option}={options[option]!r}: the service decides that; leave it out")
    if not options.get("train", True):
        raise EngineError("train=False: evaluation is not shared; make a BudgetLoader from the file")
    if options.get("sampling", "independent") != "independent":
        raise EngineError(
            f"sampling={options['sampling']!r}: only sampling='independent' can be shared; the others' "
            "order depends on the schedule"
        )
    bridge = Bridge(registry.find(name), label=label)
    schedule, seed = options.get("schedule"), options.get("seed", 0)

    def engine(job: Job) -> ThreadedEngine:
        work = Work()
        assert schedule is not None, "BudgetLoader has refused that by now"
        _check_memory(bridge, job)
        budget = schedule.budget(len(bridge.index), batch_size=batch_size)
        maker = _Maker(job, work, bridge, budget=budget, seed=seed)
        return ThreadedEngine(maker, capacity=job.capacity, work=work, name=f"service-{name}")

    engine.engine_name = f"service:{name}"  # type: ignore[attr-defined]
    try:
        return BudgetLoader(bridge.index, batch_size=batch_size, image_size=image_size, engine=engine, **options)
    except BaseException:
        bridge.close()
        raise


def _check_memory(bridge: Bridge, job: Job) -> None:
    """Refuse what the service's memory could never hold: one batch's blocks and two more."""
    least = (job.batch_size // BLOCK + 3) * BLOCK * job.output.image_size**2 * 3
    if least > bridge.index.capacity_bytes:
        raise EngineError(
            f"batches of {job.batch_size} images of {job.output.image_size} pixels need {least:,} bytes of blocks, and "
            f"service {bridge.entry.name!r} keeps {bridge.index.capacity_bytes:,}; serve with at least "
            f"--memory {math.ceil(least / SHARE / 1e6)}MB"
        )


def status(name: str) -> dict[str, Any]:
    """What a service is doing: see `budgetloader.service.coordinator.Coordinator.status`."""
    bridge = Bridge(registry.find(name), label="status")
    try:
        return bridge.ask({"op": "status"})[0]
    finally:
        bridge.close()


class _Maker:
    """Has batches made; see `budgetloader.engines.base_threaded.Maker`."""

    def __init__(self, job: Job, work: Work, bridge: Bridge, *, budget: Budget, seed: int) -> None:
        self.depth = job.capacity
        self._job, self._work, self._bridge = job, work, bridge
        self._ends = [*(budget.epoch_samples(epoch) for epoch in range(len(budget.batches))), 0]
        self._uploader = uploader(job)
        output = self._uploader.host
        spec = Spec(
            bridge.index.fingerprint, output.image_size, output.interpolation, output.crop, seed, job.on_corrupt
        )
        self._setup = {
            "op": "setup",
            "spec": dataclasses.asdict(spec),
            "schedule": str(budget.schedule),
            "layout": output.layout,
            "dtype": str(buffer_dtype(output)),
            "tone": tone(output).tolist(),
        }
        self._shared: dict[int, tuple[int, tuple[int, ...]]] = {}  # address → descriptor, shape
        self._pool = BufferPool(output, job.batch_size, allocate=self._allocate)
        self._pending: deque[tuple[BatchPlan, np.ndarray]] = deque()
        self._borrower: Borrower | None = None
        self._broken: BaseException | None = None
        self._restarts = 0
        self._said = False  # that batches are copied
        try:
            bridge.send(self._setup, [])
        except BridgeEnded as error:
            self._broken = error

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
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise EngineError(
                f"the process between here and service {self._bridge.entry.name!r} answers without sense ({error!r}); "
                "is it of the same version?"
            ) from None

    def _made(self, plan: BatchPlan, buffer: np.ndarray, answer: dict[str, Any]) -> Batch:
        """The batch that an answer stands for."""
        self._restarts = 0
        if answer["decoded"]:
            self._work.add_decoded(plan.epoch, answer["decoded"])
            self._work.add_busy(answer["decode_busy_seconds"], stage="decode")
        if answer["copied"] and not self._said:
            self._said = True
            _log.warning(_COPIED, self._bridge.entry.name)
        if "loan" in answer:
            if self._borrower is None:
                raise ValueError("a loan without descriptors")
            buffer = self._borrower.array(answer["loan"], offset=answer["offset"], shape=buffer.shape)
        samples, labels = plan.samples.copy(), self._bridge.index.labels
        for row, sample in answer["replaced"]:
            if not 0 <= row < len(samples) or not 0 <= sample < len(labels):
                raise ValueError(f"sample {sample} of row {row}")
            samples[row] = operator.index(sample)
        # The memory is shared with the process between, and not pinned: a device gets a copy.
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

    def _answer(self) -> dict[str, Any] | BaseException:
        while True:
            try:
                if self._broken is not None:
                    self._restart()
                answer, descriptors = self._bridge.answer()
                if descriptors:
                    self._borrow(descriptors)
                return answer
            except BridgeEnded as error:
                self._broken = error
            except (EngineError, CorruptSampleError) as error:
                return error

    def _borrow(self, descriptors: list[int]) -> None:
        if len(descriptors) != 2:
            for descriptor in descriptors:
                os.close(descriptor)
            raise EngineError(f"{len(descriptors)} descriptors came with a batch, and not 2")
        self._settle()
        self._borrower = Borrower(*descriptors)

    def _settle(self) -> None:
        """Owe this process between nothing any more; the next one lends its own."""
        if self._borrower is not None:
            self._borrower.settle()
            self._borrower = None

    def _restart(self) -> None:
        """Start the process between again, and ask again for all that it owed; what it made is the same."""
        entry = self._bridge.entry
        deadline = time.monotonic() + 2 * POLL_SECONDS
        while entry.alive and time.monotonic() < deadline:  # it may have ended a moment before the service did
            time.sleep(0.05)
        self._restarts += 1
        if not entry.alive:
            raise gone(entry, f"process {entry.pid} has ended")
        if self._restarts > _RESTARTS:
            raise gone(entry, f"the connection to it breaks: {self._bridge.last_words()}")
        self._bridge.close()
        self._settle()
        self._bridge.start()
        self._bridge.send(self._setup, [])
        for address, (descriptor, shape) in self._shared.items():
            self._bridge.send({"op": "buffer", "id": address, "shape": shape}, [descriptor])
        for plan, buffer in self._pending:
            self._request(plan, buffer)
        self._broken = None

    def _request(self, plan: BatchPlan, buffer: np.ndarray) -> None:
        message = {
            "op": "batch",
            "buffer": buffer.ctypes.data,
            "epoch": plan.epoch,
            "step": plan.step,
            "spans": spans(plan.positions),
            "ends": self._ends[plan.epoch : plan.epoch + 2],
            "returned": self._borrower.returned() if self._borrower is not None else [],
        }
        self._bridge.send(message, [])

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Anonymous memory that both processes see."""
        size = int(np.prod(shape)) * dtype.itemsize
        descriptor = os.memfd_create("batch")
        os.ftruncate(descriptor, size)
        array = np.frombuffer(mmap.mmap(descriptor, size), dtype).reshape(shape)
        self._shared[array.ctypes.data] = (descriptor, shape)
        if self._broken is None:
            try:
                self._bridge.send({"op": "buffer", "id": array.ctypes.data, "shape": shape}, [descriptor])
            except BridgeEnded as error:  # the next one is told of all buffers
                self._broken = error
        return array
