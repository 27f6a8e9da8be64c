"""What a large set in object storage costs: its index, and what many ranks read, hold and ask for.

    python -m budgetloader.bench.scale

"index": a set of 1.28 million samples, which are tiny because an index does not depend on their bytes, is served on the
loopback, and opened by processes of their own: first from the store, then, several times, from the index that was kept
on the disk. Measured are the time of opening (imports aside), requests, bytes, memory and descriptors.

"ranks": a billion samples in ten thousand shards over 256 ranks, which nobody here can store. The loader's own order
says which samples each rank draws in some steps, and its own joining which requests fetch them; an index takes what
was measured of the set above, for each sample, or for each shard.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from budgetloader.bench.entry import parser_of
from budgetloader.bench.grid import Grid

if TYPE_CHECKING:
    from rich.console import Console

_TINY_BYTES = 64
_SIDES = (375, 500)  # what the index says of the images
_NAME = "train.beton"


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("scale", __doc__)
    parser.add_argument("--measured", type=int, default=1_281_167, help="samples of the set that is opened")
    parser.add_argument("--turns", type=int, default=5, help="openings from the kept index")
    parser.add_argument("--samples", type=int, default=10**9, help="of the simulated set")
    parser.add_argument("--shards", type=int, default=10**4)
    parser.add_argument("--ranks", type=int, default=256)
    parser.add_argument("--ranks-of-a-machine", type=int, default=8)
    parser.add_argument("--batch-of-a-rank", type=int, default=256)
    parser.add_argument("--sample-bytes", type=int, default=110_000, help="of a sample, on average")
    parser.add_argument("--ratio", default="0.618", help="of an epoch")
    parser.add_argument("--steps", type=int, default=8, help="simulated")
    parser.add_argument("--out", default="runs/scale")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options, arguments), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from budgetloader.bench.record import command, environment, write_json

    with tempfile.TemporaryDirectory() as folder:
        index = measure(options.measured, turns=options.turns, folder=Path(folder))
    ranks = simulate(options, index)
    results: dict[str, Any] = {
        "command": command("budgetloader.bench.scale", arguments),
        "environment": environment(),
        "options": {**vars(options), "out": None},
        "index": index,
        "ranks": ranks,
    }
    write_json(Path(options.out) / "results.json", results)
    for made in (index_grid(results), ranks_grid(results)):
        console.print(made.rich())
    return 0


# The index


def measure(samples: int, *, turns: int, folder: Path) -> dict[str, Any]:
    """What opening a set of so many samples takes."""
    from budgetloader.bench.stores import RangeServer

    data = _set(samples, folder / _NAME)
    server = RangeServer({_NAME: data})
    url = f"{server.url}/{_NAME}"
    try:
        first = _opened(url, folder / "home", None)
        kept = [_opened(url, folder / "home", None) for _ in range(turns)]
        _opened(url, folder / "home", folder / "cache")
        cached = [_opened(url, folder / "home", folder / "cache") for _ in range(turns)]
    finally:
        server.close()
    (file,) = (folder / "home").glob("budgetloader/*/index")
    return {
        "samples": samples,
        "kept_bytes": file.stat().st_size,
        "first": first,
        "kept": _middle(kept),
        "with_cache": _middle(cached),
    }


def _middle(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    return {**found, "slowest_seconds": max(turn["seconds"] for turn in turns)}


def _set(samples: int, path: Path) -> bytes:
    """A `.beton` of samples that are no images; their sizes vary as images' do, a thousandth as large."""
    from budgetloader.beton import Writer

    draws = np.random.default_rng(0)
    sizes, labels = draws.integers(_TINY_BYTES // 2, 2 * _TINY_BYTES, samples), draws.integers(0, 1000, samples)
    filler = draws.bytes(2 * _TINY_BYTES)
    notes = {"classes": [f"class {number}" for number in range(1000)]}
    with Writer(path, capacity=samples, notes=notes) as writer:
        for size, label in zip(sizes.tolist(), labels.tolist(), strict=True):
            writer.add(filler[:size], width=_SIDES[1], height=_SIDES[0], label=label)
    data = path.read_bytes()
    path.unlink()
    return data


def _opened(url: str, home: Path, cache: Path | None) -> dict[str, Any]:
    """Open a set in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_open, args=(url, str(home), None if cache is None else str(cache), theirs))
    child.start()
    theirs.close()
    try:
        found: dict[str, Any] = json.loads(ours.recv_bytes())
    finally:
        child.join()
    return found


def _open(url: str, home: str, cache: str | None, said: Any) -> None:
    os.environ["XDG_CACHE_HOME"] = home
    import obstore  # noqa: F401

    from budgetloader.storage.dataset import RemoteDataset

    gc.collect()
    before, descriptors, began = _held(), len(os.listdir("/proc/self/fd")), time.perf_counter()
    dataset = RemoteDataset(url, cache=cache)
    seconds = time.perf_counter() - began
    gc.collect()
    traffic = dataset.traffic
    found = {
        "seconds": seconds,
        "requests": traffic.requests,
        "fetched_bytes": traffic.fetched_bytes,
        "held_bytes": _held() - before,
        "descriptors": len(os.listdir("/proc/self/fd")) - descriptors,
    }
    said.send_bytes(json.dumps(found).encode())


def _held() -> int:
    """Memory that this process has for itself, bytes: anonymous, and of files that no disk has."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


# Many ranks


def simulate(options: argparse.Namespace, index: Mapping[str, Any]) -> dict[str, Any]:
    """What an epoch of the large set reads, and what each rank holds and asks for."""
    from budgetloader.block_order import BlockOrder, Blocks
    from budgetloader.order import Order
    from budgetloader.schedule import Schedule

    batch = options.ranks * options.batch_of_a_rank
    budget = Schedule.flat(options.ratio, epochs=1).budget(options.samples, batch_size=batch)
    requests, shards = _mean_asked(Order(budget, seed=0), options)
    in_blocks, _ = _mean_asked(BlockOrder(budget, seed=0, shape=Blocks()), options)
    steps = budget.batches[0]
    used, machines = budget.epoch_samples(0), -(-options.ranks // options.ranks_of_a_machine)
    kept, held = (value / index["samples"] for value in (index["kept_bytes"], index["kept"]["held_bytes"]))
    return {
        "steps_of_an_epoch": steps,
        "samples_of_an_epoch": used,
        "epoch_bytes": used * options.sample_bytes,
        "rank_epoch_bytes": used * options.sample_bytes / options.ranks,
        "requests_of_a_batch": requests,
        "requests_of_a_batch_in_blocks": in_blocks,
        "shards_of_a_batch": shards,
        "requests_of_an_epoch": requests * options.ranks * steps,
        "index_bytes": kept * options.samples,
        "index_bytes_of_all_machines": kept * options.samples * machines,
        "held_bytes_of_a_rank": held * options.samples,
        "held_bytes_of_a_machine": held * options.samples * options.ranks_of_a_machine,
        "opening_requests_of_a_rank": index["kept"]["requests"] * options.shards,
        "opening_requests": index["kept"]["requests"] * options.shards * options.ranks,
        "descriptors_of_a_rank": index["kept"]["descriptors"] * options.shards,
    }


def _mean_asked(order: Any, options: argparse.Namespace) -> tuple[float, float]:
    """Requests and shards of a rank's part of a batch, in the mean over ranks and some steps."""
    drawn = [_asked(order, options, step, rank) for step in range(options.steps) for rank in range(options.ranks)]
    requests, shards = (statistics.mean(column) for column in zip(*drawn, strict=True))
    return requests, shards


def _asked(order: Any, options: argparse.Namespace, step: int, rank: int) -> tuple[int, int]:
    """Requests and shards of a rank's part of a batch."""
    from budgetloader.storage.cost import Cost
    from budgetloader.storage.ranges import MOST_BYTES, requests_for

    own = options.batch_of_a_rank
    first = step * own * options.ranks + rank * own
    ids = np.unique(order.ids(0, np.arange(first, first + own)))
    of_a_shard = -(-options.samples // options.shards)
    gap = Cost(latency_seconds=0.05, bytes_per_second=50e6, connections=64).gap_bytes  # the most that is joined
    requests = 0
    numbers = ids // of_a_shard
    for number in np.unique(numbers):
        inside = ids[numbers == number] - number * of_a_shard
        starts, sizes = inside * options.sample_bytes, np.full(len(inside), options.sample_bytes)
        requests += len(requests_for(np.arange(len(inside)), starts, sizes, gap_bytes=gap, most_bytes=MOST_BYTES))
    return requests, len(np.unique(numbers))


# Tables


def index_grid(results: Mapping[str, Any]) -> Grid:
    """The index that was measured."""
    index = results["index"]
    rows = []
    for title, name in (("first, from the store", "first"), ("again", "kept"), ("again, with `cache=`", "with_cache")):
        row = index[name]
        rows.append(
            (
                title,
                f"{row['seconds']:.2f}",
                f"{row.get('slowest_seconds', row['seconds']):.2f}",
                f"{row['requests']:,.0f}",
                f"{row['fetched_bytes'] / 1e6:,.1f}",
                f"{row['held_bytes'] / 1e6:,.0f}",
            )
        )
    note = (
        f"{index['samples']:,} samples, whose index takes {index['kept_bytes'] / 1e6:,.1f} MB on the disk; a median of "
        f"{results['options']['turns']} openings where it is opened again."
    )
    columns = ("opened", "seconds", "slowest", "requests", "MB fetched", "MB of memory")
    return Grid("The index", columns, rows, note)


def ranks_grid(results: Mapping[str, Any]) -> Grid:
    """What was simulated."""
    found, options = results["ranks"], results["options"]
    rows = [
        ("read in an epoch, by all ranks", f"{found['epoch_bytes'] / 1e12:,.1f} TB"),
        ("read in an epoch, by one rank", f"{found['rank_epoch_bytes'] / 1e9:,.0f} GB"),
        ("requests of a rank's batch", f"{found['requests_of_a_batch']:,.2f}"),
        ('the same with `sampling="blocks"`', f"{found['requests_of_a_batch_in_blocks']:,.2f}"),
        ("shards that it is of", f"{found['shards_of_a_batch']:,.1f}"),
        ("requests in an epoch, by all ranks", f"{found['requests_of_an_epoch'] / 1e6:,.0f} million"),
        ("index on the disk of a machine", f"{found['index_bytes'] / 1e9:,.0f} GB"),
        ("index fetched, once, by all machines", f"{found['index_bytes_of_all_machines'] / 1e12:,.2f} TB"),
        ("memory of a rank", f"{found['held_bytes_of_a_rank'] / 1e9:,.0f} GB"),
        ("memory of a machine", f"{found['held_bytes_of_a_machine'] / 1e9:,.0f} GB"),
        ("requests to open it, by one rank", f"{found['opening_requests_of_a_rank']:,.0f}"),
        ("requests to open it, by all ranks", f"{found['opening_requests'] / 1e6:,.1f} million"),
        ("descriptors of a rank", f"{found['descriptors_of_a_rank']:,.0f}"),
    ]
    note = (
        f"{options['samples']:,} samples of {options['sample_bytes']:,} bytes in {options['shards']:,} shards; "
        f"{options['ranks']} ranks, {options['ranks_of_a_machine']} on a machine, with {options['batch_of_a_rank']} "
        f"samples of each batch; α = {options['ratio']}, {found['steps_of_an_epoch']:,} batches an epoch."
    )
    return Grid("Many ranks", ("what", "how much"), rows, note)


if __name__ == "__main__":
    sys.exit(main())
