"""`python -m loader serve`: a Ray cluster of one node, its coordinator, and their end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loader.dataset import Dataset
from loader.errors import EngineError
from loader.parallel import cores
from loader.service import COORDINATE, DECODE, LOOPBACK, NAMESPACE, registry

LEAST_MEMORY_BYTES = 84 * 10**6  # Ray's least, rounded up
_MOST_FOLDER_LETTERS = 43  # a socket's path may have 107, and Ray adds as many as 64 to the folder's


@contextlib.contextmanager
def service(
    path: str | os.PathLike,
    *,
    name: str,
    memory_bytes: int,
    workers: int | None = None,
    host: str = LOOPBACK,
) -> Iterator[registry.Entry]:
    """A running service; it ends with the block.

    Args:
        path: a `.beton` file.
        name: what trainers connect to.
        memory_bytes: of shared memory, the most that blocks take; at least `LEAST_MEMORY_BYTES`.
        workers: decoding processes; default: one per core.
        host: the address to listen at. Beyond the loopback, whoever is to connect needs the token in
            the service's entry (see `loader.service.registry`); traffic is not encrypted.

    Raises:
        LoaderError: no such dataset, a name that is taken, too little memory.
    """
    dataset = Dataset(path)
    registry.check_name(name)
    _check_name_is_free(name)
    if workers is not None and workers < 1:
        raise EngineError(f"workers {workers} is too few; give at least 1")
    if memory_bytes < LEAST_MEMORY_BYTES:
        raise EngineError(f"memory {memory_bytes:,} bytes is too little; give at least {LEAST_MEMORY_BYTES // 10**6}MB")
    host = own_address(host)
    free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else memory_bytes
    if memory_bytes > free:
        raise EngineError(f"memory {memory_bytes:,} bytes is more than is free in /dev/shm ({free:,}); give less")
    token = secrets.token_hex(32)
    with _session_folder() as folder:
        count = cores() if workers is None else workers
        address = _start(folder, memory_bytes, count, host, token)
        try:
            _coordinator(str(dataset.path.resolve()), name, memory_bytes, count)
            with _known(name, address, token, str(folder), node=host) as entry:
                yield entry
        finally:
            import ray

            ray.shutdown()


def own_address(host: str) -> str:
    """The IPv4 address of this machine that a name or an address stands for.

    Raises:
        EngineError: it is none, or all of them: others must be able to connect to it.
    """
    advice = "give an address of this machine by which the others reach it"
    try:
        address = socket.gethostbyname(host)
    except (OSError, UnicodeError):
        raise EngineError(f"host {host!r} is not known; {advice}") from None
    if address == "0.0.0.0":
        raise EngineError(f"host {host!r} is no single address; {advice}")
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            raise EngineError(f"host {host!r} ({address}) is not this machine; {advice}") from None
    return address


@contextlib.contextmanager
def _session_folder() -> Iterator[Path]:
    """A folder for Ray's files, which goes with all who use it when this process ends, however it ends."""
    folder = Path(tempfile.mkdtemp(prefix="rrs-")).resolve()
    if len(os.fsencode(folder)) > _MOST_FOLDER_LETTERS:
        folder.rmdir()
        raise EngineError(f"{folder} is too long a name for the folder of Ray's sockets; set TMPDIR to a shorter one")
    reading, writing = os.pipe()
    guard = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")), str(reading), str(folder)]
    process = subprocess.Popen(
        guard, pass_fds=[reading], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    os.close(reading)
    try:
        yield folder
    finally:
        os.close(writing)
        process.wait(timeout=30)


@contextlib.contextmanager
def joined(
    address: str, *, name: str, token: str, host: str, workers: int = 0, memory_bytes: int = 1 << 30
) -> Iterator[registry.Entry]:
    """This machine as a part of a service's cluster: trainers here connect by name, as they do there.

    Args:
        address: of the service's cluster, host:port.
        name, token: the service's.
        host: this machine's address, as the service's machine sees it.
        workers: decoding processes to add; they need the dataset at the path that it has there.
        memory_bytes: of shared memory here, for blocks on their way.

    Raises:
        EngineError: the cluster does not answer, or not to this token.
    """
    from loader.service.bridge import set_environment

    registry.check_name(name)
    host = own_address(host)
    set_environment(token, host=host)
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--address={address}"),
        *(f"--node-ip-address={host}", "--num-cpus=0", f"--object-store-memory={memory_bytes}"),
        *("--resources", json.dumps({DECODE: workers} if workers else {}), "--disable-usage-stats"),
        *("--include-log-monitor=false",),
    ]
    with _session_folder() as folder, open(folder / "ray.log", "w+") as log:
        node = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for_start(node, Path(log.name), address)
            with _known(name, address, token, str(folder), node=host) as entry:
                yield entry
        finally:
            node.terminate()
            try:
                node.wait(timeout=20)
            except subprocess.TimeoutExpired:
                node.kill()


