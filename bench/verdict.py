"""Is the loader's verdict right? Trainers of known speed on every engine, and over the service.

Claim: `BudgetLoader.verdict()` says within 15 % how many times a trainer's demand its engine could deliver.

    python -m budgetloader.bench.verdict

How it is measured: every engine has a process of its own. Trainers sleep for each batch, so long that the
engine could deliver 0.5 … 6 times what they take, with pauses between their epochs as an evaluation makes.
Before and after each, a trainer that only takes images says how many per second there are: the mean of the
two is the engine's speed. How long they slept is measured: a sleep of half a millisecond takes longer. The verdict's
headroom is compared with what is known then: for an engine that works ahead, the ratio of the two speeds;
for one that makes a batch when it is asked for (resident, synthetic), which a sleep slows down, the share of
the time that the trainer did not wait, by its own clock, where it waited for more than 5 %, else the ratio.
Medians over the turns.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetloader.bench.child import Child, together
from budgetloader.bench.entry import parser_of
from budgetloader.bench.grid import Grid
from budgetloader.bench.serving import serving

if TYPE_CHECKING:  # the processes that measure do not need it
    from rich.console import Console

ENGINES = ("native", "dali", "ffcv", "resident", "synthetic", "service")
DIRECT = ("resident", "synthetic")
HEADROOMS = (0.5, 0.8, 1.5, 3.0, 6.0)
WAIT_SHARE = 0.05  # of the time: where a trainer waits for more, the verdict is "loader-bound"
NAME = "bench-verdict"
PAUSE_SECONDS = 0.3  # between epochs
BATCH, IMAGE = 128, 224  # as trainers take them: of a burst of 10 ms, waking up is a quarter
SMALL_BATCH, SMALL_IMAGE = 512, 32
EPOCHS, EPOCH_BATCHES = 4, 8
SERVICE_EPOCHS = 12  # its workers decode blocks of 256: 16 of them, as the others have, tell no rate


def engine(*, name: str, data: str, small: str) -> Callable[..., dict[str, float]]:
    """A function that runs a trainer of known speed on an engine."""
    from budgetloader import BudgetLoader, Dataset, Schedule, connect

    path, size, batch_size = (small, SMALL_IMAGE, SMALL_BATCH) if name in DIRECT else (data, IMAGE, BATCH)
    ratio = EPOCH_BATCHES / -(-len(Dataset(path)) // batch_size)

    def run(*, seconds_per_image: float, seed: int) -> dict[str, float]:
        schedule = Schedule.flat(min(ratio, 1), epochs=(SERVICE_EPOCHS if name == "service" else EPOCHS) + 1)
        options: dict[str, Any] = {"schedule": schedule, "batch_size": batch_size, "image_size": size, "seed": seed}
        made = connect(NAME, **options) if name == "service" else BudgetLoader(path, engine=name, **options)
        trained = waited = 0.0
        with made as batches:
            for epoch in range(schedule.epochs):
                began = time.perf_counter()
                for _, labels in batches:
                    waited += time.perf_counter() - began if epoch else 0.0
                    began = time.perf_counter()
                    if seconds_per_image:
                        time.sleep(seconds_per_image * len(labels))
                    trained += time.perf_counter() - began if epoch else 0.0
                    began = time.perf_counter()
                time.sleep(PAUSE_SECONDS if seconds_per_image else 0)
            counted, verdict = batches.stats[1:], batches.verdict()
        images, seconds = sum(e.samples_emitted for e in counted), sum(e.seconds for e in counted)
        return {
            "images_per_second": images / seconds,
            "trainer_seconds_per_image": trained / images,
            "trainers_share": trained / (trained + waited),
            "headroom": verdict.headroom if verdict else 0.0,
        }

    return run


def expected(name: str, ratio: float, share: float) -> float:
    """What the verdict has to say.

    Args:
        name: the engine's.
        ratio: how many times its trainer's speed the engine has.
        share: of the time that the trainer was not waiting, by its own clock.
    """
    return share if name in DIRECT and 1 - share > WAIT_SHARE else ratio


def measure(data: str, small: str, *, engines: Sequence[str], turns: int, say: Callable[[str], object]) -> list[Any]:
    """One row per engine and trainer."""
    files = {"data": data, "small": small}
    made = "budgetloader.bench.verdict:engine"
    said: dict[tuple[str, float], list[tuple[float, float]]] = {}
    with together(Child(made, name=name, arguments={"name": name, **files}) for name in engines) as children:
        for turn in range(turns + 1):
            for child in children:
                # a seed of its own for each run: a service must not find what it has decoded before
                seeds = iter(range(100 * turn, 100 * turn + 100))
                rate = child.ask(seconds_per_image=0, seed=next(seeds))["images_per_second"]
                for ratio in HEADROOMS if turn else ():
                    before = rate
                    result = child.ask(seconds_per_image=ratio / before, seed=next(seeds))
                    rate = child.ask(seconds_per_image=0, seed=next(seeds))["images_per_second"]
                    speed = (before + rate) / 2
                    known = expected(child.name, speed * result["trainer_seconds_per_image"], result["trainers_share"])
                    said.setdefault((child.name, ratio), []).append((known, result["headroom"]))
            say(f"turn {turn} of {turns}" + ("" if turn else " (warm-up)"))
    rows = []
    for (name, ratio), pairs in said.items():
        row = {"engine": name, "engine_per_trainer": ratio}
        row |= {"expected": statistics.median(known for known, _ in pairs)}
        row |= {"headroom": statistics.median(found for _, found in pairs)}
        row |= {"error": statistics.median(found / known for known, found in pairs) - 1, "turns": pairs}
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("verdict", __doc__)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), help="those not installed: out")
    parser.add_argument("--turns", type=int, default=3, help="counted measurements of each")
    parser.add_argument("--images", type=int, default=1536, help="JPEGs to generate")
    parser.add_argument("--out", default="runs/verdict")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options, arguments), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from importlib.util import find_spec

    from budgetloader import engines
    from budgetloader.bench import page
    from budgetloader.bench.console import bars
    from budgetloader.bench.record import command, environment
    from budgetloader.prepare import prepare

    out = Path(options.out)
    os.environ.setdefault("BUDGETLOADER_SERVICES", str((out / "services").resolve()))
    with bars(console) as progress:
        made: dict[str, Any] = {"evaluation": None, "seed": 0, "progress": progress}
        prepare(None, folder=out / "data", images=options.images, **made)
        prepare(None, folder=out / "small", images=1440, builtin="digits", image_size=32, **made)
    data, small = out / "data" / "train.beton", out / "small" / "train.beton"
    installed = {name: find_spec("ray") if name == "service" else engines.installed(name) for name in options.engines}
    wanted = serving(data, name=NAME, memory="2GB") if installed.get("service") else contextlib.nullcontext()
    with wanted:
        names = [name for name in options.engines if installed[name]]
        rows = measure(str(data), str(small), engines=names, turns=options.turns, say=console.print)
    results: dict[str, Any] = {
        "environment": environment(),
        "command": command("budgetloader.bench.verdict", arguments),
        "options": {"engines": options.engines, "turns": options.turns, "images": options.images},
        "rows": rows,
    }
    page.publish(
        results,
        out,
        console,
        title="Is the loader's verdict right?",
        claim="The verdict says within 15 % how many times a trainer's demand its engine could deliver.",
        parts=[grid(results)],
    )
    return 0


def grid(record: dict[str, Any]) -> Grid:
    """The table of a record."""
    cells = [
        (
            row["engine"],
            *(f"{row[name]:.2f}" for name in ("engine_per_trainer", "expected", "headroom")),
            f"{100 * row['error']:+.0f} %",
        )
        for row in record["rows"]
    ]
    return Grid(
        "verdict: how many times the trainer's demand the engine could deliver",
        ("engine", "engine's speed / trainer's", "expected", "verdict", "error"),
        cells,
        f"Medians of {record['options']['turns']} turns.",
    )


if __name__ == "__main__":
    sys.exit(main())
