"""What a trainer is told of a block that cannot be made."""

from __future__ import annotations

import numpy as np

from budgetloader.budget import Budget
from budgetloader.order import Order
from budgetloader.schedule import Schedule
from budgetloader.service.blocks import BLOCK, Key

ATTEMPTS = 4  # at a block whose worker ends each time


def samples_of(key: Key, start: int, stop: int, *, samples: int) -> list[int]:
    """The samples that a part of a block shows, in order.

    Args:
        key: the block.
        start, stop: its rows.
        samples: of the dataset.
    """
    order = Order(Budget(Schedule.full(epochs=1), samples=samples, batch_size=1), seed=key.spec.seed)
    positions = np.arange(key.number * BLOCK + start, key.number * BLOCK + stop, dtype=np.int64)
    return order.ids(key.epoch, positions).tolist()


def worker_ended(key: Key, ids: list[int], path: str) -> str:
    """The message for a block whose worker ended at every attempt."""
    return (
        f"block {key.number} of epoch {key.epoch} ended the process that decodes it, {ATTEMPTS} times: the decoder "
        f"crashes at one of its samples, the disk cannot read it, or memory is full (`dmesg` may say). Its samples: "
        f"{', '.join(map(str, ids))}. Look for it with budgetloader verify {path}"
    )
