"""What a service's processes have asked of an object store, put together by the coordinator."""

from __future__ import annotations

import time
from dataclasses import dataclass

from budgetloader.service.status import StoreStatus
from budgetloader.storage.traffic import Traffic, together

_WINDOW_SECONDS = 5.0


@dataclass(frozen=True)
class Report:
    """What one process says after a block; all counts are since it began, so that one that is lost does no harm.

    Attributes:
        process: that tells it from others.
        traffic: its own.
        seconds: that its blocks have taken, waiting included.
    """

    process: str
    traffic: Traffic
    seconds: float


class Stores:
    """Adds up what processes report.

    Args:
        own: the coordinator's traffic when it began.
    """

    def __init__(self, own: Traffic) -> None:
        self._reports = {"coordinator": Report("coordinator", own, 0.0)}
        self._window = (time.monotonic(), 0.0, 0.0)  # when, and seconds waited and taken until then
        self._waiting = 0.0

    def add(self, report: Report) -> None:
        """Take a process's counts in place of those that it sent before."""
        self._reports[report.process] = report
        then, waited, taken = self._window
        if (now := time.monotonic()) - then >= _WINDOW_SECONDS:
            all_waited, all_taken = self._seconds()
            self._waiting = min((all_waited - waited) / max(all_taken - taken, 1e-9), 1.0)
            self._window = (now, all_waited, all_taken)

    @property
    def status(self) -> StoreStatus:
        """All of them together; the latencies are those of the process for which the store is slowest."""
        found = together([report.traffic for report in self._reports.values()])
        assert found is not None
        median, most, slowest = found.latency_seconds
        return StoreStatus(
            requests=found.requests,
            retries=found.retries,
            fetched_bytes=found.fetched_bytes,
            hits=found.hits,
            misses=found.misses,
            damaged=found.damaged,
            evicted=found.evicted,
            latency_seconds=(median, most, slowest),
            wait_seconds=found.wait_seconds,
            waiting=self._waiting,
        )

    def _seconds(self) -> tuple[float, float]:
        reports = self._reports.values()
        return sum(report.traffic.wait_seconds for report in reports), sum(report.seconds for report in reports)
