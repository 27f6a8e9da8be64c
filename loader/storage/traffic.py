"""What a dataset in object storage has cost so far: requests, bytes, latencies, cache hits."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

_NAMES = ("requests", "retries", "fetched_bytes", "hits", "misses", "damaged", "evicted")
_KEPT = 4096  # latencies; the percentiles are those of the last ones


@dataclass(frozen=True)
class Traffic:
    """Counts since the dataset was opened.

    Attributes:
        requests: that were answered.
        retries: requests that failed and were sent again.
        fetched_bytes: of all answers, gaps between joined ranges included.
        hits, misses: samples that were there, or on their way, when a plan asked for them, or had to be fetched for it.
        damaged: samples of the cache whose bytes were not those of their checksum, and were fetched again.
        evicted: samples that were dropped from the cache.
        latency_seconds: (median, 90 %, 99 %) of a request, over the last 4,096.
        wait_seconds: time in which the trainer's thread waited for samples to arrive.
    """

    requests: int = 0
    retries: int = 0
    fetched_bytes: int = 0
    hits: int = 0
    misses: int = 0
    damaged: int = 0
    evicted: int = 0
    latency_seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    wait_seconds: float = 0.0

    def __str__(self) -> str:
        asked = self.hits + self.misses
        share = f"{self.hits / asked:.1%} of {asked:,} samples from the cache" if asked else "no sample yet"
        median, _, slowest = self.latency_seconds
        return (
            f"{self.requests:,} requests, {self.fetched_bytes / 1e6:,.1f} MB, {share}; latency {1e3 * median:.1f} ms "
            f"in the median, {1e3 * slowest:.1f} ms for 99 %; {self.retries:,} retries"
        )


class Counter:
    """Counts traffic from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(_NAMES, 0)
        self._latencies: deque[float] = deque(maxlen=_KEPT)
        self._wait_seconds = 0.0
        self._percentiles, self._sorted_at = (0.0, 0.0, 0.0), -1.0

    def add(self, **counts: int) -> None:
        """Count, by the names of `Traffic`."""
        with self._lock:
            for name, count in counts.items():
                self._counts[name] += count

    def answered(self, seconds: float, size: int) -> None:
        """A request was answered."""
        with self._lock:
            self._counts["requests"] += 1
            self._counts["fetched_bytes"] += size
            self._latencies.append(seconds)

    def waited(self, seconds: float) -> None:
        """A trainer's thread waited for samples."""
        with self._lock:
            self._wait_seconds += seconds

    def now(self) -> Traffic:
        """The counts; the percentiles are up to a second old: they cost more than a batch may."""
        with self._lock:
            if self._latencies and time.monotonic() - self._sorted_at > 1.0:
                median, most, slowest = np.percentile(np.array(self._latencies), (50, 90, 99)).tolist()
                self._percentiles, self._sorted_at = (median, most, slowest), time.monotonic()
            return Traffic(**self._counts, latency_seconds=self._percentiles, wait_seconds=self._wait_seconds)


def together(parts: list[Traffic]) -> Traffic | None:
    """The traffic of several files, or None of none; the latencies are those of the slowest."""
    if not parts:
        return None
    counts = {name: sum(getattr(part, name) for part in parts) for name in _NAMES}
    worst = max(parts, key=lambda part: part.latency_seconds)
    waits = sum(part.wait_seconds for part in parts)
    return Traffic(**counts, latency_seconds=worst.latency_seconds, wait_seconds=waits)
