"""A long run of one private loader, and of a service with trainers that come and go: does anything grow?

    python -m budgetloader.bench.soak --minutes 120 --out runs/soak

Resident memory, descriptors, threads and /dev/shm are read every 10 seconds. They are flat if, after the first tenth
of the time, the last quarter's median is at most 5 % above the first quarter's. Trainers are slow on purpose, a few
per cent of a core: leaks grow with the number of batches, epochs, trainers and kills, whatever their speed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from budgetloader.bench import child
from budgetloader.bench.console import guarded
from budgetloader.bench.record import environment, write_json
from budgetloader.bench.serving import below, serving

_TRAINERS = 4
_SERIES = ("rss_bytes", "descriptors", "threads")
_WARM_UP, _GROWTH = 0.1, 0.05
_FEW = {"rss_bytes": 16 << 20, "descriptors": 8, "threads": 4, "shm_used_bytes": 16 << 20, "shm_files": 2}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m budgetloader.bench.soak", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two readings")
    parser.add_argument("--batch-seconds", type=float, default=0.5, help="that a trainer takes for a batch")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    parser.add_argument("--seed", type=int, default=0, help="of the trainers' comings and goings")
    options = parser.parse_args()
    return guarded(lambda _: _main(options), interrupted=f"the readings so far are in {options.out}")


def _main(options: argparse.Namespace) -> int:
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        record = _soak(options, Path(folder))
    write_json(options.out / "soak.json", record)
    draw(record, options.out / "soak.png")
    for line in record["verdict"]:
        print(line["text"])
    return 0 if all(line["flat"] for line in record["verdict"]) else 1


def train(path: str | None, name: str | None, seconds: float, schedule: str, seed: int) -> int:
    """One trainer, in a process of its own: goes through its schedule, and where `path` is given, again and again."""
    from budgetloader import BudgetLoader, Schedule, connect

    options: dict[str, Any] = {"batch_size": 32, "image_size": 64, "dtype": "uint8", "seed": seed}
    while True:
        parsed = Schedule.parse(schedule)
        batches = (
            BudgetLoader(path, schedule=parsed, engine="native", **options)
            if path
            else connect(str(name), schedule=parsed, **options)
        )
        with batches:
            for _ in range(parsed.epochs):
                for _images, _labels in batches:
                    time.sleep(seconds)
        if not path:
            return 0


def _soak(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from rich.progress import Progress

    from budgetloader.prepare import prepare

    source: dict[str, Any] = {"evaluation": None, "folder": folder, "images": 1440, "seed": 0}
    prepare(None, **source, progress=Progress(disable=True), builtin="digits", image_size=32)
    data = folder / "train.beton"
    known = folder / "known"
    known.mkdir(mode=0o700)
    os.environ["BUDGETLOADER_SERVICES"] = str(known)
    rng = random.Random(options.seed)
    readings: list[dict[str, Any]] = []
    kills = {"ended": 0, "killed": 0}
    private_trainer = _trainer(path=str(data), name=None, schedule="R3@12", seconds=options.batch_seconds, seed=1)
    with serving(data, name="soak", memory="200MB") as server, _process(private_trainer) as private:
        trainers: list[tuple[subprocess.Popen, float, bool]] = []
        began = next_reading = time.monotonic()
        while (now := time.monotonic()) < began + 60 * options.minutes:
            trainers = _come_and_go(trainers, rng, options.batch_seconds, kills)
            if server.poll() is not None or private.poll() is not None:
                raise SystemExit("error: the server or the private loader ended; the run is void")
            if now >= next_reading:
                next_reading = now + options.every
                readings.append({"seconds": now - began, **_read(server.pid, private.pid)})
                write_json(options.out / "soak_readings.json", readings)
            time.sleep(0.5)
        for trainer, _, _ in trainers:
            trainer.kill()
            trainer.wait()
    return {
        "environment": environment(),
        "minutes": readings[-1]["seconds"] / 60,
        "minutes_asked": options.minutes,
        "trainers": {"at_a_time": _TRAINERS, **kills, "batch_seconds": options.batch_seconds},
        "verdict": judge(readings),
        "readings": readings,
    }


def _come_and_go(
    trainers: list[tuple[subprocess.Popen, float, bool]], rng: random.Random, seconds: float, kills: dict[str, int]
) -> list[tuple[subprocess.Popen, float, bool]]:
    """The trainers that are there now: some have ended, some are killed, and others come."""
    left = []
    for trainer, end, kill in trainers:
        if kill and time.monotonic() > end:
            trainer.kill()
        if trainer.poll() is None:
            left.append((trainer, end, kill))
        else:
            kills["killed" if trainer.returncode == -signal.SIGKILL else "ended"] += 1
            if trainer.returncode not in (0, -signal.SIGKILL):
                raise SystemExit(f"error: a trainer ended with status {trainer.returncode}; the run is void")
    if len(left) < _TRAINERS and rng.random() < 0.2:
        schedule = rng.choice(["full@2", "0.618@3", "0.35@4", "R3@6"])
        command = _trainer(path=None, name="soak", schedule=schedule, seconds=seconds, seed=rng.randrange(3))
        left.append((subprocess.Popen(command), time.monotonic() + rng.uniform(5, 90), rng.random() < 0.4))
    return left


def _trainer(**job: Any) -> list[str]:
    return child.once("budgetloader.bench.soak:train", **job)


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _read(server: int, private: int) -> dict[str, Any]:
    processes = [server, *below(server)]
    shared = _shared([*processes, private])
    return {
        "service": _sum(processes),
        "private": _sum([private]),
        "shm_used_bytes": sum(shared.values()),
        "shm_files": len(shared),
    }


def _shared(pids: list[int]) -> dict[tuple[int, int], int]:
    """The files in /dev/shm that some processes have open, also those without a name: the bytes that each takes."""
    device, found = os.stat("/dev/shm").st_dev, {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    file = os.stat(descriptor.path)
                    if file.st_dev == device:
                        found[file.st_dev, file.st_ino] = 512 * file.st_blocks
    return found


def _sum(pids: list[int]) -> dict[str, int]:
    """Resident memory that is not a file's or shared, descriptors and threads of some processes together."""
    total = dict.fromkeys(_SERIES, 0)
    for pid in pids:
        with contextlib.suppress(OSError, KeyError, ValueError):
            text = Path(f"/proc/{pid}/status").read_text()
            status = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            total["descriptors"] += len(os.listdir(f"/proc/{pid}/fd"))
            total["rss_bytes"] += int(status["RssAnon"].split()[0]) * 1024
            total["threads"] += int(status["Threads"])
    return total


