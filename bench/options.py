"""The command line that the benches of training time share, and the check of the folder of results."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from budgetloader import engines
from budgetloader.bench.settings import BASELINES
from budgetloader.errors import ScheduleError

_NOT_IDENTITY = (
    "out",
    "settings",
    "seeds",
    "extra_rounds",
    "boundary",
)  # may differ between a run and the one that goes on


@dataclasses.dataclass(frozen=True)
class Options:
    """A command line's options, with everything that changes a result.

    `extra` holds a bench's own options.
    """

    preset: str
    settings: tuple[str, ...]
    data: str | None
    val: str | None
    images: int
    epochs: int
    batch_size: int
    image_size: int
    learning_rate: float
    device: str
    engine: str
    workers: int | None
    torch_threads: int
    amp: str
    compile: str
    seed: int
    seeds: int
    eval_every: int
    extra_rounds: int
    boundary: str
    busy: int
    out: str
    extra: dict[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """The options that must equal those of a run that is resumed."""
        held = dataclasses.asdict(self)
        extra = held.pop("extra")
        return {**{name: value for name, value in held.items() if name not in _NOT_IDENTITY}, **extra}


def parser(
    module: str, doc: str, *, presets: Mapping[str, Mapping[str, Any]], preset: str, settings: Sequence[str]
) -> argparse.ArgumentParser:
    """The command line that the benches share; a bench adds its own options."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=doc.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    baselines = ", ".join(f"{name}:SETTING" for name in BASELINES)
    add("--preset", choices=sorted(presets), default=preset, help="defaults of the options marked (preset)")
    add(
        *("--settings",),
        nargs="+",
        default=settings,
        metavar="S",
        help=f"full is always run; any schedule string, and baselines that spend as many samples: {baselines}",
    )
    add(
        "--data",
        help="a .beton, or a folder of images (with train and val in it, or held out); none: generated, or digits",
    )
    add("--val", help="a .beton or a folder of images to evaluate on")
    add("--images", type=int, help="how many training images to generate (preset)")
    add("--epochs", type=int, help="of full training (preset)")
    add("--batch-size", type=int, help="(preset)")
    add("--image-size", type=int, help="pixels (preset)")
    add("--learning-rate", type=float, help="at the start (preset)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--engine", choices=engines.NAMES, default="auto", help="the loader's")
    add("--workers", type=int, help="threads of the engine; none: one per core")
    add("--torch-threads", type=int, help="threads of the trainer on a CPU; 0: torch's own choice (preset)")
    add("--amp", choices=("auto", "on", "off"), default="auto", help="mixed precision; auto: on a GPU")
    add("--compile", choices=("on", "off"), default="off", help="torch.compile")
    add("--seed", type=int, default=0, help="the first one, of weights, order, crops and generated images")
    add("--seeds", type=int, help="how many, one run after the other (preset)")
    add("--eval-every", type=int, default=0, help="epochs between evaluations; 0: after the last only")
    add("--extra-rounds", type=int, help="at most, of timing alone, where an interval is too wide (preset)")
    add("--boundary", choices=("on", "off"), help="measure what epochs' boundaries cost, too (preset)")
    add("--busy", type=int, default=0, help="processes that keep a core busy meanwhile, to see what they change")
    add("--out", default=f"runs/{module.rpartition('.')[2]}", help="folder of the results")
    add("--fresh", action="store_true", help="start over, instead of going on with what --out holds")
    return parser


def options_of(given: dict[str, Any], *, presets: Mapping[str, Mapping[str, Any]]) -> tuple[Options, str]:
    """The options of a parsed command line, and "fresh" or "resume"."""
    how = "fresh" if given.pop("fresh") else "resume"
    for name, value in presets[given["preset"]].items():
        if given[name] is None:
            given[name] = value
    given["settings"] = tuple(dict.fromkeys(("full", *given["settings"])))
    for name in ("images", "epochs", "batch_size", "image_size", "learning_rate", "seeds", "width"):
        if name in given and not given[name] > 0:
            raise ScheduleError(f"--{name.replace('_', '-')} {given[name]} is not above 0")
    for name in ("torch_threads", "extra_rounds", "busy"):
        if given[name] < 0:
            raise ScheduleError(f"--{name.replace('_', '-')} {given[name]} is below 0")
    fields = {field.name for field in dataclasses.fields(Options)}
    extra = {name: given.pop(name) for name in list(given) if name not in fields}
    return Options(**given, extra=extra), how


def claim(out: Path, options: Options, *, how: str) -> None:
    """Note this run's options in `out`, or resume the run there if its options were the same.

    Args:
        out: the folder; this process holds its lock.

    Raises:
        ScheduleError: a run with other options is there.
    """
    from budgetloader import runs
    from budgetloader.bench.record import write_json

    config = out / "config.json"
    if how == "fresh":
        runs.clear(out)
    runs.note(out, config, *(out / "data" / f"{part}.beton" for part in ("train", "val")))
    if config.exists():
        try:
            held = json.loads(config.read_text())
        except ValueError:
            held = {}
        own = json.loads(json.dumps(options.identity))
        other = [name for name in own if held.get(name) != own[name]]
        if other:
            raise ScheduleError(
                f"{out} holds a run with {other[0]}={held.get(other[0])!r}, not {own[other[0]]!r}; "
                "choose another --out, or --fresh to start over"
            )
    write_json(config, options.identity)
