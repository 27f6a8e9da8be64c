"""One seed's trainings, side by side, and their results."""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import Progress

from budgetloader import engines, runs
from budgetloader.bench.analysis import TARGET_POINTS, Measured
from budgetloader.bench.boundary import measure as measure_boundary
from budgetloader.bench.options import Options
from budgetloader.bench.settings import Cell
from budgetloader.prepare import Data


class SeedRun:
    """One seed's trainings, and their results."""

    def __init__(self, options: Options, seed: int, data: Data, out: Path, cells: list[Cell], recipe: Any) -> None:
        self.options, self.seed, self.data, self.out, self.recipe = options, seed, data, out, recipe
        self.warm_up_seconds: dict[str, float] = {}
        self.verdicts: dict[str, str] = {}
        self.evaluation: Any = None
        self.settings: list[Any] = []
        self._timing_rounds = 0
        try:
            self._make(cells)
        except BaseException:
            self.close()
            raise
        self.engine = self.settings[0].batches.engine

    def _make(self, cells: list[Cell]) -> None:
        from budgetloader.bench.interleave import Setting
        from budgetloader.loader import BudgetLoader

        engines.check_device(self.options.device)
        shape = self._shape
        if self.data.evaluation is not None:
            self.evaluation = BudgetLoader(self.data.evaluation, train=False, **shape)
        runs.note(self.out, self._timed, *(self._state(cell.name) for cell in cells))
        # The first network of a process can run a little slower than the same network made later, for good:
        # that must not be full training's share. Its trainer is kept, so that its memory is not used again.
        self._first = self._trainer(cells[0])
        for cell in cells:
            batches = BudgetLoader(self.data.train, schedule=cell.schedule, sampling=cell.sampling, **shape)
            setting = Setting(
                cell,
                self._trainer(cell),
                batches,
                state=self._state(cell.name),
                seed=self.seed,
                evaluation=self.evaluation,
                eval_every=self.options.eval_every,
            )
            self.settings.append(setting)
            setting.training.load()
        self._load_timed()

    @property
    def _shape(self) -> dict[str, Any]:
        """The arguments that all loaders of the run share."""
        options = self.options
        return {
            "batch_size": options.batch_size,
            "image_size": options.image_size,
            "engine": options.engine,
            "device": options.device,
            "workers": options.workers,
            "seed": self.seed,
        }

    def _trainer(self, cell: Cell) -> Any:
        import torch

        from budgetloader.models import Trainer

        torch.manual_seed(self.seed)  # every setting starts from the same weights
        recipe = self.recipe if cell.decay is None else dataclasses.replace(self.recipe, decay=cell.decay)
        return Trainer(
            cell.network(self.data.classes),
            recipe=recipe,
            epochs=cell.schedule.epochs,
            epoch_shares=cell.epoch_shares,
            device=self.options.device,
            amp=self.options.amp,
            compile=self.options.compile,
        )

    @property
    def _folder(self) -> Path:
        return self.out / "state" / f"seed_{self.seed}"

    @property
    def _timed(self) -> Path:
        return self._folder / "timed.json"

    def _state(self, setting: str) -> Path:
        name = re.sub(r"[^\w.]+", "_", setting)
        if name != setting:
            name += f"_{zlib.crc32(setting.encode()):08x}"
        return self._folder / f"{name}.pt"

    def train(self, progress: Progress) -> bool:
        """Train to the end; whether it was interrupted."""
        from budgetloader.bench import interleave

        options = self.options
        samples = len(self.data.train)
        total = sum(s.schedule.budget(samples, batch_size=options.batch_size).total for s in self.settings)
        done = sum(record.batches for s in self.settings for record in s.records)
        label = f"seed {self.seed}: " if options.seeds > 1 else ""
        if done == total:
            progress.console.print(f"{label}{self.out} holds this run, finished; use --fresh to run it again")
            return False
        task = progress.add_task("train", total=total, completed=done)
        self._warm_up()

        def batches_done(setting: Any, epoch: int, count: int) -> None:
            description = f"{label}{setting.name} {epoch + 1}/{setting.schedule.epochs}"
            progress.update(task, advance=count, description=description, refresh=True)

        def epoch_done(setting: Any) -> None:
            record, accuracy = setting.records[-1], setting.history.accuracies.get(setting.records[-1].epoch)
            shown = f", top-1 {100 * accuracy.top1:.1f} %" if accuracy else ""
            progress.console.print(
                f"{label}{setting.name:>12} epoch {record.epoch + 1}/{setting.schedule.epochs}: {record.batches} "
                f"batches, {record.train_seconds:.2f} s, loss {record.loss:.3f}{shown}"
            )

        try:
            interleave.run(self.settings, batches_done=batches_done, epoch_done=epoch_done)
        except KeyboardInterrupt:
            return True
        return False

    def _warm_up(self) -> None:
        from budgetloader.bench import interleave
        from budgetloader.loader import BudgetLoader
        from budgetloader.schedule import Schedule

        options = self.options
        shape = {
            "samples": len(self.data.train),
            "batch_size": options.batch_size,
            "image_size": options.image_size,
            "classes": self.data.classes,
        }
        # The engine's code is compiled with its first batch: that must not be the first setting's time.
        with BudgetLoader(self.data.train, schedule=Schedule.full(epochs=1), **self._shape) as batches:
            next(iter(batches))
        interleave.warm_up(self._first, **shape)
        for setting in self.settings:
            if not setting.finished:
                self.warm_up_seconds[setting.name] = interleave.warm_up(setting.trainer, **shape)
                if setting.records:
                    setting.training.load()

    def time_more(self, unclear: Callable[[], list[str]], progress: Progress) -> None:
        """Run rounds of timing alone, until every interval is narrow enough or there were `extra_rounds`.

        Args:
            unclear: says which settings' intervals are too wide.
        """
        from budgetloader.bench import interleave

        most = self.options.extra_rounds
        task = None
        for number in range(self._timing_rounds, most):
            names = unclear()
            if not names:
                break
            if task is None:
                task = progress.add_task("", total=most, completed=number)
                progress.console.print(
                    f"the intervals of {', '.join(names)} are wider than ±{TARGET_POINTS:g} points: measuring on, "
                    f"{most - number} rounds at most"
                )
            progress.update(task, completed=number, description=f"timing: {len(names)} unclear", refresh=True)
            for full in self.settings:
                group = [s for s in self.settings if s.name in names and self._full(s) is full]
                if group:
                    interleave.time_round(group, full, number=number)
            self._timing_rounds = number + 1
            self._save_timed()

    def boundary(self, progress: Progress) -> list[dict[str, Any]]:
        """The cost of epochs' boundaries; see `budgetloader.bench.boundary`."""
        cells = [setting.cell for setting in self.settings if setting.cell.group == self.settings[0].cell.group]
        progress.console.print("measuring boundaries: each setting's epochs one after the other, without a pause")
        return measure_boundary(
            self.data.train,
            cells,
            trainer=self._first,
            done=progress.refresh,
            **self._shape,
        )

    def _full(self, setting: Any) -> Any:
        """The training that a setting's time is compared with."""
        return next(other for other in self.settings if other.cell.group == setting.cell.group)

    def measured(self, setting: Any) -> tuple[Measured, int]:
        """A setting's epochs beside full training's, and how many rounds of them there are to compare."""
        full = self._full(setting)
        rounds = len(full.records) if setting.finished else min(len(full.records), len(setting.records))
        return Measured(setting.records, full.records, setting.timed), rounds

    def row(self, setting: Any) -> dict[str, Any]:
        """The results of one seed's training of a setting, as a row of the record."""
        accuracy, seconds = setting.history.accuracy, sum(record.train_seconds for record in setting.records)
        warm_up = self.warm_up_seconds.get(setting.name, 0.0)
        return {
            "seed": self.seed,
            "train_seconds": seconds,
            "end_to_end_seconds": seconds + setting.history.other_seconds + warm_up,
            "warm_up_seconds": warm_up,
            "top1": accuracy.top1 if accuracy else None,
            "top5": accuracy.top5 if accuracy else None,
            "evaluated": accuracy.samples if accuracy else 0,
            "verdict": self.verdicts[setting.name],
            "epoch_records": [record.as_dict() for record in setting.records],
            "timed": [list(pair) for pair in setting.timed],
        }

    def close(self) -> None:
        for setting in self.settings:
            self.verdicts[setting.name] = str(setting.batches.verdict())
            setting.batches.close()
        if self.evaluation is not None:
            self.evaluation.close()

    def _save_timed(self) -> None:
        from budgetloader.bench.record import write_json

        slices = {setting.name: [list(pair) for pair in setting.timed] for setting in self.settings}
        write_json(self._timed, {"rounds": self._timing_rounds, "slices": slices})

    def _load_timed(self) -> None:
        held: dict[str, Any] = {"rounds": 0, "slices": {}}
        if self._timed.exists():
            held = json.loads(self._timed.read_text())
        self._timing_rounds = held["rounds"]
        for setting in self.settings:
            setting.timed = [(own, full) for own, full in held["slices"].get(setting.name, [])]
