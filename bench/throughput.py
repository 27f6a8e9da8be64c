"""Images per second of our engines and of their peers, doing the same work.

    python -m budgetloader.bench.throughput            # rates, and the boundary's and the cut's cost
    python -m budgetloader.bench.throughput --parts rates --dtypes uint8

How it is measured: every contender has a process of its own (importing FFCV changes torch's number of
threads), and they take turns, one measurement each, so that the machine's drift hits all alike. The
first turn is warm-up and not counted. A rate is that of the second of two epochs, from asking for its
first batch to having its last: the first one would count batches that some loaders make ready before
they are asked (DALI two of them). Every figure is the median of the same number of turns, with the
interquartile range; ratios between contenders are means of the turns' ratios, with Student's 95 %
interval.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetloader.bench.child import Child, together
from budgetloader.bench.contenders import CONTENDERS, FILTERS, NEEDS, quiet_threads
from budgetloader.bench.entry import generated, parser_of
from budgetloader.bench.estimate import interquartile_range, mean
from budgetloader.bench.work import Work

if TYPE_CHECKING:  # the processes that measure do not need it
    from rich.console import Console

PARTS = ("rates", "boundary", "cut")
CUTS = ("0.1", "0.2", "0.5", "0.75", "1")
BOUNDARY_BATCHES, BOUNDARY_EPOCHS = 8, 7  # the first epoch fills the pipeline, and is not counted
STEP_SECONDS = {"a trainer of 50 ms a batch": 0.05, "taking only": 0.0}
SETTLE_SECONDS = 0.5  # after a break, some loaders go on decoding
REFERENCE = "native"  # the numerator of the ratios


def contender(*, name: str, work: dict[str, Any]) -> Callable[..., list[dict[str, Any]]]:
    """A function that runs a contender, in a process of its own."""
    kind = Work(**work)
    quiet_threads(kind.threads)

    def run(*, ratios: Sequence[str], step_seconds: float = 0.0) -> list[dict[str, Any]]:
        return _epochs(name, kind, [Fraction(r) for r in ratios], step_seconds=step_seconds)

    return run


def _epochs(name: str, work: Work, ratios: list[Fraction], *, step_seconds: float) -> list[dict[str, Any]]:
    """Of each epoch: seconds, samples, and the laps: the time of each batch from the end of the one before."""
    result = []
    last = time.perf_counter()
    for batches in CONTENDERS[name](work, ratios):
        began, samples, laps = time.perf_counter(), 0, []
        for count in batches:
            samples += count
            if step_seconds:
                time.sleep(step_seconds)
            now = time.perf_counter()
            laps.append(now - last)
            last = now
        if not samples:
            raise RuntimeError(f"{name} gave no sample; see its messages")
        if work.device != "cpu":
            import torch

            torch.cuda.synchronize()
        result.append({"seconds": time.perf_counter() - began, "samples": samples, "laps": laps})
    return result


def running(works: Sequence[tuple[str, Work]]) -> contextlib.AbstractContextManager[list[Child]]:
    """A process for each contender and its work."""
    made = "budgetloader.bench.throughput:contender"
    return together(
        Child(made, name=name, arguments={"name": name, "work": dataclasses.asdict(work)}) for name, work in works
    )


def rates(works: dict[str, list[Work]], *, turns: int, say: Callable[[str], object]) -> list[dict[str, Any]]:
    """Images per second of each contender and kind of work, turn by turn."""
    pairs = [(name, work) for name, several in works.items() for work in several]
    measured: list[list[float]] = [[] for _ in pairs]
    with running(pairs) as children:
        for turn in range(turns + 1):
            for child, rows in zip(children, measured, strict=True):
                _, epoch = child.ask(ratios=["1", "1"])
                if turn:
                    rows.append(epoch["samples"] / epoch["seconds"])
            say(f"rates: turn {turn} of {turns}" + ("" if turn else " (warm-up)"))
    return [
        {
            "contender": name,
            "interpolation": work.interpolation,
            "dtype": work.dtype,
            "images_per_second": statistics.median(values),
            "spread": interquartile_range(values),
            "turns": values,
        }
        for (name, work), values in zip(pairs, measured, strict=True)
    ]


def ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The reference's rate by every other contender's, turn by turn, for the same dtype and like filters.

    A peer that averages areas ("area") is compared with our antialiasing filter; the ceiling, which resizes
    nothing, with both.
    """
    like = {"linear": ("linear", "none"), "antialias": ("antialias", "area", "none")}
    found = []
    for ours in (row for row in rows if row["contender"] == REFERENCE):
        for other in rows:
            same = other["dtype"] == ours["dtype"] and other["interpolation"] in like[ours["interpolation"]]
            if not same or other is ours:
                continue
            estimate = mean([a / b for a, b in zip(ours["turns"], other["turns"], strict=True)])
            found.append(
                {
                    "of": REFERENCE,
                    "interpolation": ours["interpolation"],
                    "dtype": ours["dtype"],
                    "by": other["contender"],
                    "by_interpolation": other["interpolation"],
                    "ratio": estimate.value,
                    "half_width": estimate.half_width,
                }
            )
    return found


