"""What a service is doing, as its coordinator says it, and `top`, the metrics and the page show it."""

from __future__ import annotations

from typing import Annotated

from budgetloader.errors import EngineError

try:
    from msgspec import Meta, Struct
except ImportError:
    raise EngineError("msgspec is not installed; pip install 'budgetloader[service]'") from None

Count = Annotated[int, Meta(ge=0, lt=1 << 62)]
Seconds = Annotated[float, Meta(ge=0)]
SILENT_SECONDS = 30.0  # after which a trainer's speed says nothing any more
_SLOW = 0.25  # of the decoders' time


class TrainerStatus(Struct, frozen=True, forbid_unknown_fields=True):
    """One trainer of a service.

    Attributes:
        id: tells trainers of one name apart.
        name: the label that it connected with.
        schedule: its schedule.
        epoch, step: of the batch that it took last.
        emitted: samples that it was given.
        decoded: samples that were decoded because it asked first.
        images_per_second: over the last seconds.
        starved: the share of that time in which its bridge waited for blocks, 0 … 1.
        copied: batches that were copied because the object store's memory was not found.
        silent_seconds: since it asked for blocks.
    """

    id: str
    name: str
    schedule: str
    epoch: Count
    step: Count
    emitted: Count
    decoded: Count
    images_per_second: Seconds
    starved: Seconds
    copied: Count
    silent_seconds: Seconds


class StoreStatus(Struct, frozen=True, forbid_unknown_fields=True):
    """What a service has asked of the object store that its dataset is in, since its processes began.

    Attributes:
        requests: that were answered; retries: that failed and were sent again.
        fetched_bytes: of all answers.
        hits, misses: samples that were there when a block needed them, and that had to be fetched.
        damaged, evicted: samples of the cache that were damaged, and that were dropped.
        latency_seconds: (median, 90 %, 99 %) of a request, over the last 4,096 of a process.
        wait_seconds: in which decoding waited for samples.
        waiting: the share of the decoders' time, over the last seconds, in which they did, 0 … 1.
    """

    requests: Count
    retries: Count
    fetched_bytes: Count
    hits: Count
    misses: Count
    damaged: Count
    evicted: Count
    latency_seconds: tuple[Seconds, Seconds, Seconds]
    wait_seconds: Seconds
    waiting: Seconds

    @property
    def slow(self) -> bool:
        """Whether decoders wait for the store for more than a quarter of their time."""
        return self.waiting > _SLOW

    @property
    def text(self) -> str:
        """One line for people."""
        asked = self.hits + self.misses
        kept = f"{self.hits / asked:.0%} of samples from the cache, " if asked else ""
        median, _, slowest = self.latency_seconds
        return (
            f"object storage: {self.fetched_bytes / 1e6:,.1f} MB in {self.requests:,} requests, {kept}"
            f"latency {1e3 * median:.1f} ms (99 %: {1e3 * slowest:.1f} ms), {self.retries:,} retries; "
            f"decoders wait for it {self.waiting:.0%} of their time" + (": the store is slow" if self.slow else "")
        )


class ServiceStatus(Struct, frozen=True, tag_field="op", tag="status", forbid_unknown_fields=True):
    """What a service is doing. `budgetloader top` and the metrics show it.

    Attributes:
        path: of the dataset.
        samples: of the dataset.
        uptime_seconds: of the coordinator.
        memory_bytes: of shared memory that the service was given.
        used_bytes, blocks: of the blocks that are cached.
        hits, misses: blocks that were cached (or being decoded) when a trainer asked, or were not.
        decoded, emitted: samples that were decoded, and that trainers were given.
        trainers: those that are connected.
        store: of a dataset in object storage.
    """

    path: str
    samples: Count
    uptime_seconds: Seconds
    memory_bytes: Count
    used_bytes: Count
    blocks: Count
    hits: Count
    misses: Count
    decoded: Count
    emitted: Count
    trainers: tuple[TrainerStatus, ...]
    store: StoreStatus | None = None
