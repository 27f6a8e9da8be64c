"""An order for storage that reads neighbours cheaply: blocks of neighbours at random, shuffled a pool at a time.

FFCV's quasi-random order has the idea (G. Leclerc et al., "FFCV: Accelerating training by removing data bottlenecks",
CVPR 2023). Here blocks are cut afresh in every epoch, at any sample, so that each sample is equally likely to stand at
each position; and it is as random access as the uniform order: nothing of length D is stored.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from budgetloader import rng
from budgetloader.arguments import check_choice, check_seed
from budgetloader.budget import Budget
from budgetloader.errors import ScheduleError
from budgetloader.order import OWN_ORDERS, Order, Permutation, round_keys

_BLOCK, _BUFFER = 32, 8192  # samples
_NAME = re.compile(r"blocks(?::(\d{1,18})/(\d{1,18}))?")


@dataclass(frozen=True)
class Blocks:
    """How large blocks and the buffer are.

    Args:
        block: neighbours in the file that are read together, samples.
        buffer: samples that are shuffled together, at most; one block at least.

    Raises:
        ScheduleError: a block of no sample, or a buffer that does not hold one.
    """

    block: int = _BLOCK
    buffer: int = _BUFFER

    def __post_init__(self) -> None:
        if not 1 <= self.block <= self.buffer:
            raise ScheduleError(
                f"sampling='{self}': give a block of one sample at least, and a buffer that holds a block, such as "
                f"'blocks:{_BLOCK}/{_BUFFER}'"
            )

    @classmethod
    def parse(cls, sampling: str) -> Blocks | None:
        """What "blocks" or "blocks:BLOCK/BUFFER" says; None for another word."""
        found = _NAME.fullmatch(sampling) if isinstance(sampling, str) else None
        if found is None:
            if isinstance(sampling, str) and sampling.startswith("blocks"):
                raise ScheduleError(
                    f"sampling {sampling!r} is not known; give 'blocks', or 'blocks:BLOCK/BUFFER' in samples, such as "
                    f"'blocks:{_BLOCK}/{_BUFFER}'"
                )
            return None
        return cls() if found[1] is None else cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"blocks:{self.block}/{self.buffer}"


class BlockOrder:
    """An epoch's order by blocks and pools.

    A circle of all samples is cut into blocks of neighbours, from a point that is drawn afresh in each epoch; the
    blocks are permuted, and divided among pools of as equal a size as can be, none with more samples than the buffer;
    the samples of each pool are permuted. A budget is a prefix of that, whatever its ratio, and takes no sample twice.
    What is left over when blocks are cut is a shorter block, the last of the order.

    Args:
        budget: the batches of each epoch.
        seed: 0 … 2⁶⁴ − 1.
        shape: of blocks and buffer.

    Attributes:
        pools: how many.
        identity: what a loader's state must agree with.
    """

    def __init__(self, budget: Budget, *, seed: int, shape: Blocks) -> None:
        self.budget, self.seed, self.shape = budget, check_seed(seed), shape
        self.sampling = str(shape)
        self.identity: dict[str, Any] = {"sampling": self.sampling}
        self._blocks = -(-self.size // shape.block)
        self.pools = -(-self._blocks // (shape.buffer // shape.block))
        # The first `_longer` pools have one block more than the others.
        self._each, self._longer = divmod(self._blocks, self.pools)

    @property
    def size(self) -> int:
        """Positions of an epoch's order."""
        return self.budget.samples

    def expected_share(self, samples: int) -> float:
        """The share of the order's samples that so many positions of an epoch have: it draws without replacement."""
        return min(samples / self.size, 1.0)

    def pool_spans(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the pools of some positions begin and end in the order, in any epoch: int64 [n] in, int64 [n] twice."""
        return self._spans(self._pools_of(positions))

    def ids(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """The samples at `positions` of `epoch`'s order: int64 [n] in, int64 [n] out."""
        pools, block = self._pools_of(positions), self.shape.block
        starts, stops = self._spans(pools)
        places = np.empty_like(positions)
        for pool in np.unique(pools).tolist():
            here = pools == pool
            first, stop = int(starts[here][0]), int(stops[here][0])
            shuffled = _within(stop - first, self.seed, epoch, pool)
            places[here] = first + shuffled(positions[here] - first)
        slots, inside = np.divmod(places, block)
        whole = self.size // block
        blocks = slots.copy()
        if whole:
            full = slots < whole
            blocks[full] = _among(whole, self.seed, epoch)(slots[full])
        return (_cut(self.size, self.seed, epoch) + blocks * block + inside) % self.size

    def _pools_of(self, positions: np.ndarray) -> np.ndarray:
        slots, border = np.asarray(positions, np.int64) // self.shape.block, self._longer * (self._each + 1)
        return np.where(slots < border, slots // (self._each + 1), self._longer + (slots - border) // self._each)

    def _spans(self, pools: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts = (pools * self._each + np.minimum(pools, self._longer)) * self.shape.block
        stops = starts + (self._each + (pools < self._longer)) * self.shape.block
        return starts, np.minimum(stops, self.size)

    # How well it mixes, as expected

    def neighbour_distance(self) -> float:
        """How far two neighbours in the file end up from each other in the order, in the mean; uniform draws have
        (D + 1)/3. Neighbours of two blocks count as two samples of chance."""
        apart = self._blocks / self.size if self._blocks > 1 else 0.0  # neighbours between which a block ends
        return (1 - apart) * (self.size / self.pools + 1) / 3 + apart * (self.size + 1) / 3

    def blocks_in_batch(self) -> float:
        """Of how many blocks a batch has samples, in the mean: so many independent places of the file it sees."""
        blocks, block = -(-self._blocks // self.pools), self.shape.block
        batch = min(self.budget.batch_size, blocks * block)
        return blocks * (1 - math.exp(_log_choose(blocks * block - block, batch) - _log_choose(blocks * block, batch)))


def check_sampling(sampling: str) -> str:
    """A word for `sampling`.

    Raises:
        ScheduleError: it is not known.
    """
    if Blocks.parse(sampling) is None:
        check_choice(sampling, (*OWN_ORDERS, "blocks"), what="sampling", error=ScheduleError)
    return sampling


def order_of(budget: Budget, *, seed: int, sampling: str) -> Order | BlockOrder:
    """The order that a word for `sampling` means.

    Raises:
        ScheduleError: it is not known.
    """
    shape = Blocks.parse(check_sampling(sampling))
    return Order(budget, seed=seed, sampling=sampling) if shape is None else BlockOrder(budget, seed=seed, shape=shape)


def classes_in_batch(order: Any, labels: np.ndarray, *, batches: int = 64) -> float:
    """Classes of a batch in the mean, of some batches of the first epoch that are spread over the whole order.

    Args:
        order: an `Order` or a `BlockOrder`.
        labels: int64 [D].
        batches: to look at.
    """
    size = order.budget.batch_size
    steps = np.unique(np.linspace(0, max(order.size // size - 1, 0), batches).astype(np.int64))
    spans = [np.arange(step * size, min((step + 1) * size, order.size), dtype=np.int64) for step in steps.tolist()]
    return float(np.mean([len(np.unique(labels[order.ids(0, span)])) for span in spans]))


def _log_choose(n: float, k: float) -> float:
    return -math.inf if k > n else math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


@lru_cache(maxsize=64)
def _cut(size: int, seed: int, epoch: int) -> int:
    """The sample at which the first block begins."""
    words = rng.draws(np.zeros(1, np.int64), seed=seed, epoch=epoch, purpose=rng.BLOCK_CUT)
    return (int(words[0, 0]) << 32 | int(words[1, 0])) % size


@lru_cache(maxsize=64)
def _among(blocks: int, seed: int, epoch: int) -> Permutation:
    return Permutation(blocks, key=round_keys(seed, epoch, purpose=rng.BLOCK_KEY))


@lru_cache(maxsize=256)
def _within(size: int, seed: int, epoch: int, pool: int) -> Permutation:
    return Permutation(size, key=round_keys(seed, epoch, purpose=rng.POOL_KEY, number=pool))
