"""A service's last hour: what its coordinator said every few seconds, for the page."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from budgetloader.service.status import ServiceStatus

READ_SECONDS = 10.0
HOUR_SECONDS = 3600.0


@dataclass(frozen=True)
class Snapshot:
    """The service at one time.

    Attributes:
        seconds: when, by a clock that only goes forward.
        hit_share: of the blocks that trainers asked for since the reading before, those that were there; None: none was
            asked for.
        images_per_second: of each trainer, by its id.
        starved: of each trainer, the share of its time in which it waited for the service.
        fetched_bytes: from object storage, since the reading before.
        waiting: the share of the decoders' time in which they waited for object storage.
    """

    seconds: float
    hit_share: float | None
    images_per_second: dict[str, float]
    starved: dict[str, float]
    fetched_bytes: int
    waiting: float


class History:
    """Readings of the last hour, at most one every `READ_SECONDS`.

    Args:
        read: gives the status.
        clock: seconds, for tests.
    """

    def __init__(self, read: Callable[[], ServiceStatus], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._read, self._clock = read, clock
        self._readings: deque[Snapshot] = deque(maxlen=int(HOUR_SECONDS / READ_SECONDS))
        self._last: ServiceStatus | None = None
        self._lock = threading.Lock()

    @property
    def readings(self) -> list[Snapshot]:
        """Oldest first."""
        with self._lock:
            return list(self._readings)

    def now(self) -> ServiceStatus:
        """The status, noted if it is time; raises what reading it raises."""
        status = self._read()
        with self._lock:
            then = self._readings[-1].seconds if self._readings else -READ_SECONDS
            if self._clock() - then >= READ_SECONDS:
                self._note(status)
        return status

    def follow(self, stopped: threading.Event) -> None:
        """Read until `stopped` is set. A service that does not answer leaves a gap."""
        while not stopped.wait(READ_SECONDS):
            try:
                self.now()
            except Exception:  # its coordinator may be restarting; the next reading tells
                continue

    def _note(self, status: ServiceStatus) -> None:
        before, now = self._last, self._clock()
        # A coordinator that was restarted counts from 0 again.
        if before is not None and (status.hits < before.hits or status.misses < before.misses):
            before = None
        hits = status.hits - (before.hits if before else 0)
        misses = status.misses - (before.misses if before else 0)
        fetched = status.store.fetched_bytes if status.store is not None else 0
        earlier = before.store.fetched_bytes if before is not None and before.store is not None else 0
        while self._readings and now - self._readings[0].seconds > HOUR_SECONDS:
            self._readings.popleft()
        self._readings.append(
            Snapshot(
                seconds=now,
                hit_share=hits / (hits + misses) if hits + misses else None,
                images_per_second={trainer.id: trainer.images_per_second for trainer in status.trainers},
                starved={trainer.id: trainer.starved for trainer in status.trainers},
                fetched_bytes=max(fetched - earlier, 0),
                waiting=status.store.waiting if status.store is not None else 0.0,
            )
        )
        self._last = status
