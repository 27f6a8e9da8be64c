"""Schedules: the sampling ratio of every epoch, as exact fractions.

Source: section 3.2 of S. Jiang, "Faster convolutional neural networks training" (2021): flat
(3.2.1), bottleneck (3.2.2, Figures 3.7 and 3.8), three-stage (3.2.3, Figure 3.9), and the settings
of Tables 4-9 to 4-14.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from numbers import Rational, Real

from budgetloader.arguments import check_count
from budgetloader.budget import Budget
from budgetloader.errors import ScheduleError

RatioLike = str | int | float | Fraction | Decimal

_THIRDS = ("1/3", "1/3", "1/3")
# Tables 4-9 and 4-13: ratios of the three stages, stage lengths (γ), squeeze (se).
_THREE_STAGE_SETTINGS = {
    "R2": (("0.8", "0.8", "0.8"), _THIRDS, "0.8"),
    "R2_1": (("0.8", "1", "0.8"), _THIRDS, "0.8"),
    "R3": (("0.8", "0.8", "0.25"), ("1/3", "1/2", "1/6"), "0.8"),
    "R2_2": (("0.8", "0.8", "0.5"), _THIRDS, "0.625"),
}
_FLAT_SETTINGS = {"full": "1", "R1_0.8": "0.8", "R1_0.618": "0.618"}
_MOST_EPOCHS = 1_000_000  # so that a text of a stranger's checkpoint fills no memory
PAPER_SETTINGS = (*_FLAT_SETTINGS, *_THREE_STAGE_SETTINGS)

_FORMS = (
    "one of " + ", ".join(PAPER_SETTINGS) + "; a number such as 0.618; "
    "flat:RATIO; bottleneck:RATIO,squeeze=0.8,inner=4; "
    "three_stage:A-B-C,stages=1/3-1/3-1/3,squeeze=0.8,inner=4; "
    "of:RATIO,RATIO*COUNT,…; each may end in @EPOCHS"
)


def as_ratio(value: RatioLike, *, what: str = "ratio") -> Fraction:
    """`value` as an exact fraction in (0, 1].

    A float is taken as the decimal number that Python prints for it: 0.29 is 29/100, and so
    ⌊0.29·100⌋ is 29, which float arithmetic gets wrong.

    Raises:
        ScheduleError: `value` is no number, or is outside (0, 1].
    """
    number = _as_fraction(value, what=what)
    if not 0 < number <= 1:
        raise ScheduleError(f"{what} {value} is outside (0, 1]; give a fraction such as 0.618 or 2/3")
    return number


def _as_fraction(value: RatioLike, *, what: str) -> Fraction:
    try:
        if isinstance(value, bool):
            raise TypeError
        if isinstance(value, (str, Decimal, Rational)):
            return Fraction(value)
        if isinstance(value, Real):
            return Fraction(repr(float(value)))
        raise TypeError
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise ScheduleError(f"{what} {value!r} is not a number; give one such as 0.618 or '2/3'") from None


@dataclass(frozen=True)
class Schedule:
    """The sampling ratio of each epoch. Two schedules are equal if their ratios are.

    Build one with `full`, `flat`, `bottleneck`, `three_stage`, `paper`, `of` or `parse`.

    Attributes:
        ratios: one exact `Fraction` in (0, 1] per epoch.
        form: how it was described, without the number of epochs; `str` adds them.
    """

    ratios: tuple[Fraction, ...]
    form: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.ratios:
            raise ScheduleError("a schedule needs at least one epoch, and got none")
        if not self.form:
            object.__setattr__(self, "form", "of:" + _run_lengths(self.ratios))

    @property
    def epochs(self) -> int:
        return len(self.ratios)

    def __len__(self) -> int:
        return len(self.ratios)

    def __str__(self) -> str:
        """A string that `parse` turns back into an equal schedule."""
        return f"{self.form}@{self.epochs}"

    def budget(self, samples: int, *, batch_size: int) -> Budget:
        """Batches per epoch for a dataset of `samples` samples. See `budgetloader.Budget`."""
        return Budget(self, samples=samples, batch_size=batch_size)

    @classmethod
    def full(cls, *, epochs: int) -> Schedule:
        """Every batch in every epoch."""
        return cls.paper("full", epochs=epochs)

    @classmethod
    def flat(cls, ratio: RatioLike, *, epochs: int) -> Schedule:
        """The same ratio in every epoch (section 3.2.1, Figure 3.6)."""
        ratio, epochs = as_ratio(ratio), _check_epochs(epochs)
        return cls((ratio,) * epochs, form=f"flat:{_text(ratio)}")

    @classmethod
    def bottleneck(cls, ratio: RatioLike, *, epochs: int, squeeze: RatioLike = "0.8", inner: int = 4) -> Schedule:
        """Stacked bottleneck blocks (section 3.2.2, Figures 3.7 and 3.8), cut off at `epochs`.

        One epoch at `ratio`, `inner` epochs at `squeeze·ratio`, one at `ratio`, and so on: the last
        epoch of a block is the first of the next.
        """
        ratio, squeeze = as_ratio(ratio), as_ratio(squeeze, what="squeeze")
        epochs, inner = _check_epochs(epochs), check_count(inner, what="inner", error=ScheduleError)
        ratios = (ratio, *itertools.islice(_blocks(ratio, squeeze, inner), epochs - 1))
        return cls(ratios, form=f"bottleneck:{_text(ratio)},squeeze={_text(squeeze)},inner={inner}")

    @classmethod
    def three_stage(
        cls,
        ratios: Iterable[RatioLike],
        *,
        epochs: int,
        stages: Iterable[RatioLike] = _THIRDS,
        squeeze: RatioLike = "0.8",
        inner: int = 4,
    ) -> Schedule:
        """Flat, then bottleneck, then flat (section 3.2.3, Figure 3.9).

        N₁ and N₃ are the first and last share of `epochs`, rounded to the nearest epoch; N₂ is the
        rest. Stage 2 takes the last epoch of stage 1 as its start, so it begins with `inner`
        squeezed epochs, then one at `ratios[1]`, and so on, cut off at N₂. A share of 0 leaves the
        stage out: without the first, stage 2 begins with an epoch at `ratios[1]` of its own, as a
        bottleneck does; with the second and third at 0 the schedule is flat.

        Raises:
            ScheduleError: not three of each, shares that do not add up to 1, or a stage with a
                share above 0 that gets no epoch.
        """
        alphas = _three([as_ratio(r, what="stage ratio") for r in _sequence(ratios, "ratios")], "ratios")
        shares = _three([_as_fraction(s, what="stage share") for s in _sequence(stages, "stages")], "stages")
        squeeze = as_ratio(squeeze, what="squeeze")
        inner, epochs = check_count(inner, what="inner", error=ScheduleError), _check_epochs(epochs)
        shown = ", ".join(_text(s) for s in shares)
        if min(shares) < 0 or sum(shares) != 1:
            raise ScheduleError(
                f"stages ({shown}) add up to {_text(sum(shares, start=Fraction(0)))}; give three shares >= 0 of 1"
            )
        first, last = _nearest(shares[0] * epochs), _nearest(shares[2] * epochs)
        lengths = (first, epochs - first - last, last)
        if any(n < 0 or (share and not n) for n, share in zip(lengths, shares, strict=True)):
            raise ScheduleError(
                f"stages ({shown}) do not fit into {epochs} epochs (lengths {lengths}); use more epochs"
            )
        start = () if first else (alphas[1],)
        middle = itertools.islice(itertools.chain(start, _blocks(alphas[1], squeeze, inner)), lengths[1])
        form = (
            f"three_stage:{'-'.join(map(_text, alphas))},stages={'-'.join(map(_text, shares))},"
            f"squeeze={_text(squeeze)},inner={inner}"
        )
        return cls((alphas[0],) * first + tuple(middle) + (alphas[2],) * last, form=form)

    @classmethod
    def paper(cls, name: str, *, epochs: int) -> Schedule:
        """A setting by its name in Tables 4-9, 4-11 and 4-13: see `PAPER_SETTINGS`."""
        if name in _FLAT_SETTINGS:
            schedule = cls.flat(_FLAT_SETTINGS[name], epochs=epochs)
        elif name in _THREE_STAGE_SETTINGS:
            ratios, stages, squeeze = _THREE_STAGE_SETTINGS[name]
            schedule = cls.three_stage(ratios, stages=stages, squeeze=squeeze, epochs=epochs)
        else:
            raise ScheduleError(f"no setting is called {name!r}; there are {', '.join(PAPER_SETTINGS)}")
        return cls(schedule.ratios, form=name)

    @classmethod
    def of(cls, ratios: Iterable[RatioLike]) -> Schedule:
        """Any ratios, one per epoch."""
        return cls(tuple(as_ratio(r, what=f"epoch {e}: ratio") for e, r in enumerate(_sequence(ratios, "ratios"))))

    @classmethod
    def parse(cls, text: str, *, epochs: int | None = None) -> Schedule:
        """The schedule that `text` describes, for command lines; the inverse of `str`.

        Args:
            text: a name of `PAPER_SETTINGS`; a ratio; ``flat:0.618``;
                ``bottleneck:0.8,squeeze=0.8,inner=4``;
                ``three_stage:0.8-0.8-0.25,stages=1/3-1/2-1/6,squeeze=0.8,inner=4``;
                ``of:1,0.5*3``. Each may end in ``@EPOCHS``.
            epochs: the number of epochs, where the text has none.
        """
        body, at, count = str(text).strip().partition("@")
        if at:
            if not (count.isdecimal() and len(count) < 10):
                raise ScheduleError(f"schedule {text!r}: {count!r} after the @ is not a number of epochs")
            if epochs is not None and int(count) != epochs:
                raise ScheduleError(f"schedule {text!r} is for {count} epochs, but epochs={epochs} was given")
            epochs = int(count)
        kind, _, rest = body.partition(":")
        try:
            if kind == "of":
                schedule = cls.of(itertools.islice(_expand(rest), _MOST_EPOCHS + 1))
                _check_epochs(schedule.epochs)
                if epochs is not None and epochs != schedule.epochs:
                    raise ScheduleError(f"it lists {schedule.epochs} epochs, but epochs={epochs} was asked for")
                return schedule
            if epochs is None:
                raise ScheduleError("the number of epochs is missing; add @EPOCHS or pass epochs=")
            if body in PAPER_SETTINGS:
                return cls.paper(body, epochs=epochs)
            if kind == "flat":
                return cls.flat(rest, epochs=epochs)
            if kind == "bottleneck":
                ratio, options = _options(rest, ("squeeze", "inner"))
                return cls.bottleneck(ratio, epochs=epochs, **options)
            if kind == "three_stage":
                ratios, options = _options(rest, ("stages", "squeeze", "inner"))
                return cls.three_stage(ratios.split("-"), epochs=epochs, **options)
            if body and (body[0].isdigit() or body[0] in ".-+"):
                return cls.flat(body, epochs=epochs)
        except ScheduleError as error:
            raise ScheduleError(f"schedule {text!r}: {error}") from None
        raise ScheduleError(f"schedule {text!r} is not understood; give {_FORMS}")


def _check_epochs(epochs: int) -> int:
    if check_count(epochs, what="epochs", error=ScheduleError) > _MOST_EPOCHS:
        raise ScheduleError(f"epochs {epochs} is more than {_MOST_EPOCHS:,}")
    return epochs.__index__()


def _blocks(ratio: Fraction, squeeze: Fraction, inner: int) -> Iterator[Fraction]:
    """Endless bottleneck blocks after a start epoch: `inner` squeezed ones, one at `ratio`, …"""
    while True:
        yield from itertools.repeat(ratio * squeeze, inner)
        yield ratio


def _nearest(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def _sequence(values: Iterable[RatioLike], what: str) -> list[RatioLike]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ScheduleError(f"{what} {values!r} is not a sequence of ratios")
    return list(values)


def _three(values: list[Fraction], what: str) -> list[Fraction]:
    if len(values) != 3:
        raise ScheduleError(f"{what}: three are needed, one per stage, and {len(values)} were given")
    return values


def _text(value: Fraction) -> str:
    """Shortest exact text: decimals where the number has them, else p/q."""
    denominator = value.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    if denominator != 1:
        return str(value)
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    return f"{Decimal(int(value * 10**places)).scaleb(-places):f}"


def _run_lengths(ratios: tuple[Fraction, ...]) -> str:
    runs = [(ratio, len(list(group))) for ratio, group in itertools.groupby(ratios)]
    return ",".join(_text(r) + (f"*{n}" if n > 1 else "") for r, n in runs)


def _expand(text: str) -> Iterator[str]:
    for part in text.split(","):
        ratio, star, count = part.partition("*")
        if star and not (count.strip().isdecimal() and len(count) < 10 and int(count) <= _MOST_EPOCHS):
            raise ScheduleError(f"{part!r}: {count!r} after the * is not a number of epochs up to {_MOST_EPOCHS:,}")
        yield from itertools.repeat(ratio, int(count) if star else 1)


def _options(text: str, names: tuple[str, ...]) -> tuple[str, dict]:
    head, *rest = text.split(",")
    options: dict = {}
    for part in rest:
        name, equals, value = part.partition("=")
        if not equals or name.strip() not in names or name.strip() in options:
            raise ScheduleError(f"option {part!r} is not understood; there are {', '.join(names)}, once each")
        options[name.strip()] = _option(name.strip(), value.strip())
    return head, options


def _option(name: str, value: str) -> object:
    if name == "inner":
        return int(value) if value.isdecimal() else value
    return value.split("-") if name == "stages" else value
