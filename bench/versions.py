"""Did a change make the loader slower? Two versions, each in an environment of its own, take turns.

Claim: this version delivers as many images per second as the one before, and takes as much processor time for each.

    python -m budgetloader.bench.versions --before OLD/.venv/bin/python

How it is measured: each version has a process for each engine and image size, which takes whole epochs of uint8
batches of 64 for a second or so. The two take turns, and which one goes first changes from pair to pair. The ratios of
the pairs have a trimmed mean with its 95 % interval. Processor time is what a machine that others use disturbs least.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetloader.bench.entry import parser_of
from budgetloader.bench.estimate import trimmed_mean
from budgetloader.bench.grid import Grid
from budgetloader.errors import EngineError

if TYPE_CHECKING:
    from rich.console import Console

IMAGE, SMALL_IMAGE = 224, 32


@contextlib.contextmanager
def taking(python: str, module: str, path: Path, engine: str, size: int, seconds: float) -> Iterator[subprocess.Popen]:
    """A process of a version that takes images each time that it is told to."""
    child = Path(__file__).with_name("versions_child.py").resolve()
    command = [python, str(child), module, str(path.resolve()), engine, str(size), str(seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def answer(process: subprocess.Popen, command: str = "") -> dict[str, Any]:
    """What a process says next."""
    assert process.stdin is not None and process.stdout is not None
    if command:
        process.stdin.write(command + "\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        words = " ".join(map(str, process.args))  # type: ignore[arg-type]
        raise EngineError(f"the process of a version ended with status {process.wait()}, see above: {words}")
    return json.loads(line)


def compare(before: subprocess.Popen, after: subprocess.Popen, *, pairs: int) -> dict[str, Any]:
    """Interleaved pairs of two versions."""
    versions = [answer(before)["version"], answer(after)["version"]]
    taken: list[dict[str, Any]] = []
    for turn in range(pairs):
        order = (("before", before), ("after", after)) if turn % 2 else (("after", after), ("before", before))
        taken.append({name: answer(process, "go") for name, process in order})
    speeds = [_per_second(pair["after"]) / _per_second(pair["before"]) for pair in taken]
    costs = [_cpu_per_image(pair["after"]) / _cpu_per_image(pair["before"]) for pair in taken]
    row: dict[str, Any] = {"versions": versions, "pairs": taken}
    for name, values in (("images_per_second", speeds), ("cpu_seconds_per_image", costs)):
        estimate = trimmed_mean(values)
        row |= {name: estimate.value, f"{name}_half_width": estimate.half_width}
    return row


def _per_second(taken: dict[str, float]) -> float:
    return taken["images"] / taken["seconds"]


def _cpu_per_image(taken: dict[str, float]) -> float:
    return taken["cpu_seconds"] / taken["images"]


def grid(record: dict[str, Any]) -> Grid:
    """The table of a record."""
    cells = [
        (
            row["engine"],
            str(row["image_size"]),
            *(
                f"{row[name]:.3f} ± {row[name + '_half_width']:.3f}"
                for name in ("images_per_second", "cpu_seconds_per_image")
            ),
        )
        for row in record["rows"]
    ]
    return Grid(
        "this version ÷ the one before",
        ("engine", "image size", "images/s", "processor time per image"),
        cells,
        f"Trimmed means of {record['options']['pairs']} interleaved pairs with 95 % intervals.",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("versions", __doc__)
    parser.add_argument("--before", required=True, help="the Python of an environment with the other version")
    parser.add_argument("--before-module", default="budgetloader", help="its import name; loader for version 0.1")
    parser.add_argument("--engines", nargs="+", default=["native"])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0, help="each version's part of a pair, at least")
    parser.add_argument("--images", type=int, default=1536, help="JPEGs to generate")
    parser.add_argument("--out", default="runs/versions")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options, arguments), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from budgetloader.bench import page
    from budgetloader.bench.console import bars
    from budgetloader.bench.record import command, environment
    from budgetloader.prepare import prepare

    out = Path(options.out)
    with bars(console) as progress:
        made: dict[str, Any] = {"evaluation": None, "seed": 0, "progress": progress}
        prepare(None, folder=out / "data", images=options.images, **made)
        prepare(None, folder=out / "small", images=1440, builtin="digits", image_size=SMALL_IMAGE, **made)
    rows = []
    for engine in options.engines:
        for name, size in (("data", IMAGE), ("small", SMALL_IMAGE)):
            case = (out / name / "train.beton", engine, size, options.seconds)
            with (
                taking(options.before, options.before_module, *case) as before,
                taking(sys.executable, "budgetloader", *case) as after,
            ):
                row = compare(before, after, pairs=options.pairs)
            rows.append({"engine": engine, "image_size": size, **row})
            console.print(f"{engine} at {size} pixels: done")
    results: dict[str, Any] = {
        "environment": environment(),
        "command": command("budgetloader.bench.versions", arguments),
        "options": {"pairs": options.pairs, "seconds": options.seconds, "images": options.images},
        "rows": rows,
    }
    page.publish(
        results,
        out,
        console,
        title="Did a change make the loader slower?",
        claim="This version delivers as many images per second as the one before, for as much processor time.",
        parts=[grid(results)],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
