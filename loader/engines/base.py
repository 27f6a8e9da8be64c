"""What every engine is: plans in, batches out, in order, endlessly.

`submit` up to `capacity` plans ahead, `get` the batches in the same order. An engine never learns
of epochs' ends: it is not drained, rebuilt or restarted between them.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

import numpy as np

from budgetloader.arguments import check_choice, check_count
from budgetloader.batch import Batch
from budgetloader.engines.laps import Laps
from budgetloader.errors import ArgumentError, EngineError
from budgetloader.plans import BatchPlan, Crop
from budgetloader.resize import INTERPOLATIONS, Interpolation

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DTYPES = ("float32", "float16", "bfloat16", "uint8")
LAYOUTS = ("channels_last", "contiguous")
OnCorrupt = Literal["raise", "replace"]
_CHANNELS = {
    1: "one number, of grey",
    3: "three numbers, of red, green and blue",
    4: "four numbers, of red, green, blue and alpha",
}
_ATTEMPTS = 15  # samples that may stand in for one: where they all fail, the file is damaged
Pending = TypeVar("Pending")
"""What an engine keeps of a batch under way."""


@dataclass(frozen=True)
class Output:
    """What a batch looks like.

    Args:
        image_size: height and width of the images, pixels; where plans have sizes of their own, the largest.
        dtype: "float32", "float16", "bfloat16": (value/255 − mean)/std; "uint8": the pixels.
        layout: "channels_last" or "contiguous", the order in memory; the shape is [n, channels, h, w].
        device: a torch device, such as "cpu" or "cuda:0".
        interpolation: see `budgetloader.resize`.
        crop: what the plans' windows are: "resized", always inside their image, or "pad", of the
            image's size and up to 4 pixels outside, where pixels are 0.
        mean, std: of each channel, on the scale 0 … 1 (with one channel, a number will do); None: ImageNet's, of grey
            images the mean of its three; alpha stays on the scale 0 … 1.
        decode_scaling: whether a window that is at least twice its target may be decoded at 1/2, 1/4 or 1/8.
        fast_decode: whether a JPEG is decoded by the fast inverse DCT, and its chroma repeated, not interpolated.
        channels: 3: red, green and blue; 1: grey, the luma that a JPEG stores, or by ITU-R 601 of pixels; 4: red,
            green, blue and alpha, which is the image field "alpha" of the file.
    """

    image_size: int
    dtype: str = "float32"
    layout: str = "channels_last"
    device: str = "cpu"
    interpolation: Interpolation = "antialias"
    crop: Crop = "resized"
    mean: Any = None
    std: Any = None
    decode_scaling: bool = False
    fast_decode: bool = False
    channels: int = 3

    def __post_init__(self) -> None:
        check_count(self.image_size, what="image_size")
        object.__setattr__(self, "dtype", str(self.dtype).removeprefix("torch."))
        check_choice(self.dtype, DTYPES, what="dtype")
        check_choice(self.layout, LAYOUTS, what="layout")
        check_choice(self.interpolation, INTERPOLATIONS, what="interpolation")
        check_choice(self.crop, ("resized", "pad"), what="crop")
        for name in ("decode_scaling", "fast_decode"):
            if not isinstance(getattr(self, name), bool):
                raise ArgumentError(f"{name} {getattr(self, name)!r} is neither True nor False")
        if isinstance(self.channels, bool) or self.channels not in _CHANNELS:
            raise ArgumentError(f"channels {self.channels!r}: give 1 (grey), 3 (red, green, blue) or 4 (with alpha)")
        for name, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            object.__setattr__(self, name, _of_channels(getattr(self, name), self.channels, what=name, usual=usual))
        if not min(self.std) > 0:
            raise ArgumentError(f"std {self.std}: give {_CHANNELS[self.channels]} above 0")

    def size_of(self, plan: BatchPlan) -> int:
        """Height and width of a plan's images, pixels."""
        return plan.image_size or self.image_size

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        return getattr(torch, self.dtype)

    def table(self) -> torch.Tensor:
        """Each channel's output value for each pixel value: [channels, 256] in the output's dtype."""
        import torch

        values = torch.arange(256, dtype=torch.float32, device="cpu").expand(self.channels, 256)
        if self.dtype != "uint8":
            affine = torch.from_numpy(self.affine())
            values = values * affine[:, :1] + affine[:, 1:]
        return values.to(self.torch_dtype).contiguous()

    def affine(self) -> np.ndarray:
        """Each channel's slope and offset, from pixel values to normalised ones: float32 [channels, 2].

        A normalised value is slope · value + offset, rounded to float32 after each of the two, so that
        a table of it and its computation have the same bits.
        """
        mean, std = np.array(self.mean), np.array(self.std)
        return np.stack([1 / (255 * std), -mean / std], axis=1).astype(np.float32)


