"""Image size by epoch: small images first, which cost less, and large ones towards the end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NoReturn

from budgetloader.arguments import check_count
from budgetloader.errors import ArgumentError, EngineError

if TYPE_CHECKING:
    from budgetloader.batch import Batch
    from budgetloader.plans import BatchPlan

MOST_PIXELS = 65_500  # of a side: libjpeg's limit, and the service's
_MOST_EPOCHS = 100_000
_FORMS = "224, '128@30,160@30,192@30' (SIZE@EPOCHS; the last may leave @EPOCHS out), or 'ramp:128-192,step=32'"


@dataclass(frozen=True)
class SizeSchedule:
    """The height and width of the images of each epoch, pixels. Two are equal if their sizes are.

    Build one with `constant`, `ramp`, `of` or `parse`; a loader's `image_size` takes it, or what these take.

    Attributes:
        sizes: one whole number per epoch.

    Raises:
        ArgumentError: no epochs, or a size outside 1 … 65,500.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes:
            raise ArgumentError("image_size needs a size for at least one epoch, and got none")
        if len(self.sizes) > _MOST_EPOCHS:
            raise ArgumentError(f"image_size is for {len(self.sizes):,} epochs; give {_MOST_EPOCHS:,} at most")
        object.__setattr__(self, "sizes", tuple(_size(size, epoch) for epoch, size in enumerate(self.sizes)))

    def __len__(self) -> int:
        """Epochs."""
        return len(self.sizes)

    def __getitem__(self, epoch: int) -> int:
        return self.sizes[epoch]

    def __iter__(self) -> Iterator[int]:
        return iter(self.sizes)

    def __str__(self) -> str:
        """A string that `parse` turns back into an equal one, such as "128@30,160@30,192@30"."""
        return ",".join(f"{size}@{len(list(run))}" for size, run in itertools.groupby(self.sizes))

    @property
    def distinct(self) -> tuple[int, ...]:
        """The sizes that occur, ascending."""
        return tuple(sorted(set(self.sizes)))

    @property
    def largest(self) -> int:
        return max(self.sizes)

    @classmethod
    def constant(cls, size: int, *, epochs: int) -> SizeSchedule:
        """The same size in every epoch."""
        return cls((size,) * _epochs(epochs))

    @classmethod
    def of(cls, sizes: Iterable[int]) -> SizeSchedule:
        """Any sizes, one per epoch."""
        if isinstance(sizes, (str, bytes)) or not isinstance(sizes, Iterable):
            raise ArgumentError(f"sizes {sizes!r} are no sequence; give a size per epoch")
        return cls(tuple(itertools.islice(sizes, _MOST_EPOCHS + 1)))

    @classmethod
    def ramp(
        cls, first: int, last: int, *, epochs: int, begin: int = 0, end: int | None = None, step: int = 32
    ) -> SizeSchedule:
        """A straight line from `first` to `last`, in steps: the ramp of FFCV's ImageNet recipe.

        Args:
            first, last: sizes up to epoch `begin`, and from epoch `end` on.
            epochs: of the whole training.
            begin, end: epochs between which the size grows (or shrinks); default: from the first to the last.
            step: sizes in between are rounded to multiples of it, pixels.
        """
        first, last, epochs = _size(first), _size(last), _epochs(epochs)
        step, begin = check_count(step, what="step"), check_count(begin, what="begin", least=0)
        end = max(epochs - 1, begin + 1) if end is None else check_count(end, what="end", least=0)
        if end <= begin:
            raise ArgumentError(f"end {end} is not after begin {begin}; the size changes between these epochs")
        low, high = min(first, last), max(first, last)
        sizes = []
        for epoch in range(epochs):
            way = min(max(Fraction(epoch - begin, end - begin), Fraction(0)), Fraction(1))
            nearest = round((first + way * (last - first)) / step) * step
            sizes.append(last if way == 1 else first if way == 0 else min(max(nearest, low), high))
        return cls(tuple(sizes))

    @classmethod
    def parse(cls, text: str, *, epochs: int | None = None) -> SizeSchedule:
        """The sizes that `text` describes; the inverse of `str`.

        Args:
            text: a size; ``128@30,160@30,192@30``, where the last may leave ``@30`` out and lasts for the rest; or
                ``ramp:128-192,begin=0,end=60,step=32``, where all but the two sizes may be left out.
            epochs: of the training, where the text does not say it.
        """
        body = str(text).strip()
        try:
            if body.startswith("ramp:"):
                return cls._parse_ramp(body.removeprefix("ramp:"), epochs=epochs)
            sizes: list[int] = []
            *parts, last = body.split(",")
            for part in parts:
                sizes += _run(part)
            sizes += _run(last, rest=None if epochs is None else max(epochs - len(sizes), 0))
            schedule = cls(tuple(sizes))
        except ArgumentError as error:
            raise ArgumentError(f"image_size {text!r}: {error}") from None
        return schedule.for_epochs(epochs) if epochs is not None else schedule

    @classmethod
    def _parse_ramp(cls, body: str, *, epochs: int | None) -> SizeSchedule:
        sides, *rest = body.split(",")
        first, dash, last = sides.partition("-")
        options: dict[str, int] = {}
        for part in rest:
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or name not in ("begin", "end", "step") or name in options:
                raise ArgumentError(f"option {part!r} is not understood; there are begin, end and step, once each")
            options[name] = _number(value, what=name)
        if not dash or epochs is None:
            why = "the number of epochs is missing" if dash else f"{sides!r} is not FIRST-LAST"
            raise ArgumentError(f"{why}; give {_FORMS}")
        return cls.ramp(_number(first), _number(last), epochs=epochs, **options)

    def for_epochs(self, epochs: int) -> SizeSchedule:
        """Itself, if it is for so many epochs.

        Raises:
            ArgumentError: it is for another number.
        """
        if len(self) != epochs:
            raise ArgumentError(
                f"image_size {str(self)!r} is for {len(self)} epochs, and the schedule has {epochs}; give a size for "
                "each (the last one of a string may leave @EPOCHS out, and lasts for the rest)"
            )
        return self

    # What a loader does with it

    def sized(self, plans: Iterable[BatchPlan]) -> Iterator[BatchPlan]:
        """The plans, each with its epoch's size."""
        for plan in plans:
            yield replace(plan, image_size=self.sizes[plan.epoch])

    def checked(self, batch: Batch, *, channels: int = 3) -> Batch:
        """A batch that an engine made, if it made images of its plan's size, and of so many channels.

        Raises:
            EngineError: it did not: an engine of somebody's own that looks at the output's size alone.
        """
        if batch.images.ndim == 4 and batch.images.shape[1] != channels:
            raise EngineError(
                f"the engine made images of {batch.images.shape[1]} channels, and channels={channels} was asked for; "
                "an engine of your own reads job.output.channels"
            )
        if batch.plan.image_size and batch.images.shape[-1] != batch.plan.image_size:
            raise EngineError(
                f"the engine made images of {batch.images.shape[-1]} pixels in epoch {batch.plan.epoch}, and the plan "
                f"says {batch.plan.image_size}; an engine for sizes that change uses job.output.size_of(plan)"
            )
        return batch


