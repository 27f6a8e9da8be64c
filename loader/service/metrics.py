"""A service's state as Prometheus metrics, with prometheus_client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from budgetloader.errors import EngineError
from budgetloader.service.server import status

_WHOLE = {
    "samples_decoded": ("decoded", "counter", "Samples decoded."),
    "block_hits": ("hits", "counter", "Blocks that were there when a trainer asked."),
    "block_misses": ("misses", "counter", "Blocks that had to be decoded."),
    "memory_used_bytes": ("used_bytes", "gauge", "Bytes of the blocks that are kept."),
    "memory_bytes": ("memory_bytes", "gauge", "Bytes of shared memory that were given."),
    "blocks": ("blocks", "gauge", "Blocks that are kept or under way."),
}
_OF_TRAINERS = {
    "trainer_samples_emitted": ("emitted", "counter", "Samples that the trainer was given."),
    "trainer_images_per_second": ("images_per_second", "gauge", "Its rate over the last seconds."),
    "trainer_starved_ratio": ("starved", "gauge", "The share of time its loader waited for blocks."),
    "trainer_batches_copied": ("copied", "counter", "Batches copied because the object store's memory was not found."),
    "trainer_epoch": ("epoch", "gauge", "Its epoch."),
}


class _Collector:
    def __init__(self, name: str) -> None:
        self._name = name

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        state = status(self._name)
        for metric, (field, kind, text) in _WHOLE.items():
            family = families[kind](f"reduced_sampling_{metric}", text, labels=["service"])
            family.add_metric([self._name], state[field])
            yield family
        for metric, (field, kind, text) in _OF_TRAINERS.items():
            family = families[kind](f"reduced_sampling_{metric}", text, labels=["service", "trainer", "id"])
            for trainer in state["trainers"]:
                family.add_metric([self._name, trainer["name"], trainer["id"]], trainer[field])
            yield family


def start(name: str, *, port: int, host: str) -> None:
    """Serve the metrics at http://host:port/metrics.

    Raises:
        EngineError: prometheus_client is not installed, or the port is taken.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise EngineError("prometheus_client is not installed; pip install prometheus_client") from None
    registry = CollectorRegistry()
    registry.register(_Collector(name))  # type: ignore[arg-type]
    try:
        start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise EngineError(f"--metrics-port {port} cannot be used: {error.strerror}") from None
