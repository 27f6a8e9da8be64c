"""Training time against sampling ratio: MobileNetV2 on ImageNet-like JPEGs (Tables 4-13, 4-14).

Claim: training on ⌊α_e·M⌋ of the M batches in epoch e takes the share of full training's time that
Corollary 1 (flat) and Corollary 2 (three-stage) of the dissertation give, from α alone.

    python -m bench.imagenet_mnv2                                # generated JPEGs, 2 cores, minutes
    python -m bench.imagenet_mnv2 --preset imagenet --data /imagenet --device cuda

How time is measured: an epoch's training time goes from asking for its first batch to the end of
its last optimiser step (synchronised on a GPU); evaluation, saving and warm-up are not in it and
are reported beside it. The settings run interleaved, epoch by epoch, in one process, and who is
first changes from round to round. The measured ratio compares epochs of the same round, without
the quarters of the rounds where the ratio was largest and smallest (bench/analysis.py); the ratio of
the plain sums stands beside it. Ctrl-C keeps what was measured; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from loader import engines
from loader.errors import LoaderError, ScheduleError
from loader.schedule import Schedule

_LOG_WIDTH = 130  # of a log file, where no terminal says how wide it is
SETTINGS = ("full", "R1_0.8", "R1_0.618", "R2_2", "short")
# quick: 955 images are 60 batches of 16, of which ⌊0.618·60⌋ = 37 (0.6167), the last one short. Epochs are
# short, so that a round of all settings is over before the machine's speed has drifted; in 20 of them R2_2
# has the mean ratio that it has in 150. The learning rate is smaller with the batch.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"epochs": 20, "batch_size": 16, "image_size": 64, "width": 0.5, "images": 955, "learning_rate": 0.01},
    "imagenet": {
        "epochs": 150,
        "batch_size": 256,
        "image_size": 224,
        "width": 1.0,
        "images": 20_000,
        "learning_rate": 0.05,
    },
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What was asked for; everything that changes a result is in here."""

    preset: str
    settings: tuple[str, ...]
    data: str | None
    val: str | None
    images: int
    epochs: int
    batch_size: int
    image_size: int
    width: float
    learning_rate: float
    device: str
    engine: str
    workers: int | None
    amp: str
    compile: str
    seed: int
    eval_every: int
    out: str

    @property
    def identity(self) -> dict[str, Any]:
        """What a run must have in common with the one that it resumes."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in ("out", "settings")}


def parse(arguments: Sequence[str] | None = None) -> tuple[Options, str]:
    """The options of a command line, and "fresh" or "resume"."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.imagenet_mnv2",
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--preset", choices=sorted(PRESETS), default="quick", help="defaults of the options marked (preset)")
    add("--settings", nargs="+", default=SETTINGS, metavar="S", help="full is always run; also any schedule string")
    add("--data", help="a .beton, or a folder of images (with train and val in it, or held out); none: generated")
    add("--val", help="a .beton or a folder of images to evaluate on")
    add("--images", type=int, help="how many training images to generate (preset)")
    add("--epochs", type=int, help="of full training (preset)")
    add("--batch-size", type=int, help="(preset)")
    add("--image-size", type=int, help="pixels (preset)")
    add("--width", type=float, help="MobileNetV2's width multiplier (preset)")
    add("--learning-rate", type=float, help="at the start (preset)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--engine", choices=engines.NAMES, default="auto", help="the loader's")
    add("--workers", type=int, help="threads of the engine; none: one per core")
    add("--amp", choices=("auto", "on", "off"), default="auto", help="mixed precision; auto: on a GPU")
    add("--compile", choices=("on", "off"), default="off", help="torch.compile")
    add("--seed", type=int, default=0, help="of weights, order, crops and generated images")
    add("--eval-every", type=int, default=0, help="epochs between evaluations; 0: after the last only")
    add("--out", default="runs/imagenet_mnv2", help="folder of the results")
    add("--fresh", action="store_true", help="start over, instead of going on with what --out holds")
    given = vars(parser.parse_args(arguments))
    how = "fresh" if given.pop("fresh") else "resume"
    for name, value in PRESETS[given["preset"]].items():
        if given[name] is None:
            given[name] = value
    given["settings"] = tuple(dict.fromkeys(("full", *given["settings"])))
    for name in ("images", "epochs", "batch_size", "image_size", "width", "learning_rate"):
        if not given[name] > 0:
            raise ScheduleError(f"--{name.replace('_', '-')} {given[name]} is not above 0")
    if given["preset"] == "imagenet" and not given["data"]:
        raise ScheduleError("--preset imagenet needs --data, the folder with ImageNet's train and val in it")
    return Options(**given), how


