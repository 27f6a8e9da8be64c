"""Object storage that fails, and processes that are killed: is anything wrong ever read, and how long does it take?

    python -m budgetloader.bench.storage_faults

Every fault is injected into that many requests of trainings from a web server on this machine: server errors,
throttling, connections that are cut, requests that hang, bytes that are damaged on their way. An object that is
replaced and a cache whose disk is full end one training each time. The stream must be the local one, or one clear
error, and nothing may take longer than the stated limit. "kills" kills processes that read and write one cache, and
compares all that any of them, or a process behind them, reads with the local file.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

from budgetloader.bench.entry import generated, parser_of
from budgetloader.bench.stores import FaultProxy, RangeServer, Trouble
from budgetloader.errors import StorageError
from budgetloader.storage import mirror
from budgetloader.storage.client import Patience
from budgetloader.storage.dataset import RemoteDataset

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE = Patience(attempts=8, seconds=30.0, request_seconds=1.0, first_pause=0.01, longest_pause=0.2)
PASSING = ("500", "503", "cut", "hang", "damaged")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("storage_faults", __doc__)
    parser.add_argument("--images", type=int, default=200, help="JPEGs to generate")
    parser.add_argument("--times", type=int, default=50, help="each fault")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--out", default="runs/storage_faults")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, console: Console) -> int:
    from budgetloader.bench.record import environment, write_json

    out = Path(options.out)
    local = generated(out / "data", images=options.images, console=console)
    results: dict[str, Any] = {"environment": environment(), "options": {**vars(options), "out": None}, "faults": {}}
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict("os.environ", XDG_CACHE_HOME=f"{folder}/home"):
        for fault in PASSING:
            results["faults"][fault] = passing(fault, local, times=options.times)
            console.print(f"{fault}: {results['faults'][fault]}")
        for fault in ("replaced", "full disk"):
            results["faults"][fault] = ending(fault, local, times=options.times, folder=Path(folder))
            console.print(f"{fault}: {results['faults'][fault]}")
        results["kills"] = kills(local, Path(folder), count=options.kills)
        console.print(f"kills: {results['kills']}")
    write_json(out / "results.json", results)
    wrong = [name for name, row in {**results["faults"], "kills": results["kills"]}.items() if row["wrong"]]
    return 1 if wrong else 0


def stream(dataset: Any, *, seed: int) -> str:
    """A hash of an epoch's ids, labels and pixels."""
    from budgetloader import BudgetLoader, Schedule

    state = hashlib.sha256()
    shape: Any = {"batch_size": 16, "image_size": 32, "dtype": "uint8", "engine": "native", "with_ids": True}
    with BudgetLoader(dataset, schedule=Schedule.flat("0.618", epochs=1), seed=seed, **shape) as batches:
        for images, labels, ids in batches:
            for tensor in (images.contiguous(), labels, ids):
                state.update(tensor.numpy().tobytes())
    return state.hexdigest()


def passing(fault: str, local: Path, *, times: int) -> dict[str, Any]:
    """Trainings during which requests fail now and then, until so many have: every stream must be the local one."""
    web, chance = RangeServer({"train.beton": local.read_bytes()}), random.Random(0)
    proxy = FaultProxy(web.port)
    found: dict[str, Any] = {"injected": 0, "trainings": 0, "same": 0, "wrong": 0, "retries": 0, "longest_seconds": 0.0}
    try:
        while found["injected"] < times:
            seed = found["trainings"]
            proxy.trouble = Trouble()
            far = RemoteDataset(f"{proxy.url}/train.beton", patience=PATIENCE)
            proxy.trouble = trouble = Trouble(lambda number: fault if chance.random() < 0.15 else None)
            began = time.perf_counter()
            same = stream(far, seed=seed) == stream(local, seed=seed)
            found["longest_seconds"] = max(found["longest_seconds"], time.perf_counter() - began)
            found["injected"] += len(trouble.injected)
            found["trainings"] += 1
            found["same" if same else "wrong"] += 1
            found["retries"] += far.traffic.retries
            far.close()
    finally:
        proxy.close()
        web.close()
    return found


def ending(fault: str, local: Path, *, times: int, folder: Path) -> dict[str, Any]:
    """Trainings that cannot go on: each must end with one clear error that names a sample."""
    found: dict[str, Any] = {"injected": 0, "errors": 0, "wrong": 0, "longest_seconds": 0.0, "limit_seconds": 0.0}
    found["limit_seconds"] = PATIENCE.limit_seconds
    web = RangeServer({"train.beton": local.read_bytes()})
    try:
        for turn in range(times):
            web.etags.clear()
            cache = folder / f"{fault}-{turn}"
            far = RemoteDataset(f"{web.url}/train.beton", patience=PATIENCE, cache=cache)
            far.jpeg(0)
            full = mock.patch.object(mirror.Mirror, "write", side_effect=OSError(28, "No space left on device"))
            if fault == "replaced":
                web.etags["train.beton"] = f'"another-{turn}"'
            began, clear = time.perf_counter(), False
            try:
                with full if fault == "full disk" else mock.patch.dict({}):
                    stream(far, seed=turn)
            except StorageError as error:
                expected = "was replaced while it was in use" if fault == "replaced" else "disk is full"
                clear = "sample" in str(error) and expected in str(error)
            found["injected"] += 1
            found["errors" if clear else "wrong"] += 1
            found["longest_seconds"] = max(found["longest_seconds"], time.perf_counter() - began)
            far.close()
    finally:
        web.close()
    return found


def kills(local: Path, folder: Path, *, count: int) -> dict[str, Any]:
    """Kill pairs of processes that share a cache of half the set's size, and read all of it at the end."""
    from budgetloader.dataset import Dataset

    here, chance = Dataset(local), random.Random(1)
    web = RangeServer({"train.beton": local.read_bytes()})
    url, cache, cache_bytes = f"{web.url}/train.beton", folder / "killed", max(here.sizes.sum() / 2, 1 << 20)
    command = [sys.executable, "-m", "budgetloader.bench.storage_child", url, str(local), str(cache), str(cache_bytes)]
    found: dict[str, Any] = {"kills": 0, "wrong": 0, "read_by_the_killed": 0}
    try:
        while found["kills"] < count:
            pair = [
                subprocess.Popen([*command, str(found["kills"] + i)], stdout=subprocess.PIPE, text=True) for i in (0, 1)
            ]
            for child in pair:
                assert child.stdout is not None and child.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.0, 0.3))
            for child in pair:
                child.kill()
                said = child.communicate()[0]
                found["kills"] += 1
                found["wrong"] += said.count("WRONG")
                found["read_by_the_killed"] += sum(int(line) for line in said.split() if line.isdecimal())
        far = RemoteDataset(url, cache=cache, cache_bytes=cache_bytes)
        found["wrong"] += sum(not np.array_equal(far.jpeg(i), here.jpeg(i)) for i in range(len(here)))
        found["found_in_the_cache"] = far.traffic.hits
        found["damaged"] = far.traffic.damaged
        far.close()
    finally:
        web.close()
    return found


if __name__ == "__main__":
    sys.exit(main())
