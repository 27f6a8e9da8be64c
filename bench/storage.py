"""Object storage: what a client's requests cost, and how fast the loader is on a store that is 50 ms away.

    python -m budgetloader.bench.storage

The store is a real S3 server (JuiceFS's gateway) on this machine, the latency is a proxy's in a process of its own.
Both share the cores with the loader. "clients" reads ranges of the samples' sizes with obstore and with s3fs, without
the proxy. "rates" measures, turn by turn in one process: an epoch of native from the local file; its bytes
with a plain client and as many connections, decoding nothing, sample by sample and block by block; the loader
without a cache, with uniform draws and with blocks; and from a warm cache. Each begins with nothing fetched ahead.
"bytes" counts what an epoch of a budget fetches, of whole samples, of windows, and of blocks.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from budgetloader.bench.entry import generated, parser_of
from budgetloader.bench.estimate import trimmed_mean
from budgetloader.bench.grid import Grid

if TYPE_CHECKING:
    from rich.console import Console

    from budgetloader.bench.stores import S3

PARTS = ("clients", "bytes", "rates")
_TITLES = {
    "local": "native, the local file",
    "client": "plain client, sample by sample",
    "loader": "native, uniform draws",
    "client of blocks": "plain client, block by block",
    "blocks": "native, blocks",
    "cache": "native, a warm cache",
}
_FETCHED = {"whole": "samples", "window": 'windows (`fetch="window"`)', "blocks": "samples, in blocks"}
_CLIENT_READS, _CLIENT_THREADS = 600, 32


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("storage", __doc__)
    parser.add_argument("--images", type=int, default=1536, help="JPEGs to generate")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds, at the proxy")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--blocks", default="blocks:32/256", help="the order by blocks")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", default="runs/storage")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options, arguments), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from budgetloader.bench.record import command, environment, write_json
    from budgetloader.bench.stores import serve_s3

    out = Path(options.out)
    local = generated(out / "data", images=options.images, console=console)
    shown = {**vars(options), "out": None}
    said = command("budgetloader.bench.storage", arguments)
    results: dict[str, Any] = {"environment": environment(), "command": said, "options": shown}
    with tempfile.TemporaryDirectory() as folder, serve_s3(Path(folder)) as s3:
        address = s3.put("train.beton", local.read_bytes())
        os.environ.update(s3.environment(), XDG_CACHE_HOME=f"{folder}/home")
        if "clients" in options.parts:
            results["clients"] = clients(s3, local)
            for name, row in results["clients"].items():
                console.print(
                    f"{name}: {row['requests_per_second']:,.0f} requests/s, "
                    f"{row['client_ms_per_request']:.2f} ms of this process's time each"
                )
        if "bytes" in options.parts:
            results["bytes"] = {
                fetch: fetched_bytes(address, fetch, options) for fetch in ("whole", "window", "blocks")
            }
            for fetch, row in results["bytes"].items():
                console.print(f"{fetch}: {_shown(row)}")
        if "rates" in options.parts:
            results["rates"] = rates(s3, address, local, Path(folder), options)
            for name, value in results["rates"].items():
                console.print(f"{name}: {_shown(value)}")
    write_json(out / "results.json", results)
    return 0


def rates_grid(record: dict[str, Any]) -> Grid:
    """How fast each way is, beside what the machine and the store let it be."""
    options, measured = record["options"], record["rates"]
    first, latency = measured["first_batch_seconds"], f"{1000 * options['latency']:.0f} ms of latency"

    def ratio(kind: str, name: str) -> str:
        found = measured[kind].get(name)
        if found is None:
            return "–"
        half_width = found["half_width"]  # None in a record, where there were too few turns for one
        known = half_width is not None and math.isfinite(half_width)
        return f"{found['value']:.2f}" + (f" ± {half_width:.2f}" if known else "")

    cells = [
        (
            title,
            f"{measured['images_per_second'][name]:,.0f}",
            ratio("over_the_lower", name),
            ratio("over_both", name),
            f"{measured['own_ms_per_image'][name]:.2f}",
            ratio("own_local_over", name),
            f"{first[name]:.2f}" if name in first else "–",
        )
        for name, title in _TITLES.items()
    ]
    return Grid(
        f"images/s at {options['image_size']} pixels, with {latency}",
        (
            "",
            "images/s",
            "of the lower",
            "of both on these cores",
            "processor ms an image",
            "local's ÷ its own",
            "opened, and the first batch, s",
        ),
        cells,
        f"Medians of {options['turns']} turns of one epoch of {options['images']} images ({options['blocks']}) with "
        f"{latency}, and trimmed means of the turns' ratios with 95 % intervals; store, proxy and loader share the "
        "cores. The lower: of the local file's rate and the plain "
        "client's, turn by turn (of the warm cache: the local file's). Both: what is left if decoding and fetching "
        "cost what they cost alone, one after the other, 1/(1/local + 1/client). Processor "
        "ms: of the loader's process, without the store's and the proxy's; local's ÷ its own: the local file's by it, "
        "which is what a trainer could have of the local rate whose store is elsewhere, if nothing but its "
        "processor limited it.",
    )


def bytes_grid(record: dict[str, Any]) -> Grid:
    """What an epoch of a budget fetches."""
    cells = [
        (title, f"{row['bytes_over_mean_size']:.3f}", f"{row['requests_per_sample']:.3f}")
        for name, title in _FETCHED.items()
        if (row := record["bytes"].get(name)) is not None
    ]
    blocks = record["options"]["blocks"]
    return Grid(
        "an epoch at α = 0.618, without a cache",
        ("", "bytes of a sample, × its mean size", "requests for a sample"),
        cells,
        f"{record['bytes']['whole']['samples']} samples in batches of {record['options']['batch_size']}; {blocks}.",
    )


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    return f"{value:,.3f}" if isinstance(value, float) else str(value)


def fetched_bytes(address: str, fetch: str, options: argparse.Namespace) -> dict[str, float]:
    """What one epoch at α = 0.618 fetches without a cache, random resized crops: bytes and requests per sample."""
    from budgetloader import BudgetLoader, Schedule
    from budgetloader.storage.dataset import RemoteDataset

    blocks = fetch == "blocks"
    far = RemoteDataset(address, fetch="whole" if blocks else fetch)
    opened, mean = far.traffic, float(far.sizes.mean())
    shape: Any = {"batch_size": options.batch_size, "image_size": options.image_size, "engine": "native"}
    shape |= {"sampling": options.blocks} if blocks else {}
    with BudgetLoader(far, schedule=Schedule.flat("0.618", epochs=1), **shape) as batches:
        samples = sum(len(labels) for _, labels in batches)
    done = far.traffic
    return {
        "samples": samples,
        "bytes_over_mean_size": (done.fetched_bytes - opened.fetched_bytes) / samples / mean,
        "requests_per_sample": (done.requests - opened.requests) / samples,
    }


def clients(s3: S3, local: Path) -> dict[str, dict[str, float]]:
    """What a random read of a sample's size costs, by client: requests per second and processor time."""
    from budgetloader.bench.plain_clients import draw, obstore_reader, rate, s3fs_reader
    from budgetloader.dataset import Dataset

    wanted = draw(Dataset(local), _CLIENT_READS, np.random.default_rng(0))
    readers = {
        "obstore": obstore_reader(f"s3://{s3.bucket}", "train.beton"),
        "s3fs": s3fs_reader(s3.bucket, "train.beton", connections=_CLIENT_THREADS),
    }
    found = {}
    for name, read in readers.items():
        if read is not None:
            rate(wanted[:64], read, threads=_CLIENT_THREADS)  # connections are made
            found[name] = rate(wanted, read, threads=_CLIENT_THREADS)
    return found


