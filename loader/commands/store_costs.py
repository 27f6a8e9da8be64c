"""What `budgetloader plan` says of a dataset in object storage: what its training will cost."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from budgetloader.commands.arguments import Add, bytes_of
from budgetloader.errors import DatasetError
from budgetloader.schedule import Schedule

if TYPE_CHECKING:
    from budgetloader.block_order import BlockOrder


def add_costs(add: Add) -> None:
    """The arguments that costs need."""
    add("--cache-bytes", type=bytes_of, help="of a cache on the local disk of what is in object storage, such as 200GB")
    add("--price-gb", type=float, default=0.0, help="of 10⁹ bytes that leave the store")
    add("--price-requests", type=float, default=0.0, help="of a million requests")


def swap(options: argparse.Namespace) -> None:
    """A dataset that was given in place of the schedule, or behind it, becomes --data.

    Raises:
        DatasetError: two datasets.
    """
    from budgetloader.storage import is_address

    text, file = options.schedule, options.file
    if file is None:
        return
    if options.data is not None:
        raise DatasetError(f"{file} and --data {options.data}: give one of them")
    first = is_address(text) or text.endswith(".beton")
    options.schedule, options.data = (file, text) if first else (text, file)


def print_costs(dataset: Any, schedule: Schedule, options: argparse.Namespace, *, blocks: BlockOrder | None) -> None:
    """What the training will ask of the store, by the ways to read from it."""
    from rich.console import Console
    from rich.table import Table

    from budgetloader.storage.costs import Prices, ways

    prices = Prices(options.price_gb, options.price_requests)
    found = ways(
        dataset,
        schedule,
        batch_size=options.batch_size,
        cost=dataset.cost,
        prices=prices,
        cache_bytes=options.cache_bytes,
        blocks=blocks if blocks is not None and blocks.size == len(dataset) else None,
    )
    view = Table(title=f"from the store, {schedule.epochs} epochs")
    for name in ("", "GB", "requests", "hours, at least", "price"):
        view.add_column(name, justify="right" if name else "left")
    for way in found:
        asked = f"{way.requests:,.0f}" if way.requests == way.requests else "by shard"
        shown = f"{way.price:,.2f}" if options.price_gb or options.price_requests else "–"
        view.add_row(way.name, f"{way.bytes / 1e9:,.3f}", asked, f"{way.seconds / 3600:,.2f}", shown)
    print(f"the store: {dataset.cost}")
    Console(highlight=False).print(view)
