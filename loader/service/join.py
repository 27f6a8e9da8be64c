"""`budgetloader join`: this machine as a part of a service's cluster."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from budgetloader import apart
from budgetloader.errors import EngineError
from budgetloader.service import DECODE, registry
from budgetloader.service.server import Served, known, own_address
from budgetloader.service.session import session


@contextlib.contextmanager
def joined(
    address: str, *, name: str, token: str, host: str, workers: int = 0, memory_bytes: int = 1 << 30
) -> Iterator[Served]:
    """This machine as a part of a service's cluster, where trainers connect by name as on the service's machine.

    Args:
        address: of the service's cluster, host:port.
        name, token: the service's.
        host: this machine's address, as the service's machine sees it.
        workers: decoding processes to add; they need the dataset at the path that it has on the service's machine.
        memory_bytes: of shared memory on this machine, for blocks that its trainers use.

    Raises:
        EngineError: the cluster does not answer, or not to this token.
    """
    from budgetloader.service.link import check_token, set_environment

    registry.check_name(name)
    host = own_address(host)
    set_environment(token, host=host)
    try:
        check_token(address, name=name)
    except ConnectionError as error:
        raise EngineError(f"{error}; is the address right, and is service {name!r} running?") from None
    command = [
        *apart.command("ray.scripts.scripts", "start", "--block", f"--address={address}"),
        *(f"--node-ip-address={host}", "--num-cpus=0", f"--object-store-memory={memory_bytes}"),
        *("--resources", json.dumps({DECODE: workers} if workers else {}), "--disable-usage-stats"),
        *("--include-log-monitor=false",),
    ]
    with (
        session(entry=registry.path_of(name)) as made,
        registry.reserved(name),  # the entry of a service that runs here is never overwritten
        open(made.folder / "ray.log", "w+") as log,
    ):
        # Without a folder of this machine's own, Ray would make the service's here, for everybody to write to.
        command.append(f"--temp-dir={made.ray_folder}")
        environment = {**os.environ, **made.environment}
        node = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=made.folder)
        try:
            _wait_for_start(node, Path(log.name), address)
            made.watch()
            with known(name, address, token, made, node=host) as entry:
                yield Served(entry, made)
        finally:
            node.terminate()
            try:
                node.wait(timeout=3)
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