def rates(s3: S3, address: str, local: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Images per second of each way, and what the first batch and a boundary take."""
    from budgetloader.bench.stores import late

    with late(s3.port, seconds=options.latency) as port:
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
        return _rates(s3, address, local, folder, options)


def _rates(s3: S3, address: str, local: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from budgetloader.bench.plain_clients import obstore_reader
    from budgetloader.block_order import Blocks
    from budgetloader.storage import open_file

    began = time.perf_counter()
    far: Any = open_file(address)
    opened = time.perf_counter() - began
    first = {"loader": opened + _run(far, options)["first"]}
    first["blocks"] = opened + _run(far, options, sampling=options.blocks)["first"]
    sets = {"local": open_file(local), "loader": far, "cache": open_file(address, cache=folder / "cache")}
    ways: dict[str, tuple[Any, str]] = {name: (one, "independent") for name, one in sets.items()}
    ways["blocks"] = (far, options.blocks)
    for name in ("local", "cache"):
        _run(sets[name], options)  # numba compiles, and the cache is filled
    read, connections = obstore_reader(f"s3://{s3.bucket}", "train.beton"), far.cost.connections
    shape = Blocks.parse(options.blocks)
    assert shape is not None, f"--blocks {options.blocks}: give blocks:BLOCK/BUFFER"
    clients = {"client": 1, "client of blocks": shape.block}  # samples of a request
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in (*ways, *clients)}
    for _ in range(options.turns):
        for name, (one, sampling) in ways.items():
            turns[name].append(_run(one, options, sampling=sampling))
        for name, samples in clients.items():
            turns[name].append(_plain(read, far, connections, samples=samples))
    boundaries = {
        name: _run(one, options, epochs=2, sampling=sampling)["boundary"] for name, (one, sampling) in ways.items()
    }
    rates = {name: [turn["rate"] for turn in of] for name, of in turns.items()}

    bounds = {"loader": ("local", "client"), "blocks": ("local", "client of blocks"), "cache": ("local",)}

    own = {name: [turn["own_ms"] for turn in of] for name, of in turns.items()}

    def over(name: str, bound: Callable[..., float]) -> dict[str, Any]:
        others = zip(*(rates[other] for other in bounds[name]), strict=True)
        ratios = [a / bound(*turn) for a, turn in zip(rates[name], others, strict=True)]
        return dataclasses.asdict(trimmed_mean(ratios))

    return {
        "images_per_second": {name: statistics.median(of) for name, of in rates.items()},
        "over_the_lower": {name: over(name, lambda *turn: min(turn)) for name in bounds},
        "over_both": {
            name: over(name, lambda *turn: 1 / sum(1 / one for one in turn)) for name in ("loader", "blocks")
        },
        "own_ms_per_image": {name: statistics.median(of) for name, of in own.items()},
        "own_local_over": {
            name: dataclasses.asdict(trimmed_mean([a / b for a, b in zip(own["local"], own[name], strict=True)]))
            for name in bounds
        },
        "first_batch_seconds": first,
        "boundary_seconds": boundaries,
        "store": str(far.cost),
        "traffic": str(far.traffic),
        "verdict": str(turns["loader"][-1]["verdict"]),
        "turns": rates,
        "turns_own_ms": own,
    }


def _run(
    dataset: Any, options: argparse.Namespace, *, epochs: int = 1, sampling: str = "independent"
) -> dict[str, Any]:
    """Some epochs of a loader that begins with nothing: images per second, and seconds."""
    from budgetloader import BudgetLoader, Schedule
    from budgetloader.bench.plain_clients import own_seconds

    shape: Any = {
        "batch_size": options.batch_size,
        "image_size": options.image_size,
        "dtype": "uint8",
        "engine": "native",
        "sampling": sampling,
    }
    with BudgetLoader(dataset, schedule=Schedule.full(epochs=epochs), seed=epochs, **shape) as batches:
        began, worked, samples = time.perf_counter(), own_seconds(), 0
        for _ in batches.epochs():
            samples += sum(len(labels) for _, labels in batches)
        seconds, own = time.perf_counter() - began, own_seconds() - worked
        first, last = batches.stats[0].boundary_seconds, batches.stats[-1].boundary_seconds
        rate, own_ms = samples / seconds, 1000 * own / samples
        return {"rate": rate, "own_ms": own_ms, "first": first, "boundary": last, "verdict": batches.verdict()}


def _plain(read: Callable[[int, int], Any], dataset: Any, connections: int, *, samples: int) -> dict[str, float]:
    """Every sample, or every few neighbours, in an order of chance, fetched and dropped: samples per second."""
    from budgetloader.bench.plain_clients import own_seconds

    firsts = np.random.default_rng(0).permutation(np.arange(0, len(dataset), samples))
    lasts = np.minimum(firsts + samples, len(dataset)) - 1
    stops = dataset.starts[lasts] + dataset.sizes[lasts]
    spans = list(zip(dataset.starts[firsts].tolist(), stops.tolist(), strict=True))
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(lambda span: read(*span), spans[:connections]))
        began, worked = time.perf_counter(), own_seconds()
        for _ in pool.map(lambda span: len(read(*span)), spans):
            pass
        seconds, own = time.perf_counter() - began, own_seconds() - worked
        return {"rate": len(dataset) / seconds, "own_ms": 1000 * own / len(dataset)}


if __name__ == "__main__":
    sys.exit(main())
