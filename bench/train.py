"""One training run: any network, any schedule; resumes exactly where it was killed; torchrun for several ranks.

    python -m budgetloader.bench.train --data train.beton --network mobilenet_v2 --recipe imagenet --schedule R1_0.618
    python -m budgetloader.bench.train --data cifar-10-batches-py --network mypackage.mymodule:build --schedule R3
    python -m budgetloader.bench.train --data service:imagenet --val val.beton …     # budgetloader serve runs beside it
    torchrun --nproc_per_node 4 -m budgetloader.bench.train --data train.beton --device cuda …

A network of your own is a function of the number of classes, named MODULE:FUNCTION. The same command
goes on from --out's checkpoint; Ctrl-C writes one first. log.jsonl has a line for each epoch.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import distributed

from budgetloader import connect, engines, models
from budgetloader.bench import runs
from budgetloader.bench.console import INTERRUPTED, SHOW_SECONDS, Every, bars, guarded
from budgetloader.bench.data import Data, prepare, served
from budgetloader.errors import ScheduleError
from budgetloader.loader import BudgetLoader
from budgetloader.models import RECIPES, EpochUnderWay, History, Recipe, Trainer, fit
from budgetloader.schedule import Schedule

_DIGITS = 1440  # of 1,797 to train on
_SERVICE = "service:"
NETWORKS = ("resnet20", "resnet32", "resnet56", "mobilenet_v2", "crnet_cb", "crnet_cib")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m budgetloader.bench.train",
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", required=True, help="a .beton, a folder of images, CIFAR's pickles, 'digits' or service:NAME")
    add("--val", help="a .beton or a folder of images to evaluate on")
    add("--network", default="resnet56", help=f"one of {', '.join(NETWORKS)}, or MODULE:FUNCTION of your own")
    add("--recipe", choices=("cifar", "imagenet", "crnet"), default="cifar", help="optimiser and learning rate")
    add("--schedule", default="full", help="of sampling ratios, such as R3 or 0.618")
    add("--sampling", choices=("independent", "cyclic", "static"), default="independent", help="see BudgetLoader")
    for name, kind in (("epochs", int), ("batch-size", int), ("image-size", int), ("learning-rate", float)):
        add(f"--{name}", type=kind, help="none: the recipe's")
    add("--device", default="cpu", help="cpu, cuda or cuda:N; with torchrun, cuda is each rank's own")
    add("--engine", choices=engines.NAMES, default="auto", help="the loader's; a service has its own")
    add("--workers", type=int, help="threads of the engine; none: one per core")
    add("--amp", choices=("auto", "on", "off"), default="auto", help="mixed precision; auto: on a GPU")
    add("--compile", choices=("on", "off"), default="off", help="torch.compile")
    add("--seed", type=int, default=0, help="of weights, order, crops and dropout")
    add("--eval-every", type=int, default=1, help="epochs between evaluations; 0: after the last only")
    add("--checkpoint-steps", type=int, default=0, help="batches between checkpoints; 0: only after each epoch")
    add("--tensorboard", choices=("on", "off"), default="off", help="write events to OUT/tensorboard")
    add("--out", default="runs/train", help="folder of checkpoint.pt, log.jsonl and converted data")
    return parser.parse_args(arguments)


def network_of(name: str) -> Callable[..., Any]:
    """The function that builds a network, by one of `NETWORKS` or MODULE:FUNCTION."""
    if name in NETWORKS:
        return getattr(models, name)
    module, colon, function = name.partition(":")
    if not colon:
        raise ScheduleError(f"--network {name!r} is none of {', '.join(NETWORKS)}, and not MODULE:FUNCTION")
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ScheduleError(f"--network {name!r}: {error}") from None
    finally:
        sys.path.pop(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; the exit status is 0, 1 for bad input, 130 where it was stopped."""
    return guarded(functools.partial(_main, arguments))


def _main(arguments: Sequence[str] | None, console: Console) -> int:
    options = parse(arguments)
    build, recipe = network_of(options.network), _recipe(options)
    schedule = Schedule.parse(options.schedule, epochs=recipe.epochs)
    with _ranks(options) as (rank, ranks), _asked_to_stop() as stop:
        return _train(options, build, recipe, schedule, console, rank=rank, stop=stop if ranks == 1 else None)