def judge(readings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each series whether it is flat once the warm-up is over: medians of the first and the last quarter."""
    settled = [r for r in readings if r["seconds"] >= _WARM_UP * readings[-1]["seconds"]]
    quarter = max(1, len(settled) // 4)
    found = []
    for name in (
        *(f"{who} {what}" for who in ("private", "service") for what in _SERIES),
        "shm_used_bytes",
        "shm_files",
    ):
        first, last = (statistics.median(series(part, name)) for part in (settled[:quarter], settled[-quarter:]))
        flat = last <= max(first * (1 + _GROWTH), first + _FEW[name.rpartition(" ")[2]])
        text = f"{name}: {first:,.0f} → {last:,.0f}, {'flat' if flat else 'GROWS'}"
        found.append({"series": name, "first_quarter": first, "last_quarter": last, "flat": flat, "text": text})
    return found


def series(readings: list[dict[str, Any]], name: str) -> list[float]:
    """One series out of the readings: "private rss_bytes", "shm_files" and so on."""
    who, _, what = name.rpartition(" ")
    return [(reading[who] if who else reading)[what] for reading in readings]


def draw(record: dict[str, Any], path: Path) -> None:
    """The readings as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    readings = record["readings"]
    minutes = [reading["seconds"] / 60 for reading in readings]
    figure, axes = pyplot.subplots(4, 1, figsize=(7.2, 8.0), sharex=True, layout="constrained")
    for axis, what, label, unit in zip(
        axes,
        (*_SERIES, ""),
        ("resident memory, MB", "descriptors", "threads", "/dev/shm, MB"),
        (1e6, 1, 1, 1e6),
        strict=True,
    ):
        for who in ("private", "service") if what else ("",):
            values = series(readings, f"{who} {what}" if what else "shm_used_bytes")
            axis.plot(minutes, [value / unit for value in values], label=who or "all", linewidth=1)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.legend(loc="lower right")
    axes[-1].set_xlabel("minutes")
    ended, killed = record["trainers"]["ended"], record["trainers"]["killed"]
    axes[0].set_title(f"A private loader, and a service's processes: {ended} trainers ended, {killed} were killed")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
