"""BudgetLoader: a dataset, a schedule and an engine, as an iterable of each epoch's budget."""

from __future__ import annotations

import inspect
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from budgetloader import engines, options
from budgetloader.arguments import check_seed
from budgetloader.batch import Batch
from budgetloader.conditions import where
from budgetloader.dataset import Dataset
from budgetloader.engines.base import Engine, Job, OnCorrupt, Output
from budgetloader.errors import EngineError, ScheduleError
from budgetloader.feed import Closing, Feed
from budgetloader.joined import Mixture
from budgetloader.live_selection import Choosing
from budgetloader.order import Sampling
from budgetloader.plans import Index, stream
from budgetloader.resize import Interpolation
from budgetloader.schedule import Schedule
from budgetloader.selections import ScoreSelection, Selection, Wanted
from budgetloader.shard import local_shard
from budgetloader.sizes import Sizes, image_sizes
from budgetloader.stats import BusySince, EpochStats, Verdict, judge
from budgetloader.storage.ahead import fetched
from budgetloader.targets import Targets
from budgetloader.views import Views

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import ArrayLike

_log = logging.getLogger("budgetloader")


class BudgetLoader(Choosing, Closing):
    """Batches of a dataset, exactly ⌊α_e·M⌋ of them in epoch e, prefetched on across epochs.

        for epoch in batches.epochs():
            for images, labels in batches:
                ...

    Each ``for images, labels in batches`` is one epoch of the schedule. Without `epochs`, an iteration begins where
    the last one has ended; where that was left early, the next one is the next epoch's, unless it took one batch only:
    ``next(iter(batches))`` is a look, and the next iteration begins with that batch again. `set_epoch` and
    `load_state_dict` go elsewhere. Nothing beyond the budget is read or decoded, except for at most `prefetch` batches
    where an epoch is left early.

    Args:
        path: a `.beton` file, the address of one (s3://, gs://, az://, https://), a list of them (one set), a `Mixture`
            of them, an open `Dataset`, or what else has its arrays (see `budgetloader.connect`).
        schedule: the ratio of every epoch. Not needed with train=False.
        batch_size: samples of a batch, of all ranks together.
        image_size: height and width of the images, pixels; or of each epoch's, as "128@30,160@30": see `SizeSchedule`.
        engine: "auto" (the fastest that is installed; `engine` and `engine_reason` say which and why), one
            of `budgetloader.engines.NAMES`, or a function that makes an engine of your own out of a
            `budgetloader.engines.Job`.
        device: a torch device: a CPU, "cuda" (the current GPU of the thread that makes the loader), "cuda:1" and
            so on, or "mps".
        seed: 0 … 2⁶⁴ − 1. Together with epoch and step it determines a batch's samples, windows and
            flips, on any engine and with any number of workers or ranks.
        train: True: random resized crop and flip. False: every sample once in file order, centre
            crop; the last batch may be short.
        dtype: "float32", "float16", "bfloat16" (normalised) or "uint8" (not).
        layout: "channels_last" or "contiguous": the order in memory.
        interpolation: "antialias" or "linear".
        crop: "resized": random resized crop; "pad": the whole image, shifted by up to 4 of its pixels, for images
            that are all of one size; "auto": "pad" where all images are n × n with n up to 64, else "resized"
            (`crop` and `crop_reason` say which and why). It does not depend on image_size.
        mean, std: for the normalisation, of each channel, on the scale 0 … 1; default: ImageNet's.
        decode_scaling, fast_decode: decode windows at 1/2 … 1/8 where that is enough, less exactly: docs/speed.md.
        workers: threads of the engine; default: one per core.
        prefetch: batches under way ahead of the trainer.
        rank, world_size: this process's share of each batch; default: torch.distributed's, else 0 of 1.
        sampling: "independent", "cyclic" or "static", see `budgetloader.order.Order`; or "blocks" (of neighbours in the
            file, for slow storage), also as "blocks:BLOCK/BUFFER", see `budgetloader.block_order.BlockOrder`.
        samples: a subset to train (or, with train=False, to evaluate) on: numbers of samples, each once, a boolean
            mask with an entry per sample of the set, or a condition such as "height >= 256 and label in (3, 5)" (see
            `budgetloader.conditions`). An epoch is then ⌊α·⌈n/B⌉⌋ batches of its n samples.
        weights: a number per sample of the set, or "balanced" (every class equally often): each place of an epoch is a
            draw in proportion, with replacement. With `samples`, among those.
        selection: a `budgetloader.Selection` of your own, or a `budgetloader.ScoreSelection` that learns, such as
            `budgetloader.InfoBatch`: then batches are (images, labels, ids, weights), see `feedback`.
        transform: changes uint8 images, and targets, ahead of the trainer: a function of (images, targets, keys), a
            transform of torchvision or kornia, or a list of these; see `budgetloader.transforms`.
        views: random crops of each sample, each with a flip of its own: images are [views, batch, 3, …] with more than
            one. The first is what there is without others.
        crops: of an evaluation: "five" (the corners and the centre), "ten" (these and their mirror images), or a share
            of the shorter side, such as 0.95, for a centred square in place of 0.875; of several, images are
            [crops, batch, 3, …].
        on_corrupt: "raise" an error that names the sample, or "replace" it by one that (seed, epoch,
            position) determines, counted in `stats`.
        verify: compare each sample's bytes with the file's checksum, whenever they are read. A sample that differs
            counts as one that does not decode.
        label_field: the integer field of the file that holds the labels; see `Dataset`.
        cache: a folder on a local disk that keeps what was fetched of files in object storage, for other epochs, runs
            and processes; None: nothing is kept but their indices.
        cache_bytes: the most that samples may take there; None: as much as they need.
        targets: what a batch gives in place of labels: the name of a field of the file, an array [D, …] by sample, a
            function of ids (int64 [batch]), or a tuple or a dict of them; see `budgetloader.targets`.
        with_ids: True yields (images, labels, ids), ids int64 [batch]: the numbers of the samples that are shown (not
            of those that they stand in for).
        channels: 3; 1 for grey, the luma of an image; 4 with alpha, which `budgetloader convert --alpha keep` stores.

    Attributes:
        dataset: the open dataset.
        schedule, seed: as given.
        engine, engine_reason: which engine it is, and why.
        crop, crop_reason: which crop it is, and why.
        image_sizes: the size of each epoch's images.
        batch_size: samples of a whole batch of this rank, as torch's DataLoader has it.
        num_workers: threads of the engine.
        drop_last: False: the short last batch of a full epoch is a part of it.
        stats: one `EpochStats` for each iteration.

    Yields:
        images [batch, channels, h, w], of the epoch's size, and labels int64 [batch], or the targets that were asked
        for. They stay valid for as long as they are kept. On a GPU they are ready for work that is queued on the stream
        that is the current one when they are taken; before another stream uses them, have it wait, and record_stream.

    Raises:
        LoaderError: what cannot be, with what to do about it: `ScheduleError`, `DatasetError`, `EngineError`, or,
            of an argument that cannot be used, `ArgumentError` (a ValueError) or `ArgumentTypeError` (a TypeError).
    """

    drop_last = False
    stats: list[EpochStats]
    _iteration: object = None
    _counted = (0, 0)

    def __init__(
        self,
        path: str | os.PathLike | Sequence[str | os.PathLike] | Mixture | Dataset | Index,
        *,
        batch_size: int,
        image_size: Sizes,
        schedule: Schedule | None = None,
        engine: str | Callable[[Job], Engine] = "auto",
        device: str | torch.device = "cpu",
        seed: int = 0,
        train: bool = True,
        dtype: str | torch.dtype = "float32",
        layout: str = "channels_last",
        interpolation: Interpolation = "antialias",
        crop: str = "auto",
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        decode_scaling: bool = False,
        fast_decode: bool = False,
        workers: int | None = None,
        prefetch: int = 3,
        rank: int | None = None,
        world_size: int | None = None,
        sampling: Sampling = "independent",
        samples: ArrayLike | str | None = None,
        weights: ArrayLike | str | None = None,
        selection: Selection | ScoreSelection | None = None,
        transform: Any = None,
        views: int = 1,
        crops: str | float | Sequence[float] | None = None,
        on_corrupt: OnCorrupt = "raise",
        verify: bool = False,
        label_field: str | None = None,
        cache: str | os.PathLike | None = None,
        cache_bytes: float | None = None,
        targets: Any = None,
        with_ids: bool = False,
        channels: int = 3,
        **unexpected: NoReturn,
    ) -> None:
        options.refuse_unexpected(unexpected, known=_KEYWORDS)
        self.schedule, self.seed, self._train, self._with_ids = schedule, check_seed(seed), train, with_ids
        device, shard = engines.check_device(device), local_shard(rank, world_size)
        self.dataset = options.open_dataset(path, cache, cache_bytes, verify=verify, label_field=label_field)
        self.crop, self.crop_reason = options.choose_crop(crop, self.dataset)
        drawn: Any = {"batch_size": batch_size, "seed": self.seed, "crop": self.crop, "on_corrupt": on_corrupt}
        drawn |= {"wanted": Wanted(sampling, where(self.dataset, samples), weights, selection, device), "shard": shard}
        self._planner, self._cursor = options.make_plans(self.dataset, train=train, schedule=schedule, **drawn)
        self._views = Views(self.dataset, train=train, views=views, crops=crops, crop=self.crop, seed=self.seed)
        self.image_sizes = sizes = image_sizes(image_size, epochs=len(self._planner.steps))
        shown: Any = sizes.largest, str(dtype), layout, device, interpolation, self.crop, mean, std, decode_scaling
        pace: Any = {"ranks": shard.world_size if train else 1, "workers": workers, "prefetch": prefetch}
        pace |= {"sizes": sizes, "views": self._views, "on_corrupt": on_corrupt}
        self._job = options.make_job(self._planner, self.dataset, Output(*shown, fast_decode, channels), **pace)  # type: ignore[call-arg]
        self._targets = Targets(targets, self.dataset, job=self._job)
        self.batch_size, self.num_workers = self._job.batch_size // self._views.count, self._job.workers
        self.stats, self._dropped, self._busy = [], {}, BusySince(self.dataset)
        stage = options.make_stage(transform, seed=self.seed, targets=self._targets, views=self._views.count)
        self._engine, self.engine, self.engine_reason = options.make_engine(engine, self._job, stage)
        _log.info("engine %s: %s; crop %s: %s", self.engine, self.engine_reason, self.crop, self.crop_reason)

    # Where it stands

    @property
    def epoch(self) -> int:
        """The epoch under way, or the next one."""
        return self._cursor.epoch

    @property
    def step(self) -> int:
        """Batches of the epoch that were handed out."""
        return self._cursor.step

    def __repr__(self) -> str:
        if "_engine" not in vars(self):  # a debugger shows it while it is made
            return object.__repr__(self)
        source = getattr(self.dataset, "path", self.dataset.fingerprint)
        if self._engine is None:
            place = "closed"
        elif not self._train:
            place = f"evaluation, batch {self.step} of {len(self)}"
        elif not len(self):
            place = f"all {self._cursor.epoch} epochs done"
        else:
            place = f"epoch {self.epoch} of 0 … {len(self._planner.steps) - 1}, batch {self.step} of {len(self)}"
        return (
            f"<BudgetLoader of {source}: {place}; schedule {self.schedule}, batch_size {self._planner.batch_size}, "
            f"image_size {self.image_sizes}, crop {self.crop} ({self.crop_reason}), "
            f"engine {self.engine} on {self._job.output.device}>"
        )

    def __len__(self) -> int:
        """Batches of the epoch under way, or of the next one; 0 after the last."""
        return len(self._cursor)

    @property
    def sampler(self) -> BudgetLoader:
        """Itself: trainers written for torch's DataLoader call `batches.sampler.set_epoch(epoch)`."""
        return self

    batch_sampler = sampler

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of `epoch`.

        If the loader was resumed in the middle of that epoch, and not iterated since, it keeps its
        place, so that the usual ``for epoch in range(start, epochs): batches.set_epoch(epoch)``
        resumes exactly.
        """
        self._check_open()
        self._cursor.set_epoch(epoch)
        self._iteration = None

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch will come from; JSON-able, under 1 kB (with chosen samples: see `selection_state`).

        It counts the batches handed out, not those prefetched, and holds for any number of workers
        or ranks, and for any engine. After a `break` it still is where that epoch was left, though the
        next iteration here would be the next epoch's.
        """
        return self._with_choice(self._cursor.state_dict())

    def load_state_dict(self, state: dict[str, Any], *, selection: Mapping[str, np.ndarray] | None = None) -> None:
        """Go to where `state_dict` was taken.

        The schedule may be longer than the state's: a run of 3 epochs goes on as one of 10. Every ratio of the state's
        schedule is compared with this schedule's ratio of the same epoch, and all must be equal. (With
        sampling="static" the largest ratio must be equal, too: all epochs share one draw of that size.)

        Args:
            state: what `state_dict` gave.
            selection: what `selection_state` gave, where the state does not hold it itself.

        Raises:
            ResumeError: the state is of another dataset, schedule, batch size, sampling, seed or crop.
        """
        self._check_open()
        self._resume(state, selection)
        self._iteration = None

    # Iteration

    def epochs(self) -> Iterator[int]:
        """The epochs that are left, for the outer loop of training.

            for epoch in batches.epochs():
                for images, labels in batches:
                    ...

        The first one is the epoch under way, and its batches go on behind the last one that was handed out. So the
        loop can be run again after an interrupt, an error, a `break` out of both loops, or `load_state_dict`, and
        every batch is trained on once. (``next(iter(batches))`` in another cell is a look: its batch comes again.) A
        `break` out of the inner loop alone skips the rest of that epoch. After the last epoch the loop ends at once;
        ``batches.set_epoch(0)`` starts over.

        Raises:
            ScheduleError: the loader has train=False; iterate over the loader itself.
            EngineError: the loader is closed.
        """
        self._check_open()
        if not self._train:
            raise ScheduleError("train=False has no epochs; iterate over the loader itself: each time is an evaluation")
        if not len(self):
            _log.warning("all %d epochs of the schedule are done; batches.set_epoch(0) goes back", self.epoch)
        return self._epochs()

    def _epochs(self) -> Iterator[int]:
        for epoch in self._cursor.epochs():
            self._iteration = None  # an iterator from before is stale
            self._begin_choice(epoch)
            yield epoch

    def __iter__(self) -> Iterator[tuple]:
        self._check_open()
        self._cursor.check_next()
        return self._iterate()

    def _iterate(self) -> Iterator[tuple]:
        # Nothing moves before the first batch is taken: some trainers make an iterator and drop it.
        self._cursor.begin()
        self._iteration = iteration = object()
        cursor, epoch = self._cursor, self._cursor.epoch
        self._begin_choice(epoch)
        stats = EpochStats(
            epoch,
            image_size=self.image_sizes[epoch],
            samples_dropped=self._dropped.pop(epoch, 0),
            set_share=self._share(epoch),
        )
        # What the engine decoded for it when it was iterated over before is in that time's entry.
        again = [earlier for earlier in self.stats if earlier.epoch == epoch]
        self._counted = sum(one.samples_decoded for one in again), sum(one.samples_shared for one in again)
        self.stats.append(stats)
        self._busy.next_epoch()
        began = asked = time.perf_counter()
        while cursor.step < self._planner.steps[epoch]:
            batch = self._next_batch()
            item = self._item(batch)
            stats.batches += 1
            stats.samples_emitted += len(batch.plan)
            stats.samples_replaced += batch.replaced
            self._measure(stats, began)
            waited = time.perf_counter() - asked
            stats.trainer_wait_seconds += waited
            if stats.batches == 1:
                stats.boundary_seconds = waited
            # Nothing is called from here to the trainer: no signal's exception falls between counting and handing out.
            cursor.step += 1
            yield item
            asked = time.perf_counter()
            if self._iteration is not iteration:
                raise EngineError("a newer iteration has begun, or set_epoch moved the loader; iterate over it anew")
            self._measure(stats, began)
        cursor.end()

    def _measure(self, stats: EpochStats, began: float) -> None:
        stats.seconds = time.perf_counter() - began
        if self._engine is not None:
            self._busy.measure(stats, self._engine.work)
            stats.samples_decoded = self._engine.work.decoded(stats.epoch) - self._counted[0]
            stats.samples_shared = self._engine.work.shared(stats.epoch) - self._counted[1]

    def _next_batch(self) -> Batch:
        engine = self._check_open()
        here = (self._cursor.epoch, self._cursor.step)
        if self._feed is None or self._feed.next_out != here:
            self._feed = None  # and stays so if what follows is interrupted
            engine.abort()
            plans = self._views.plans(stream(self._planner, epoch=here[0], step=here[1]))
            plans = self._targets.ahead(self.image_sizes.sized(plans))
            self._feed = Feed(engine, fetched(self.dataset, plans, self._planner, engine), here)
        try:
            return self.image_sizes.checked(self._feed.get(), channels=self._job.output.channels)
        except BaseException:
            self._feed = None  # what was under way is aborted before anything else is asked for
            raise

    def _item(self, batch: Batch) -> tuple:
        each = self._targets.each
        item: tuple = self._views.split(batch.images, self._targets(batch), transformed=batch.transformed, each=each)
        if not self._with_ids and not self._learns:
            return item
        import torch

        item = (*item, torch.from_numpy(self._views.first(batch.shown).copy()))
        return (*item, self._views.first(self._weights(batch))) if self._learns else item

    # What it measured, and its end

    def verdict(self) -> Verdict | None:
        """What limits the training's speed; the first epoch is left out where there are more."""
        return judge(self.stats[1:] or self.stats)

    def close(self) -> None:
        super().close()
        self._targets.close()


_KEYWORDS = tuple(
    name
    for name, parameter in inspect.signature(BudgetLoader.__init__).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
)
