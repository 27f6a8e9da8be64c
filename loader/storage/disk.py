"""Files on this machine's disks, read ahead in blocks: what a hard disk, or a network's file system, is fast at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from budgetloader.plans import BatchPlan
from budgetloader.storage.pools import Pools
from budgetloader.storage.ranges import requests_for

_GAP_BYTES = 256 << 10  # that a hard disk reads in less time than it looks for another place
_MOST_BYTES = 64 << 20


class Readahead:
    """Tells the system which parts of a file come next. It reads them into its page cache meanwhile.

    Args:
        dataset: open, with `will_need`.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def bytes_of(self, samples: np.ndarray) -> int:
        """The bytes of some samples."""
        return int(self._dataset.sizes[samples].sum())

    def hold(self, samples: np.ndarray, held: Any = None) -> Readahead:
        """Have samples read ahead: int64 [n]. They stay as long as the system's page cache has room."""
        starts, sizes = self._dataset.starts, self._dataset.sizes
        for part in requests_for(samples, starts, sizes, gap_bytes=_GAP_BYTES, most_bytes=_MOST_BYTES):
            self._dataset.will_need(part.start, part.stop)
        return self

    def drop(self, samples: np.ndarray) -> None:
        """Nothing: the system knows best."""

    def release(self) -> None:
        """Nothing."""


class Told:
    """Plans, of which the system is told a pool ahead.

    Args:
        pools: of the plans.
    """

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def __iter__(self) -> Iterator[BatchPlan]:
        return self

    def __next__(self) -> BatchPlan:
        plan = next(self._pools)
        self._pools.begun(plan)
        return plan

    def cut(self, epoch: int) -> bool:
        """End before an epoch, whose samples have changed; whether it was planned already."""
        return self._pools.cut(epoch)
