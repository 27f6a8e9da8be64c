"""Trainings that are killed and resumed: python -m budgetloader.bench.storage_resume --out runs/storage_resume

The set is on a real S3 server on this machine, behind a proxy that answers late, so that requests are always under way.
Processes that train from it are killed (SIGKILL) at random moments, all ranks at once, and new ones go on from the
states that they saved last: again and again, on each engine, with no cache, with one as large as the set, and with one
of half its size. Every batch that any of them was given must be the one that an uninterrupted training gets from the
local file, and none may be missing.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetloader.bench.entry import parser_of
from budgetloader.bench.grid import Grid
from budgetloader.bench.stores import late, serve_s3

if TYPE_CHECKING:
    from rich.console import Console

ENGINES = ("native", "dali", "ffcv", "resident", "synthetic")
CACHES = ("none", "whole", "half")
_SAVED_EVERY = 3  # batches between two states, so that a resumed training repeats some
_MOST_BATCHES = 12  # that a process gives before it is killed
_MOST_PAUSE_SECONDS = 0.03  # and how long after the last of them
_LATE_SECONDS = 0.005
_HUNG_SECONDS = 180.0


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("storage_resume", __doc__)
    parser.add_argument("--images", type=int, default=120, help="JPEGs to generate")
    parser.add_argument("--kills", type=int, default=5, help="for each engine, cache and number of ranks")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--ranks", nargs="+", type=int, default=(1, 2, 4))
    parser.add_argument("--out", default="runs/storage_resume")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options, arguments), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from budgetloader import engines
    from budgetloader.bench.console import bars
    from budgetloader.bench.record import command, environment, write_json
    from budgetloader.prepare import prepare

    out = Path(options.out)
    with bars(console) as progress:
        how: dict[str, Any] = {"evaluation": None, "seed": 0, "progress": progress}
        prepare(None, folder=out / "photographs", images=options.images, **how)
        # Of one size, which engine "resident" needs.
        prepare(None, folder=out / "digits", images=options.images, builtin="digits", image_size=64, **how)
    rows, said = _earlier(out / "results.json", options.engines)
    with (
        tempfile.TemporaryDirectory() as text,
        serve_s3(Path(text)) as s3,
        late(s3.port, seconds=_LATE_SECONDS) as port,
    ):
        for engine in (name for name in options.engines if engines.installed(name)):
            name = "digits" if engine == "resident" else "photographs"
            local = out / name / "train.beton"
            url = s3.put(f"{name}.beton", local.read_bytes())
            for cache in CACHES:
                for ranks in options.ranks:
                    row = resumed(
                        local,
                        url,
                        folder=Path(text) / f"{engine}-{cache}-{ranks}",
                        engine=engine,
                        cache=cache,
                        ranks=ranks,
                        kills=options.kills,
                        configured=s3.environment(port),
                    )
                    rows.append({"engine": engine, "cache": cache, "ranks": ranks, **row})
                    console.print(str(rows[-1]))
    said = [*said, command("budgetloader.bench.storage_resume", arguments)]
    results = {"command": "; ".join(said), "environment": environment(), "options": {**vars(options), "out": None}}
    write_json(out / "results.json", {**results, "trainings": rows})
    return 1 if any(row["wrong"] or row["missing"] for row in rows) else 0


def _earlier(path: Path, engines: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """What a record has of other engines, and by which commands: one may be made by several calls."""
    if not path.exists():
        return [], []
    record = json.loads(path.read_text())
    rows = [row for row in record["trainings"] if row["engine"] not in engines]
    return rows, [record["command"]] if rows else []


def grid(record: Mapping[str, Any]) -> Grid:
    """The record as a table: one row for each engine."""
    rows = []
    for engine in dict.fromkeys(row["engine"] for row in record["trainings"]):
        of = [row for row in record["trainings"] if row["engine"] == engine]
        ranks = ", ".join(str(number) for number in sorted({row["ranks"] for row in of}))
        sums = [sum(row[name] for row in of) for name in ("kills", "batches", "repeated", "wrong", "missing")]
        rows.append((engine, ranks, *(f"{count:,}" for count in sums)))
    note = "Without a cache, with one of the whole set, and with one of half of it."
    columns = ("engine", "ranks", "kills", "batches given", "given again", "wrong", "missing")
    return Grid("Trainings that were killed and resumed", columns, rows, note)


def resumed(
    local: Path,
    url: str,
    *,
    folder: Path,
    engine: str,
    cache: str,
    ranks: int,
    kills: int,
    configured: Mapping[str, str],
    seed: int = 0,
) -> dict[str, int]:
    """A training that is killed so many times, and resumed each time.

    Args:
        local: the file.
        url: where the same is stored.
        folder: for states, logs and the cache; made.
        engine: of `ENGINES`.
        cache: of `CACHES`.
        ranks: processes that train together.
        kills: of all of them at once.
        configured: the environment that names the store.
        seed: of the moments, and of the stream.

    Returns:
        kills; batches that were given, to killed processes, too; wrong: those that were others than the uninterrupted
        training's; missing: those that were given to nobody; repeated: those that were given more than once.
    """
    folder.mkdir(parents=True)
    job: dict[str, Any] = {"path": url, "engine": engine, "ranks": ranks, "seed": seed, "folder": str(folder)}
    job["environment"] = {**configured, "XDG_CACHE_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    if cache != "none":
        half = max(local.stat().st_size / 2, float(1 << 20))
        job |= {"cache": str(folder / "cache"), "cache_bytes": None if cache == "whole" else half}
    chance, done = random.Random(seed), 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "budgetloader.loader", f"budgetloader.engines.{engine}"])
    while True:
        processes = [context.Process(target=train, args=(job, rank), daemon=True) for rank in range(ranks)]
        for process in processes:
            process.start()
        if done == kills:
            break
        if _given(folder, chance.randint(1, _MOST_BATCHES), processes):
            time.sleep(chance.uniform(0.0, _MOST_PAUSE_SECONDS))
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        done += 1
    for process in processes:
        process.join(_HUNG_SECONDS)
        if process.exitcode != 0:
            raise RuntimeError(f"engine {engine}, cache {cache}: the last training ended with {process.exitcode}")
    return {"kills": done, **_compared(local, job)}


def train(job: dict[str, Any], rank: int) -> None:
    """Train to the end of the schedule, from the state that is saved, and log a hash of each batch; in a process of its
    own."""
    os.environ.update(job["environment"])
    folder = Path(job["folder"])
    state = folder / f"state-{rank}.json"
    log = os.open(folder / f"log-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(log, b"\n")  # behind half a line, perhaps
    for count, line in enumerate(_stream(job, rank, state=state), start=1):
        os.write(log, json.dumps(line).encode() + b"\n")
        if count % _SAVED_EVERY == 0:
            _save(state, line[3])


def _stream(job: Mapping[str, Any], rank: int, *, state: Path | None = None) -> Iterator[tuple[int, int, str, Any]]:
    """(epoch, step, hash, state behind it) of each batch of a rank."""
    from budgetloader import BudgetLoader, Schedule

    shape: Any = {"batch_size": 8, "image_size": 32, "dtype": "uint8", "workers": 1, "with_ids": True}
    shape |= {"engine": job["engine"], "seed": job["seed"], "rank": rank, "world_size": job["ranks"]}
    stored = {name: job[name] for name in ("cache", "cache_bytes") if job.get(name) is not None}
    with BudgetLoader(job["path"], schedule=Schedule.flat("0.618", epochs=12), **shape, **stored) as batches:
        if state is not None and state.exists():
            batches.load_state_dict(json.loads(state.read_text()))
        for epoch in batches.epochs():
            for images, labels, ids in batches:
                told = hashlib.sha256()
                for tensor in (images.contiguous(), labels, ids):
                    told.update(tensor.numpy().tobytes())
                yield epoch, batches.step - 1, told.hexdigest()[:16], batches.state_dict()


def _save(path: Path, state: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(state))
    partial.replace(path)


def _logged(folder: Path, rank: int) -> list[list[Any]]:
    """What a rank's processes have logged, whole lines only."""
    path = folder / f"log-{rank}"
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line)[:3])
        except ValueError:
            continue  # cut off, or empty
    return found


