"""A connection to a service's cluster, and to its coordinator."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from budgetloader.errors import EngineError, first_line
from budgetloader.service import LOOPBACK, NAMESPACE, registry
from budgetloader.service.failures import check_alive, gone

GONE_SECONDS = 4.0  # without a sign of life; an error follows within 5
RETRY_SECONDS = 0.1
_RESTART_SECONDS = 120.0  # that a coordinator may take to restart, while its cluster is alive
_ANSWER_SECONDS = 3.0


def set_environment(token: str, *, host: str) -> None:
    """What Ray reads from the environment when it is imported.

    Args:
        token: of the cluster.
        host: this machine's address in it.
    """
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = token
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["AUTOSCALER_METRIC_PORT"] = "-1"  # no port: it would be open to all, without the token
    # Ray takes a loopback address for a mistake, and listens everywhere, unless it is told that this machine
    # cannot be part of a cluster (the variable is named after the systems where that is so).
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0" if host == LOOPBACK else "1"


def check_token(address: str, *, name: str) -> None:
    """Ask a cluster whether it knows this process's token: Ray itself would try for half a minute.

    Raises:
        EngineError: it does not.
        ConnectionError: nothing answers at the address.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConnectionError(f"{address} does not answer: {first_line(error)}") from None
    try:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]
        from ray.exceptions import AuthenticationError
    except ImportError:  # this version of Ray has it elsewhere; `init` finds out by itself
        return
    try:
        with _quiet():
            GcsClient(address=address)
    except AuthenticationError:
        raise EngineError(
            f"service {name!r} at {address} does not answer to this token; take the one that its server has"
        ) from None
    except Exception:  # whatever else is wrong, Ray says in `init`
        return


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray's C++ warns of a wrong token straight to the descriptor, beside the exception; one message is enough."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


class Link:
    """A connection to a service's cluster and coordinator. This process becomes a driver of Ray's.

    Args:
        entry: the service.

    Raises:
        ServiceGoneError: it has ended.
        EngineError: Ray is not installed, is of another version, or the token is wrong.
    """

    def __init__(self, entry: registry.Entry) -> None:
        self.entry = entry
        check_alive(entry)
        set_environment(entry.token, host=entry.node)
        try:
            import ray
        except ImportError:
            raise EngineError("Ray is not installed; pip install 'budgetloader[service]'") from None
        self.ray = ray
        try:
            check_token(entry.address, name=entry.name)
        except ConnectionError as error:  # its server may take a moment longer to end
            raise gone(entry, error) from None
        try:
            ray.init(
                address=entry.address,
                _node_ip_address=entry.node,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
        except ConnectionError as error:
            raise gone(entry, f"{entry.address} does not answer: {first_line(error)}") from None
        except (RuntimeError, ValueError, ray.exceptions.RayError) as error:  # another version of Ray or Python, …
            raise EngineError(
                f"service {entry.name!r} at {entry.address} cannot be connected to ({first_line(error)})"
            ) from None
        self._coordinator: Any = None

    def call(self, method: str, *arguments: Any) -> Any:
        """Ask the coordinator, and again while it restarts.

        Raises:
            ServiceGoneError: the cluster gave no sign of life for `GONE_SECONDS`.
            EngineError: the coordinator refused.
        """
        ray = self.ray
        began = alive = time.monotonic()
        while True:
            check_alive(self.entry)
            try:
                if self._coordinator is None:
                    self._coordinator = ray.get_actor(f"coordinator-{self.entry.name}", namespace=NAMESPACE)
                    alive = time.monotonic()  # the cluster answered
                return ray.get(getattr(self._coordinator, method).remote(*arguments), timeout=GONE_SECONDS / 2)
            except ray.exceptions.RayTaskError as error:
                raise EngineError(f"service {self.entry.name!r}: {error.cause}") from None
            except (ray.exceptions.RayError, ValueError, ConnectionError) as error:
                self._coordinator = None
                now = time.monotonic()
                if now - alive > GONE_SECONDS or now - began > _RESTART_SECONDS:
                    raise gone(self.entry, f"no answer for {now - began:.0f} s: {first_line(error)}") from None
                time.sleep(RETRY_SECONDS)

    def tell(self, method: str, *arguments: Any) -> None:
        """The same without an answer or an error.

        It waits for up to a second, because what is sent just before this process ends would be lost.
        """
        if self._coordinator is not None and self.entry.alive:
            with contextlib.suppress(self.ray.exceptions.RayError):
                self.ray.get(getattr(self._coordinator, method).remote(*arguments), timeout=1)
