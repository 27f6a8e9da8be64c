"""Kills each process of a service at random moments of a training, and reports how the trainer ended.

    python -m budgetloader.bench.kill_matrix --trials 20 --out runs/kill_matrix

After each kill the trainer's stream is the private loader's hash for hash, or it has one error within 5 seconds;
and nothing is left behind: no process, no folder, no entry, no shared memory.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from budgetloader.bench import child, serving
from budgetloader.bench.console import guarded
from budgetloader.bench.record import environment, write_json
from budgetloader.bench.serving import below

# Parts of a process's command line that tell which one it is.
VICTIMS = {
    "worker": ("ray::_decode", "ray::IDLE", "ray::_warm_up"),
    "coordinator": ("ray::Coordinator",),
    "bridge": ("budgetloader.service.bridge",),
    "guard": ("guard.py",),
    "trainer": (),
    "agent": ("ray::RuntimeEnvAgent", "ray::DashboardAgent"),
    "raylet": ("/raylet/raylet ",),
    "GCS": ("/gcs_server ",),
    "server": (),
}
_FATAL = ("agent", "raylet", "GCS", "server")
_TOLD_SECONDS = 5.0
_SCHEDULE = "full@3"
_TRAINING_SECONDS = 3.0
_LOOK: dict[str, Any] = {
    "batch_size": 48,
    "image_size": 32,
    "dtype": "uint8",
    "with_ids": True,
    "crop": "resized",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m budgetloader.bench.kill_matrix", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--trials", type=int, default=20, help="of each victim")
    parser.add_argument("--victims", nargs="+", choices=list(VICTIMS), default=list(VICTIMS))
    parser.add_argument("--out", type=Path, default=Path("runs/kill_matrix"))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    return guarded(lambda _: _main(options), interrupted=f"the trials that were finished are in {options.out}")


def _main(options: argparse.Namespace) -> int:
    options.out.mkdir(parents=True, exist_ok=True)
    trials: list[dict[str, Any]] = []
    where = environment()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        for trial in _run(options, Path(folder)):
            trials.append(trial)
            record = {"environment": where, "trials_asked": options.trials, "rows": rows(trials), "trials": trials}
            write_json(options.out / "kill_matrix.json", record)
    print(table(rows(trials)))
    return 0 if all(row["kept"] == row["trials"] and not row["left_behind"] for row in rows(trials)) else 1


def _hashes(batches: Any) -> Iterator[list]:
    for epoch in range(batches.schedule.epochs):
        for images, labels, ids in batches:
            state = hashlib.sha256(images.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
            state.update(labels.numpy().tobytes() + ids.numpy().tobytes())
            yield [epoch, batches.step - 1, state.hexdigest()[:16]]


def train(name: str, seed: int) -> int:
    """A trainer, in a process of its own: a line for each batch, and one for its end."""
    from budgetloader import EngineError, Schedule, connect

    schedule = Schedule.parse(_SCHEDULE)
    each = _TRAINING_SECONDS / schedule.budget(1440, batch_size=48).total
    try:
        with connect(name, schedule=schedule, seed=seed, **_LOOK) as batches:
            print(json.dumps("connected"), flush=True)
            for line in _hashes(batches):
                print(json.dumps(line), flush=True)
                time.sleep(each)
    except EngineError as error:
        print(json.dumps({"error": str(error), "at": time.time()}), flush=True)
        return 1
    print(json.dumps("finished"), flush=True)
    return 0


def _run(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    from rich.progress import Progress

    from budgetloader import BudgetLoader, Schedule
    from budgetloader.prepare import prepare

    with Progress(disable=True) as progress:
        prepare(
            None,
            evaluation=None,
            folder=folder,
            images=1440,
            seed=0,
            progress=progress,
            builtin="digits",
            image_size=32,
        )
    data = folder / "train.beton"
    known = folder / "known"
    known.mkdir(mode=0o700)
    os.environ["BUDGETLOADER_SERVICES"] = str(known)
    rng = random.Random(options.seed)
    for victim in options.victims:
        served = _Served(data, known)
        try:
            for number in range(options.trials):
                seed = rng.randrange(1 << 32)  # nothing is decoded already
                schedule = Schedule.parse(_SCHEDULE)
                with BudgetLoader(data, schedule=schedule, engine="native", seed=seed, **_LOOK) as batches:
                    expected = list(_hashes(batches))
                command = child.once("budgetloader.bench.kill_matrix:train", name="kills", seed=seed)
                outcome = _try(served, victim, expected, rng, command)
                trial = {"victim": victim, "number": number, "seed": seed, **outcome}
                if victim in _FATAL or number == options.trials - 1:
                    trial["left_behind"] = served.end()
                print(json.dumps(trial), file=sys.stderr, flush=True)
                yield trial
        finally:
            served.end()


class _Served:
    """A service, started anew where it is not there."""

    def __init__(self, data: Path, known: Path) -> None:
        self._data, self._known = data, known
        self._process: subprocess.Popen | None = None
        self._seen: dict[int, int | None] = {}  # pid → when it started
        self._session = ""

    def start(self) -> int:
        if self._process is None or self._process.poll() is not None:
            with open(self._known.parent / "server.log", "w+") as log:
                try:
                    self._process = serving.start(self._data, name="kills", memory="120MB", log=log)
                except RuntimeError:
                    log.seek(0)
                    raise SystemExit(f"error: the service does not start: {log.read()[-500:]}") from None
            self._session = json.loads((self._known / "kills.json").read_text())["session"]
        self.note()
        return self._process.pid

    def note(self) -> None:
        """Take note of the processes that must be gone in the end."""
        from budgetloader.service.registry import start_time

        if self._process is not None:
            self._seen.update({pid: start_time(pid) for pid in (self._process.pid, *below(self._process.pid))})

    def end(self, seconds: float = 30.0) -> list[str]:
        """End it if it has not ended; a list of everything that it left behind."""
        from budgetloader.service.registry import start_time

        if self._process is None:
            return []
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.note()
            if self._process.poll() is None:
                time.sleep(1)  # for one that is about to end by itself
                self._process.terminate()
            self._process.wait(timeout=seconds)
        deadline = time.monotonic() + seconds
        while True:
            left = [f"process {pid}" for pid, started in self._seen.items() if started and start_time(pid) == started]
            left += [self._session] * os.path.exists(self._session)
            left += [str(path) for path in self._known.iterdir()]
            if not left or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        self._process, self._seen = None, {}
        return left


def _try(served: _Served, victim: str, expected: list, rng: random.Random, command: list[str]) -> dict[str, Any]:
    """One kill."""
    server = served.start()
    with tempfile.TemporaryFile("w+") as output:
        trainer = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        # Where a trainer is killed, a second one runs beside it, and must not notice.
        quiet = subprocess.DEVNULL
        other = subprocess.Popen(command, stdout=quiet, stderr=quiet) if victim == "trainer" else None
        _wait_for_lines(trainer, output, 1)
        moment = rng.uniform(0, _TRAINING_SECONDS)
        time.sleep(moment)
        served.note()
        killed = _kill(victim, server=server, trainer=(other or trainer).pid, rng=rng)
        at = time.time()
        try:
            trainer.wait(timeout=90)
        except subprocess.TimeoutExpired:
            trainer.kill()
        if other is not None:
            other.wait()
        output.seek(0)
        lines = [json.loads(line) for line in output if line.endswith("\n")]
    return {"moment": round(moment, 3), "killed": killed, **_judge(lines, expected, at)}


def _wait_for_lines(process: subprocess.Popen, output: Any, count: int) -> None:
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        if os.pread(output.fileno(), 1 << 16, 0).count(b"\n") >= count:
            return
        time.sleep(0.02)


def _kill(victim: str, *, server: int, trainer: int, rng: random.Random) -> bool:
    if victim in ("server", "trainer"):
        os.kill(server if victim == "server" else trainer, signal.SIGKILL)
        return True
    found = []
    for pid in below(trainer if victim == "bridge" else server):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if any(part in line for part in VICTIMS[victim]):
                found.append(pid)
    if not found:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice(found), signal.SIGKILL)
    return True


def _judge(lines: list, expected: list, at: float) -> dict[str, Any]:
    """How the trainer ended: with its whole stream, or with the right beginning of it and one error in time."""
    got = [line for line in lines if isinstance(line, list)]
    last = lines[-1] if lines else None
    if got == expected and last == "finished":
        return {"outcome": "same stream", "kept": True}
    if got == expected[: len(got)] and isinstance(last, dict):
        seconds = last["at"] - at
        return {"outcome": "one error", "kept": seconds < _TOLD_SECONDS, "seconds": seconds, "error": last["error"]}
    return {"outcome": "wrong" if got != expected[: len(got)] else "hung or silent", "kept": False}


def rows(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each victim."""
    found = []
    for victim in dict.fromkeys(trial["victim"] for trial in trials):
        own = [trial for trial in trials if trial["victim"] == victim]
        outcomes = Counter(trial["outcome"] for trial in own)
        seconds = [trial["seconds"] for trial in own if "seconds" in trial]
        found.append(
            {
                "victim": victim,
                "trials": len(own),
                "kept": sum(trial["kept"] for trial in own),
                "same_stream": outcomes["same stream"],
                "one_error": outcomes["one error"],
                "longest_seconds": max(seconds, default=None),
                "wrong_or_hung": len(own) - outcomes["same stream"] - outcomes["one error"],
                "left_behind": sum(len(trial.get("left_behind", [])) for trial in own),
            }
        )
    return found


def table(found: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| killed | trials | same stream | one error | after at most | wrong or hung | left behind |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found:
        longest = "" if row["longest_seconds"] is None else f"{row['longest_seconds']:.1f} s"
        cells = (row["victim"], row["trials"], row["same_stream"], row["one_error"], longest)
        lines.append("| " + " | ".join(map(str, (*cells, row["wrong_or_hung"], row["left_behind"]))) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