def schedules(options: Options, *, samples: int) -> dict[str, Schedule]:
    """Each setting's schedule. "short": full epochs, as many as the smallest budget pays for."""
    named = {name: Schedule.parse(name, epochs=options.epochs) for name in options.settings if name != "short"}
    budgets = {name: s.budget(samples, batch_size=options.batch_size) for name, s in named.items()}
    if "short" in options.settings:
        least = min(budget.total for budget in budgets.values())
        named["short"] = Schedule.full(epochs=max(least // budgets["full"].full, 1))
    return named


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; the exit status is 0, 1 for bad input, 130 where it was interrupted."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    try:
        options, how = parse(arguments)
        return _main(options, console, how=how)
    except (LoaderError, RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing is lost, the same command goes on", file=sys.stderr)
        return 130


def _main(options: Options, console: Console, *, how: str) -> int:
    from bench import data as bench_data
    from bench.dissertation import IMAGENET as PRINTED
    from bench.report import report

    out = Path(options.out)
    _claim(out, options, how=how)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        data = bench_data.prepare(
            Path(options.data) if options.data else None,
            evaluation=Path(options.val) if options.val else None,
            folder=out / "data",
            images=options.images,
            seed=options.seed,
            progress=progress,
        )
        run = _Run(options, data, out)
        try:
            interrupted = run.train(progress)
        finally:
            run.close()
    report(run.results(), out, console, network="MobileNetV2", printed=PRINTED, figures={"top1": "4.5", "top5": "4.6"})
    if interrupted:
        message = f"interrupted; what was measured is in {out}, and the same command goes on from there"
        console.print(message, soft_wrap=True)
        return 130
    return 0


def _claim(out: Path, options: Options, *, how: str) -> None:
    """Make `out` this run's, or go on with what it holds if that was asked the same."""
    from bench.record import write_json

    config = out / "config.json"
    if how == "fresh":
        for old in (*out.glob("state/*.pt"), *out.glob("data/*.beton"), config):
            old.unlink()
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


class _Run:
    """The settings in training, and what came of them."""

    def __init__(self, options: Options, data: Any, out: Path) -> None:
        self.options, self.data, self.out = options, data, out
        self.began = time.perf_counter()
        self.warm_up_seconds: dict[str, float] = {}
        self.evaluation: Any = None
        self.settings: list[Any] = []
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        import torch

        from bench.interleave import Setting
        from loader.loader import BudgetLoader
        from models import IMAGENET, Trainer, mobilenet_v2

        options = self.options
        if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
            raise ScheduleError(f"--device {options.device}: torch sees no GPU here; use --device cpu")
        shape: dict[str, Any] = {
            "batch_size": options.batch_size,
            "image_size": options.image_size,
            "engine": options.engine,
            "device": options.device,
            "workers": options.workers,
            "seed": options.seed,
        }
        if self.data.evaluation is not None:
            self.evaluation = BudgetLoader(self.data.evaluation, train=False, **shape)
        for name, schedule in schedules(options, samples=len(self.data.train)).items():
            torch.manual_seed(options.seed)  # every setting starts from the same weights
            trainer = Trainer(
                mobilenet_v2(classes=self.data.classes, width=options.width),
                recipe=dataclasses.replace(IMAGENET, learning_rate=options.learning_rate),
                epochs=schedule.epochs,
                device=options.device,
                amp=options.amp,
                compile=options.compile,
            )
            batches = BudgetLoader(self.data.train, schedule=schedule, **shape)
            setting = Setting(name, schedule, trainer, batches, baseline=name == "short")
            self.settings.append(setting)
            if self._state(setting).exists():
                setting.load(self._state(setting))

    def _state(self, setting: Any) -> Path:
        name = re.sub(r"[^\w.]+", "_", setting.name)
        if name != setting.name:
            name += f"_{zlib.crc32(setting.name.encode()):08x}"
        return self.out / "state" / f"{name}.pt"

    def train(self, progress: Progress) -> bool:
        """Train to the end; whether it was interrupted."""
        from bench import interleave

        options = self.options
        samples = len(self.data.train)
        total = sum(s.schedule.budget(samples, batch_size=options.batch_size).total for s in self.settings)
        done = sum(record.batches for s in self.settings for record in s.records)
        task = progress.add_task("train", total=total, completed=done)
        if done == total:
            progress.console.print(f"{self.out} holds this run, finished; use --fresh to run it again")
            return False
        for setting in self.settings:
            if not setting.finished:
                self.warm_up_seconds[setting.name] = interleave.warm_up(
                    setting, batch_size=options.batch_size, image_size=options.image_size, classes=self.data.classes
                )
                if setting.records:
                    setting.load(self._state(setting))

        def batch_done(setting: Any) -> None:
            progress.update(
                task, advance=1, description=f"{setting.name} {len(setting.records) + 1}/{setting.schedule.epochs}"
            )

        def epoch_done(setting: Any) -> None:
            record, accuracy = setting.records[-1], setting.accuracy
            shown = f", top-1 {100 * accuracy.top1:.1f} %" if accuracy else ""
            progress.console.print(
                f"{setting.name:>12} epoch {record.epoch + 1}/{setting.schedule.epochs}: {record.batches} batches, "
                f"{record.train_seconds:.2f} s, loss {record.loss:.3f}{shown}"
            )

        try:
            interleave.run(
                self.settings,
                state_of=self._state,
                seed=options.seed,
                evaluation=self.evaluation,
                eval_every=options.eval_every,
                batch_done=batch_done,
                epoch_done=epoch_done,
            )
        except KeyboardInterrupt:
            return True
        return False

    def results(self) -> dict[str, Any]:
        """The record: environment, options, one row per setting, every epoch."""
        from bench.analysis import compare
        from bench.record import environment

        full = self.settings[0]
        rows = []
        for setting in self.settings:
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
            accuracy = setting.accuracy
            rows.append(
                {
                    "setting": setting.name,
                    "schedule": str(setting.schedule),
                    "baseline": setting.baseline,
                    **row,
                    "rounds": rounds,
                    "end_to_end_seconds": row["train_seconds"]
                    + setting.other_seconds
                    + self.warm_up_seconds.get(setting.name, 0.0),
                    "warm_up_seconds": self.warm_up_seconds.get(setting.name),
                    "top1": accuracy.top1 if accuracy else None,
                    "top5": accuracy.top5 if accuracy else None,
                    "verdict": str(setting.batches.verdict()),
                    "epoch_records": [record.as_dict() for record in setting.records[:rounds]],
                }
            )
        options = dataclasses.asdict(self.options)
        options["data"] = self.data.name
        options.pop("val")
        options.pop("out")
        return {
            "environment": environment(),
            "options": options,
            "engine": full.batches.engine,
            "samples": len(self.data.train),
            "finished": all(setting.finished for setting in self.settings),
            "settings": rows,
        }

    def close(self) -> None:
        for loader in (*(setting.batches for setting in self.settings), self.evaluation):
            if loader is not None:
                loader.close()


if __name__ == "__main__":
    sys.exit(main())
