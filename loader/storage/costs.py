"""What a training from object storage will ask of the store: bytes, requests, time and money, before it begins."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np

from budgetloader import windows
from budgetloader.block_order import BlockOrder
from budgetloader.errors import ArgumentError
from budgetloader.order import Order
from budgetloader.schedule import Schedule
from budgetloader.storage.cost import Cost
from budgetloader.storage.ranges import MOST_BYTES, requests_for
from budgetloader.storage.windows import Rows

_SIMULATED = 4000  # samples of a smaller set, on which the cache is simulated
_EXAMINED = 32  # samples whose headers are read
_EXAMINED_POOLS = 8
_NEVER = 1 << 62


@dataclass(frozen=True)
class Prices:
    """What a store takes, in any currency.

    Args:
        gigabyte: 10⁹ bytes that leave it.
        million_requests: GET requests.
    """

    gigabyte: float = 0.0
    million_requests: float = 0.0

    def __post_init__(self) -> None:
        for name in ("gigabyte", "million_requests"):
            if not getattr(self, name) >= 0:
                raise ArgumentError(f"price of {name} {getattr(self, name)!r}: give a number from 0 on")


@dataclass(frozen=True)
class Way:
    """One way to read a training's samples.

    Attributes:
        name: what it is.
        bytes, requests: of the whole training.
        seconds: that the store takes for them at least: the requests one behind the other on each connection, or all
            connections' bytes, whichever is longer.
        price: with the prices that were given.
    """

    name: str
    bytes: float
    requests: float
    seconds: float
    price: float


def ways(
    dataset: Any,
    schedule: Schedule,
    *,
    batch_size: int,
    cost: Cost,
    prices: Prices,
    cache_bytes: float | None = None,
    blocks: BlockOrder | None = None,
) -> list[Way]:
    """The costs of a training, with and without a cache.

    Args:
        dataset: an open `RemoteDataset`.
        schedule, batch_size: of the training.
        cost: of the store, as it was measured.
        prices: of the store.
        cache_bytes: of a cache to be looked at besides none and one of the whole set.
        blocks: an order by blocks, to be looked at, too.

    Raises:
        ArgumentError: a cache of no bytes.
    """
    if cache_bytes is not None and not cache_bytes > 0:
        raise ArgumentError(f"cache_bytes={cache_bytes!r}: give a number above 0")
    budget, total = schedule.budget(len(dataset), batch_size=batch_size), float(dataset.sizes.sum())
    mean = total / len(dataset)
    drawn = sum(budget.epoch_samples(epoch) for epoch in range(schedule.epochs))
    share, heads = window_share(dataset)

    def way(name: str, samples: float, each: float = mean, requests: float = 1.0) -> Way:
        size, asked = samples * each, samples * requests
        seconds = max(asked * cost.request_seconds, size / (cost.bytes_per_second * cost.connections))
        return Way(name, size, asked, seconds, size / 1e9 * prices.gigabyte + asked / 1e6 * prices.million_requests)

    found = [way("samples, no cache", drawn)]
    if share < 1:
        found.append(way("windows (fetch='window'), no cache", drawn, each=share * mean, requests=heads))
    if blocks is not None:
        found.append(way(f"{blocks.sampling}, no cache", drawn, requests=requests_of_blocks(blocks, dataset, cost)))
    if cache_bytes is not None and cache_bytes < total:
        fetched = cached_share(schedule, cache_bytes / total) * drawn
        found.append(way(f"samples, a cache of {cache_bytes / 1e9:,.1f} GB", fetched))
    found.append(way("samples, a cache of the whole set", _distinct(schedule, len(dataset), batch_size=batch_size)))
    shards = Way("whole shards, uniform draws, no cache", total * schedule.epochs, 0.0, 0.0, 0.0)
    seconds = shards.bytes / (cost.bytes_per_second * cost.connections)
    found.append(Way(shards.name, shards.bytes, np.nan, seconds, shards.bytes / 1e9 * prices.gigabyte))
    return found


def requests_of_blocks(order: BlockOrder, dataset: Any, cost: Cost) -> float:
    """Requests for a sample, in the mean of a training, of an order by blocks; counted on some pools.

    Of the pool in which a budget ends, samples of chance are needed, for which single requests are more often made.
    """
    pool = int(order.pool_spans(np.zeros(1, np.int64))[1][0])
    pools = [order.ids(epoch, np.arange(pool, dtype=np.int64)) for epoch in range(_EXAMINED_POOLS)]

    def requests(samples: int) -> float:
        shape: dict[str, int] = {"gap_bytes": cost.gap_bytes, "most_bytes": MOST_BYTES}
        made = [requests_for(ids[:samples], dataset.starts, dataset.sizes, **shape) for ids in pools]
        return sum(map(len, made)) / len(made)

    budgets = [order.budget.epoch_samples(epoch) for epoch in range(len(order.budget.batches))]
    parts = {rest: requests(rest) for rest in {samples % pool for samples in budgets} | {pool}}
    asked = sum(samples // pool * parts[pool] + parts[samples % pool] for samples in budgets)
    return asked / sum(budgets)


def _distinct(schedule: Schedule, samples: int, *, batch_size: int) -> float:
    """The samples that are drawn at least once, as expected of uniform draws."""
    budget = schedule.budget(samples, batch_size=batch_size)
    missed = 1.0
    for epoch in range(schedule.epochs):
        missed *= 1 - budget.epoch_samples(epoch) / samples
    return samples * (1 - missed)


def cached_share(schedule: Schedule, room: float) -> float:
    """The share of a training's draws that a cache does not have, by Belady's rule; simulated on a smaller set.

    Args:
        schedule: of the training; its draws are independent.
        room: the cache's size, as a share of the set.
    """
    most = max(1, int(room * _SIMULATED))
    budget = schedule.budget(_SIMULATED, batch_size=1)
    order = Order(budget, seed=0)
    epochs = [order.ids(e, np.arange(budget.epoch_samples(e), dtype=np.int64)) for e in range(schedule.epochs)]
    draws = np.concatenate(epochs).tolist()
    following = [_NEVER] * len(draws)
    upcoming: dict[int, int] = {}
    for place in range(len(draws) - 1, -1, -1):
        following[place] = upcoming.get(draws[place], _NEVER)
        upcoming[draws[place]] = place
    there: dict[int, int] = {}
    heap: list[tuple[int, int]] = []
    fetched = 0
    for place, sample in enumerate(draws):
        fetched += sample not in there
        there[sample] = following[place]
        heapq.heappush(heap, (-following[place], sample))
        while len(there) > most:
            use, last = heapq.heappop(heap)
            if there.get(last) == -use:
                del there[last]
    return fetched / len(draws)


def window_share(dataset: Any) -> tuple[float, float]:
    """Of some samples, the share of bytes that a random resized crop needs, and requests for it; (1, 1): all."""
    rows = Rows(dataset.heights, dataset.sizes)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, _EXAMINED).astype(np.int64))
    needed, requests, sizes = 0, 0, 0
    for sample in chosen.tolist():
        rows.learn(sample, dataset.jpeg(sample))
        sides = np.full(_EXAMINED, dataset.heights[sample]), np.full(_EXAMINED, dataset.widths[sample])
        crops = windows.random_resized_crop(*sides, np.arange(_EXAMINED), seed=sample, epoch=0)
        for top, _, height, _, _ in crops.tolist():
            spans = [span for span in rows.spans(sample, top=top, height=height) if span[0] < span[1]]
            needed += sum(stop - start for start, stop in spans)
            requests += len(spans)
        sizes += _EXAMINED * int(dataset.sizes[sample])
    asked = requests / (_EXAMINED * len(chosen))
    return (needed / sizes, asked) if needed < sizes else (1.0, 1.0)
