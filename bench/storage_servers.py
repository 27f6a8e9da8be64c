"""How many random reads a second a store gives a plain client: JuiceFS's S3 gateway, and nginx, both on this machine.

    python -m budgetloader.bench.storage_servers

Each server has the same set. Threads of one process read ranges of its samples' sizes at random, with obstore, as the
loader does, and with s3fs from the gateway; the pairs of server and client take turns. Client and server share the
cores. It says how much of what the loader gets from a store is the store's own doing.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from budgetloader.bench.grid import Grid

if TYPE_CHECKING:
    from rich.console import Console

    from budgetloader.bench.stores import S3

Read = Callable[[int, int], Any]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m budgetloader.bench.storage_servers",
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=1000, help="JPEGs to generate")
    parser.add_argument("--reads", type=int, default=1000, help="of a turn")
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", default="runs/storage_servers")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, console: Console) -> int:
    from budgetloader.bench.console import bars
    from budgetloader.bench.record import environment, write_json
    from budgetloader.bench.stores import serve_nginx, serve_s3
    from budgetloader.prepare import prepare

    out = Path(options.out)
    with bars(console) as progress:
        prepare(None, evaluation=None, folder=out / "data", images=options.images, seed=0, progress=progress)
    local = out / "data" / "train.beton"
    with tempfile.TemporaryDirectory() as text, serve_s3(Path(text)) as s3:
        folder = Path(text) / "web"
        folder.mkdir()
        os.environ.update(s3.environment())
        s3.put("train.beton", local.read_bytes())
        with serve_nginx(folder) as url:
            (folder / "files" / "train.beton").write_bytes(local.read_bytes())
            rows = measure(local, readers(s3, url), options)
    shown = {key: value for key, value in vars(options).items() if key != "out"}
    results: dict[str, Any] = {"command": "python -m budgetloader.bench.storage_servers", "environment": environment()}
    results |= {"options": shown, "servers": rows}
    write_json(out / "results.json", results)
    console.print(grid(results).rich())
    return 0


def readers(s3: S3, url: str) -> dict[tuple[str, str], Read]:
    """What reads a range: by server and client."""
    import obstore
    from obstore.store import HTTPStore, from_url

    gateway = from_url(f"s3://{s3.bucket}", client_options={"allow_http": True})
    web = HTTPStore.from_url(url, client_options={"allow_http": True})
    found: dict[tuple[str, str], Read] = {
        ("gateway", "obstore"): lambda start, stop: obstore.get(
            gateway, "train.beton", options={"range": (start, stop)}
        ).buffer(),
        ("nginx", "obstore"): lambda start, stop: obstore.get(
            web, "train.beton", options={"range": (start, stop)}
        ).buffer(),
    }
    try:
        import s3fs
    except ImportError:
        return found
    system = s3fs.S3FileSystem(
        key=os.environ["AWS_ACCESS_KEY_ID"],
        secret=os.environ["AWS_SECRET_ACCESS_KEY"],
        client_kwargs={"endpoint_url": os.environ["AWS_ENDPOINT_URL"]},
        config_kwargs={"max_pool_connections": 64},
    )
    path = f"{s3.bucket}/train.beton"
    found["gateway", "s3fs"] = lambda start, stop: system.cat_file(path, start=start, end=stop)
    return found


def measure(
    local: Path, read: Mapping[tuple[str, str], Read], options: argparse.Namespace
) -> list[dict[str, str | float]]:
    """A row for each pair of server and client: medians of turns that they take one after the other."""
    from budgetloader.dataset import Dataset

    dataset, draws = Dataset(local), np.random.default_rng(0)
    turns: dict[tuple[str, str], list[tuple[float, float, float]]] = {pair: [] for pair in read}
    for turn in range(options.turns + 1):
        samples = draws.integers(0, len(dataset), options.reads)
        wanted = [(int(dataset.starts[i]), int(dataset.starts[i] + dataset.sizes[i])) for i in samples]
        for pair, one in read.items():
            found = _read(wanted, one, threads=options.threads)
            if turn:  # the first makes the connections
                turns[pair].append(found)
    return [
        {
            "server": server,
            "client": client,
            **dict(
                zip(
                    ("requests_per_second", "megabytes_per_second", "client_ms_per_request"),
                    (statistics.median(column) for column in zip(*rows, strict=True)),
                    strict=True,
                )
            ),
        }
        for (server, client), rows in turns.items()
    ]


def _read(wanted: Sequence[tuple[int, int]], read: Read, *, threads: int) -> tuple[float, float, float]:
    """Requests and megabytes a second, and this process's milliseconds a request."""
    with ThreadPoolExecutor(threads) as pool:
        began, worked = time.perf_counter(), _own_seconds()
        sizes = list(pool.map(lambda span: len(read(*span)), wanted))
        seconds, own = time.perf_counter() - began, _own_seconds() - worked
    if sizes != [stop - start for start, stop in wanted]:
        raise RuntimeError("a server gave other bytes than it was asked for")
    return len(wanted) / seconds, sum(sizes) / 1e6 / seconds, 1000 * own / len(wanted)


def _own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def grid(record: Mapping[str, Any]) -> Grid:
    """The record as a table."""
    rows = [
        (
            f"{row['server']}, {row['client']}",
            f"{row['requests_per_second']:,.0f}",
            f"{row['megabytes_per_second']:,.0f}",
            f"{row['client_ms_per_request']:.2f}",
        )
        for row in record["servers"]
    ]
    options = record["options"]
    note = f"{options['threads']} reads at a time, of samples' sizes; medians of {options['turns']} turns."
    return Grid(
        "Servers and clients", ("server and client", "reads/s", "MB/s", "ms of the client's own for each"), rows, note
    )


if __name__ == "__main__":
    sys.exit(main())