def _wait_for_start(node: subprocess.Popen, log: Path, address: str) -> None:
    deadline = time.monotonic() + 60
    while "Ray runtime started" not in log.read_text():
        if node.poll() is not None or time.monotonic() > deadline:
            lines = [line for line in log.read_text().splitlines() if line.strip()]
            why = lines[-1].strip() if lines else "it gave no reason"
            raise EngineError(f"the cluster at {address} cannot be joined ({why}); check the address and the token")
        time.sleep(0.1)


@contextlib.contextmanager
def _known(name: str, address: str, token: str, session: str, *, node: str) -> Iterator[registry.Entry]:
    """This process as a service that trainers here can find, for as long as the block lasts."""
    pid = os.getpid()
    entry = registry.Entry(
        name=name,
        address=address,
        token=token,
        host=socket.gethostname(),
        pid=pid,
        started=registry.start_time(pid),
        session=session,
        node=node,
    )
    registry.write(entry)
    try:
        yield entry
    finally:
        registry.remove(entry)


def status(name: str) -> dict[str, Any]:
    """What a service is doing, asked from the process that runs it."""
    import ray

    coordinator: Any = ray.get_actor(f"coordinator-{name}", namespace=NAMESPACE)
    return ray.get(coordinator.status.remote(), timeout=5)


def _check_name_is_free(name: str) -> None:
    with contextlib.suppress(EngineError):
        entry = registry.read(name)
        if entry.here and not entry.alive:  # killed
            registry.remove(entry)
    if name in registry.names():
        raise EngineError(f"service {name!r} is running already; give another --name, or stop that one")


def _start(folder: Path, memory_bytes: int, workers: int, host: str, token: str) -> str:
    """Start Ray; its address."""
    from loader.service.bridge import set_environment

    set_environment(token, host=host)
    root = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        import ray
    except ImportError:
        raise EngineError("Ray is not installed; pip install 'reduced-sampling-loader[service]'") from None
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
        _temp_dir=str(folder),
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
        },
    )
    return ray.get_runtime_context().gcs_address


def _coordinator(path: str, name: str, memory_bytes: int, workers: int) -> None:
    """Start the coordinator, and wait until it and its workers are ready."""
    import ray

    from loader.service.coordinator import Coordinator

    actor: Any = ray.remote(Coordinator).options(
        name=f"coordinator-{name}",
        namespace=NAMESPACE,
        lifetime="detached",
        num_cpus=0,
        resources={COORDINATE: 0.01},
        max_restarts=-1,
    )
    ray.get(actor.remote(path, memory_bytes, workers).ready.remote(), timeout=120)


def serve_until_stopped(entry: registry.Entry, *, metrics_port: int | None) -> None:
    """Wait for Ctrl-C or SIGTERM; serve Prometheus metrics at the loopback meanwhile, if asked."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    if metrics_port is not None:
        from loader.service.metrics import start

        start(entry.name, port=metrics_port, host=LOOPBACK)
    while not stopped.is_set():
        time.sleep(0.2)
