"""Samples that the trainer names for single epochs: `BudgetLoader.select`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from budgetloader.errors import ResumeError, ScheduleError
from budgetloader.selections.agreement import Ranks
from budgetloader.selections.filtered import Filtered
from budgetloader.selections.packing import Arrays, digest
from budgetloader.selections.subset import members_of


class Picks:
    """The epochs that are drawn from samples that were named.

    Args:
        filtered: the order that samples are left out of.
        total: D.
        among: bool [D], the samples that may be named; None: all.
        ranks: that must name the same.
    """

    learns = False

    def __init__(self, filtered: Filtered, *, total: int, ranks: Ranks, among: np.ndarray | None = None) -> None:
        self._filtered, self._total, self._among, self._ranks = filtered, total, among, ranks
        self.identity: dict[str, Any] = {}

    def ready(self, epoch: int) -> bool:
        """Whether an epoch's batches can be planned."""
        return True

    def begin(self, epoch: int) -> list[int]:
        """Nothing is chosen when an epoch begins."""
        return []

    def select(self, epoch: int, ids: ArrayLike | None) -> None:
        """Draw an epoch from some samples; None: from all. Every rank calls it with the same.

        Raises:
            ScheduleError: samples that are none, or not among those that may be named.
            EngineError: another rank names others.
        """
        if ids is None:
            self._ranks.agree(0, what=f"samples for epoch {epoch}")
            self._filtered.forget(epoch)
            return
        kept = np.zeros(self._total, bool)
        kept[members_of(ids, size=self._total)] = True
        if self._among is not None and (kept & ~self._among).any():
            wrong = int(np.flatnonzero(kept & ~self._among)[0])
            raise ScheduleError(f"sample {wrong} is not among the loader's samples=; select some of those")
        number = int(digest({"kept": np.packbits(kept)})[:15], 16)
        self._ranks.agree(number, what=f"samples for epoch {epoch}")
        self._filtered.keep(epoch, kept)

    def weights(self, epoch: int, ids: np.ndarray) -> np.ndarray:
        """By what the losses of some samples are multiplied: 1."""
        return np.ones(len(ids), np.float32)

    def arrays(self, epoch: int) -> Arrays:
        """What a state of this epoch must hold: what was named for it and for those behind it."""
        found = {}
        for e in self._filtered.changed:
            kept = self._filtered.kept(e)
            if e >= epoch and kept is not None:
                found[f"kept.{e}"] = np.packbits(kept)
        return found

    def restore(self, arrays: Arrays) -> None:
        """Go back to what `arrays` gave.

        Raises:
            ResumeError: that cannot be.
        """
        kept = {}
        for name, bits in arrays.items():
            head, _, number = name.partition(".")
            known = head == "kept" and number.isdecimal() and len(number) < 10 and int(number) < self._filtered.epochs
            if not known or bits.dtype != np.uint8 or bits.shape != (-(-self._total // 8),):
                raise ResumeError(
                    f"the state's chosen samples have {bits.dtype} {list(bits.shape)} as {name!r}, which this loader "
                    "has no place for; resume with the selection that the state was taken with"
                )
            kept[int(number)] = np.unpackbits(bits, count=self._total).view(bool)
        for e in self._filtered.changed:
            self._filtered.forget(e)
        for e, mask in kept.items():
            if not mask.any():
                raise ResumeError(f"the state's chosen samples of epoch {e} are none")
            self._filtered.keep(e, mask)
