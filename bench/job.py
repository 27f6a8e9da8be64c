"""What the benches of training time share: their options, and a run of settings side by side.

A bench says which settings there are (a `Cell` each: schedule, sampling, network) and this trains
them, interleaved epoch by epoch, once for each seed. Ctrl-C keeps what was measured, and the same
command goes on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import statistics
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import SubprocessError
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.data import Data
from loader import engines
from loader.errors import LoaderError, ScheduleError
from loader.order import Sampling
from loader.schedule import Schedule

_LOG_WIDTH = 130  # of a log file, where no terminal says how wide it is
INTERRUPTED = 130


@dataclasses.dataclass(frozen=True)
class Cell:
    """One of the trainings that are compared.

    Args:
        name: as the tables show it.
        schedule: its sampling ratios.
        network: classes → a network.
        sampling: see `loader.Order`.
        baseline: whether it is not one of the dissertation's methods.
        group: its time is compared with that of the first cell of the same group.
    """

    name: str
    schedule: Schedule
    network: Callable[[int], Any]
    sampling: Sampling = "independent"
    baseline: bool = False
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Options:
    """What was asked for; everything that changes a result is in here.

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
    amp: str
    compile: str
    seed: int
    seeds: int
    eval_every: int
    out: str
    extra: dict[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """What a run must have in common with the one that it resumes."""
        held = dataclasses.asdict(self)
        extra = held.pop("extra")
        return {**{k: v for k, v in held.items() if k not in ("out", "settings", "seeds")}, **extra}


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
    add("--preset", choices=sorted(presets), default=preset, help="defaults of the options marked (preset)")
    add("--settings", nargs="+", default=settings, metavar="S", help="full is always run; also any schedule string")
    add("--data", help="a .beton, or a folder of images (with train and val in it, or held out); none: what is at hand")
    add("--val", help="a .beton or a folder of images to evaluate on")
    add("--images", type=int, help="how many training images to generate (preset)")
    add("--epochs", type=int, help="of full training (preset)")
    add("--batch-size", type=int, help="(preset)")
    add("--image-size", type=int, help="pixels (preset)")
    add("--learning-rate", type=float, help="at the start (preset)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--engine", choices=engines.NAMES, default="auto", help="the loader's")
    add("--workers", type=int, help="threads of the engine; none: one per core")
    add("--amp", choices=("auto", "on", "off"), default="auto", help="mixed precision; auto: on a GPU")
    add("--compile", choices=("on", "off"), default="off", help="torch.compile")
    add("--seed", type=int, default=0, help="the first one, of weights, order, crops and generated images")
    add("--seeds", type=int, help="how many, one run after the other (preset)")
    add("--eval-every", type=int, default=0, help="epochs between evaluations; 0: after the last only")
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
    fields = {field.name for field in dataclasses.fields(Options)}
    extra = {name: given.pop(name) for name in list(given) if name not in fields}
    return Options(**given, extra=extra), how


def cells(options: Options, *, samples: int, network: Callable[[int], Any]) -> list[Cell]:
    """The settings by name: schedules, and what they are measured against at the same cost.

    - "short": full epochs, as many as the smallest budget pays for.
    - "static": one random subset for good, of 0.618 of the batches ("static:0.8": of another share).
    - "cyclic": as R1_0.618, but no sample comes again before all others came ("cyclic:0.8", …).
    """
    found: dict[str, Cell] = {}
    for name in options.settings:
        kind, _, schedule = name.partition(":")
        if kind in ("static", "cyclic"):
            parsed = Schedule.parse(schedule or "0.618", epochs=options.epochs)
            sampling: Sampling = "static" if kind == "static" else "cyclic"
            found[name] = Cell(name, parsed, network, sampling, baseline=True)
        elif name != "short":
            found[name] = Cell(name, Schedule.parse(name, epochs=options.epochs), network)
    if "short" in options.settings:
        budgets = [cell.schedule.budget(samples, batch_size=options.batch_size) for cell in found.values()]
        least = min(budget.total for budget in budgets)
        short = Schedule.full(epochs=max(least // budgets[0].full, 1))
        found["short"] = Cell("short", short, network, baseline=True)
    return [found[name] for name in options.settings]


def wide_console() -> Console:
    """The terminal, or where there is none, a log wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=_LOG_WIDTH)


def guarded(bench: Callable[[Console], int], *, interrupted: str = "nothing is lost, the same command goes on") -> int:
    """Run a bench's body; its exit status is 0, 1 for bad input, 130 where it was interrupted.

    Args:
        bench: takes the console, and returns the status.
        interrupted: what to say where it was.
    """
    from models import CheckpointError, TrainingError

    try:
        return bench(wide_console())
    except (LoaderError, TrainingError, CheckpointError, RuntimeError, ValueError, OSError, SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return INTERRUPTED


def bars(console: Console) -> Progress:
    """Progress with the time that is left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


def claim(out: Path, options: Options, *, how: str) -> None:
    """Make `out` this run's, or go on with what it holds if that was asked the same."""
    from bench.record import write_json

    config = out / "config.json"
    if how == "fresh":
        for old in (*out.glob("state/**/*.pt"), *out.glob("data/*.beton"), config):
            old.unlink(missing_ok=True)
    if config.exists():
        try:
            held = json.loads(config.read_text())
        except ValueError:
            held = {}
        mine = json.loads(json.dumps(options.identity))
        other = [name for name in mine if held.get(name) != mine[name]]
        if other:
            raise ScheduleError(
                f"{out} holds a run with {other[0]}={held.get(other[0])!r}, not {mine[other[0]]!r}; "
                "choose another --out, or --fresh to start over"
            )
    write_json(config, options.identity)


def run(
    options: Options,
    console: Console,
    *,
    how: str,
    recipe: Any,
    cells_of: Callable[[Data], list[Cell]],
    builtin: str,
) -> tuple[dict[str, Any], bool]:
    """Train all cells with all seeds.

    Args:
        options, how: as `options_of` gives them.
        recipe: `models.Recipe`; its learning rate is the options'.
        cells_of: the data → the cells.
        builtin: what to train on without --data; see `bench.data.prepare`.

    Returns:
        The record: environment, options, one row per setting, every epoch; and whether the run was
        interrupted.
    """
    from bench.data import prepare

    out = Path(options.out)
    claim(out, options, how=how)
    recipe = dataclasses.replace(recipe, learning_rate=options.learning_rate)
    with bars(console) as progress:
        data = prepare(
            Path(options.data) if options.data else None,
            evaluation=Path(options.val) if options.val else None,
            folder=out / "data",
            images=options.images,
            seed=options.seed,
            progress=progress,
            builtin=builtin,
            image_size=options.image_size,
        )
        table = cells_of(data)
        per_seed: list[list[dict[str, Any]]] = []
        interrupted, engine = False, None
        for seed in range(options.seed, options.seed + options.seeds):
            one = _Run(options, seed, data, out, table, recipe)
            try:
                interrupted = one.train(progress)
            finally:
                one.close()
            per_seed.append(one.rows())
            engine = one.engine
            if interrupted:
                break
    return _record(options, data, per_seed, engine=engine, finished=not interrupted), interrupted


class _Run:
    """One seed's settings in training, and what came of them."""

    def __init__(self, options: Options, seed: int, data: Data, out: Path, table: list[Cell], recipe: Any) -> None:
        self.options, self.seed, self.data, self.out, self.recipe = options, seed, data, out, recipe
        self.warm_up_seconds: dict[str, float] = {}
        self.evaluation: Any = None
        self.settings: list[Any] = []
        try:
            self._make(table)
        except BaseException:
            self.close()
            raise

    @property
    def engine(self) -> str:
        return self.settings[0].batches.engine

    def _make(self, table: list[Cell]) -> None:
        from bench.interleave import Setting
        from loader.loader import BudgetLoader

        options = self.options
        engines.check_device(options.device)
        shape: dict[str, Any] = {
            "batch_size": options.batch_size,
            "image_size": options.image_size,
            "engine": options.engine,
            "device": options.device,
            "workers": options.workers,
            "seed": self.seed,
        }
        if self.data.evaluation is not None:
            self.evaluation = BudgetLoader(self.data.evaluation, train=False, **shape)
        # The first network of a process runs slower than the same network made later (measured: 1.4 %, for
        # good): that is not to be full training's share. Its trainer is kept, and so is where it lies.
        self._first = self._trainer(table[0])
        for cell in table:
            batches = BudgetLoader(self.data.train, schedule=cell.schedule, sampling=cell.sampling, **shape)
            setting = Setting(cell.name, cell.schedule, self._trainer(cell), batches, cell.baseline, cell.group)
            self.settings.append(setting)
            if self._state(setting).exists():
                setting.load(self._state(setting))

    def _trainer(self, cell: Cell) -> Any:
        import torch

        from models import Trainer

        torch.manual_seed(self.seed)  # every setting starts from the same weights
        return Trainer(
            cell.network(self.data.classes),
            recipe=self.recipe,
            epochs=cell.schedule.epochs,
            device=self.options.device,
            amp=self.options.amp,
            compile=self.options.compile,
        )

    def _state(self, setting: Any) -> Path:
        name = re.sub(r"[^\w.]+", "_", setting.name)
        if name != setting.name:
            name += f"_{zlib.crc32(setting.name.encode()):08x}"
        return self.out / "state" / f"seed_{self.seed}" / f"{name}.pt"

    def train(self, progress: Progress) -> bool:
        """Train to the end; whether it was interrupted."""
        from bench import interleave

        options = self.options
        samples = len(self.data.train)
        total = sum(s.schedule.budget(samples, batch_size=options.batch_size).total for s in self.settings)
        done = sum(record.batches for s in self.settings for record in s.records)
        label = f"seed {self.seed}: " if options.seeds > 1 else ""
        if done == total:
            progress.console.print(f"{label}{self.out} holds this run, finished; use --fresh to run it again")
            return False
        task = progress.add_task("train", total=total, completed=done)
        shape = {"samples": samples, "batch_size": options.batch_size, "image_size": options.image_size}
        interleave.warm_up(self._first, **shape, classes=self.data.classes)
        for setting in self.settings:
            if not setting.finished:
                self.warm_up_seconds[setting.name] = interleave.warm_up(
                    setting.trainer, **shape, classes=self.data.classes
                )
                if setting.records:
                    setting.load(self._state(setting))

        def batch_done(setting: Any) -> None:
            description = f"{label}{setting.name} {len(setting.records) + 1}/{setting.schedule.epochs}"
            progress.update(task, advance=1, description=description)

        def epoch_done(setting: Any) -> None:
            record, accuracy = setting.records[-1], setting.history.accuracies.get(setting.records[-1].epoch)
            shown = f", top-1 {100 * accuracy.top1:.1f} %" if accuracy else ""
            progress.console.print(
                f"{label}{setting.name:>12} epoch {record.epoch + 1}/{setting.schedule.epochs}: {record.batches} "
                f"batches, {record.train_seconds:.2f} s, loss {record.loss:.3f}{shown}"
            )

        try:
            interleave.run(
                self.settings,
                state_of=self._state,
                seed=self.seed,
                evaluation=self.evaluation,
                eval_every=options.eval_every,
                batch_done=batch_done,
                epoch_done=epoch_done,
            )
        except KeyboardInterrupt:
            return True
        return False

    def rows(self) -> list[dict[str, Any]]:
        """One row per setting that has finished an epoch."""
        from bench.analysis import compare

        rows = []
        for setting in self.settings:
            full = next(other for other in self.settings if other.group == setting.group)
            # full's epochs so far, but no more of it than the setting has had the chance to match
            rounds = len(full.records) if setting.finished else min(len(full.records), len(setting.records))
            if not rounds or not setting.records:
                continue
            row = compare(
                setting.records,
                full.records,
                schedule=setting.schedule,
                rounds=rounds,
                samples=len(self.data.train),
                batch_size=self.options.batch_size,
            )
            warm_up, accuracy = self.warm_up_seconds.get(setting.name, 0.0), setting.history.accuracy
            rows.append(
                {
                    "setting": setting.name,
                    "schedule": str(setting.schedule),
                    "baseline": setting.baseline,
                    "group": setting.group,
                    **row,
                    "rounds": rounds,
                    "end_to_end_seconds": row["train_seconds"] + setting.history.other_seconds + warm_up,
                    "warm_up_seconds": warm_up,
                    "top1": accuracy.top1 if accuracy else None,
                    "top5": accuracy.top5 if accuracy else None,
                    "seed": self.seed,
                    "verdict": str(setting.batches.verdict()),
                    "epoch_records": [record.as_dict() for record in setting.records[:rounds]],
                }
            )
        return rows

    def close(self) -> None:
        for loader in (*(setting.batches for setting in self.settings), self.evaluation):
            if loader is not None:
                loader.close()


def _record(
    options: Options, data: Data, per_seed: list[list[dict[str, Any]]], *, engine: str | None, finished: bool
) -> dict[str, Any]:
    from bench.record import environment

    asked = {**dataclasses.asdict(options), **options.extra, "data": data.name}
    for name in ("val", "out", "extra"):
        asked.pop(name)
    names = [row["setting"] for row in per_seed[0]]
    rows = [[row for rows in per_seed for row in rows if row["setting"] == name] for name in names]
    return {
        "environment": environment(),
        "options": asked,
        "engine": engine,
        "samples": len(data.train),
        "classes": data.classes,
        "finished": finished,
        "settings": [mean_row(of_setting) for of_setting in rows],
    }


def mean_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One setting's rows of all seeds as one: means, and the accuracies' standard deviation.

    The seeds' own rows are in `seeds`.
    """
    first, mean = rows[0], {}
    for name, value in first.items():
        values = [row[name] for row in rows]
        numbers = isinstance(value, float) and None not in values
        mean[name] = statistics.fmean(values) if numbers else value
    for name in ("top1", "top5"):
        values = [row[name] for row in rows if row[name] is not None]
        mean[f"{name}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
    ratios = [row["ratio_measured"] for row in rows]
    mean["ratio_measured_deviation"] = statistics.stdev(ratios) if len(ratios) > 1 else None
    mean.pop("epoch_records")
    mean.pop("seed")
    return {**mean, "seeds": rows}


def finish(options: Options, console: Console, *, interrupted: bool) -> int:
    """The exit status, said to the reader where the run was interrupted."""
    if interrupted:
        message = f"interrupted; what was measured is in {options.out}, and the same command goes on from there"
        console.print(message, soft_wrap=True)
        return INTERRUPTED
    return 0
