"""Which sample stands at which place of an epoch's order.

A selection is an object with one method, `ids(epoch, positions)`: a pure function, so that any batch can be made
again from (seed, epoch, step), on any engine and any number of ranks. The planner asks it; engines never learn of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from budgetloader.block_order import BlockOrder, order_of
from budgetloader.budget import Budget
from budgetloader.errors import ArgumentError, ArgumentTypeError, ScheduleError
from budgetloader.order import Order, Sampling
from budgetloader.schedule import Schedule
from budgetloader.selections.agreement import Ranks
from budgetloader.selections.filtered import Filtered
from budgetloader.selections.mixture import Mixed
from budgetloader.selections.picks import Picks
from budgetloader.selections.scores import Learner, ScoreSelection
from budgetloader.selections.subset import Subset, members_of
from budgetloader.selections.weighted import Weighted, balanced
from budgetloader.shard import Shard


class Selection(Protocol):
    """What may be given as `BudgetLoader(…, selection=…)`.

    Attributes that it may have besides:
        size: samples of a full epoch, D of M = ⌈D/B⌉ (default: those of the dataset). `ids` is asked for positions
            below it.
        identity: a dict that is JSON-able: what a state must agree with to be resumed (default: the class's name).
        expected_share: a method that says which share of its `size` so many draws of an epoch see, 0 … 1.
    """

    def ids(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """The samples at `positions` of `epoch`'s order: int64 [n] in, int64 [n] out, each 0 … D − 1."""


@dataclass(frozen=True)
class Wanted:
    """What a loader's keywords say of the samples that it draws.

    Args:
        sampling: "independent", "cyclic" or "static", see `budgetloader.order.Order`; or "blocks", see
            `budgetloader.block_order.BlockOrder`.
        samples: some of the set: their numbers, or a boolean mask with an entry per sample.
        weights: a number per sample of the whole set, or "balanced": draws in proportion, with replacement.
        selection: one's own.
        device: the loader's: where ranks tell each other their losses if torch.distributed's group is NCCL's.
    """

    sampling: Sampling = "independent"
    samples: ArrayLike | None = None
    weights: ArrayLike | str | None = None
    selection: Selection | ScoreSelection | None = None
    device: str = "cpu"


class Chosen:
    """A selection with what the planner needs to know of it.

    Attributes:
        budget: the batches of each epoch, where nothing is left out of one.
        changing: what leaves samples out of epochs, by `BudgetLoader.select` or by learning; None where neither can.
        steps: batches of each epoch, as they are known now.
        identity: what is added to a loader's state; {} for the whole set in the usual order.
        uniform: whether an epoch's full order is a permutation of the whole set, drawn afresh each epoch.
        size: positions of that order.
        blocks: the order, where it stands in blocks of neighbours; else None.
    """

    def __init__(
        self,
        selection: Selection,
        budget: Budget,
        *,
        total: int,
        uniform: bool = False,
        changing: Picks | Learner | None = None,
        blocks: BlockOrder | None = None,
    ) -> None:
        self.blocks = blocks
        self._selection, self.budget, self._total, self.uniform = selection, budget, total, uniform
        self.changing = changing
        self._filtered = selection if isinstance(selection, Filtered) else None
        self.steps: Sequence[int] = budget.batches if self._filtered is None else self._filtered.steps
        self.size = int(getattr(selection, "size", budget.samples))
        kind = type(selection)
        named = {"selection": f"{kind.__module__}.{kind.__qualname__}"}
        self.identity: dict[str, Any] = dict(getattr(selection, "identity", named))
        if changing is not None:
            self.identity |= changing.identity

    def ready(self, epoch: int) -> bool:
        """Whether it is known what an epoch draws."""
        return self.changing is None or self.changing.ready(epoch)

    def span(self, epoch: int, step: int) -> tuple[int, int]:
        """The places [start, stop) of a batch in what its epoch draws."""
        return self.budget.span(step) if self._filtered is None else self._filtered.span(epoch, step)

    def positions(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """The positions of those places in the epoch's order: the same, unless samples are left out of it."""
        return places if self._filtered is None else self._filtered.positions(epoch, places)

    def share(self, epoch: int) -> float | None:
        """The share of the whole set's samples that an epoch sees, 0 … 1; the expected one, where it draws at random.

        None for a selection of one's own that does not say.
        """
        drawn = self.span(epoch, self.steps[epoch] - 1)[1]
        expected = getattr(self._selection, "expected_share", None)
        return None if expected is None else float(expected(drawn)) * self.size / self._total

    def end(self, epoch: int) -> int:
        """How many positions of an epoch's order reach as far as its last sample does."""
        last = self.span(epoch, self.steps[epoch] - 1)[1] - 1
        return int(self.positions(epoch, np.array([last]))[0]) + 1

    def replacements(self, epoch: int, numbers: np.ndarray) -> np.ndarray:
        """Samples to stand in for others, by random numbers: uint64 [n] in, int64 [n] out."""
        left = self._filtered is not None and epoch in self._filtered.changed
        size = self._filtered.samples(epoch) if self._filtered is not None and left else self.size
        drawn = (numbers % np.uint64(size)).astype(np.int64)
        # A place of the epoch's order, where some samples of the set must not be drawn.
        return drawn if self.uniform and not left else self.ids(epoch, self.positions(epoch, drawn))

    def ids(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """As the selection gives them, checked: engines read what they are told.

        Raises:
            ScheduleError: they are no samples of the set.
        """
        found = np.asarray(self._selection.ids(epoch, positions))
        if found.shape != positions.shape or not np.issubdtype(found.dtype, np.integer):
            raise ScheduleError(
                f"the selection gave {found.dtype} {list(found.shape)} for {len(positions)} positions; "
                f"ids(epoch, positions) must return one integer for each"
            )
        if len(found) and not 0 <= found.min() <= found.max() < self._total:
            wrong = found[(found < 0) | (found >= self._total)][0]
            raise ScheduleError(f"the selection gave sample {wrong}, and the set has 0 … {self._total - 1}")
        return found.astype(np.int64, copy=False)


def choose(
    labels: np.ndarray,
    wanted: Wanted,
    *,
    schedule: Schedule,
    batch_size: int,
    seed: int,
    mixture: Any = None,
    shard: Shard | None = None,
) -> Chosen:
    """The selection that a loader's keywords mean.

    Args:
        labels: int64 [D], of the whole set.
        wanted: the keywords.
        schedule, batch_size, seed: as in `BudgetLoader`.
        mixture: (sizes, shares) of the set's parts, or None.
        shard: this rank's part.

    Raises:
        ScheduleError: samples, weights or shares that cannot be.
        ArgumentError: keywords that do not go together.
    """
    _check_together(wanted, mixture)
    total, shard = len(labels), shard or Shard()
    most, gather = -(-batch_size // shard.world_size), getattr(wanted.selection, "gather", None)
    ranks = Ranks(shard, most=most, gather=gather, device=wanted.device)
    members = None if wanted.samples is None else members_of(wanted.samples, size=total)

    learning = isinstance(wanted.selection, ScoreSelection)
    own: Any = wanted.selection if mixture is None else Mixed(*mixture, seed=seed)
    if own is not None and not learning:
        size = int(getattr(own, "size", total))
        return Chosen(own, Budget(schedule, samples=size, batch_size=batch_size), total=total)
    size = total if members is None else len(members)
    budget = Budget(schedule, samples=size, batch_size=batch_size)
    order: Weighted | Order | BlockOrder | Subset
    if wanted.weights is not None:
        of = labels if members is None else labels[members]
        order = Weighted(_weights(wanted.weights, of, members, total=total), seed=seed)
        return Chosen(order if members is None else Subset(members, order), budget, total=total)
    order = order_of(budget, seed=seed, sampling=wanted.sampling)
    blocks = order if isinstance(order, BlockOrder) else None
    if members is not None:  # blocks are of neighbours in the file
        order = Subset(members if blocks is None else np.sort(members), order)
    if wanted.sampling in ("cyclic", "static"):  # an epoch's order depends on the budgets of others
        return Chosen(order, budget, total=total, uniform=members is None and wanted.sampling != "static")
    filtered = Filtered(order, budget, total=total)
    changing: Picks | Learner
    if isinstance(wanted.selection, ScoreSelection):
        changing = Learner(wanted.selection, filtered, total=total, seed=seed, ranks=ranks)
    else:
        changing = Picks(filtered, total=total, ranks=ranks, among=_mask(members, total))
    return Chosen(filtered, budget, total=total, uniform=members is None, changing=changing, blocks=blocks)


def _mask(members: np.ndarray | None, total: int) -> np.ndarray | None:
    if members is None:
        return None
    mask = np.zeros(total, bool)
    mask[members] = True
    return mask


def _weights(given: ArrayLike | str, labels: np.ndarray, members: np.ndarray | None, *, total: int) -> np.ndarray:
    if isinstance(given, str):
        if given != "balanced":
            raise ArgumentError(f"weights {given!r} is not known; give 'balanced', or a number per sample")
        return balanced(labels)
    weights = np.asarray(given)
    if weights.dtype.kind not in "biuf":  # numbers stay as they are: a copy of a billion is 8 GB
        weights = np.asarray(given, dtype=np.float64)
    if weights.shape != (total,):
        raise ScheduleError(f"weights of shape {weights.shape}: give one number for each of the set's {total} samples")
    return weights if members is None else weights[members]


def _check_together(wanted: Wanted, mixture: Any) -> None:
    learning = isinstance(wanted.selection, ScoreSelection)
    if wanted.selection is not None and not learning and not callable(getattr(wanted.selection, "ids", None)):
        raise ArgumentTypeError(
            f"selection {wanted.selection!r} has no method ids(epoch, positions); see budgetloader.Selection, and "
            f"budgetloader.ScoreSelection for one that learns"
        )
    given: Sequence[str] = [name for name in ("selection", "weights", "samples") if getattr(wanted, name) is not None]
    if mixture is not None and given:
        raise ArgumentError(f"{given[0]}= and a Mixture both say what is drawn; leave one of them out")
    if wanted.selection is not None and len(given) > 1:
        raise ArgumentError(f"selection= says what is drawn; leave {given[1]}= out")
    if wanted.sampling != "independent" and ("selection" in given or "weights" in given or mixture is not None):
        what = "a Mixture" if mixture is not None else f"{given[0]}="
        raise ArgumentError(f"sampling={wanted.sampling!r} does not go with {what}, which says what is drawn")
