"""What a loader does about epochs whose samples are chosen while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from budgetloader.batch import Batch
from budgetloader.conditions import where
from budgetloader.cursor import Cursor
from budgetloader.errors import ArgumentError, ResumeError, ScheduleError
from budgetloader.feed import Feed
from budgetloader.plans import Planner, PlannerLike
from budgetloader.selections import Chosen
from budgetloader.selections.packing import pack, unpack
from budgetloader.selections.picks import Picks
from budgetloader.selections.scores import Learner

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike

_STATE = "chosen"  # the part of a state that says which samples are left out
_INSTEAD = (
    "a loader can be told what an epoch draws where it trains with sampling='independent', and without weights=, a "
    "Mixture, or a selection= of your own"
)


class Choosing:
    """The part of `BudgetLoader` that selections which change belong to."""

    _planner: PlannerLike
    _cursor: Cursor
    _feed: Feed | None
    dataset: Any
    _refused = ""  # why nothing can be selected
    _dropped: dict[int, int]  # epoch → samples that were prefetched for it in vain

    def select(self, epoch: int, ids: ArrayLike | str | None) -> None:
        """Draw an epoch from some samples alone, before it begins.

            for epoch in batches.epochs():
                for images, labels, ids in batches:
                    ...
                if epoch + 1 < schedule.epochs:
                    batches.select(epoch + 1, hard_samples(scores))

        The epoch then has ⌊α_e·⌈n/B⌉⌋ batches (one at least) of those n samples, in the order that they have in the
        full run, each with the window and the flip that it has there. What was prefetched for the epoch is dropped,
        and counted in its `EpochStats.samples_dropped`. The choice is a part of `state_dict`. With several ranks,
        every rank calls this with the same samples; where torch.distributed is initialised that is checked.

        Args:
            epoch: one that has not begun.
            ids: numbers of samples, each once, a boolean mask with an entry per sample, or a condition as `samples=`
                takes it; None: all samples again.

        Raises:
            ScheduleError: the epoch has begun, or is none; samples that are none.
            ArgumentError: the loader draws by weights, a mixture, another sampling or a selection that chooses itself.
            EngineError: another rank selects other samples.
        """
        picks = self._changing
        if not isinstance(picks, Picks) or self._refused:
            raise ArgumentError(f"select: {self._refused or _INSTEAD}")
        epochs = len(self._planner.steps)
        if isinstance(epoch, bool) or not isinstance(epoch, (int, np.integer)) or not 0 <= epoch < epochs:
            raise ScheduleError(f"epoch {epoch!r} is outside the schedule's {epochs} (0 … {epochs - 1})")
        if self._cursor.has_begun(epoch):
            raise ScheduleError(
                f"epoch {epoch} has begun or is over (the loader is at epoch {self._cursor.epoch}, batch "
                f"{self._cursor.step}); select samples for a later one"
            )
        picks.select(int(epoch), where(self.dataset, ids))
        self._drop_from(int(epoch), changed=[int(epoch)])

    def feedback(self, ids: ArrayLike, losses: Any) -> None:
        """Tell a selection that learns the losses of samples that were trained on.

        With several ranks, every rank calls it for each of its batches, as it calls backward(): ranks tell each other,
        so that the state of any of them is whole. Losses that are not finite are ignored.

        Args:
            ids: int64 [n], the samples' numbers, as batches have them.
            losses: float [n], a tensor on any device, or an array: the loss of each.

        Raises:
            ArgumentError: the loader has no selection that learns.
            ScheduleError: ids that are none, or another number of losses.
        """
        learner = self._changing
        if not isinstance(learner, Learner):
            raise ArgumentError(
                "feedback: the loader has no selection that learns; give it one, as selection=InfoBatch()"
            )
        learner.feedback(ids, losses)

    def selection_state(self) -> dict[str, np.ndarray]:
        """The arrays that the `state_dict` of this moment speaks of by their digest; {} where it speaks of none.

        They are needed beside it where they are too large for it to hold them itself (a few thousand samples): save
        both, as with ``numpy.savez`` or ``torch.save``, and give both to `load_state_dict`.
        """
        changing = self._changing
        return {} if changing is None else dict(changing.arrays(self._cursor.epoch))

    @property
    def chosen(self) -> Chosen:
        """What the planner knows of the samples that training draws; for engines that make more than a batch needs.

        Raises:
            ArgumentError: the loader does not train.
        """
        if not isinstance(self._planner, Planner):
            raise ArgumentError("train=False draws no samples: it takes each once")
        return self._planner.selection

    def refuse_select(self, why: str) -> None:
        """Have `select` refused; for engines that cannot make what it changes."""
        self._refused = why

    @property
    def _changing(self) -> Picks | Learner | None:
        return self._planner.selection.changing if isinstance(self._planner, Planner) else None

    @property
    def _learns(self) -> bool:
        """Whether batches come with ids and weights."""
        return isinstance(self._changing, Learner)

    def _begin_choice(self, epoch: int) -> None:
        """Have an epoch's samples chosen, now that it begins."""
        if self._changing is not None and 0 <= epoch < len(self._planner.steps):
            chosen = self._changing.begin(epoch)
            self._drop_from(min(chosen, default=epoch), changed=chosen)

    def _share(self, epoch: int) -> float | None:
        """The share of the set that an epoch sees."""
        return self._planner.selection.share(epoch) if isinstance(self._planner, Planner) else None

    def _drop_from(self, epoch: int, *, changed: list[int]) -> None:
        """Drop what is prefetched for an epoch and those behind it, when the trainer gets there."""
        if self._feed is not None and changed:
            for e, samples in self._feed.cut(epoch).items():
                self._dropped[e] = self._dropped.get(e, 0) + samples

    def _weights(self, batch: Batch) -> torch.Tensor:
        """By what the losses of a batch are multiplied: float32 [n], where its labels are."""
        import torch

        assert self._changing is not None, "batches have weights where a selection learns"
        weights = self._changing.weights(batch.plan.epoch, batch.shown)
        return torch.from_numpy(weights).to(batch.labels.device)

    def _with_choice(self, state: dict[str, Any]) -> dict[str, Any]:
        """A cursor's state with what says which samples are left out."""
        changing = self._changing
        arrays = {} if changing is None else changing.arrays(state["epoch"])
        return {**state, _STATE: pack(arrays)} if arrays else state

    def _resume(self, state: Any, beside: Mapping[str, np.ndarray] | None) -> None:
        """Go to where a state was taken; where it is refused, nothing changes."""
        changing = self._changing
        said = state.get(_STATE) if isinstance(state, dict) else None
        if changing is None or not isinstance(state, dict):
            self._cursor.load_state_dict(state)
            return
        if said is None and isinstance(changing, Learner):
            raise ResumeError("the state does not say which samples were chosen; it is of a loader that does not learn")
        before = changing.arrays(0)
        try:
            changing.restore({} if said is None else unpack(said, beside))
            self._cursor.load_state_dict({name: value for name, value in state.items() if name != _STATE})
        except BaseException:
            changing.restore(before)
            raise
        self._feed = None  # what is under way was planned by other choices
