"""`budgetloader serve`: starts and ends a Ray cluster of one node, with the coordinator."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from budgetloader.errors import EngineError, first_line
from budgetloader.limits import MAX_PIXELS
from budgetloader.parallel import cores
from budgetloader.service import COORDINATE, DECODE, LOOPBACK, NAMESPACE, registry
from budgetloader.service.blocks import Reading
from budgetloader.service.session import Session, session
from budgetloader.service.status import ServiceStatus
from budgetloader.service.stopping import Stopping, rearm
from budgetloader.storage import is_address

LEAST_MEMORY_BYTES = 84 * 10**6  # Ray's least, rounded up
_GOODBYE_SECONDS = 3.0  # for Ray to end in order; what is left is killed


@dataclass(frozen=True)
class Served:
    """A running service.

    Attributes:
        entry: where trainers find it.
        session: its folder and its processes.
    """

    entry: registry.Entry
    session: Session


@contextlib.contextmanager
def service(
    path: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    name: str,
    memory_bytes: int,
    workers: int | None = None,
    host: str = LOOPBACK,
    verify: bool = False,
    max_pixels: int = MAX_PIXELS,
    cache: str | os.PathLike | None = None,
    cache_bytes: float | None = None,
) -> Iterator[Served]:
    """A running service; it ends with the block.

    Args:
        path: a `.beton` file, or its address in object storage; or several, which are one set.
        name: what trainers connect to.
        memory_bytes: of shared memory, the most that blocks take; at least `LEAST_MEMORY_BYTES`.
        workers: decoding processes; default: one per core.
        host: the address to listen at. Beyond the loopback, whoever is to connect needs the token in
            the service's entry (see `budgetloader.service.registry`); traffic is not encrypted.
        verify: whether samples are compared with their checksums when they are read.
        max_pixels: of an image; a file that has larger ones is refused.
        cache, cache_bytes: of a file in object storage, as in `BudgetLoader`; a machine's workers share the cache.

    Raises:
        LoaderError: no such dataset, a name that is taken, too little memory.
    """
    paths = [path] if isinstance(path, (str, os.PathLike)) else path
    places = tuple(p if isinstance(p, str) and is_address(p) else str(Path(p).resolve()) for p in paths)
    folder = None if cache is None else str(Path(cache).resolve())
    reading = Reading(places, verify, max_pixels, folder, cache_bytes)
    reading.open()
    registry.check_name(name)
    if workers is not None and workers < 1:
        raise EngineError(f"workers {workers} is too few; give at least 1")
    if memory_bytes < LEAST_MEMORY_BYTES:
        raise EngineError(f"memory {memory_bytes:,} bytes is too little; give at least {LEAST_MEMORY_BYTES // 10**6}MB")
    host = own_address(host)
    # The name is released first: then the guard, for which the session waits at its end, can lock it and clear up.
    with session(entry=registry.path_of(name)) as made, registry.reserved(name):
        free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else memory_bytes
        if memory_bytes > free:
            raise EngineError(f"memory {memory_bytes:,} bytes is more than is free in /dev/shm ({free:,}); give less")
        token, count = secrets.token_hex(32), cores() if workers is None else workers
        try:
            with _said_in_one_line(made):
                address = _start(made, memory_bytes, count, host, token)
                _coordinator(reading, name, memory_bytes, count)
            with known(name, address, token, made, node=host) as entry:
                yield Served(entry, made)
        finally:
            _shut_down()


@contextlib.contextmanager
def _said_in_one_line(made: Session) -> Iterator[None]:
    """Raise Ray's errors at its start as one line: a disk or a memory that is full, a port that is taken."""
    try:
        yield
    except (EngineError, KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        why = first_line(error)
        room = shutil.disk_usage(made.folder).free
        raise EngineError(
            f"Ray does not start ({why}); {room / 1e6:,.0f} MB are free for its files in {made.folder.parent}: set "
            "TMPDIR to a folder with more, if that is too little"
        ) from error


def _shut_down() -> None:
    """End Ray. Its shutdown can wait for processes that have ended: what still runs after a while is killed."""
    shutdown = getattr(sys.modules.get("ray"), "shutdown", None)
    if shutdown is None:  # the start was broken off before Ray was imported
        return
    thread = threading.Thread(target=shutdown, name="ray-shutdown", daemon=True)
    thread.start()
    thread.join(_GOODBYE_SECONDS)


def own_address(host: str) -> str:
    """The IPv4 address of this machine that a name or an address stands for; 127.0.0.1 for all of the loopback's.

    Ray listens at the loopback alone where it is told of that one address, and at every address otherwise.

    Raises:
        EngineError: it is no address of this machine, or stands for all of them: others must be able to connect.
    """
    advice = "give an address of this machine by which the others reach it"
    try:
        address = socket.gethostbyname(host)
    except (OSError, UnicodeError):
        raise EngineError(f"host {host!r} is not known; {advice}") from None
    if ipaddress.ip_address(address).is_loopback:
        return LOOPBACK
    if address == "0.0.0.0":
        raise EngineError(f"host {host!r} is no single address; {advice}")
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            raise EngineError(f"host {host!r} ({address}) is not this machine; {advice}") from None
    return address


@contextlib.contextmanager
def known(name: str, address: str, token: str, made: Session, *, node: str) -> Iterator[registry.Entry]:
    """Make this process known as a service that trainers on this machine can find, for as long as the block lasts."""
    pid = os.getpid()
    entry = registry.Entry(
        name=name,
        address=address,
        token=token,
        host=socket.gethostname(),
        boot=registry.boot(),
        pid=pid,
        started=registry.start_time(pid),
        session=str(made.folder),
        node=node,
    )
    registry.write(entry)
    try:
        yield entry
    finally:
        registry.remove(entry)


def status(name: str) -> ServiceStatus:
    """What a service is doing, for the process that runs it."""
    import ray

    coordinator: Any = ray.get_actor(f"coordinator-{name}", namespace=NAMESPACE)
    return ray.get(coordinator.status.remote(), timeout=5)


def _start(made: Session, memory_bytes: int, workers: int, host: str, token: str) -> str:
    """Start Ray; its address."""
    from budgetloader.service.link import set_environment

    set_environment(token, host=host)
    os.environ.update(made.environment)
    root = str(Path(__file__).absolute().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        import ray
    except ImportError:
        raise EngineError("Ray is not installed; pip install 'budgetloader[service]'") from None
    # Ray's workers look for modules in the driver's working directory first.
    with _working_in(made.folder):
        _init(ray, made, memory_bytes, workers, host)
    made.watch()
    return ray.get_runtime_context().gcs_address


def _init(ray: Any, made: Session, memory_bytes: int, workers: int, host: str) -> None:
    ray.init(
        num_cpus=0,
        resources={DECODE: workers, COORDINATE: 1},
        object_store_memory=memory_bytes,
        include_dashboard=False,
        namespace=NAMESPACE,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
        _node_ip_address=host,
        _temp_dir=str(made.ray_folder),
        # Blocks may fill the memory at once, and none is spilled to a disk. Workers are kept, and not started
        # before they are needed: Ray would start as many again whenever a trainer asks, and end them a second later.
        _system_config={
            "automatic_object_spilling_enabled": False,
            "preallocate_plasma_memory": True,
            "num_workers_soft_limit": 0,
            "kill_idle_workers_interval_ms": 0,
            "worker_niceness": 0,  # not 15: what else runs on the machine would leave the service next to nothing
            # One that is killed as it starts is waited for until this timeout, and must not keep others waiting.
            "worker_register_timeout_seconds": 15,
            "worker_maximum_startup_concurrency": workers + 2,
            # When trainers fill the memory, Ray would kill what decodes for them. Workers take little, and always as
            # much; where the kernel ends one of them, what it was at is begun again.
            "memory_monitor_refresh_ms": 0,
        },
    )


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """This process's working directory, for a moment."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _coordinator(reading: Reading, name: str, memory_bytes: int, workers: int) -> None:
    """Start the coordinator, and wait until it and its workers are ready."""
    import ray

    from budgetloader.service.coordinator import Coordinator

    actor: Any = ray.remote(Coordinator).options(
        name=f"coordinator-{name}",
        namespace=NAMESPACE,
        lifetime="detached",
        num_cpus=0,
        resources={COORDINATE: 0.01},
        max_restarts=-1,
    )
    ray.get(actor.remote(reading, memory_bytes, workers).ready.remote(), timeout=120)


def serve_until_stopped(served: Served, *, stop: Stopping, metrics_port: int | None) -> None:
    """Wait for Ctrl-C or SIGTERM; serve the metrics and their page at the loopback meanwhile, if asked.

    When a process of Ray's that the service cannot run without has ended, this one exits at once: by that trainers are
    told, while Ray's shutdown would wait for what has ended. The guard clears up.
    """
    rearm(stop)
    if metrics_port is not None:
        from budgetloader.service.metrics import start

        name = served.entry.name
        start(name, lambda: status(name), port=metrics_port, host=LOOPBACK)
    next_beat = 0.0
    while not stop.wait(0.2):
        try:
            served.session.check()
        except EngineError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        if time.monotonic() > next_beat:
            registry.beat(served.entry)
            next_beat = time.monotonic() + registry.BEAT_SECONDS
