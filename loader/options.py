"""What a loader's arguments stand for: the dataset, the crop, the planner and the engine."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import numpy as np

from budgetloader import engines
from budgetloader.arguments import check_choice, check_count
from budgetloader.batch import Batch
from budgetloader.cursor import Cursor
from budgetloader.custom_source import given
from budgetloader.engines.base import Engine, Job, OnCorrupt, Output
from budgetloader.engines.stage import Stage
from budgetloader.errors import ArgumentError, ArgumentTypeError, ScheduleError
from budgetloader.joined import Mixture, join
from budgetloader.parallel import cores
from budgetloader.plans import Crop, EvaluationPlanner, Index, Planner, PlannerLike
from budgetloader.schedule import Schedule
from budgetloader.selections import Wanted
from budgetloader.shard import Shard
from budgetloader.shard_list import open_set
from budgetloader.sizes import SizeSchedule
from budgetloader.tars import is_ordinary, open_ordinary
from budgetloader.views import Views

SMALL = 64  # pixels: images of up to this side, all of one size, are shifted by crop="auto", as CIFAR's are

_THREADS = "the engine's workers are threads of this process; leave it out"
_WHAT_TO_USE = {  # keywords that torch's DataLoader, FFCV's Loader or a dataset has
    "num_workers": "give workers=…, the engine's threads (default: one per core)",
    "shuffle": "training is always shuffled, by seed= and sampling=; for all samples in file order give train=False",
    "sampler": "seed= and sampling= say the order; for an order of your own use a torch DataLoader and BudgetSampler",
    "batch_sampler": "the schedule says which batches; for a dataset of your own use a DataLoader and BudgetSampler",
    "drop_last": "leave it out: batches are whole, but for the last one of a full epoch, which is a part of it",
    "collate_fn": "leave it out: batches are tensors (images, labels)",
    "target_transform": "give targets=…, a field's name, an array by sample or a function of ids, or transform=…",
    "pin_memory": "leave it out, and give device='cuda': batches are copied there ahead of you",
    "pin_memory_device": "leave it out, and give device='cuda:0': batches are copied there ahead of you",
    "timeout": "leave it out: what cannot be read is an error, and not waited for",
    "worker_init_fn": _THREADS,
    "multiprocessing_context": _THREADS,
    "persistent_workers": _THREADS,
    "generator": "give seed=…, 0 … 2⁶⁴ − 1",
    "prefetch_factor": "give prefetch=…, batches under way (of all workers together)",
    "batches_ahead": "give prefetch=…, batches under way",
    "in_order": "leave it out: batches always come in order",
    "dataset": "it is the first argument: a .beton file, or an open Dataset",
    "epochs": "the schedule has them: schedule=Schedule.full(epochs=…)",
    "order": "seed= and sampling= say the order; for all samples in file order give train=False",
    "os_cache": "leave it out: the file is memory-mapped",
    "pipelines": "crop=, interpolation=, mean=, std=, dtype= and device= take their place",
    "distributed": "give rank= and world_size=, or neither: torch.distributed is asked",
}


def refuse_unexpected(unexpected: Mapping[str, Any], *, known: Iterable[str]) -> None:
    """Refuse unknown keywords, and say what to use instead.

    Args:
        unexpected: the unknown keywords with their values; may be empty.
        known: the keywords that exist, for a guess at what was meant.

    Raises:
        ArgumentTypeError: there is an unknown keyword.
    """
    if not unexpected:
        return
    name, value = next(iter(unexpected.items()))
    close = difflib.get_close_matches(name, known, n=1)
    advice = _WHAT_TO_USE.get(name) or (f"did you mean {close[0]}=?" if close else f"there are {', '.join(known)}")
    raise ArgumentTypeError(f"{name}={str(value)[:60]} is not known here: {advice}")


def open_dataset(
    path: Any, cache: Any = None, cache_bytes: float | None = None, *, verify: bool, label_field: str | None
) -> Any:
    """The dataset of a path, or the open dataset that was given instead of one.

    Raises:
        DatasetError: the file cannot be opened.
        ArgumentTypeError: it is something else, such as a torch Dataset.
        ArgumentError: the dataset is open already, with other options.
    """
    stored: Any = {"cache": cache, "cache_bytes": cache_bytes}
    if isinstance(path, (str, os.PathLike)):
        if is_ordinary(path) and cache is None and cache_bytes is None:
            return open_ordinary(path, verify=verify, label_field=label_field)
        return open_set(path, verify=verify, label_field=label_field, **stored)
    if isinstance(path, (list, tuple, Mixture)):
        return join(path, verify=verify, label_field=label_field, **stored)
    if not all(hasattr(path, name) for name in ("heights", "widths", "labels", "fingerprint")):
        kind = type(path)
        raise ArgumentTypeError(
            f"path is a {kind.__module__}.{kind.__qualname__}, and not a .beton file or a budgetloader.Dataset; make a "
            "file of it (budgetloader convert), or keep it, with "
            "DataLoader(dataset, batch_sampler=budgetloader.BudgetSampler(dataset, schedule=…, batch_size=…))"
        )
    if cache is not None or cache_bytes is not None:
        raise ArgumentError(f"cache={cache!r}: the dataset is open already; give its address, and the cache with it")
    if verify and not getattr(path, "verifies", False):
        raise ArgumentError(
            "verify=True: the dataset is open already; give Dataset(path, verify=True), or serve --verify"
        )
    if label_field is not None and label_field != getattr(path, "label_field", None):
        raise ArgumentError(
            f"label_field={label_field!r}: the dataset is open already; give Dataset(path, label_field={label_field!r})"
        )
    return given(path)


def choose_crop(crop: str, dataset: Index) -> tuple[Crop, str]:
    """The crop, and why it is this one. "auto" depends on the dataset alone.

    Raises:
        ArgumentError: it is not known, or images of this dataset cannot be cropped so.
    """
    check_choice(crop, ("auto", "resized", "pad"), what="crop")
    sides = np.unique(np.concatenate((dataset.heights, dataset.widths)))
    if crop == "auto":
        if len(sides) == 1 and sides[0] <= SMALL:
            return "pad", f"all images are {sides[0]} × {sides[0]}, and small: they are shifted by up to 4 pixels"
        return "resized", f"images are not all of one small size (up to {SMALL} × {SMALL})"
    if crop == "pad" and len(sides) != 1:
        raise ArgumentError("crop='pad' needs images that are all of one size, n × n; use crop='resized'")
    return cast(Crop, crop), "it was asked for"


def make_plans(
    dataset: Index,
    *,
    train: bool,
    schedule: Schedule | None,
    batch_size: int,
    seed: int,
    wanted: Wanted,
    shard: Shard,
    crop: Crop,
    on_corrupt: str,
) -> tuple[PlannerLike, Cursor]:
    """The planner of training, or of evaluation, and the cursor of its stream; arguments as `BudgetLoader` has them.

    Raises:
        ScheduleError: the schedule is missing, or evaluation was given one.
    """
    check_choice(on_corrupt, ("raise", "replace"), what="on_corrupt")
    batch_size = check_count(batch_size, what="batch_size")
    planner: PlannerLike
    if train:
        drawn: Any = {"batch_size": batch_size, "seed": seed, "wanted": wanted, "shard": shard, "crop": crop}
        planner = Planner(dataset, schedule=_checked(schedule), **drawn)
    else:
        if schedule is not None or on_corrupt != "raise":
            raise ScheduleError("train=False takes every sample once; leave schedule and on_corrupt out")
        if wanted.weights is not None or wanted.selection is not None:
            raise ScheduleError("train=False takes every sample once; leave weights and selection out")
        planner = EvaluationPlanner(dataset, batch_size=batch_size, samples=wanted.samples, shard=shard, crop=crop)
    identity = {
        "seed": seed,
        "dataset": dataset.fingerprint,
        "schedule": str(schedule),
        "batch_size": batch_size,
        "sampling": wanted.sampling,
        "crop": crop,
        **planner.identity,
    }
    return planner, Cursor(planner.steps, identity=identity, schedule=schedule, after_last="end" if train else "again")


def _checked(schedule: Any) -> Schedule:
    if schedule is None:
        raise ScheduleError("schedule is missing; give one such as Schedule.full(epochs=90)")
    if not isinstance(schedule, Schedule):
        raise ScheduleError(f"schedule {schedule!r} is no Schedule; give Schedule.parse(…), or another of them")
    return schedule


def make_job(
    planner: PlannerLike,
    dataset: Any,
    output: Output,
    *,
    sizes: SizeSchedule,
    ranks: int,
    views: Views,
    workers: int | None,
    prefetch: int,
    on_corrupt: OnCorrupt,
) -> Job:
    """What an engine has to do; arguments as `BudgetLoader` has them.

    Args:
        planner, dataset, output: of which plans and images, and what batches look like.
        sizes: of the images.
        views: images of each sample.
        ranks: among which a batch is shared.
        workers, prefetch, on_corrupt: see `BudgetLoader`.
    """
    return Job(
        dataset=dataset,
        output=output,
        batch_size=-(-planner.batch_size // ranks) * views.count,
        workers=check_count(cores() if workers is None else workers, what="workers"),
        capacity=check_count(prefetch, what="prefetch"),
        on_corrupt=on_corrupt,
        replacement=views.replacement(planner.replacement),
        sizes=sizes.distinct,
        views=views.count,
    )


def make_engine(engine: str | Callable[[Job], Engine], job: Job, stage: Stage | None = None) -> tuple[Engine, str, str]:
    """The engine, its name, and why it is this one.

    Args:
        engine: its name, or a function that makes it.
        job: what is handed out.
        stage: what is done to its batches before that.

    Raises:
        EngineError: it is not known, not installed, or cannot make such batches.
    """
    if stage is not None:
        made, name, reason = make_engine(engine, stage.asked(job))
        return stage.behind(made, job), name, reason
    if callable(engine):
        name = str(getattr(engine, "engine_name", getattr(engine, "__name__", "custom")))
        return engine(job), name, "it was given"
    name, reason = engines.resolve(str(engine), output=job.output, dataset=job.dataset)
    return engines.create(name, job), name, reason


def make_stage(transform: Any, *, seed: int, targets: Callable[[Batch], Any], views: int) -> Stage | None:
    """What is done to batches between the engine and the trainer, or None.

    Raises:
        ArgumentError: the transform cannot be used.
    """
    if transform is None:
        return None
    from budgetloader.transforms import as_transform

    return Stage(as_transform(transform), seed, targets, views)
