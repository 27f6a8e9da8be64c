"""An order with samples left out: what pruning and `BudgetLoader.select` draw from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from budgetloader.budget import Budget
from budgetloader.errors import ScheduleError

_AT_ONCE = 1 << 18  # positions of a scan at a time
_KEPT_SCANS = 4  # epochs whose places are kept: the one under way, and those that are prefetched


class _Ordered(Protocol):
    def ids(self, epoch: int, positions: np.ndarray) -> np.ndarray: ...


class Filtered:
    """The order of another selection; in some epochs samples are left out of it.

    What is left keeps its position in the full order, so that its window and flip are those of the full run, and a
    service's blocks are shared with trainers that leave nothing out. An epoch of n_e samples has ⌊α_e·⌈n_e/B⌉⌋
    batches, one at least. To know which positions are left costs one scan of the order per changed epoch.

    Args:
        order: a permutation of some samples in every epoch.
        budget: of all of them.
        total: samples of the whole set.
    """

    def __init__(self, order: _Ordered, budget: Budget, *, total: int) -> None:
        self._order, self._budget, self._total = order, budget, total
        self._kept: dict[int, np.ndarray] = {}  # epoch → a bit per sample of the set
        self._counts: dict[int, int] = {}  # epoch → samples that are left
        self._scans: dict[int, np.ndarray] = {}  # epoch → the positions that are left, ascending
        self.identity: dict[str, Any] = dict(getattr(order, "identity", {}))
        self.steps: Sequence[int] = _Steps(self)

    @property
    def size(self) -> int:
        """Positions of the full order."""
        return self._budget.samples

    @property
    def epochs(self) -> int:
        """Epochs of the schedule."""
        return len(self._budget.batches)

    def keep(self, epoch: int, kept: np.ndarray) -> None:
        """Draw an epoch from some samples alone.

        Args:
            epoch: 0 … epochs − 1.
            kept: bool [D], those of the set that may be drawn.

        Raises:
            ScheduleError: none is left.
        """
        scan = self._scan(epoch, kept)
        if not len(scan):
            raise ScheduleError(f"the selection of epoch {epoch} leaves no sample; keep one at least")
        self._kept[epoch], self._counts[epoch] = np.packbits(kept), len(scan)
        self._remember(epoch, scan)

    def forget(self, epoch: int) -> None:
        """Draw an epoch from all samples."""
        for known in (self._kept, self._counts, self._scans):
            known.pop(epoch, None)

    def kept(self, epoch: int) -> np.ndarray | None:
        """The samples that may be drawn in an epoch: bool [D], or None for all."""
        bits = self._kept.get(epoch)
        return None if bits is None else np.unpackbits(bits, count=self._total).view(bool)

    @property
    def changed(self) -> tuple[int, ...]:
        """The epochs that leave samples out, ascending."""
        return tuple(sorted(self._kept))

    def samples(self, epoch: int) -> int:
        """Samples that an epoch is drawn from."""
        return self._counts.get(epoch, self.size)

    def span(self, epoch: int, step: int) -> tuple[int, int]:
        """The places [start, stop) of a batch among what is left of its epoch's order."""
        start = step * self._budget.batch_size
        return start, min(start + self._budget.batch_size, self.samples(epoch))

    def positions(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """Where what stands at some places among what is left stands in the full order: int64 [n] in and out."""
        if epoch not in self._kept:
            return places
        scan = self._scans.get(epoch)
        if scan is None:
            kept = self.kept(epoch)
            assert kept is not None
            scan = self._scan(epoch, kept)
            self._remember(epoch, scan)
        return scan[places].astype(np.int64)

    def ids(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """The samples at `positions` of `epoch`'s full order: int64 [n] in, int64 [n] out."""
        return self._order.ids(epoch, positions)

    def expected_share(self, samples: int) -> float:
        """The share of the full order's samples that so many places have: it draws without replacement."""
        return min(samples / self.size, 1.0)

    def batches(self, epoch: int) -> int:
        """Batches of an epoch."""
        if epoch not in self._counts:
            return self._budget.batches[epoch]
        full = -(-self._counts[epoch] // self._budget.batch_size)
        return max(1, math.floor(self._budget.schedule.ratios[epoch] * full))

    def _scan(self, epoch: int, kept: np.ndarray) -> np.ndarray:
        """The positions of the full order at which kept samples stand, ascending."""
        dtype = np.uint32 if self.size < 1 << 32 else np.int64
        parts = []
        for start in range(0, self.size, _AT_ONCE):
            positions = np.arange(start, min(start + _AT_ONCE, self.size), dtype=np.int64)
            parts.append(positions[kept[self._order.ids(epoch, positions)]].astype(dtype))
        return np.concatenate(parts)

    def _remember(self, epoch: int, scan: np.ndarray) -> None:
        scans = {**self._scans, epoch: scan}  # engines' threads may read the old one meanwhile
        while len(scans) > _KEPT_SCANS:
            scans.pop(next(other for other in scans if other != epoch))
        self._scans = scans


class _Steps(Sequence[int]):
    """Batches of each epoch, as they are known now."""

    def __init__(self, filtered: Filtered) -> None:
        self._filtered = filtered

    def __len__(self) -> int:
        return self._filtered.epochs

    def __getitem__(self, epoch: Any) -> Any:
        if isinstance(epoch, slice):
            return [self._filtered.batches(e) for e in range(len(self))[epoch]]
        return self._filtered.batches(range(len(self))[epoch])

    def __iter__(self) -> Iterator[int]:
        return (self._filtered.batches(epoch) for epoch in range(len(self)))
