"""What every engine is: plans in, batches out, in order, endlessly.

`submit` up to `capacity` plans ahead, `get` the batches in the same order. An engine never learns
of epochs' ends: it is not drained, rebuilt or restarted between them.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from budgetloader.batch import Batch, BatchPlan, Crop
from budgetloader.errors import EngineError
from budgetloader.resize import INTERPOLATIONS, Interpolation
from budgetloader.schedule import _check_count

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DTYPES = ("float32", "float16", "bfloat16", "uint8")
LAYOUTS = ("channels_last", "contiguous")
OnCorrupt = Literal["raise", "replace"]
_JOIN_SECONDS = 10.0
_log = logging.getLogger("budgetloader")


@dataclass(frozen=True)
class Output:
    """What a batch looks like.

    Args:
        image_size: height and width of the images, pixels.
        dtype: "float32", "float16", "bfloat16": (value/255 − mean)/std; "uint8": the pixels.
        layout: "channels_last" or "contiguous", the order in memory; the shape is [n, 3, h, w].
        device: a torch device, such as "cpu" or "cuda:0".
        interpolation: see `budgetloader.resize`.
        crop: what the plans' windows are: "resized", always inside their image, or "pad", of the
            image's size and up to 4 pixels outside, where pixels are 0.
        mean, std: of the red, green and blue channel, on the scale 0 … 1.
    """

    image_size: int
    dtype: str = "float32"
    layout: str = "channels_last"
    device: str = "cpu"
    interpolation: Interpolation = "antialias"
    crop: Crop = "resized"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        _check_count(self.image_size, what="image_size")
        object.__setattr__(self, "dtype", str(self.dtype).removeprefix("torch."))
        for name, allowed in (
            ("dtype", DTYPES),
            ("layout", LAYOUTS),
            ("interpolation", INTERPOLATIONS),
            ("crop", ("resized", "pad")),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise EngineError(f"{name} {value!r} is not known; give one of {', '.join(allowed)}")
        try:
            object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
            object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        except (TypeError, ValueError):
            raise EngineError(f"mean {self.mean} and std {self.std}: give three numbers each") from None
        if len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise EngineError(f"mean {self.mean} and std {self.std}: give three numbers each, std above 0")

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        return getattr(torch, self.dtype)

    def table(self) -> torch.Tensor:
        """Each channel's output value for each pixel value: [3, 256] in the output's dtype."""
        import torch

        values = torch.arange(256, dtype=torch.float32).expand(3, 256)
        if self.dtype != "uint8":
            affine = torch.from_numpy(self.affine())
            values = values * affine[:, :1] + affine[:, 1:]
        return values.to(self.torch_dtype).contiguous()

    def affine(self) -> np.ndarray:
        """Each channel's slope and offset, from pixel values to normalised ones: float32 [3, 2].

        A normalised value is slope · value + offset, rounded to float32 after each of the two, so that
        a table of it and its computation have the same bits.
        """
        mean, std = np.array(self.mean), np.array(self.std)
        return np.stack([1 / (255 * std), -mean / std], axis=1).astype(np.float32)


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
    """

    dataset: Any
    output: Output
    batch_size: int
    workers: int
    capacity: int
    on_corrupt: OnCorrupt
    replacement: Callable[..., BatchPlan]


class Engine(Protocol):
    """The interface of an engine. All methods are called from one thread."""

    capacity: int
    work: Work

    def submit(self, plan: BatchPlan) -> None:
        """Begin a batch. At most `capacity` may be under way."""

    def get(self) -> Batch:
        """Wait for the oldest batch under way. Errors of its making are raised here.

        After an exception that is not of its making (a signal's, such as KeyboardInterrupt) call `abort`, and submit
        anew what is still wanted.
        """

    def abort(self) -> None:
        """Forget every batch under way; the next `get` belongs to the next `submit`."""

    def close(self) -> None:
        """Stop and leave no thread behind. May be called twice.

        A thread that some device or file system keeps from ending is waited for 10 seconds, and then left to end by
        itself: a process can always be left.
        """


def check_room(under_way: int, capacity: int) -> None:
    """Refuse one more batch than the capacity."""
    if under_way >= capacity:
        raise EngineError(f"{capacity} batches are under way already; get one first")


class Latch:
    """Set once, and waited for by one thread.

    Unlike `threading.Event`, it stays whole when a signal's exception falls into the wait: an event's lock may then
    be released by the wrong thread, and whoever sets it fails.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._set = False

    def set(self) -> None:
        """May be called twice, from any thread."""
        self._set = True
        with contextlib.suppress(RuntimeError):  # released already
            self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Whether it is set, at the latest after some time."""
        if not self._set:
            self._lock.acquire(timeout=seconds)
        return self._set


def join_soon(threads: Sequence[threading.Thread]) -> None:
    """Wait for threads that were told to end, 10 seconds at most for all of them."""
    deadline = time.monotonic() + _JOIN_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if stuck := [thread.name for thread in threads if thread.is_alive()]:
        _log.warning("%s did not end within %.0f s, and is left behind", ", ".join(stuck), _JOIN_SECONDS)


class Work:
    """What an engine has done; safe to read and to add to from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decoded: Counter[int] = Counter()
        self._busy: dict[str, float] = {}
        self._made = 0

    def add_decoded(self, epoch: int, samples: int) -> None:
        with self._lock:
            self._decoded[epoch] += samples

    def add_busy(self, seconds: float, *, samples: int = 0, stage: str = "") -> None:
        """Time in which the engine was at work; of one of n workers, the n-th part of it.

        Args:
            seconds: the time.
            samples: that were finished in it.
            stage: of an engine whose parts work at the same time, such as a service that decodes while a batch is
                handed over: the part. The slowest stage is what limits the engine.
        """
        with self._lock:
            self._busy[stage] = self._busy.get(stage, 0.0) + seconds
            self._made += samples

    def decoded(self, epoch: int) -> int:
        with self._lock:
            return self._decoded[epoch]

    def busy(self) -> tuple[dict[str, float], int]:
        """So far: seconds of each stage, and the samples that were finished in them."""
        with self._lock:
            return self._busy.copy(), self._made
