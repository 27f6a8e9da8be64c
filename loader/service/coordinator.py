"""The service's one actor: knows the blocks and the trainers, and touches no pixel."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import ray

from budgetloader.errors import EngineError
from budgetloader.service import DECODE, SHARE
from budgetloader.service.blocks import BLOCK, Key, Part, Reading
from budgetloader.service.cache import BlockCache
from budgetloader.service.failures import ATTEMPTS

_FORGET_SECONDS = 120.0  # a trainer that asks for nothing for so long is not counted any more
_RATE_SECONDS = 5.0


@dataclass
class Trainer:
    """What is known of one trainer, for people to see.

    Attributes:
        name: as it calls itself.
        schedule: its schedule.
        epoch, step: of the batch that it took last.
        emitted, decoded: samples it was given, and of those that were decoded because it asked first.
        waited_seconds: by its loader's thread, for blocks.
        copied: batches that were copied because the way to lend them is lost.
        seen: when it asked last.
    """

    name: str
    schedule: str
    epoch: int = 0
    step: int = 0
    emitted: int = 0
    decoded: int = 0
    waited_seconds: float = 0.0
    copied: int = 0
    seen: float = field(default_factory=time.monotonic)
    window: tuple[float, int, float] = (0.0, 0, 0.0)  # time, emitted and waited at the rate's last reading
    rate: float = 0.0
    starved: float = 0.0

    def reported(self, report: dict[str, Any]) -> None:
        now = self.seen = time.monotonic()
        for name in ("epoch", "step", "emitted", "waited_seconds", "copied"):
            setattr(self, name, report[name])
        then, emitted, waited = self.window
        if not then:
            self.window = (now, self.emitted, self.waited_seconds)
        elif now - then >= _RATE_SECONDS:
            self.rate = (self.emitted - emitted) / (now - then)
            self.starved = min((self.waited_seconds - waited) / (now - then), 1.0)
            self.window = (now, self.emitted, self.waited_seconds)


def _decode(reading: Reading, key: Key, start: int, stop: int) -> dict[str, Any]:
    from budgetloader.service.worker import decode_block  # the coordinator itself needs none of what that imports

    return decode_block(reading, key, start, stop)


def _warm_up(reading: Reading) -> None:
    from budgetloader.service.blocks import Spec

    _decode(reading, Key(Spec(reading.open().fingerprint, 32, "antialias", "resized", 0, "replace"), 0, 0), 0, 1)


class Coordinator:
    """Hands out references to blocks; has them decoded where they are not there.

    A Ray actor that is restarted where it dies: what it knew, it then learns again from what trainers
    ask for.

    Args:
        reading: the dataset, and how it is opened.
        memory_bytes: of the object store.
        workers: that decode.
    """

    def __init__(self, reading: Reading, memory_bytes: int, workers: int) -> None:
        self._dataset = reading.open()
        # A block that ends its worker each time is given up, and told to all who wait for it.
        decode = ray.remote(num_cpus=0, resources={DECODE: 1}, max_retries=ATTEMPTS - 1)(_decode)
        self._cache = BlockCache(
            decode=lambda key, start, stop: decode.remote(reading, key, start, stop),
            capacity_bytes=int(memory_bytes * SHARE),
        )
        # Each worker once, so that the first trainer does not wait for imports and compiled code.
        self._warm_up = [
            ray.remote(num_cpus=0, resources={DECODE: 1})(_warm_up).remote(reading) for _ in range(workers)
        ]
        self._path, self._memory_bytes = reading.path, memory_bytes
        self._trainers: dict[str, Trainer] = {}
        self._emitted_before = 0  # to trainers that are gone
        self._index: Any = None
        self._began = time.monotonic()

    def ready(self) -> None:
        """Waits until the workers have been warmed up."""
        ray.get(self._warm_up)

    def index(self) -> dict[str, Any]:
        """What trainers plan with."""
        data = self._dataset
        return {
            "path": self._path,
            "fingerprint": data.fingerprint,
            "classes": data.classes,
            "verifies": data.verifies,
            "capacity_bytes": self._cache.capacity_bytes,
            "workers": int(ray.cluster_resources().get(DECODE, 1)),
            "heights": data.heights.astype("u2"),
            "widths": data.widths.astype("u2"),
            "labels": data.labels,
        }

    def take(
        self,
        trainer: str,
        report: dict[str, Any],
        wanted: list[tuple[Key, int]],
        lost: list[tuple[Key, list[Part]]],
    ) -> tuple[list[list[Part]], list[bool], int, int]:
        """Parts of blocks, by reference, as `BlockCache.take`; which of the blocks somebody asked for before; the
        samples that are decoded for them; how many trainers share the memory.

        Args:
            trainer: who asks.
            report: name, schedule, epoch, step, emitted, waited_seconds.
            wanted: which blocks, and how many of their rows.
            lost: blocks of which a reference gave nothing, to be made again.

        Raises:
            EngineError: they are of another dataset, or reach beyond it.
        """
        wrong = next((k.spec.fingerprint for k, _ in wanted if k.spec.fingerprint != self._dataset.fingerprint), None)
        if wrong is not None:
            raise EngineError(
                f"the service has dataset {self._dataset.fingerprint} now, and the trainer was connected to {wrong}; "
                "connect again"
            )
        samples = len(self._dataset)
        for key, rows in wanted:
            if not (0 < rows <= BLOCK and 0 <= key.number * BLOCK <= samples - rows):
                raise EngineError(f"{rows} rows of block {key.number} are not among the dataset's {samples} samples")
        for key, parts in lost:
            self._cache.drop(key, parts)
        before = [self._cache.has(key, rows) for key, rows in wanted]
        blocks, decoded = self._cache.take(wanted)
        state = self._trainers.setdefault(trainer, Trainer(report["name"], report["schedule"]))
        state.reported(report)
        state.decoded += decoded
        self._forget()
        return blocks, before, decoded, len(self._trainers)

    def forget(self, failed: list[tuple[Key, list[Part]]]) -> None:
        """Blocks that could not be made: whoever asks from now on has them tried again."""
        for key, parts in failed:
            self._cache.drop(key, parts)

    def leave(self, trainer: str, emitted: int) -> None:
        """The trainer is done, and was given so many samples."""
        if trainer in self._trainers:
            del self._trainers[trainer]
            self._emitted_before += emitted

    def status(self) -> dict[str, Any]:
        """What `budgetloader top` and the metrics show."""
        now = time.monotonic()
        self._forget()
        counts = self._cache.counts
        return {
            "path": self._path,
            "samples": len(self._dataset),
            "uptime_seconds": now - self._began,
            "memory_bytes": self._memory_bytes,
            "used_bytes": self._cache.used_bytes,
            "blocks": len(self._cache),
            "hits": counts.hits,
            "misses": counts.misses,
            "decoded": counts.decoded,
            "emitted": self._emitted_before + sum(t.emitted for t in self._trainers.values()),
            "trainers": [
                {
                    "id": trainer[:8],
                    "name": t.name,
                    "schedule": t.schedule,
                    "epoch": t.epoch,
                    "step": t.step,
                    "emitted": t.emitted,
                    "decoded": t.decoded,
                    "images_per_second": t.rate if now - t.seen < 2 * _RATE_SECONDS else 0.0,
                    "starved": t.starved,
                    "copied": t.copied,
                    "silent_seconds": now - t.seen,
                }
                for trainer, t in self._trainers.items()
            ],
        }

    def _forget(self) -> None:
        """Trainers that have said nothing for long."""
        now = time.monotonic()
        for name in [name for name, t in self._trainers.items() if now - t.seen > _FORGET_SECONDS]:
            self.leave(name, self._trainers[name].emitted)