def _recipe(options: argparse.Namespace) -> Recipe:
    recipe = RECIPES[options.recipe]
    for name in ("epochs", "batch_size", "image_size", "learning_rate"):
        given = getattr(options, name)
        if given is not None:
            if not given > 0:
                raise ScheduleError(f"--{name.replace('_', '-')} {given} is not above 0")
            recipe = dataclasses.replace(recipe, **{name: given})
    return recipe


def _train(
    options: argparse.Namespace,
    build: Callable[..., Any],
    recipe: Recipe,
    schedule: Schedule,
    console: Console,
    *,
    rank: int,
    stop: Callable[[], bool] | None,
) -> int:
    out, say = Path(options.out), console.print
    shape: dict[str, Any] = {
        "batch_size": recipe.batch_size,
        "image_size": recipe.image_size,
        "device": options.device,
        "seed": options.seed,
    }
    own: dict[str, Any] = {**shape, "engine": options.engine, "workers": options.workers}
    training: dict[str, Any] = {"schedule": schedule, "sampling": options.sampling}
    with ExitStack() as loaders:
        if rank == 0:
            loaders.enter_context(runs.held(out))
        # One progress for making data ready, one for training, which nothing redraws while a clock runs.
        progress = loaders.enter_context(_progress(console, rank=rank))
        if options.data.startswith(_SERVICE):
            batches = connect(options.data.removeprefix(_SERVICE), **shape, **training)
            index = batches.dataset
            data = _in_turn(
                lambda: served(options.data, index, evaluation=options.val, folder=out / "data", progress=progress),
                rank=rank,
            )
        else:
            data = _in_turn(lambda: _data(options, recipe, out, progress), rank=rank)
            batches = BudgetLoader(data.train, **own, **training)
        loaders.enter_context(batches)
        evaluation = None
        if data.evaluation is not None:
            evaluation = loaders.enter_context(BudgetLoader(data.evaluation, train=False, **own))
        torch.manual_seed(options.seed)
        network = build(classes=data.classes)
        trainer = Trainer(network, recipe=recipe, device=options.device, amp=options.amp, compile=options.compile)
        budget = schedule.budget(len(data.train), batch_size=recipe.batch_size)
        progress.stop()
        training_progress = loaders.enter_context(_progress(console, rank=rank, auto_refresh=False))
        task, due = training_progress.add_task("train", total=budget.total), Every(SHOW_SECONDS)

        def after_step(now: EpochUnderWay) -> bool:
            if not due():
                return False
            done = sum(budget.batches[: now.epoch]) + now.steps
            shown = f"epoch {now.epoch + 1}/{schedule.epochs}"
            training_progress.update(task, completed=done, description=shown, refresh=True)
            return True

        def after_epoch(history: History) -> None:
            record = history.records[-1]
            accuracy = history.accuracies.get(record.epoch)
            shown = f", top-1 {100 * accuracy.top1:.2f} %" if accuracy else ""
            if rank == 0:
                say(
                    f"epoch {record.epoch + 1}/{schedule.epochs}: {record.batches} batches, "
                    f"{record.train_seconds:.2f} s, loss {record.loss:.4f}{shown}"
                )

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
            after_step=after_step,
            after_epoch=after_epoch,
            stop=stop,
        )
    if history.stopped:
        say(f"stopped; the same command goes on from {out}", soft_wrap=True)
        return INTERRUPTED
    if rank == 0:
        seconds = sum(record.train_seconds for record in history.records)
        top1 = f", top-1 {100 * history.accuracy.top1:.2f} %" if history.accuracy else ""
        say(f"trained {schedule} in {seconds:.1f} s{top1}: {out}", soft_wrap=True)
    return 0


def _progress(console: Console, *, rank: int, auto_refresh: bool = True) -> Progress:
    progress = bars(console, auto_refresh=auto_refresh)
    progress.disable = rank > 0
    return progress


def _data(options: argparse.Namespace, recipe: Recipe, out: Path, progress: Progress) -> Data:
    digits = options.data == "digits"
    return prepare(
        None if digits else Path(options.data),
        evaluation=Path(options.val) if options.val else None,
        folder=out / "data",
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
    found = ready() if rank == 0 else None
    distributed.barrier()
    return found or ready()


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


if __name__ == "__main__":
    sys.exit(main())
