"""BudgetLoader: a dataset, a schedule and an engine, as an iterable of each epoch's budget."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from budgetloader import engines
from budgetloader.batch import Batch, BatchPlan, Crop, EvaluationPlanner, Index, Planner, stream
from budgetloader.dataset import Dataset
from budgetloader.engines.base import IMAGENET_MEAN, IMAGENET_STD, Engine, Job, OnCorrupt, Output
from budgetloader.errors import EngineError, ScheduleError
from budgetloader.order import Sampling, check_seed
from budgetloader.parallel import cores
from budgetloader.position import Position
from budgetloader.resize import Interpolation
from budgetloader.schedule import Schedule, _check_count
from budgetloader.shard import local_shard
from budgetloader.stats import BusySince, EpochStats, Verdict, judge

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("budgetloader")


class BudgetLoader:
    """Batches of a dataset, exactly ⌊α_e·M⌋ of them in epoch e, prefetched on across epochs.

    Each ``for images, labels in batches`` is one epoch of the schedule and the next one begins where
    the last has ended or was left; `set_epoch` and `load_state_dict` go elsewhere. Nothing beyond
    the budget is read or decoded, except for at most `prefetch` batches where an epoch is left
    early.

    Args:
        path: a `.beton` file, an open `Dataset`, or what else has its arrays (see `budgetloader.connect`).
        schedule: the ratio of every epoch. Not needed with train=False.
        batch_size: samples of a batch, of all ranks together.
        image_size: height and width of the images, pixels.
        engine: "auto" (the fastest that is installed; `engine` and `engine_reason` say which and why), one
            of `budgetloader.engines.NAMES`, or a function that makes an engine of one's own.
        device: a torch device: a CPU, "cuda" (the current GPU of the thread that makes the loader), "cuda:1" and
            so on, or "mps".
        seed: 0 … 2⁶⁴ − 1. Together with epoch and step it determines a batch's samples, windows and
            flips, on any engine and with any number of workers or ranks.
        train: True: random resized crop and flip. False: every sample once in file order, centre
            crop; the last batch may be short.
        dtype: "float32", "float16", "bfloat16" (normalised) or "uint8" (not).
        layout: "channels_last" or "contiguous": the order in memory.
        interpolation: "antialias" or "linear".
        crop: "resized": random resized crop; "pad": shift by up to 4 pixels, for small images that are
            all image_size × image_size; "auto": "pad" for such images, else "resized".
        mean, std: for the normalisation, of values on the scale 0 … 1.
        workers: threads of the engine; default: one per core.
        prefetch: batches under way ahead of the trainer.
        rank, world_size: this process's share of each batch; default: torch.distributed's where it is
            initialised, else 0 of 1.
        sampling: "independent", "cyclic" or "static"; see `budgetloader.order.Order`.
        on_corrupt: "raise" an error that names the sample, or "replace" it by one that (seed, epoch,
            position) determines, counted in `stats`.
        verify: compare each sample's bytes with the checksum that the file has of them, whenever they are read. A
            sample that differs counts as one that does not decode.
        with_ids: True yields (images, labels, ids), ids int64 [batch]: the samples' numbers in the
            file, as drawn (of a replaced sample: that of the one it stands in for).

    Yields:
        images [batch, 3, image_size, image_size] and labels int64 [batch]. They stay valid for as
        long as they are kept. On a GPU they are ready for work that is queued on the stream that is the
        current one when they are taken; before another stream uses them, have it wait, and call record_stream.

    Raises:
        LoaderError: what cannot be, with what to do about it.
    """

    def __init__(
        self,
        path: str | os.PathLike | Dataset | Index,
        *,
        batch_size: int,
        image_size: int,
        schedule: Schedule | None = None,
        engine: str | Callable[[Job], Engine] = "auto",
        device: str | torch.device = "cpu",
        seed: int = 0,
        train: bool = True,
        dtype: str | torch.dtype = "float32",
        layout: str = "channels_last",
        interpolation: Interpolation = "antialias",
        crop: str = "auto",
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        workers: int | None = None,
        prefetch: int = 3,
        rank: int | None = None,
        world_size: int | None = None,
        sampling: Sampling = "independent",
        on_corrupt: OnCorrupt = "raise",
        verify: bool = False,
        with_ids: bool = False,
    ) -> None:
        _check_count(batch_size, what="batch_size")
        _check_count(image_size, what="image_size")
        device = engines.check_device(device)
        if on_corrupt not in ("raise", "replace"):
            raise EngineError(f"on_corrupt {on_corrupt!r} is not known; give 'raise' or 'replace'")
        self.dataset: Any = _dataset(path, verify=verify)
        crop = _crop(crop, self.dataset, image_size)
        output = Output(image_size, str(dtype), layout, device, interpolation, crop, mean, std)
        self.seed = check_seed(seed)
        shard = local_shard(rank, world_size)
        if train:
            if schedule is None:
                raise ScheduleError("schedule is missing; give one such as Schedule.full(epochs=90)")
            if not isinstance(schedule, Schedule):
                raise ScheduleError(f"schedule {schedule!r} is no Schedule; give Schedule.parse(…), or another of them")
            self._planner: Any = Planner(
                self.dataset,
                schedule=schedule,
                batch_size=batch_size,
                seed=seed,
                sampling=sampling,
                shard=shard,
                crop=crop,
            )
        elif schedule is not None or on_corrupt != "raise":
            raise ScheduleError("train=False takes every sample once; leave schedule and on_corrupt out")
        else:
            self._planner = EvaluationPlanner(self.dataset, batch_size=batch_size, shard=shard, crop=crop)
        self.schedule = schedule
        make = engine if callable(engine) else None
        if make is not None:
            self.engine = str(getattr(make, "engine_name", getattr(make, "__name__", "custom")))
            self.engine_reason = "it was given"
        else:
            self.engine, self.engine_reason = engines.resolve(str(engine), output=output)
        _log.info("engine %s: %s", self.engine, self.engine_reason)
        self._with_ids = with_ids
        identity = {
            "seed": seed,
            "dataset": self.dataset.fingerprint,
            "schedule": str(schedule),
            "batch_size": batch_size,
            "sampling": sampling,
            "crop": crop,
        }
        self._position = Position(self._planner.steps, identity=identity, after_last="end" if train else "again")
        self._job = Job(
            dataset=self.dataset,
            output=output,
            batch_size=-(-batch_size // (shard.world_size if train else 1)),
            workers=_check_count(cores() if workers is None else workers, what="workers"),
            capacity=_check_count(prefetch, what="prefetch"),
            on_corrupt=on_corrupt,
            replacement=self._planner.replacement,
        )
        self._engine: Engine | None = make(self._job) if make else engines.create(self.engine, self._job)
        self._stream: _Stream | None = None
        self._iteration: object = None
        self.stats: list[EpochStats] = []
        self._busy = BusySince()
        self._counted = 0

    # Where it stands

    @property
    def epoch(self) -> int:
        """The epoch under way, or the next one."""
        return self._position.epoch

    @property
    def step(self) -> int:
        """Batches of the epoch that were handed out."""
        return self._position.step

    def __len__(self) -> int:
        """Batches of the epoch under way, or of the next one; 0 after the last."""
        return len(self._position)

    @property
    def sampler(self) -> BudgetLoader:
        """Itself: trainers written for torch's DataLoader call `batches.sampler.set_epoch(epoch)`."""
        return self

    batch_sampler = sampler

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of `epoch`.

        If the loader was resumed in the middle of that epoch and not iterated since, it stays
        there, so that the usual ``for epoch in range(start, epochs): batches.set_epoch(epoch)``
        resumes exactly.
        """
        self._check_open()
        self._position.set_epoch(epoch)
        self._iteration = None

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch will come from; JSON-able, under 1 kB.

        It counts the batches handed out, not those prefetched, and holds for any number of workers
        or ranks, and for any engine. After a `break` it still is where that epoch was left, though the
        next iteration here would be the next epoch's.
        """
        return self._position.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state_dict` was taken.

        Raises:
            ResumeError: the state is of another dataset, schedule, batch size, sampling or seed.
        """
        self._check_open()
        self._position.load_state_dict(state)
        self._iteration = None

    # Iteration

    def __iter__(self) -> Iterator[tuple]:
        self._check_open()
        self._position.check_next()
        return self._iterate()

    def _iterate(self) -> Iterator[tuple]:
        # An epoch begins with the first batch that is asked for: some trainers make an iterator and drop it.
        self._position.begin()
        self._iteration = iteration = object()
        position, epoch = self._position, self._position.epoch
        stats = EpochStats(epoch)
        # What the engine decoded for it when it was iterated over before is in that time's entry.
        self._counted = sum(earlier.samples_decoded for earlier in self.stats if earlier.epoch == epoch)
        self.stats.append(stats)
        self._busy.next_epoch()
        began = time.perf_counter()
        while position.step < self._planner.steps[epoch]:
            asked = time.perf_counter()
            batch = self._next_batch()
            waited = time.perf_counter() - asked
            stats.trainer_wait_seconds += waited
            if not stats.batches:
                stats.boundary_seconds = waited
            stats.batches += 1
            stats.samples_emitted += len(batch.labels)
            stats.samples_replaced += batch.replaced
            self._measure(stats, began)
            item = self._item(batch)
            # Nothing is called from here to the trainer: no signal's exception falls between counting and handing out.
            position.step += 1
            yield item
            if self._iteration is not iteration:
                raise EngineError("a newer iteration has begun, or set_epoch moved the loader; iterate over it anew")
            self._measure(stats, began)
        position.end()

    def _measure(self, stats: EpochStats, began: float) -> None:
        stats.seconds = time.perf_counter() - began
        if self._engine is not None:
            self._busy.measure(stats, self._engine.work)
            stats.samples_decoded = self._engine.work.decoded(stats.epoch) - self._counted

    def _next_batch(self) -> Batch:
        engine = self._check_open()
        here = (self._position.epoch, self._position.step)
        if self._stream is None or self._stream.next_out != here:
            self._stream = None  # and stays so if what follows is interrupted
            engine.abort()
            self._stream = _Stream(engine, stream(self._planner, epoch=here[0], step=here[1]), here)
        try:
            return self._stream.get()
        except BaseException:
            self._stream = None  # what was under way is aborted before anything else is asked for
            raise

    def _item(self, batch: Batch) -> tuple:
        if not self._with_ids:
            return batch.images, batch.labels
        import torch

        return batch.images, batch.labels, torch.from_numpy(batch.plan.rows[:, 0].copy())

    # What it measured, and its end

    def verdict(self) -> Verdict | None:
        """What limits the speed, judged by all epochs but the first where there are more."""
        return judge(self.stats[1:] or self.stats)

    def close(self) -> None:
        """Stop the engine and leave no thread behind. May be called twice."""
        if self._engine is not None:
            self._engine.close()
            self._engine = self._stream = None

    def __enter__(self) -> BudgetLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> Engine:
        if self._engine is None:
            raise EngineError("the loader is closed; make a new one")
        return self._engine


class _Stream:
    """Keeps an engine's capacity filled with plans, in order, across epochs."""

    def __init__(self, engine: Engine, plans: Iterator[BatchPlan], first: tuple[int, int]) -> None:
        self._engine, self._plans = engine, plans
        self._under_way: list[tuple[int, int]] = []
        self.next_out: tuple[int, int] | None = first
        self._fill()

    def get(self) -> Batch:
        batch = self._engine.get()
        self._under_way.pop(0)
        self._fill()
        self.next_out = self._under_way[0] if self._under_way else None
        return batch

    def _fill(self) -> None:
        while len(self._under_way) < self._engine.capacity:
            plan = next(self._plans, None)
            if plan is None:
                return
            self._engine.submit(plan)
            self._under_way.append((plan.epoch, plan.step))


def _dataset(path: Any, *, verify: bool) -> Any:
    if isinstance(path, (str, os.PathLike)):
        return Dataset(path, verify=verify)
    if verify and not getattr(path, "verifies", False):
        raise EngineError(
            "verify=True: the dataset is open already; give Dataset(path, verify=True), or serve --verify"
        )
    return path


def _crop(crop: str, dataset: Index, image_size: int) -> Crop:
    fits = bool((dataset.heights == image_size).all() and (dataset.widths == image_size).all())
    if crop == "auto":
        return "pad" if fits else "resized"
    if crop == "pad" and not fits:
        raise EngineError(f"crop='pad' needs images of {image_size} × {image_size} alone; use crop='resized'")
    if crop not in ("pad", "resized"):
        raise EngineError(f"crop {crop!r} is not known; give 'auto', 'resized' or 'pad'")
    return cast(Crop, crop)
