"""A service's state at a port: Prometheus metrics, with prometheus_client, and a page for people."""

from __future__ import annotations

import ipaddress
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from budgetloader.errors import EngineError, first_line
from budgetloader.service.history import History
from budgetloader.service.page import HEADERS, failure_page, page
from budgetloader.service.status import ServiceStatus

_WHOLE = {
    "samples_decoded": ("decoded", "counter", "Samples decoded."),
    "block_hits": ("hits", "counter", "Blocks that were cached, or being decoded, when a trainer asked."),
    "block_misses": ("misses", "counter", "Blocks that had to be decoded."),
    "memory_used_bytes": ("used_bytes", "gauge", "Bytes of the blocks that are cached."),
    "memory_bytes": ("memory_bytes", "gauge", "Bytes of shared memory that the service was given."),
    "blocks": ("blocks", "gauge", "Blocks that are cached or being decoded."),
}
_OF_STORE = {
    "store_requests": ("requests", "counter", "Requests that object storage answered."),
    "store_retries": ("retries", "counter", "Requests that failed and were sent again."),
    "store_fetched_bytes": ("fetched_bytes", "counter", "Bytes that object storage sent."),
    "store_wait_seconds": ("wait_seconds", "counter", "Seconds in which decoders waited for samples."),
    "store_waiting_ratio": ("waiting", "gauge", "The share of the decoders' time in which they wait for samples."),
    "cache_hits": ("hits", "counter", "Samples that were there when a block needed them."),
    "cache_misses": ("misses", "counter", "Samples that had to be fetched."),
    "cache_damaged": ("damaged", "counter", "Samples of the cache that were damaged, and fetched again."),
    "cache_evicted": ("evicted", "counter", "Samples that were dropped from the cache."),
}
_LATENCY = "Seconds from a request to its answer, over the last 4,096 of the process for which they are longest."
_QUANTILES = ("0.5", "0.9", "0.99")
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
        of = [(status, _WHOLE)] if status.store is None else [(status, _WHOLE), (status.store, _OF_STORE)]
        for what, metrics in of:
            for metric, (field, kind, text) in metrics.items():
                family = families[kind](f"budgetloader_{metric}", text, labels=["service"])
                family.add_metric([self._name], getattr(what, field))
                yield family
        if status.store is not None:
            family = GaugeMetricFamily("budgetloader_store_latency_seconds", _LATENCY, labels=["service", "quantile"])
            for quantile, seconds in zip(_QUANTILES, status.store.latency_seconds, strict=True):
                family.add_metric([self._name, quantile], seconds)
            yield family
        for metric, (field, kind, text) in _OF_TRAINERS.items():
            family = families[kind](f"budgetloader_{metric}", text, labels=["service", "trainer", "id"])
            for trainer in status.trainers:
                family.add_metric([self._name, trainer.name, trainer.id], getattr(trainer, field))
            yield family


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = 10  # of a client that says nothing

    def address_string(self) -> str:
        return str(self.client_address[0])  # without asking for its name

    def log_message(self, *details: object) -> None:
        """Nothing: nobody reads it."""


def start(name: str, read: Callable[[], ServiceStatus], *, port: int, host: str) -> Callable[[], None]:
    """Serve the metrics at http://host:port/metrics, and the page at http://host:port/.

    Requests that name another host than the loopback are refused: a page elsewhere could have its own name lead here,
    and read what only local users may.

    Args:
        name: of the service.
        read: gives its status.
        port, host: to listen at.

    Returns:
        What ends it.

    Raises:
        EngineError: prometheus_client is not installed, or the port is taken.
    """
    try:
        from prometheus_client import CollectorRegistry, make_wsgi_app
    except ImportError:
        raise EngineError("prometheus_client is not installed; pip install prometheus_client") from None
    registry, history, stopped = CollectorRegistry(), History(read), threading.Event()
    registry.register(_Collector(name, read))  # type: ignore[arg-type]
    metrics = make_wsgi_app(registry)

    def answer(request: dict[str, Any], begin: Any) -> Iterable[bytes]:
        path = request.get("PATH_INFO", "")
        if not _names_loopback(request.get("HTTP_HOST")):
            return _say(begin, "403 Forbidden", "ask by the address 127.0.0.1, or the name localhost")
        if request["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _say(begin, "405 Method Not Allowed", "GET, or HEAD")
        if path == "/metrics":
            return metrics(request, begin)  # type: ignore[no-any-return]
        if path != "/":
            return _say(begin, "404 Not Found", "there are / and /metrics")
        try:
            state, text = "200 OK", page(name, history.now(), history.readings)
        except Exception as error:  # whatever Ray says of a coordinator that restarts
            state, text = "503 Service Unavailable", failure_page(name, first_line(error))
        begin(state, list(HEADERS))
        return [text.encode()]

    try:
        server = make_server(host, port, answer, server_class=_Server, handler_class=_Handler)
    except OSError as error:
        raise EngineError(f"--metrics-port {port} cannot be used: {error.strerror}") from None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    threading.Thread(target=history.follow, args=(stopped,), name="history", daemon=True).start()

    def end() -> None:
        stopped.set()
        server.shutdown()
        server.server_close()

    return end


def _say(begin: Any, state: str, text: str) -> list[bytes]:
    begin(state, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]


def _names_loopback(host: str | None) -> bool:
    """Whether a request's Host is this machine's loopback, or none was given."""
    if not host:
        return True
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name.strip("[]").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
