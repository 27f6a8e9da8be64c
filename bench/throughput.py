"""Images per second of our engines and of their peers, doing the same work.

    python -m bench.throughput            # rates, and the boundary's and the cut's cost
    python -m bench.throughput --parts rates --dtypes uint8

How it is measured: every contender has a process of its own (importing FFCV changes torch's number of
threads), and they take turns, one measurement each, so that the machine's drift hits all alike. The
first turn is warm-up and not counted. A measurement is the second of two epochs, from asking for its
first batch to having its last: the first one would count batches that some loaders make ready before
they are asked (DALI two of them). Medians over the turns, with the interquartile range.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contenders import CONTENDERS, FILTERS, NEEDS, OURS, Work, quiet_threads

if TYPE_CHECKING:  # the processes that measure need it not
    from rich.console import Console

PARTS = ("rates", "boundary", "cut")
CUTS = ("0.05", "0.1", "0.2", "0.35", "0.5", "0.75", "1")
BOUNDARY_BATCHES = (2, 4, 8, 16, 32)
SETTLE_SECONDS = 1.0  # after a break, some loaders go on decoding what nobody takes
STEP_SECONDS = 0.1  # of the trainer that the boundary is measured with


class Runner:
    """A contender in a process of its own."""

    def __init__(self, name: str, work: Work) -> None:
        self.name, self.work = name, work
        command = [sys.executable, "-m", "bench.throughput", "--serve", name, json.dumps(dataclasses.asdict(work))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, ratios: Sequence[str], *, step_seconds: float = 0.0) -> list[tuple[float, int]]:
        """(seconds, samples) of each epoch of a run with these ratios."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"ratios": list(ratios), "step_seconds": step_seconds}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("result "):
                return [(seconds, samples) for seconds, samples in json.loads(line[7:])]
        raise RuntimeError(f"{self.name} ended with status {self._process.wait()}; see its message above")

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(name: str, work: Work) -> None:
    """Measure on request: a line of JSON in, a line out."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word; the bench says one
    quiet_threads(work.threads)
    for line in sys.stdin:
        request = json.loads(line)
        ratios = [Fraction(r) for r in request["ratios"]]
        result = _epochs(name, work, ratios, step_seconds=request["step_seconds"])
        print("result", json.dumps(result), flush=True)


def _epochs(name: str, work: Work, ratios: list[Fraction], *, step_seconds: float) -> list[tuple[float, int]]:
    result = []
    for batches in CONTENDERS[name](work, ratios):
        began, samples = time.perf_counter(), 0
        for count in batches:
            samples += count
            if step_seconds:
                time.sleep(step_seconds)
        if not samples:
            raise RuntimeError(f"{name} gave no sample; see its messages")
        if work.device != "cpu":
            import torch

            torch.cuda.synchronize()
        result.append((time.perf_counter() - began, samples))
    return result


def rates(works: dict[str, list[Work]], *, turns: int, say: Any) -> list[dict[str, Any]]:
    """Images per second of each contender and kind of work, turn by turn."""
    from bench.analysis import interquartile_range

    runners = [Runner(name, work) for name, list_of in works.items() for work in list_of]
    measured: dict[int, list[float]] = {i: [] for i in range(len(runners))}
    try:
        for turn in range(turns + 1):
            for i, runner in enumerate(runners):
                _, (seconds, samples) = runner.measure(["1", "1"])
                if turn:
                    measured[i].append(samples / seconds)
            say(f"rates: turn {turn} of {turns}" + ("" if turn else " (warm-up)"))
    finally:
        for runner in runners:
            runner.close()
    return [
        {
            "contender": r.name,
            "interpolation": r.work.interpolation,
            "dtype": r.work.dtype,
            "images_per_second": statistics.median(measured[i]),
            "spread": interquartile_range(measured[i]),
            "turns": measured[i],
        }
        for i, r in enumerate(runners)
    ]


def boundary(works: dict[str, Work], *, say: Any) -> list[dict[str, Any]]:
    """Fit epoch time = a + b·K with a trainer of 0.1 s a batch; a/b is the boundary's cost in batches."""
    rows = []
    for name, work in works.items():
        runner = Runner(name, work)
        try:
            full = -(-_samples(work) // work.batch_size)
            runner.measure(["1"], step_seconds=0.0)
            points = []
            for batches in BOUNDARY_BATCHES:
                ratio = str(Fraction(batches, full))
                epochs = runner.measure([ratio] * 4, step_seconds=STEP_SECONDS)
                points += [(batches, seconds) for seconds, _ in epochs[1:]]  # the first fills the pipeline
        finally:
            runner.close()
        a, b = _line(points)
        say(f"boundary: {name}: a = {a:.4f} s, b = {b:.4f} s, a/b = {a / b:.3f}")
        rows.append({"contender": name, "a_seconds": a, "b_seconds": b, "a_over_b": a / b, "points": points})
    return rows


def cut(works: dict[str, Work], *, say: Any) -> list[dict[str, Any]]:
    """T(α)/T(1): three epochs in a row at each ratio, the last two counted, all contenders in turn."""
    runners = {name: Runner(name, work) for name, work in works.items()}
    seconds: dict[tuple[str, str], list[float]] = {}
    try:
        for runner in runners.values():
            runner.measure(["1"])
        for turn in range(3):
            for ratio in CUTS:
                for name, runner in runners.items():
                    time.sleep(SETTLE_SECONDS)
                    epochs = runner.measure([ratio] * 3)
                    seconds.setdefault((name, ratio), []).append(sum(s for s, _ in epochs[1:]) / 2)
            say(f"cut: turn {turn + 1} of 3")
    finally:
        for runner in runners.values():
            runner.close()
    rows = []
    for name in works:
        full = statistics.median(seconds[name, "1"])
        curve = {ratio: statistics.median(seconds[name, ratio]) / full for ratio in CUTS}
        rows.append({"contender": name, "time_ratio": curve})
    return rows


def _line(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Least squares of seconds = a + b·batches."""
    slope, intercept = statistics.linear_regression([k for k, _ in points], [s for _, s in points])
    return intercept, slope


def _samples(work: Work) -> int:
    from loader import Dataset

    return len(Dataset(work.beton))


def there(name: str) -> bool:
    """Whether what a contender needs can be imported, in a process of its own."""
    package = NEEDS.get(name)
    code = f"import {package}" + ("; spdl.io.demux_config()" if package == "spdl.io" else "")
    return package is None or not subprocess.run([sys.executable, "-c", code], capture_output=True).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--serve"]:
        serve(arguments[1], Work(**json.loads(arguments[2])))
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m bench.throughput",
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=2048, help="JPEGs to generate")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=None, help="of every contender; none: one per core")
    parser.add_argument("--turns", type=int, default=5, help="counted measurements of each")
    parser.add_argument("--dtypes", nargs="+", choices=("uint8", "float32"), default=["uint8", "float32"])
    parser.add_argument("--contenders", nargs="+", choices=tuple(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", default="runs/throughput")
    options = parser.parse_args(arguments)
    from bench import job

    return job.guarded(functools.partial(_main, options), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, console: Console) -> int:
    from rich.progress import Progress

    from bench.data import prepare
    from bench.record import environment, write_json
    from loader.parallel import cores

    say = console.print
    out = Path(options.out)
    with Progress(console=console) as progress:
        prepare(None, evaluation=None, folder=out / "data", images=options.images, seed=0, progress=progress)
    names = [name for name in options.contenders if there(name)]
    for name in set(options.contenders) - set(names):
        say(f"{name} is left out: {NEEDS[name]} is not installed, or lacks a library")

    def work(interpolation: str, dtype: str, batch_size: int = options.batch_size) -> Work:
        folder, beton = out / "data" / "jpegs" / "train", out / "data" / "train.beton"
        threads = options.threads or cores()
        return Work(str(beton), str(folder), batch_size, options.image_size, threads, dtype, interpolation)

    results: dict[str, Any] = {"environment": environment(), "options": {**vars(options), "out": None}}
    if "rates" in options.parts:
        results["rates"] = []
        for dtype in options.dtypes:
            works = {name: [work(f, dtype) for f in FILTERS[name]] for name in names}
            results["rates"] += rates(works, turns=options.turns, say=say)
    loaders = [name for name in names if name not in ("cropped decoding alone", "SPDL")]
    if "boundary" in options.parts:
        # Batches small enough for every loader to keep up with the trainer.
        results["boundary"] = boundary({n: work(FILTERS[n][0], "uint8", 16) for n in loaders}, say=say)
    if "cut" in options.parts:
        results["cut"] = cut({n: work(FILTERS[n][0], "uint8") for n in loaders}, say=say)
    write_json(out / "results.json", results)
    for view in _tables(results):
        say(view)
    say(f"results.json: {out}")
    return 0


def _tables(results: dict[str, Any]) -> list[Any]:
    from rich.table import Table

    views = []
    if "rates" in results:
        view = Table(title="images/s, median (interquartile range)")
        for name in ("contender", "filter", "uint8", "float32"):
            view.add_column(name, no_wrap=True)
        cells: dict[tuple[str, str], dict[str, str]] = {}
        for row in results["rates"]:
            text = f"{row['images_per_second']:,.0f} ({row['spread']:,.0f})"
            cells.setdefault((row["contender"], row["interpolation"]), {})[row["dtype"]] = text
        for (name, interpolation), by_dtype in cells.items():
            view.add_row(name, interpolation, by_dtype.get("uint8", "—"), by_dtype.get("float32", "—"))
        views.append(view)
    if "boundary" in results:
        view = Table(title="epoch time = a + b·K: what a boundary costs, in batches")
        for name in ("contender", "a/b"):
            view.add_column(name, no_wrap=True)
        for row in results["boundary"]:
            view.add_row(row["contender"], f"{row['a_over_b']:.3f}")
        views.append(view)
    if "cut" in results:
        view = Table(title="T(α)/T(1): ours by schedule, the others by break")
        for name in ("contender", *CUTS):
            view.add_column(name, no_wrap=True)
        for row in results["cut"]:
            star = "" if row["contender"] in OURS else " (break)"
            view.add_row(row["contender"] + star, *(f"{row['time_ratio'][c]:.3f}" for c in CUTS))
        views.append(view)
    return views


if __name__ == "__main__":
    sys.exit(main())
