"""The work of `budgetloader train`: one network trained by one schedule, in one process or several."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import distributed

from budgetloader import engines, models, runs
from budgetloader.console import INTERRUPTED, SHOW_SECONDS, Every, bars
from budgetloader.errors import ScheduleError
from budgetloader.loader import BudgetLoader
from budgetloader.models import RECIPES, EpochUnderWay, History, Recipe, Trainer, fit
from budgetloader.paths import local
from budgetloader.prepare import Data, prepare, served
from budgetloader.schedule import Schedule
from budgetloader.sizes import SizeSchedule, image_sizes

_DIGITS = 1440  # of 1,797 to train on
_SERVICE = "service:"
NETWORKS = ("resnet20", "resnet32", "resnet56", "mobilenet_v2", "crnet_cb", "crnet_cib")


def train(options: argparse.Namespace, console: Console) -> int:
    """Train as the command line says; the exit status.

    Args:
        options: of `budgetloader train`; see `budgetloader.commands.train`.
        console: where to say what happens.

    Raises:
        LoaderError: what was asked for cannot be.
        TrainingError, CheckpointError: see `budgetloader.models.fit`.
    """
    build, recipe = network_of(options.network), _recipe(options)
    schedule = Schedule.parse(options.schedule, epochs=recipe.epochs)
    sizes = image_sizes(recipe.image_size if options.image_size is None else options.image_size, epochs=schedule.epochs)
    recipe = dataclasses.replace(recipe, image_size=sizes.largest)
    with _ranks(options) as (rank, ranks), _asked_to_stop() as stop, ExitStack() as stack:
        out = local(options.out)
        if rank == 0:
            stack.enter_context(runs.held(out))
        data, batches, evaluation = _batches(options, recipe, schedule, sizes, console, stack, rank=rank)
        torch.manual_seed(options.seed)
        network = build(classes=data.classes)
        trainer = Trainer(network, recipe=recipe, device=options.device, amp=options.amp, compile=options.compile)
        display = stack.enter_context(_Display(console, schedule, data, recipe, shown=rank == 0))
        history = fit(
            trainer,
            batches,
            epochs=schedule.epochs,
            evaluation=evaluation,
            eval_every=options.eval_every,
            checkpoint=out / "checkpoint.pt",
            checkpoint_steps=options.checkpoint_steps,
            log=out / "log.jsonl",
            tensorboard=out / "tensorboard" if options.tensorboard == "on" else None,
            seed=options.seed,
            after_load=display.loaded,
            after_step=display.step,
            after_epoch=display.epoch,
            stop=stop if ranks == 1 else None,
        )
    return _ended(history, schedule, out, console, rank=rank)


def network_of(name: str) -> Callable[..., Any]:
    """The function that builds a network, by one of `NETWORKS` or MODULE:FUNCTION.

    MODULE is also looked for in the working directory, after the standard library and what is installed: a
    `json.py` that lies there is not run in place of Python's.

    Raises:
        ScheduleError: there is none of that name.
    """
    if name in NETWORKS:
        return getattr(models, name)
    module, colon, function = name.partition(":")
    if not colon:
        raise ScheduleError(f"--network {name!r} is none of {', '.join(NETWORKS)}, and not MODULE:FUNCTION")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: an empty name
        raise ScheduleError(f"--network {name!r}: {error}") from None


def _recipe(options: argparse.Namespace) -> Recipe:
    recipe = RECIPES[options.recipe]
    for name in ("epochs", "batch_size", "learning_rate"):
        given = getattr(options, name)
        if given is not None:
            if not given > 0:
                raise ScheduleError(f"--{name.replace('_', '-')} {given} is not above 0")
            recipe = dataclasses.replace(recipe, **{name: given})
    return recipe


def _batches(
    options: argparse.Namespace,
    recipe: Recipe,
    schedule: Schedule,
    sizes: SizeSchedule,
    console: Console,
    stack: ExitStack,
    *,
    rank: int,
) -> tuple[Data, Any, BudgetLoader | None]:
    """The data, a loader to train on, and one to evaluate on, which `stack` closes."""
    folder = Path(options.out) / "data"
    shape: dict[str, Any] = {
        "batch_size": recipe.batch_size,
        "image_size": sizes if len(sizes.distinct) > 1 else recipe.image_size,
        "device": options.device,
        "seed": options.seed,
    }
    own: dict[str, Any] = {**shape, "engine": options.engine, "workers": options.workers}
    training: dict[str, Any] = {"schedule": schedule, "sampling": options.sampling}
    with bars(console, disable=rank > 0) as progress:
        if options.data.startswith(_SERVICE):
            from budgetloader.service.client import connect  # its packages are optional

            batches: Any = connect(options.data.removeprefix(_SERVICE), **shape, **training)
            stack.enter_context(batches)
            held_out: dict[str, Any] = {"evaluation": options.val, "folder": folder, "progress": progress}
            data = _in_turn(lambda: served(options.data, batches.dataset, **held_out), rank=rank)
        else:
            data = _in_turn(lambda: _data(options, recipe, folder, progress), rank=rank)
            batches = stack.enter_context(BudgetLoader(data.train, **own, **training))
    evaluation = None
    if data.evaluation is not None:
        own["image_size"] = recipe.image_size if options.val_size is None else options.val_size
        evaluation = stack.enter_context(BudgetLoader(data.evaluation, train=False, **own))
    return data, batches, evaluation


def _data(options: argparse.Namespace, recipe: Recipe, folder: Path, progress: Any) -> Data:
    digits = options.data == "digits"
    return prepare(
        None if digits else local(options.data),
        evaluation=local(options.val) if options.val else None,
        folder=folder,
        images=_DIGITS,
        seed=options.seed,
        progress=progress,
        builtin="digits",
        image_size=recipe.image_size,
    )


def _in_turn(ready: Callable[[], Data], *, rank: int) -> Data:
    """The data; rank 0 converts what has to be converted, and the others wait for it."""
    if not distributed.is_initialized():
        return ready()
    # A group of its own: the usual one gives up after 10 minutes (NCCL), and a conversion may take hours.
    waiting = distributed.new_group(backend="gloo", timeout=timedelta(days=2))
    found = ready() if rank == 0 else None
    distributed.barrier(group=waiting)  # type: ignore[arg-type]  # new_group's type has what ranks outside of it get
    return found or ready()


class _Display:
    """The progress bar of a training, drawn where no clock runs, and a line for each epoch."""

    def __init__(self, console: Console, schedule: Schedule, data: Data, recipe: Recipe, *, shown: bool) -> None:
        self._console, self._schedule, self._shown = console, schedule, shown
        self._budget = schedule.budget(len(data.train), batch_size=recipe.batch_size)
        self._progress = bars(console, auto_refresh=False, disable=not shown)
        self._due = Every(SHOW_SECONDS)

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def loaded(self, history: History) -> None:
        """Begin the bar at what a checkpoint holds, or it would count as done at once."""
        if history.earlier_epochs is not None and self._shown:
            self._console.print(
                f"going on from a run of {history.earlier_epochs} epochs as one of {self._schedule.epochs}; "
                "the learning rate follows the longer schedule from here"
            )
        done = sum(record.batches for record in history.records)
        self._task = self._progress.add_task("train", total=self._budget.total, completed=done)

    def step(self, now: EpochUnderWay) -> bool:
        if not self._due():
            return False
        done = sum(self._budget.batches[: now.epoch]) + now.steps
        description = f"epoch {now.epoch + 1}/{self._schedule.epochs}"
        self._progress.update(self._task, completed=done, description=description, refresh=True)
        return True

    def epoch(self, history: History) -> None:
        record = history.records[-1]
        done = sum(self._budget.batches[: record.epoch + 1])
        self._progress.update(self._task, completed=done, refresh=True)
        if not self._shown:
            return
        accuracy = history.accuracies.get(record.epoch)
        top1 = f", top-1 {100 * accuracy.top1:.2f} %" if accuracy else ""
        self._console.print(
            f"epoch {record.epoch + 1}/{self._schedule.epochs}: {record.batches} batches, "
            f"{record.train_seconds:.2f} s, loss {record.loss:.4f}{top1}"
        )


def _ended(history: History, schedule: Schedule, out: Path, console: Console, *, rank: int) -> int:
    """The exit status, after a last line."""
    if history.stopped:
        console.print(f"stopped; the same command goes on from {out}", soft_wrap=True)
        return INTERRUPTED
    if rank == 0:
        seconds = sum(record.train_seconds for record in history.records)
        top1 = f", top-1 {100 * history.accuracy.top1:.2f} %" if history.accuracy else ""
        console.print(f"trained {schedule} in {seconds:.1f} s{top1}: {out}", soft_wrap=True)
    return 0


@contextmanager
def _ranks(options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """(rank, ranks), and each rank's own GPU in the options, where torchrun started this."""
    engines.check_device(options.device)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield 0, 1
        return
    cuda = torch.device(options.device).type == "cuda"
    if cuda:
        options.device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(options.device)
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield distributed.get_rank(), distributed.get_world_size()
    finally:
        distributed.destroy_process_group()


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came; a second Ctrl-C ends the process at once."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