def _given(folder: Path, batches: int, processes: Sequence[Any]) -> bool:
    """Wait until the first rank was given more batches; False where it has ended before."""
    before, deadline = len(_logged(folder, 0)), time.monotonic() + _HUNG_SECONDS
    while len(_logged(folder, 0)) < before + batches:
        if any(process.exitcode not in (None, 0) for process in processes):
            raise RuntimeError(f"a training ended with {[process.exitcode for process in processes]}")
        if processes[0].exitcode is not None:
            return False
        if time.monotonic() > deadline:
            raise RuntimeError(f"no batch for {_HUNG_SECONDS:.0f} seconds")
        time.sleep(0.002)
    return True


def _compared(local: Path, job: Mapping[str, Any]) -> dict[str, int]:
    found = {"batches": 0, "wrong": 0, "missing": 0, "repeated": 0}
    whole = {**job, "path": str(local), "cache": None, "cache_bytes": None}
    for rank in range(job["ranks"]):
        expected = {(epoch, step): told for epoch, step, told, _ in _stream(whole, rank)}
        given = _logged(Path(job["folder"]), rank)
        seen = {(epoch, step) for epoch, step, _ in given}
        found["batches"] += len(given)
        found["wrong"] += sum(expected.get((epoch, step)) != told for epoch, step, told in given)
        found["missing"] += len(expected.keys() - seen)
        found["repeated"] += len(given) - len(seen)
    return found


if __name__ == "__main__":
    sys.exit(main())
