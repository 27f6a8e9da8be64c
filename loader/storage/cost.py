"""What a request costs against what bytes cost, measured when an object is opened."""

from __future__ import annotations

import time
from dataclasses import dataclass

from budgetloader.storage.client import Remote

_PROBES, _PROBE_BYTES = 3, 256 << 10
_CLIENT_SECONDS = 0.0003  # of this machine's time, for a request of obstore's
# Requests and bytes have prices, too: at 0.40 for a million requests and 0.09 for a GB, a request is worth 4.4 kB.
_MOST_GAP_BYTES = 4400


@dataclass(frozen=True)
class Cost:
    """A store, as it was measured.

    Attributes:
        latency_seconds: from a request to its answer, of a few bytes.
        bytes_per_second: of one connection.
        connections: requests at a time.
    """

    latency_seconds: float
    bytes_per_second: float
    connections: int

    @property
    def request_seconds(self) -> float:
        """What one more request costs, while others are under way."""
        return max(self.latency_seconds / self.connections, _CLIENT_SECONDS)

    @property
    def gap_bytes(self) -> int:
        """The gap between two samples up to which fetching it is cheaper than another request, in time and in money."""
        return min(int(self.request_seconds * self.bytes_per_second), _MOST_GAP_BYTES)

    def __str__(self) -> str:
        return (
            f"latency {1e3 * self.latency_seconds:.1f} ms, {self.bytes_per_second / 1e6:.0f} MB/s a connection: "
            f"{self.connections} requests at a time, and gaps of up to {self.gap_bytes:,} bytes are fetched"
        )


def measure(remote: Remote) -> Cost:
    """Time some small requests and a larger one, of an object that was opened."""
    seconds = sorted(_timed(remote, 0, 1) for _ in range(_PROBES))
    latency = seconds[0]  # the rest is other people's traffic
    size = min(_PROBE_BYTES, remote.size)
    seconds_of_size = _timed(remote, 0, size)
    rate = size / max(seconds_of_size - latency, seconds_of_size / 10)  # the latency itself varies
    # Enough to hide the latency behind the decoding of one machine, and not so many that a store turns them away.
    connections = 16 if latency < 0.002 else 32 if latency < 0.02 else 64
    return Cost(latency, rate, connections)


def _timed(remote: Remote, start: int, stop: int) -> float:
    began = time.perf_counter()
    remote.read(start, stop, what="its beginning")
    return time.perf_counter() - began
