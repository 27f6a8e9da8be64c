"""The service's coordinator: knows the blocks and the trainers, and touches no pixel."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import ray

from budgetloader.errors import EngineError
from budgetloader.service import DECODE, SHARE
from budgetloader.service.blocks import BLOCK, Content, Key, Part, Reading, Spec
from budgetloader.service.cache import BlockCache
from budgetloader.service.exchange import Progress, ServedDataset, Taken
from budgetloader.service.failures import ATTEMPTS
from budgetloader.service.status import ServiceStatus, TrainerStatus
from budgetloader.service.stores import Report, Stores

_FORGET_SECONDS = 120.0  # a trainer that asks for nothing for so long is not counted any more
_RATE_SECONDS = 5.0


@dataclass
class Trainer:
    """What is known of one trainer, for people to see.

    Attributes:
        progress: what it reported last.
        decoded: samples that were decoded because it asked first.
        seen: when it asked last.
    """

    progress: Progress
    decoded: int = 0
    seen: float = field(default_factory=time.monotonic)
    window: tuple[float, int, float] = (0.0, 0, 0.0)  # time, emitted and waited at the rate's last reading
    rate: float = 0.0
    starved: float = 0.0

    def report(self, progress: Progress) -> None:
        """Take note of what it has done."""
        now = self.seen = time.monotonic()
        self.progress = progress
        then, emitted, waited = self.window
        if not then:
            self.window = (now, progress.emitted, progress.waited_seconds)
        elif now - then >= _RATE_SECONDS:
            self.rate = (progress.emitted - emitted) / (now - then)
            self.starved = min((progress.waited_seconds - waited) / (now - then), 1.0)
            self.window = (now, progress.emitted, progress.waited_seconds)

    def status(self, trainer: str) -> TrainerStatus:
        """It as people see it; `trainer` is its id."""
        now, progress = time.monotonic(), self.progress
        return TrainerStatus(
            id=trainer[:8],
            name=progress.name,
            schedule=progress.schedule,
            epoch=progress.epoch,
            step=progress.step,
            emitted=progress.emitted,
            decoded=self.decoded,
            images_per_second=self.rate if now - self.seen < 2 * _RATE_SECONDS else 0.0,
            starved=self.starved,
            copied=progress.copied,
            silent_seconds=now - self.seen,
        )


def _decode(reading: Reading, coordinator: Any, key: Key, start: int, stop: int) -> Content:
    from budgetloader.service.worker import decode_block, report  # the coordinator needs none of what that imports

    try:
        return decode_block(reading, key, start, stop)
    finally:
        found = report(reading)
        if found is not None and coordinator is not None:
            coordinator.add_report.remote(found)  # nobody waits for it


def _warm_up(reading: Reading) -> None:
    _decode(reading, None, Key(Spec(reading.open().fingerprint, 32, "antialias", "resized", 0, "replace"), 0, 0), 0, 1)


class Coordinator:
    """Hands out references to blocks, and has those decoded that are not cached.

    It is a Ray actor, which is restarted if it dies. It then learns anew from what trainers ask for.

    Args:
        reading: the dataset, and how it is opened.
        memory_bytes: of the object store.
        workers: that decode.
    """

    def __init__(self, reading: Reading, memory_bytes: int, workers: int) -> None:
        self._dataset = reading.open()
        traffic = getattr(self._dataset, "traffic", None)
        self._stores = None if traffic is None else Stores(traffic)
        myself = None if traffic is None else ray.get_runtime_context().current_actor
        # A block that ends its worker each time is given up, and all who wait for it are told.
        decode = ray.remote(num_cpus=0, resources={DECODE: 1}, max_retries=ATTEMPTS - 1)(_decode)
        self._cache = BlockCache(
            decode=lambda key, start, stop: decode.remote(reading, myself, key, start, stop),
            capacity_bytes=int(memory_bytes * SHARE),
        )
        # Each worker once, so that the first trainer does not wait for imports and compiled code.
        self._warming_up = [
            ray.remote(num_cpus=0, resources={DECODE: 1})(_warm_up).remote(reading) for _ in range(workers)
        ]
        self._reading, self._memory_bytes = reading, memory_bytes
        self._trainers: dict[str, Trainer] = {}
        self._emitted_before = 0  # to trainers that are gone
        self._began = time.monotonic()

    def ready(self) -> None:
        """Wait until the workers have been warmed up."""
        ray.get(self._warming_up)

    def index(self) -> ServedDataset:
        """What trainers plan with."""
        data = self._dataset
        parts = getattr(data, "parts", [data]) if len(self._reading.paths) > 1 else [data]
        return ServedDataset(
            path=str(self._reading),
            files=tuple(zip(self._reading.paths, map(len, parts), strict=True)),
            fingerprint=data.fingerprint,
            classes=tuple(data.classes),
            verifies=data.verifies,
            capacity_bytes=self._cache.capacity_bytes,
            workers=max(1, int(ray.cluster_resources().get(DECODE, 1))),
            heights=data.heights.astype("u2"),
            widths=data.widths.astype("u2"),
            labels=data.labels,
        )

    def take(
        self,
        trainer: str,
        progress: Progress,
        wanted: list[tuple[Key, int]],
        lost: list[tuple[Key, list[Part]]],
    ) -> Taken:
        """Parts of blocks, by reference.

        Args:
            trainer: the id of the one that asks.
            progress: of the trainer.
            wanted: which blocks, and how many of their rows.
            lost: blocks of which a reference gave nothing, to be made again.

        Raises:
            EngineError: they are of another dataset, or reach beyond it.
        """
        self._check(wanted)
        for key, parts in lost:
            self._cache.drop(key, parts)
        cached = [self._cache.has(key, rows) for key, rows in wanted]
        blocks, decoded = self._cache.take(wanted)
        state = self._trainers.setdefault(trainer, Trainer(progress))
        state.report(progress)
        state.decoded += decoded
        self._forget_the_silent()
        return Taken(blocks, cached, decoded, len(self._trainers))

    def forget(self, failed: list[tuple[Key, list[Part]]]) -> None:
        """Drop blocks that could not be made, so that whoever asks next has them tried again."""
        for key, parts in failed:
            self._cache.drop(key, parts)

    def add_report(self, report: Report) -> None:
        """A worker says what it has asked of the store."""
        if self._stores is not None:
            self._stores.add(report)

    def leave(self, trainer: str, emitted: int) -> None:
        """A trainer leaves; it was given so many samples."""
        if trainer in self._trainers:
            del self._trainers[trainer]
            self._emitted_before += emitted

    def status(self) -> ServiceStatus:
        """What `budgetloader top` and the metrics show."""
        self._forget_the_silent()
        counts = self._cache.counts
        return ServiceStatus(
            path=str(self._reading),
            samples=len(self._dataset),
            uptime_seconds=time.monotonic() - self._began,
            memory_bytes=self._memory_bytes,
            used_bytes=self._cache.used_bytes,
            blocks=len(self._cache),
            hits=counts.hits,
            misses=counts.misses,
            decoded=counts.decoded,
            emitted=self._emitted_before + sum(t.progress.emitted for t in self._trainers.values()),
            trainers=tuple(t.status(trainer) for trainer, t in self._trainers.items()),
            store=None if self._stores is None else self._stores.status,
        )

    def _check(self, wanted: list[tuple[Key, int]]) -> None:
        """Refuse blocks that this dataset does not have."""
        served, samples = self._dataset.fingerprint, len(self._dataset)
        for key, rows in wanted:
            if key.spec.fingerprint != served:
                raise EngineError(
                    f"the service has dataset {served} now, and the trainer was connected to {key.spec.fingerprint}; "
                    "connect again"
                )
            ids = key.samples
            if ids is not None and not (0 < rows <= len(ids) <= BLOCK and 0 <= ids.min() <= ids.max() < samples):
                raise EngineError(f"block {key.number} is of samples that the dataset's {samples} are not")
            if ids is None and not (0 < rows <= BLOCK and 0 <= key.number * BLOCK <= samples - rows):
                raise EngineError(f"{rows} rows of block {key.number} are not among the dataset's {samples} samples")

    def _forget_the_silent(self) -> None:
        """Forget trainers that have not asked for blocks for long."""
        now = time.monotonic()
        for trainer, state in list(self._trainers.items()):
            if now - state.seen > _FORGET_SECONDS:
                self.leave(trainer, state.progress.emitted)
