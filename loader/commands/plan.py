"""`budgetloader plan`."""

from __future__ import annotations

import argparse
import itertools
from typing import TYPE_CHECKING, Any

from budgetloader.commands.arguments import Add, bytes_of
from budgetloader.errors import DatasetError, LoaderError
from budgetloader.schedule import PAPER_SETTINGS, Schedule

if TYPE_CHECKING:
    from budgetloader.budget import Budget

HELP = "show a schedule's budget: batches per epoch, predicted time, probability to miss a sample"


def add_arguments(add: Add) -> None:
    add("schedule", help=f"{', '.join(PAPER_SETTINGS)}, a ratio, or any string that Schedule.parse takes")
    add("file", nargs="?", help="the same as --data; the two may be given in either order")
    add("--epochs", type=int, help="where the schedule's string has no @EPOCHS")
    add("--samples", type=int, help="of the dataset")
    add("--data", help="a .beton to take the number of samples from; of an address, what it will cost is shown, too")
    add("--batch-size", type=int, default=256)
    add("--cache-bytes", type=bytes_of, help="of a cache on the local disk, such as 200GB")
    add("--price-gb", type=float, default=0.0, help="of 10⁹ bytes that leave the store")
    add("--price-requests", type=float, default=0.0, help="of a million requests")
    add("--picture", metavar="PNG", help="draw batches per epoch to this file (needs matplotlib)")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from budgetloader import theory

    text, dataset = _schedule_and_data(options)
    samples = options.samples if dataset is None else len(dataset)
    schedule = Schedule.parse(text, epochs=options.epochs)
    budget = schedule.budget(samples, batch_size=options.batch_size)
    title = f"{schedule}: {samples:,} samples in batches of {options.batch_size}, M = {budget.full}"
    Console(highlight=False).print(_table(title, schedule, budget))
    share = budget.total / (budget.full * schedule.epochs)
    print(f"batches in all: {budget.total:,} of {budget.full * schedule.epochs:,} ({share:.6f})")
    print(f"predicted time, Corollaries 1–2: {theory.corollary(schedule):.6f} of full training's")
    low, high = theory.time_ratio_bounds(schedule, samples=samples, batch_size=options.batch_size)
    print(f"  by eq. (9), with equal batch times: at least {low:.6f}, below {high:.6f}")
    print(f"probability that a sample is never seen, Theorems 1 and 3: {_probability(schedule)}")
    print(f"  of what is really drawn, ⌊αM⌋·B of D samples: {_probability(budget)}")
    if hasattr(dataset, "cost"):
        _print_costs(dataset, schedule, options)
    if options.picture:
        _picture(schedule, budget, options.picture)
    return 0


def _schedule_and_data(options: argparse.Namespace) -> tuple[str, Any]:
    """The schedule's text, and the open dataset, if one was named."""
    from budgetloader.storage import is_address, open_file

    text, data = options.schedule, options.data
    if options.file is not None:
        if data is not None:
            raise DatasetError(f"{options.file} and --data {data}: give one of them")
        text, data = (options.file, text) if is_address(text) or text.endswith(".beton") else (text, options.file)
    if (options.samples is None) == (data is None):
        raise DatasetError("give one of --samples and --data")
    return text, None if data is None else open_file(data)


def _print_costs(dataset: Any, schedule: Schedule, options: argparse.Namespace) -> None:
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


def _table(title: str, schedule: Schedule, budget: Budget) -> Any:
    """A row for each run of epochs that have the same ratio."""
    from rich.table import Table

    view = Table(title=title)
    for name in ("epochs", "ratio", "batches", "samples", ""):
        view.add_column(name, justify="left" if not name else "right")
    epoch = 0
    for (ratio, batches), group in itertools.groupby(zip(schedule.ratios, budget.batches, strict=True)):
        last = epoch + len(list(group)) - 1
        bar = "█" * max(1, round(24 * batches / budget.full))
        numbers = f"{epoch}–{last}" if last > epoch else str(epoch)
        view.add_row(numbers, f"{float(ratio):.4g}", str(batches), f"{budget.epoch_samples(epoch):,}", bar)
        epoch = last + 1
    return view


def _probability(drawn: Schedule | Budget) -> str:
    from budgetloader import theory

    exponent = theory.log10_miss_probability(drawn)
    return "0" if exponent == float("-inf") else f"10^{exponent:.2f}"


def _picture(schedule: Schedule, budget: Budget, path: str) -> None:
    from budgetloader import theory

    try:
        import matplotlib
    except ImportError:
        raise LoaderError("--picture needs matplotlib; pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 2.8), layout="constrained")
    axes.bar(range(schedule.epochs), budget.batches, width=1.0, edgecolor="white", linewidth=0.3)
    axes.axhline(budget.full, color="#bbbbbb", linewidth=1)
    axes.set_title(f"{schedule}: {budget.total:,} batches, {theory.corollary(schedule):.4f} of full training's time")
    axes.set_xlabel("epoch")
    axes.set_ylabel("batches")
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise LoaderError(f"cannot write {path}: {error}") from None
    print(f"picture: {path}")