def _of_channels(values: Any, channels: int, *, what: str, usual: tuple[float, ...]) -> tuple[float, ...]:
    """A mean or a standard deviation of each channel, on the scale of pixels from 0 to 1."""
    wanted = _CHANNELS[channels]
    if values is None:
        grey = (round(sum(usual) / 3, 3),)
        return grey if channels == 1 else (*usual, float(what == "std"))[:channels]
    try:
        found = tuple(float(value) for value in ((values,) if channels == 1 and np.ndim(values) == 0 else values))
        if len(found) != channels:
            raise ValueError
    except (TypeError, ValueError):
        raise ArgumentError(f"{what} {values!r}: give {wanted}") from None
    if any(value > 1 for value in found):
        scaled = ", ".join(f"{value / 255:.3f}" for value in found) + "," * (channels == 1)
        raise ArgumentError(
            f"{what} {values!r} is beyond the scale from 0 to 1 that pixels have here; on the scale from 0 to 255, "
            f"divide by 255: {what}=({scaled})"
        )
    if not all(value >= 0 for value in found):  # NaN is not
        raise ArgumentError(f"{what} {values!r}: give {wanted} from 0 to 1")
    return found


@dataclass(frozen=True)
class Job:
    """What an engine needs to know to work.

    Args:
        dataset: the file, or what stands for it (an engine that reads images needs the file).
        output: what batches look like.
        batch_size: the most samples of a plan.
        workers: threads.
        capacity: the most plans under way.
        on_corrupt: "raise", or "replace" by the sample that `replacement` names.
        replacement: (plan, row, attempt) → a plan of one sample to stand in for a row.
        sizes: the sizes that plans' images have, where there are several; see `Output.size_of`.
        views: images of each sample: a plan has rows of all samples' first ones, then of all second ones, and so on.
    """

    dataset: Any
    output: Output
    batch_size: int
    workers: int
    capacity: int
    on_corrupt: OnCorrupt
    replacement: Callable[..., BatchPlan]
    sizes: tuple[int, ...] = ()
    views: int = 1


def stand_ins(job: Job, plan: BatchPlan, row: int) -> Iterator[BatchPlan]:
    """Plans of one sample each that may stand in for a row that does not decode, to be tried one after the other."""
    if job.on_corrupt == "replace":
        for attempt in range(_ATTEMPTS):
            yield replace(job.replacement(plan, row, attempt=attempt), image_size=plan.image_size)


def refuse_pixels(dataset: Any, *, engine: str) -> None:
    """For an engine that reads JPEGs alone.

    Raises:
        EngineError: some samples are stored as pixels.
    """
    count = int(np.count_nonzero(getattr(dataset, "raw", ())))
    if count:
        raise EngineError(
            f"engine {engine!r} reads JPEGs, and {count:,} of {len(dataset):,} samples are stored as pixels; use "
            "engine='native'"
        )


def crops_bytes(job: Job) -> bool:
    """Whether an engine that crops compressed bytes reads nothing of a sample but what its plan's windows need.

    A stand-in's window is in no plan, and with crop="pad" the whole image is decoded.
    """
    return job.on_corrupt == "raise" and job.output.crop == "resized"


