"""Selections that learn: each epoch's samples are chosen from the losses of those before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from budgetloader.errors import ResumeError, ScheduleError
from budgetloader.selections.agreement import Gather, Ranks
from budgetloader.selections.filtered import Filtered
from budgetloader.selections.packing import Arrays, digest


@dataclass(frozen=True)
class Choice:
    """The samples of one epoch.

    Attributes:
        kept: bool [D], those that it may draw.
        weights: float32 [D], by what each sample's loss is multiplied; None: by 1.
    """

    kept: np.ndarray
    weights: np.ndarray | None = None


class ScoreSelection(ABC):
    """The base of selections that learn: ``BudgetLoader(…, selection=…)`` chooses each epoch's samples by scores.

    A sample's score is its last loss, as the trainer gave it to `BudgetLoader.feedback`; what is not known yet is NaN.
    A subclass says which samples an epoch keeps. Scores are frozen when an epoch begins: what comes in while it is
    under way changes the epoch behind it, never itself. One object may be given to any number of loaders.

    Attributes:
        lag: 1: an epoch is chosen from the losses up to the end of the epoch before, so that nothing of it is
            prefetched until that has ended. 2: up to the end of the one before that; then batches are
            prefetched across the epoch's end as they always are. And so on.
        gather: how ranks tell each other their losses; None: by torch.distributed's default group. A function that
            every rank calls with its array int64 [n, 2], and that gives the arrays of all in the order of the ranks.
        identity: what a state must agree with to be resumed; JSON-able.
    """

    lag: int = 1
    gather: Gather | None = None

    @abstractmethod
    def choose(self, epoch: int, scores: np.ndarray, *, epochs: int, seed: int) -> Choice:
        """The samples of an epoch. A pure function, which is asked again after a resume, and on every rank.

        Args:
            epoch: 0 … epochs − 1.
            scores: float32 [D], NaN where nothing is known; read-only.
            epochs: of the schedule.
            seed: the loader's.
        """

    def update(self, scores: np.ndarray, losses: np.ndarray) -> np.ndarray:
        """New scores of samples that were trained on: float32 [n].

        Args:
            scores: float32 [n], those from before.
            losses: float32 [n], the mean of the losses that each sample has had since scores were frozen last.
        """
        return losses

    @property
    def identity(self) -> dict[str, Any]:
        """What a state must agree with to be resumed."""
        kind = type(self)
        return {"selection": f"{kind.__module__}.{kind.__qualname__}"}


class Learner:
    """What one loader knows for a selection that learns.

    Args:
        selection: which decides.
        filtered: the order that samples are left out of.
        total: D.
        seed: the loader's.
        ranks: that must choose alike.
    """

    learns = True

    def __init__(self, selection: ScoreSelection, filtered: Filtered, *, total: int, seed: int, ranks: Ranks) -> None:
        if isinstance(selection.lag, bool) or not isinstance(selection.lag, int) or selection.lag < 1:
            raise ScheduleError(f"lag {selection.lag!r}: give a number of epochs, 1 or more")
        ranks.check_connected(type(selection).__name__)
        self._selection, self._filtered, self._total, self._seed = selection, filtered, total, seed
        self._ranks = ranks
        self._scores = np.full(total, np.nan, np.float32)
        self._frozen: dict[int, np.ndarray] = {}  # epoch → the scores that it is chosen from
        self._weights: dict[int, np.ndarray | None] = {}
        self._came: list[tuple[np.ndarray, Any]] = []  # ids and losses since scores were frozen
        self.identity: dict[str, Any] = {
            **selection.identity,
            "lag": selection.lag,
            "selection_epochs": filtered.epochs,  # what is chosen may depend on how many there are
        }

    def ready(self, epoch: int) -> bool:
        """Whether an epoch's samples are chosen, so that its batches can be planned."""
        return epoch in self._frozen

    def begin(self, epoch: int) -> list[int]:
        """Choose the samples of an epoch that begins, and of those that may be prefetched in it.

        Every rank calls it. What was chosen before stays.

        Returns:
            The epochs whose samples were chosen.
        """
        reach = range(epoch, min(epoch + self._selection.lag, self._filtered.epochs))
        for old in [known for known in self._frozen if known not in reach]:
            del self._frozen[old], self._weights[old]
            self._filtered.forget(old)
        needed = [e for e in reach if e not in self._frozen]
        if needed:
            self._scores = self._merged()
            self._came = []
            self._ranks.agree(int(digest({"scores": self._scores})[:15], 16), what=f"scores for epoch {epoch}")
            for e in needed:
                self._choose(e, self._scores)
        return needed

    def feedback(self, ids: ArrayLike, losses: Any) -> None:
        """Take note of losses. With several ranks, every rank calls it with those of its part of a batch.

        Raises:
            ScheduleError: ids that are none, or another number of losses.
        """
        numbers = np.asarray(ids)
        shape = tuple(losses.shape) if hasattr(losses, "shape") else np.shape(losses)
        if numbers.ndim != 1 or shape != numbers.shape or not np.issubdtype(numbers.dtype, np.integer):
            raise ScheduleError(
                f"feedback has ids {numbers.dtype} {list(numbers.shape)} and losses {list(shape)}; give one loss per "
                "sample (such as cross_entropy(…, reduction='none')) and its id"
            )
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < self._total:
            wrong = numbers[(numbers < 0) | (numbers >= self._total)][0]
            raise ScheduleError(f"feedback has a loss of sample {wrong}, and the set has 0 … {self._total - 1}")
        if self._ranks.shard.world_size > 1:
            bits = _numbers(losses).view(np.int32).astype(np.int64)
            rows = self._ranks.all(np.stack([numbers.astype(np.int64), bits], axis=1))
            numbers, losses = rows[:, 0], rows[:, 1].astype(np.int32).view(np.float32)
        elif hasattr(losses, "detach"):
            losses = losses.detach().clone()  # where it is: a GPU is not waited for until scores are needed
        self._came.append((numbers.astype(np.int64), losses))

    def weights(self, epoch: int, ids: np.ndarray) -> np.ndarray:
        """By what the losses of some samples are multiplied: float32 [n]."""
        known = self._weights.get(epoch)
        return np.ones(len(ids), np.float32) if known is None else known[ids]

    def arrays(self, epoch: int) -> Arrays:
        """What a state of this epoch must hold."""
        ids, losses = self._received()
        found: Arrays = {"scores": self._scores, "ids": ids, "losses": losses}
        for e, scores in self._frozen.items():
            found[f"frozen.{e}"] = np.empty(0, np.float32) if scores is self._scores else scores
        return found

    def restore(self, arrays: Arrays) -> None:
        """Go back to what `arrays` gave.

        Raises:
            ResumeError: that cannot be.
        """
        scores = _checked(arrays, "scores", np.float32, self._total)
        ids = _checked(arrays, "ids", np.int64, None)
        losses = _checked(arrays, "losses", np.float32, len(ids))
        if len(ids) and not 0 <= ids.min() <= ids.max() < self._total:
            raise ResumeError(f"the state has losses of samples beyond the set's {self._total}")
        frozen = {}
        for name in arrays:
            if name.startswith("frozen."):
                own = len(arrays[name]) > 0
                frozen[_epoch(name, self._filtered.epochs)] = (
                    _checked(arrays, name, np.float32, self._total) if own else scores
                )
        for e in list(self._frozen):
            self._filtered.forget(e)
        self._scores, self._frozen, self._weights = scores, {}, {}
        self._came = [(ids, losses)] if len(ids) else []
        for e in sorted(frozen):
            self._choose(e, frozen[e])

    def _choose(self, epoch: int, scores: np.ndarray) -> None:
        shown = scores.view()
        shown.flags.writeable = False
        choice = self._selection.choose(epoch, shown, epochs=self._filtered.epochs, seed=self._seed)
        kept, weights = np.asarray(choice.kept), choice.weights
        if kept.dtype != bool or kept.shape != (self._total,):
            raise ScheduleError(f"choose gave kept {kept.dtype} {list(kept.shape)}; give a boolean for each sample")
        if weights is not None:
            weights = np.asarray(weights, np.float32)
            if weights.shape != (self._total,):
                raise ScheduleError(f"choose gave weights {list(weights.shape)}; give a number for each sample")
        if kept.all():
            self._filtered.forget(epoch)
        else:
            self._filtered.keep(epoch, kept)
        self._frozen[epoch], self._weights[epoch] = scores, weights

    def _received(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids and losses since scores were frozen: int64 [n], float32 [n]."""
        if len(self._came) > 1:
            ids = np.concatenate([ids for ids, _ in self._came])
            self._came = [(ids, np.concatenate([_numbers(losses) for _, losses in self._came]))]
        if not self._came:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        ids, losses = self._came[0]
        return ids, _numbers(losses)

    def _merged(self) -> np.ndarray:
        """The scores with what came since: the same for any number of ranks, and in whatever order it came."""
        ids, losses = self._received()
        known = np.isfinite(losses)  # a loss that overflowed says nothing
        ids, losses = ids[known], losses[known]
        if not len(ids):
            return self._scores
        order = np.lexsort((losses, ids))
        ids, losses = ids[order], losses[order].astype(np.float64)
        starts = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
        counts, samples = np.diff(np.append(starts, len(ids))), ids[starts]
        means = (np.add.reduceat(losses, starts) / counts).astype(np.float32)
        scores = self._scores.copy()
        scores[samples] = self._selection.update(scores[samples], means)
        return scores


def _numbers(losses: Any) -> np.ndarray:
    """Losses as float32 [n] on the CPU; they may be a tensor on any device."""
    if hasattr(losses, "detach"):
        losses = losses.detach().float().cpu().numpy()
    return np.ascontiguousarray(losses, dtype=np.float32)


def _checked(arrays: Arrays, name: str, dtype: Any, count: int | None) -> np.ndarray:
    array = arrays.get(name)
    if array is None or array.dtype != dtype or array.ndim != 1 or (count is not None and len(array) != count):
        said = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
        raise ResumeError(
            f"the state's chosen samples have {said} as {name!r}, which is not of this selection; resume with the "
            "selection that the state was taken with"
        )
    return array.copy()


def _epoch(name: str, epochs: int) -> int:
    number = name.partition(".")[2]
    if not (number.isdecimal() and len(number) < 10 and int(number) < epochs):
        raise ResumeError(f"the state has chosen samples of {name!r}, and the schedule has {epochs} epochs")
    return int(number)
