"""The errors that trainers are told."""

from __future__ import annotations

import numpy as np

from budgetloader.budget import Budget
from budgetloader.errors import ServiceGoneError, first_line
from budgetloader.order import Order
from budgetloader.schedule import Schedule
from budgetloader.service.blocks import BLOCK, Key
from budgetloader.service.registry import Entry

ATTEMPTS = 4  # at a block whose worker ends each time


def gone(entry: Entry, why: object) -> ServiceGoneError:
    """The error of a service that has ended."""
    return ServiceGoneError(
        f"service {entry.name!r} is gone ({first_line(why)}); start it again, connect, and load_state_dict to go on"
    )


def check_alive(entry: Entry) -> None:
    """Make sure that the process of a service lives.

    Raises:
        ServiceGoneError: it has ended.
    """
    if not entry.alive:
        raise gone(entry, f"process {entry.pid} has ended")


def samples_of(key: Key, start: int, stop: int, *, samples: int) -> list[int]:
    """The samples that a part of a block shows, in order.

    Args:
        key: the block.
        start, stop: its rows.
        samples: of the dataset.
    """
    if key.samples is not None:
        return key.samples[start:stop].tolist()
    order = Order(Budget(Schedule.full(epochs=1), samples=samples, batch_size=1), seed=key.spec.seed)
    positions = np.arange(key.number * BLOCK + start, key.number * BLOCK + stop, dtype=np.int64)
    return order.ids(key.epoch, positions).tolist()


def worker_ended(key: Key, ids: list[int], path: str) -> str:
    """The message for a block whose worker ended at every attempt."""
    return (
        f"block {key.number} of epoch {key.epoch} ended the process that decodes it, {ATTEMPTS} times: the decoder "
        f"crashes at one of its samples, the disk cannot read it, or memory is full (`dmesg` may say). Its samples: "
        f"{', '.join(map(str, ids))}. Find the sample with budgetloader verify {path}"
    )
