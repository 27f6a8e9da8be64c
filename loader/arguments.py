"""Checks of arguments: each returns the value that it has checked, or raises an error that names it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from budgetloader.errors import ArgumentError, LoaderError, ScheduleError


def check_count(value: Any, *, what: str, least: int = 1, error: type[LoaderError] = ArgumentError) -> int:
    """A whole number of at least `least`.

    Args:
        value: what was given; numpy's integers are fine, True is not.
        what: its name, for the message.
        least: the smallest that is allowed.
        error: what to raise otherwise.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < least:
        raise error(f"{what} {value!r} is not a whole number of at least {least}")
    return value.__index__()


def check_seed(seed: Any) -> int:
    """A seed, 0 … 2⁶⁴ − 1.

    Raises:
        ScheduleError: it is none.
    """
    if check_count(seed, what="seed", least=0, error=ScheduleError) >= 1 << 64:
        raise ScheduleError(f"seed {seed} is not below 2^64")
    return seed.__index__()


def check_choice(value: Any, choices: Sequence[str], *, what: str, error: type[LoaderError] = ArgumentError) -> str:
    """One of some words."""
    if value not in choices:
        raise error(f"{what} {value!r} is not known; give one of {', '.join(map(repr, choices))}")
    return value