Sizes = int | str | Iterable[int] | Callable[[int], int] | SizeSchedule
"""What `image_size` may be: a size, a string that `SizeSchedule.parse` takes, a size per epoch, or epoch → size."""


def image_sizes(value: Any, *, epochs: int) -> SizeSchedule:
    """The size of each epoch's images.

    Args:
        value: see `Sizes`.
        epochs: of the schedule.

    Raises:
        ArgumentError: it is none of these, or for another number of epochs.
    """
    if isinstance(value, SizeSchedule):
        return value.for_epochs(epochs)
    if isinstance(value, str):
        return SizeSchedule.parse(value, epochs=epochs)
    if callable(value):
        return SizeSchedule.of(value(epoch) for epoch in range(epochs))
    if isinstance(value, Iterable) and not hasattr(value, "__index__"):
        sizes = list(itertools.islice(value, _MOST_EPOCHS + 1))
        if not sizes or not all(_is_size(size) for size in sizes):
            _refuse(value)
        if len(sizes) != epochs and len(sizes) == 2:  # torchvision's (height, width)
            raise ArgumentError(f"image_size {value!r} has two sizes for {epochs} epochs; images are square: give one")
        return SizeSchedule.of(sizes).for_epochs(epochs)
    return SizeSchedule.constant(check_count(value, what="image_size"), epochs=epochs)


def one_size(value: Any, *, where: str) -> int:
    """A size that is the same for all images.

    Args:
        value: what was given.
        where: what cannot change it, for the message.
    """
    if isinstance(value, SizeSchedule) or callable(value) or (isinstance(value, str) and not value.isdecimal()):
        raise ArgumentError(f"image_size {str(value)!r}: {where} has images of one size; give a number")
    return check_count(int(value) if isinstance(value, str) else value, what="image_size")


def _is_size(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool) and 1 <= value.__index__() <= MOST_PIXELS


def _refuse(value: Any) -> NoReturn:
    raise ArgumentError(f"image_size {value!r} is no size, nor a size per epoch; give {_FORMS}")


def _size(value: Any, epoch: int | None = None) -> int:
    if not _is_size(value):
        place = "" if epoch is None else f"epoch {epoch}: "
        raise ArgumentError(f"{place}image_size {value!r} is not a whole number of pixels, 1 … {MOST_PIXELS:,}")
    return value.__index__()


def _epochs(epochs: Any) -> int:
    if check_count(epochs, what="epochs") > _MOST_EPOCHS:
        raise ArgumentError(f"epochs {epochs} is more than {_MOST_EPOCHS:,}")
    return epochs.__index__()


def _number(text: str, *, what: str = "size") -> int:
    if not (text.strip().isascii() and text.strip().isdecimal() and len(text.strip()) < 10):
        raise ArgumentError(f"{what} {text.strip()!r} is no whole number; give {_FORMS}")
    return int(text)


def _run(text: str, *, rest: int | None = None) -> list[int]:
    """The sizes of SIZE@EPOCHS; without @EPOCHS, `rest` of them."""
    size, at, count = text.partition("@")
    if not at and rest is None:
        raise ArgumentError(f"the number of epochs of {text.strip()!r} is missing; give {_FORMS}")
    epochs = _number(count, what="epochs") if at else rest or 0
    if epochs > _MOST_EPOCHS or (at and not epochs):
        raise ArgumentError(f"{text.strip()!r} is for {epochs:,} epochs; give 1 … {_MOST_EPOCHS:,}")
    return [_size(_number(size))] * epochs