class Engine(Protocol):
    """The interface of an engine. All methods are called from one thread.

    `BaseEngine` does the bookkeeping, and `budgetloader.engines.DirectEngine` all but making a batch.
    """

    capacity: int
    work: Work

    def submit(self, plan: BatchPlan) -> None:
        """Begin a batch. At most `capacity` may be under way."""

    def get(self) -> Batch:
        """Wait for the oldest batch under way. Errors of its making are raised here.

        After an exception that has another cause (a signal's, such as KeyboardInterrupt) call `abort`, and submit the
        plans again that are still wanted.
        """

    def abort(self) -> None:
        """Forget every batch under way; the next `get` belongs to the next `submit`."""

    def close(self) -> None:
        """Stop and leave no thread behind. May be called twice.

        A thread that some device or file system keeps from ending is waited for 10 seconds, and then left to end by
        itself: a process can always be left.
        """


class Work:
    """What an engine has done; safe to read and to add to from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decoded: Counter[int] = Counter()
        self._shared: Counter[int] = Counter()
        self._busy: dict[str, float] = {}
        self._made = 0
        self._laps = Laps()

    def add_decoded(self, epoch: int, samples: int, *, shared: int = 0) -> None:
        """Count images that were made; `shared` of them were cut from what was decoded for another."""
        with self._lock:
            self._decoded[epoch] += samples
            self._shared[epoch] += shared

    def add_busy(self, seconds: float, *, samples: int = 0, stage: str = "") -> None:
        """Time in which the engine was at work; of one of n workers, the n-th part of it.

        Laps that others interrupted count as those that nobody did (see `budgetloader.engines.laps`).

        Args:
            seconds: the time.
            samples: that were finished in it.
            stage: of an engine whose parts work at the same time, such as a service that decodes while a batch is
                handed over: the part. The slowest stage is what limits the engine.
        """
        with self._lock:
            counted = self._laps.usual(seconds, samples) if samples else seconds
            self._busy[stage] = self._busy.get(stage, 0.0) + counted
            self._made += samples

    def decoded(self, epoch: int) -> int:
        with self._lock:
            return self._decoded[epoch]

    def shared(self, epoch: int) -> int:
        with self._lock:
            return self._shared[epoch]

    def busy(self) -> tuple[dict[str, float], int]:
        """So far: seconds of each stage, and the samples that were finished in them."""
        with self._lock:
            return self._busy.copy(), self._made


class BaseEngine(ABC, Generic[Pending]):
    """The bookkeeping of an engine: how many batches are under way, in which order, and whether it is closed.

    Args:
        capacity: the most batches under way.
        work: the counts of its work; default: new ones.
    """

    def __init__(self, *, capacity: int, work: Work | None = None) -> None:
        self.capacity = capacity
        self.work = Work() if work is None else work
        self._under_way: deque[Pending] = deque()
        self._closed = False

    @abstractmethod
    def _prepare(self, plan: BatchPlan) -> Pending:
        """What stands for a batch until it is taken."""

    @abstractmethod
    def _take(self, pending: Pending) -> Batch:
        """The batch, or its error."""

    def _start(self, pending: Pending) -> None:
        """Begin to make it."""

    def _wait(self, pending: Pending) -> None:
        """Wait until it can be taken. Where a signal's exception falls into this, the batch stays under way."""

    def _cancel(self, pending: Pending) -> None:
        """Nobody will take it."""

    def _stop(self) -> None:
        """End threads and let go of memory; called with nothing under way, and perhaps twice."""

    def submit(self, plan: BatchPlan) -> None:
        if self._closed:
            raise EngineError("the loader is closed; make a new one")
        if len(self._under_way) >= self.capacity:
            raise EngineError(f"{self.capacity} batches are under way already; get one first")
        pending = self._prepare(plan)
        self._under_way.append(pending)
        self._start(pending)

    def get(self) -> Batch:
        if not self._under_way:
            raise EngineError("no batch is under way; submit a plan first")
        pending = self._under_way[0]
        self._wait(pending)
        self._under_way.popleft()
        return self._take(pending).arrived()

    def abort(self) -> None:
        for pending in self._under_way:
            self._cancel(pending)
        self._under_way.clear()

    def close(self) -> None:
        self._closed = True
        self.abort()
        self._stop()
