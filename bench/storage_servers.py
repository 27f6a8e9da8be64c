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
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from budgetloader.bench.entry import generated, parser_of
from budgetloader.bench.grid import Grid

if TYPE_CHECKING:
    from rich.console import Console

    from budgetloader.bench.plain_clients import Read
    from budgetloader.bench.stores import S3


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("storage_servers", __doc__)
    parser.add_argument("--images", type=int, default=300, help="JPEGs to generate")
    parser.add_argument("--reads", type=int, default=600, help="of a turn")
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", default="runs/storage_servers")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options, arguments), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from budgetloader.bench.record import command, environment, write_json
    from budgetloader.bench.stores import serve_nginx, serve_s3

    out = Path(options.out)
    local = generated(out / "data", images=options.images, console=console)
    with tempfile.TemporaryDirectory() as text, serve_s3(Path(text)) as s3:
        folder = Path(text) / "web"
        folder.mkdir()
        os.environ.update(s3.environment())
        s3.put("train.beton", local.read_bytes())
        with serve_nginx(folder) as url:
            (folder / "files" / "train.beton").write_bytes(local.read_bytes())
            rows = measure(local, readers(s3, url), options)
    results: dict[str, Any] = {
        "command": command("budgetloader.bench.storage_servers", arguments),
        "environment": environment(),
        "options": {**vars(options), "out": None},
        "servers": rows,
    }
    write_json(out / "results.json", results)
    console.print(grid(results).rich())
    return 0


def readers(s3: S3, url: str) -> dict[tuple[str, str], Read]:
    """What reads a range: by server and client."""
    from budgetloader.bench.plain_clients import obstore_reader, s3fs_reader

    found = {
        ("gateway", "obstore"): obstore_reader(f"s3://{s3.bucket}", "train.beton"),
        ("nginx", "obstore"): obstore_reader(url, "train.beton"),
    }
    other = s3fs_reader(s3.bucket, "train.beton", connections=64)
    return found if other is None else {**found, ("gateway", "s3fs"): other}


def measure(
    local: Path, read: Mapping[tuple[str, str], Read], options: argparse.Namespace
) -> list[dict[str, str | float]]:
    """A row for each pair of server and client: medians of turns that they take one after the other."""
    from budgetloader.bench.plain_clients import draw, rate
    from budgetloader.dataset import Dataset

    dataset, draws = Dataset(local), np.random.default_rng(0)
    turns: dict[tuple[str, str], list[dict[str, float]]] = {pair: [] for pair in read}
    for turn in range(options.turns + 1):
        wanted = draw(dataset, options.reads, draws)
        for pair, one in read.items():
            found = rate(wanted, one, threads=options.threads)
            if turn:  # the first makes the connections
                turns[pair].append(found)
    return [
        {"server": server, "client": client, **{name: statistics.median(row[name] for row in rows) for name in rows[0]}}
        for (server, client), rows in turns.items()
    ]


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
