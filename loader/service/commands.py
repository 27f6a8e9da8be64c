"""`budgetloader serve`, `join` and `top`."""

from __future__ import annotations

import argparse
import itertools
import json
import threading
import time
from pathlib import Path

from budgetloader.errors import LoaderError
from budgetloader.service import LOOPBACK, registry
from budgetloader.service.join import joined
from budgetloader.service.server import serve_until_stopped, service
from budgetloader.service.stopping import stopping


def serve(options: argparse.Namespace) -> int:
    if options.metrics_port is not None and not 0 < options.metrics_port < 1 << 16:
        raise LoaderError(f"--metrics-port {options.metrics_port} is no port; give 1 … 65535")
    with (
        stopping() as stop,
        service(
            options.file,
            name=options.name,
            memory_bytes=options.memory,
            workers=options.workers,
            host=options.host,
            verify=options.verify,
            max_pixels=options.max_pixels,
            cache=options.cache,
            cache_bytes=options.cache_bytes,
        ) as served,
    ):
        stop.started = True
        entry = served.entry
        files = " + ".join(options.file)
        print(
            f"serving {files} as {entry.name!r}; budgetloader.connect({entry.name!r}, …); Ctrl-C ends it",
            flush=True,
        )
        if entry.node != LOOPBACK:
            print(f"on other machines: budgetloader join {entry.address} --name {entry.name} …", flush=True)
            print(f"the token is in {registry.path_of(entry.name)}; traffic is not encrypted", flush=True)
        if options.metrics_port is not None:
            print(f"for people: http://{LOOPBACK}:{options.metrics_port}/; for Prometheus: /metrics there", flush=True)
        serve_until_stopped(served, stop=stop, metrics_port=options.metrics_port)
    return 0


def join(options: argparse.Namespace) -> int:
    try:
        text = Path(options.token_file).read_text().strip()
        token = json.loads(text)["token"] if text.startswith("{") else text
    except (OSError, ValueError, KeyError) as error:
        raise LoaderError(f"--token-file {options.token_file} cannot be read ({error})") from None
    with (
        stopping() as stop,
        joined(
            options.address,
            name=options.name,
            token=token,
            host=options.host,
            workers=options.workers,
            memory_bytes=options.memory,
        ) as served,
    ):
        stop.started = True
        name = served.entry.name
        print(f"joined {options.address}; budgetloader.connect({name!r}, …) works here; Ctrl-C ends it", flush=True)
        serve_until_stopped(served, stop=stop, metrics_port=None)
    return 0


def top(options: argparse.Namespace) -> int:
    if not 0 < options.seconds < threading.TIMEOUT_MAX:
        raise LoaderError(f"--seconds {options.seconds:g} cannot be waited; give a number above 0")
    from rich.live import Live

    from budgetloader.service.connection import Bridge
    from budgetloader.service.protocol import StatusRequest
    from budgetloader.service.status import ServiceStatus
    from budgetloader.service.top import table

    bridge = Bridge(registry.find(options.name), label="top")
    try:
        with Live(auto_refresh=False) as live:
            for reading in itertools.count(1):
                live.update(table(options.name, bridge.ask(StatusRequest(), ServiceStatus)[0]), refresh=True)
                if reading == options.readings:
                    return 0
                time.sleep(options.seconds)
    finally:
        bridge.close()
    return 0
