"""A run of settings side by side, once for each seed: training, more timing where needed, and the record.

A bench says which settings there are (a `Cell` each: schedule, sampling, network) and this trains
them, interleaved epoch by epoch. Ctrl-C keeps what was measured, and the same command goes on from there.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from budgetloader import runs
from budgetloader.bench.analysis import TARGET_POINTS, compare
from budgetloader.bench.busy import busy
from budgetloader.bench.console import INTERRUPTED, bars
from budgetloader.bench.estimate import Estimate, mean, share
from budgetloader.bench.options import Options, claim
from budgetloader.bench.seedrun import SeedRun
from budgetloader.bench.settings import Cell
from budgetloader.prepare import Data


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
        options, how: as `budgetloader.bench.options.options_of` gives them.
        recipe: `budgetloader.models.Recipe`; its learning rate is the options'.
        cells_of: the data → the cells.
        builtin: what to train on without --data; see `budgetloader.prepare.prepare`.

    Returns:
        The record: environment, options, one row per setting, every epoch; and whether the run was
        interrupted.
    """
    out = Path(options.out)
    with runs.held(out):
        claim(out, options, how=how)
        return _run(options, console, out, recipe, cells_of, builtin)


def _run(
    options: Options, console: Console, out: Path, recipe: Any, cells_of: Callable[[Data], list[Cell]], builtin: str
) -> tuple[dict[str, Any], bool]:
    import torch

    from budgetloader.prepare import prepare

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
    threads = torch.get_num_threads()
    if options.torch_threads:
        torch.set_num_threads(options.torch_threads)
    try:
        # Nothing redraws the progress by itself: it would take time from the measurement.
        with busy(options.busy), bars(console, auto_refresh=False) as progress:
            return _seeds(options, data, out, cells_of(data), recipe, progress)
    finally:
        torch.set_num_threads(threads)


def _seeds(
    options: Options, data: Data, out: Path, cells: list[Cell], recipe: Any, progress: Progress
) -> tuple[dict[str, Any], bool]:
    done: list[SeedRun] = []
    boundary: list[dict[str, Any]] = []
    interrupted = False
    for seed in range(options.seed, options.seed + options.seeds):
        run = SeedRun(options, seed, data, out, cells, recipe)
        try:
            interrupted = run.train(progress)
            done.append(run)
            if not interrupted and seed == options.seed + options.seeds - 1:
                try:
                    run.time_more(lambda: _unclear(options, data, done), progress)
                    boundary = run.boundary(progress) if options.boundary == "on" else []
                except KeyboardInterrupt:
                    interrupted = True
        finally:
            run.close()
        if interrupted:
            break
    return _record(options, data, done, boundary=boundary, finished=not interrupted), interrupted


def _compared(options: Options, data: Data, done: Sequence[SeedRun]) -> dict[str, dict[str, Any]]:
    """Each setting's times over all seeds: those that are finished, or the only one."""
    found = {}
    for number, setting in enumerate(done[0].settings):
        seeds = [run.measured(run.settings[number]) for run in done]
        rounds = max(rounds for _, rounds in seeds)
        seeds = [seed for seed in seeds if seed[1] == rounds]
        if rounds and seeds[0][0].records:
            found[setting.name] = compare(
                [seed for seed, _ in seeds],
                schedule=setting.schedule,
                rounds=rounds,
                samples=len(data.train),
                batch_size=options.batch_size,
            )
    return found


def _unclear(options: Options, data: Data, done: Sequence[SeedRun]) -> list[str]:
    """The settings whose intervals are still wider than a bench's target."""
    rows = _compared(options, data, done)
    return [name for name, row in rows.items() if row["half_width_points"] > TARGET_POINTS]


def _record(
    options: Options, data: Data, done: Sequence[SeedRun], *, boundary: list[dict[str, Any]], finished: bool
) -> dict[str, Any]:
    from budgetloader.bench.dissertation import recognise
    from budgetloader.bench.record import environment

    options_given = {**dataclasses.asdict(options), **options.extra, "data": data.name}
    for name in ("val", "out", "extra"):
        options_given.pop(name)
    rows = []
    for name, times in _compared(options, data, done).items():
        settings = [next(s for s in run.settings if s.name == name) for run in done]
        cell = settings[0].cell
        seeds = [run.row(setting) for run, setting in zip(done, settings, strict=True)]
        rows.append(
            {
                "setting": name,
                "schedule": str(cell.schedule),
                "sampling": cell.sampling,
                "baseline_of": cell.baseline_of,
                "group": cell.group,
                **times,
                **{name: statistics.fmean(seed[name] for seed in seeds) for name in _MEANS},
                **accuracies(seeds),
                "verdict": seeds[-1]["verdict"],
                "seeds": seeds,
            }
        )
    return {
        "environment": environment(),
        "options": options_given,
        "data_set": recognise(data.train),
        "engine": done[0].engine if done else None,
        "samples": len(data.train),
        "classes": data.classes,
        "finished": finished,
        "settings": rows,
        "boundary": boundary,
    }


_MEANS = ("end_to_end_seconds", "warm_up_seconds")


def accuracies(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean accuracies over the seeds, and the half-widths of their 95 % intervals.

    With several seeds the interval is Student's over the seeds; with one, Wilson's for the number of test
    images, which knows nothing of what another seed would give ("seeds" and "test images" in `interval_over`).
    """
    row: dict[str, Any] = {"interval_over": "seeds" if len(seeds) > 1 else "test images"}
    for name in ("top1", "top5"):
        values = [seed[name] for seed in seeds if seed[name] is not None]
        found: Estimate | None = None
        if values:
            found = mean(values) if len(values) > 1 else share(values[0], seeds[0]["evaluated"])
        row[name] = found.value if found else None
        row[f"{name}_half_width"] = found.half_width if found else None
    return row


def finish(options: Options, console: Console, *, interrupted: bool) -> int:
    """The exit status, said to the reader where the run was interrupted."""
    if interrupted:
        message = f"interrupted; the measurements so far are in {options.out}, and the same command goes on from there"
        console.print(message, soft_wrap=True)
        return INTERRUPTED
    return 0
