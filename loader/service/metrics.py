"""A service's state as Prometheus metrics, with prometheus_client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from budgetloader.errors import EngineError
from budgetloader.service.protocol import ServiceStatus

_WHOLE = {
    "samples_decoded": ("decoded", "counter", "Samples decoded."),
    "block_hits": ("hits", "counter", "Blocks that were cached, or being decoded, when a trainer asked."),
    "block_misses": ("misses", "counter", "Blocks that had to be decoded."),
    "memory_used_bytes": ("used_bytes", "gauge", "Bytes of the blocks that are cached."),
    "memory_bytes": ("memory_bytes", "gauge", "Bytes of shared memory that the service was given."),
    "blocks": ("blocks", "gauge", "Blocks that are cached or being decoded."),
}
_OF_TRAINERS = {
    "trainer_samples_emitted": ("emitted", "counter", "Samples that the trainer was given."),
    "trainer_images_per_second": ("images_per_second", "gauge", "Images per second over the last seconds."),
    "trainer_starved_ratio": ("starved", "gauge", "The share of time in which it waited for blocks."),
    "trainer_batches_copied": ("copied", "counter", "Batches copied because the object store's memory was not found."),
    "trainer_epoch": ("epoch", "gauge", "The epoch that it is in."),
}


class _Collector:
    def __init__(self, name: str, read: Callable[[], ServiceStatus]) -> None:
        self._name, self._read = name, read

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        status = self._read()
        for metric, (field, kind, text) in _WHOLE.items():
            family = families[kind](f"budgetloader_{metric}", text, labels=["service"])
            family.add_metric([self._name], getattr(status, field))
            yield family
        for metric, (field, kind, text) in _OF_TRAINERS.items():
            family = families[kind](f"budgetloader_{metric}", text, labels=["service", "trainer", "id"])
            for trainer in status.trainers:
                family.add_metric([self._name, trainer.name, trainer.id], getattr(trainer, field))
            yield family


def start(name: str, read: Callable[[], ServiceStatus], *, port: int, host: str) -> None:
    """Serve the metrics at http://host:port/metrics.

    Args:
        name: of the service.
        read: gives its status.
        port, host: to listen at.

    Raises:
        EngineError: prometheus_client is not installed, or the port is taken.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise EngineError("prometheus_client is not installed; pip install prometheus_client") from None
    registry = CollectorRegistry()
    registry.register(_Collector(name, read))  # type: ignore[arg-type]
    try:
        start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise EngineError(f"--metrics-port {port} cannot be used: {error.strerror}") from None
