"""What several commands ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from budgetloader.errors import ScheduleError

if TYPE_CHECKING:
    from budgetloader.throughput import Work

Add = Callable[..., argparse.Action]


def add_work(add: Add) -> None:
    """What engines are measured with."""
    add("--batch-size", type=int, default=64)
    add("--image-size", type=int, default=224, help="pixels")
    add("--dtype", default="uint8", help="uint8, float32, float16 or bfloat16")
    add("--interpolation", choices=("antialias", "linear"), default="antialias")
    add("--device", default="cpu")
    add("--epochs", type=int, default=3, help="counted, after one of warm-up")


def work_of(options: argparse.Namespace) -> Work:
    """What `add_work` asked for, and `--batches`."""
    from budgetloader.throughput import Work

    return Work(
        batch_size=options.batch_size,
        image_size=options.image_size,
        dtype=options.dtype,
        interpolation=options.interpolation,
        device=options.device,
        epochs=options.epochs,
        batches=options.batches,
    )


def add_sampling(add: Add) -> None:
    """Which samples an epoch takes."""
    add(
        "--sampling",
        type=_sampling,
        default="independent",
        help="independent, cyclic, static, blocks or blocks:BLOCK/BUFFER; see BudgetLoader",
    )


def _sampling(text: str) -> str:
    from budgetloader.block_order import check_sampling

    try:
        return check_sampling(text)
    except ScheduleError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def bytes_of(text: str) -> int:
    """A size such as 4GB, 500MB or 1.5GiB in bytes.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    units |= {unit[0] + "iB": 2 ** (10 * power) for power, unit in enumerate(("", "K", "M", "G", "T")) if unit}
    for unit in sorted(units, key=len, reverse=True):
        if (text.lower().endswith(unit.lower()) and unit) or not unit:
            try:
                return int(float(text[: len(text) - len(unit)]) * units[unit])
            except (ValueError, OverflowError):
                break
    raise argparse.ArgumentTypeError(f"{text!r} is no size; give one such as 500MB or 4GB")


def printable(text: str) -> str:
    """As a terminal can show it: a stranger's file may hold control codes that it would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