def boundary(works: dict[str, Work], *, turns: int, say: Callable[[str], object]) -> list[dict[str, Any]]:
    """The cost of a boundary between epochs of a few batches: ours by schedule, the others left by `break`.

    In each turn: the median time from an epoch's last batch to the next one's first, less the median time of
    the other batches, in units of those.
    """
    lost: dict[tuple[str, str], list[float]] = {(name, kind): [] for name in works for kind in STEP_SECONDS}
    with running(list(works.items())) as children:
        for turn in range(turns + 1):
            for kind, step_seconds in STEP_SECONDS.items():
                for child, work in zip(children, works.values(), strict=True):
                    full = -(-_samples(work) // work.batch_size)
                    ratio = str(Fraction(min(BOUNDARY_BATCHES, full), full))
                    epochs = child.ask(ratios=[ratio] * BOUNDARY_EPOCHS, step_seconds=step_seconds)[1:]
                    others = statistics.median(lap for epoch in epochs for lap in epoch["laps"][1:])
                    first = statistics.median(epoch["laps"][0] for epoch in epochs)
                    if turn:
                        lost[child.name, kind].append(first / others - 1)
                    time.sleep(SETTLE_SECONDS)
            say(f"boundary: turn {turn} of {turns}" + ("" if turn else " (warm-up)"))
    return [
        {
            "contender": name,
            "trainer": kind,
            "lost_batches": statistics.median(values),
            "spread": interquartile_range(values),
            "turns": values,
        }
        for (name, kind), values in lost.items()
    ]


def cut(works: dict[str, Work], *, turns: int, say: Callable[[str], object]) -> list[dict[str, Any]]:
    """T(α)/T(1): in each turn three epochs in a row at each ratio, the last two counted."""
    seconds: dict[tuple[str, str], list[float]] = {(name, ratio): [] for name in works for ratio in CUTS}
    with running(list(works.items())) as children:
        for turn in range(turns + 1):
            for ratio in CUTS:
                for child in children:
                    epochs = child.ask(ratios=[ratio] * 3)[1:]
                    if turn:
                        seconds[child.name, ratio].append(sum(epoch["seconds"] for epoch in epochs) / 2)
                    time.sleep(SETTLE_SECONDS)
            say(f"cut: turn {turn} of {turns}" + ("" if turn else " (warm-up)"))
    rows = []
    for name in works:
        shares = {
            ratio: [a / b for a, b in zip(seconds[name, ratio], seconds[name, "1"], strict=True)] for ratio in CUTS
        }
        rows.append(
            {
                "contender": name,
                "time_ratio": {ratio: statistics.median(values) for ratio, values in shares.items()},
                "spread": {ratio: interquartile_range(values) for ratio, values in shares.items()},
                "turns": shares,
            }
        )
    return rows


def _samples(work: Work) -> int:
    from budgetloader import Dataset

    return len(Dataset(work.beton))


def importable(name: str) -> bool:
    """Whether a contender's packages can be imported, tried in a process of its own."""
    package = NEEDS.get(name)
    code = f"import {package}" + ("; spdl.io.demux_config()" if package == "spdl.io" else "")
    return package is None or not subprocess.run([sys.executable, "-c", code], capture_output=True).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("throughput", __doc__)
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
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options, arguments), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from budgetloader.bench import compared, page
    from budgetloader.bench.record import command, environment, write_json
    from budgetloader.bench.scaling import decoders
    from budgetloader.parallel import cores

    say = console.print
    out = Path(options.out)
    data = generated(out / "data", images=options.images, console=console)
    names = [name for name in options.contenders if importable(name)]
    for name in sorted(set(options.contenders) - set(names)):
        say(f"{name} is left out: {NEEDS[name]} is not installed, or lacks a library")

    def work(interpolation: str, dtype: str, batch_size: int = options.batch_size) -> Work:
        folder, beton = out / "data" / "jpegs" / "train", data
        threads = options.threads or cores()
        return Work(str(beton), str(folder), batch_size, options.image_size, threads, dtype, interpolation)

    results: dict[str, Any] = {"environment": environment(), "options": {**vars(options), "out": None}}
    results["command"] = command("budgetloader.bench.throughput", arguments)
    results["decoder"] = decoders()[0]  # of engine native
    if "rates" in options.parts:
        results["rates"] = []
        for dtype in options.dtypes:
            works = {name: [work(f, dtype) for f in FILTERS[name]] for name in names}
            results["rates"] += rates(works, turns=options.turns, say=say)
        results["ratios"] = ratios(results["rates"])
    loaders = [name for name in names if name != "cropped decoding alone"]
    if "boundary" in options.parts:
        # Batches small enough for every loader to keep up with the trainer.
        small = {name: work(FILTERS[name][0], "uint8", max(options.batch_size // 4, 1)) for name in loaders}
        results["boundary"] = boundary(small, turns=options.turns, say=say)
    if "cut" in options.parts:
        results["cut"] = cut({n: work(FILTERS[n][0], "uint8") for n in loaders}, turns=options.turns, say=say)
    write_json(out / "results.json", results)
    grids = compared.grids(results)
    for grid in grids:
        say(grid.rich())
    page.write(
        out / "report.html",
        title=f"Loaders compared, {options.image_size} pixels",
        claim=f"Images per second of the same work on {results['environment']['cores']} cores, and what leaving an "
        "epoch early costs.",
        command=results["command"],
        environment=results["environment"],
        parts=[*grids, *compared.figures(results)],
    )
    say(f"report.html and results.json: {out}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
