"""`budgetloader plan`."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from budgetloader.commands.arguments import Add, add_sampling
from budgetloader.commands.store_costs import add_costs, print_costs, swap
from budgetloader.errors import ArgumentError, DatasetError, LoaderError
from budgetloader.schedule import PAPER_SETTINGS, Schedule

if TYPE_CHECKING:
    import numpy as np

    from budgetloader.block_order import BlockOrder
    from budgetloader.budget import Budget

HELP = "show a schedule's budget: batches per epoch, predicted time, probability to miss a sample"


def add_arguments(add: Add) -> None:
    add("schedule", help=f"{', '.join(PAPER_SETTINGS)}, a ratio, or any string that Schedule.parse takes")
    add("file", nargs="?", help="the same as --data; the two may be given in either order")
    add("--epochs", type=int, help="where the schedule's string has no @EPOCHS")
    add("--samples", type=int, help="of the dataset")
    add("--data", help="a .beton to take the samples' number from; of an address, costs are shown, too")
    add("--batch-size", type=int, default=256)
    add("--weights", choices=("balanced",), help="every class equally often, with replacement (needs --data)")
    add("--only", metavar="CONDITION", help="a subset, such as 'height >= 256 and label in (3, 5)' (needs --data)")
    add_sampling(add)
    add("--image-size", help="of each epoch: a number, '128@30,160@30,192@30', or 'ramp:128-192'; see SizeSchedule")
    add(
        "--batch-seconds", metavar="SIZE=SECONDS,…", help="measured times of a batch by image size, as 128=0.11,192=0.2"
    )
    add_costs(add)
    add("--picture", metavar="PNG", help="draw batches per epoch to this file (needs matplotlib)")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from budgetloader import theory
    from budgetloader.storage import is_address, open_file

    swap(options)
    if (options.samples is None) == (options.data is None):
        raise DatasetError("give one of --samples and --data")
    if options.data is None and (options.weights or options.only):
        raise DatasetError("--weights and --only are of a file's samples; give --data")
    schedule = Schedule.parse(options.schedule, epochs=options.epochs)
    budget, share, order, labels = _drawn(schedule, options)
    samples = budget.samples
    title = f"{schedule}: {samples:,} samples in batches of {options.batch_size}, M = {budget.full}"
    Console(highlight=False).print(_table(title, schedule, budget, share))
    part = budget.total / (budget.full * schedule.epochs)
    if order is not None:
        _mixing(order, labels)
    print(f"batches in all: {budget.total:,} of {budget.full * schedule.epochs:,} ({part:.6f})")
    print(f"predicted time, Corollaries 1–2: {theory.corollary(schedule):.6f} of full training's")
    if options.image_size is not None:
        _sized(schedule, budget, options)
    elif options.batch_seconds is not None:
        raise ArgumentError("--batch-seconds are by image size; give --image-size, too")
    low, high = theory.time_ratio_bounds(schedule, samples=samples, batch_size=options.batch_size)
    print(f"  by eq. (9), with equal batch times: at least {low:.6f}, below {high:.6f}")
    print(f"probability that a sample is never seen, Theorems 1 and 3: {_probability(schedule)}")
    print(f"  of what is really drawn, ⌊αM⌋·B of D samples: {_probability(budget)}")
    if options.data is not None and is_address(options.data):
        print_costs(open_file(options.data), schedule, options, blocks=order)
    if options.picture:
        _picture(schedule, budget, options.picture)
    return 0


def _sized(schedule: Schedule, budget: Budget, options: argparse.Namespace) -> None:
    """Say what each size of images costs, and what all of them do."""
    from budgetloader.forecast import BatchSeconds, time_share, total_seconds
    from budgetloader.sizes import image_sizes

    sizes = image_sizes(options.image_size, epochs=schedule.epochs)
    seconds = BatchSeconds() if options.batch_seconds is None else BatchSeconds.parse(options.batch_seconds)
    shape: dict[str, Any] = {"samples": budget.samples, "batch_size": budget.batch_size, "batch_seconds": seconds}
    print(f"image size by epoch: {sizes}")
    for size in sizes.distinct:
        batches = sum(count for count, side in zip(budget.batches, sizes, strict=True) if side == size)
        cost = seconds(size) / seconds(sizes.largest)
        known = "measured" if size in seconds.measured else "estimated from the pixels"
        print(f"  {size} pixels: {batches:,} batches, each {cost:.4f} of one of {sizes.largest} pixels ({known})")
    share = time_share(schedule, sizes, **shape)
    print(f"predicted time, budget × size: {share:.6f} of full training's at {sizes.largest} pixels")
    if seconds.measured:
        print(f"  {total_seconds(schedule, sizes, **shape):,.0f} s in batches")


def _mixing(order: BlockOrder, labels: np.ndarray | None) -> None:
    """Say how well an order by blocks mixes, beside uniform draws."""
    from budgetloader.block_order import classes_in_batch, order_of

    shape, batch, size = order.shape, order.budget.batch_size, order.size
    apart, uniform_apart = order.neighbour_distance(), (size + 1) / 3
    print(
        f"order: {order.sampling}: blocks of {shape.block} neighbours, shuffled in {order.pools:,} pools of about "
        f"{size / order.pools:,.0f} samples"
    )
    print(f"  a batch has samples of {order.blocks_in_batch():,.1f} blocks in the mean, in place of {batch:,} draws")
    print(
        f"  neighbours in the file end up {apart:,.0f} positions apart in the mean; uniform draws: {uniform_apart:,.0f}"
    )
    if labels is not None:
        uniform = order_of(order.budget, seed=order.seed, sampling="independent")
        print(
            f"  a batch of this file has {classes_in_batch(order, labels):,.1f} classes in the mean; uniform draws: "
            f"{classes_in_batch(uniform, labels):,.1f} of {len(set(labels.tolist())):,}"
        )


_Drawn = tuple["Budget", Callable[[int], "float | None"], "BlockOrder | None", "np.ndarray | None"]


def _drawn(schedule: Schedule, options: argparse.Namespace) -> _Drawn:
    """The budget; for each epoch the share of the set that it sees; and an order by blocks, with its labels."""
    from budgetloader.block_order import BlockOrder, order_of

    if options.data is None:
        budget = schedule.budget(options.samples, batch_size=options.batch_size)
        order = order_of(budget, seed=0, sampling=options.sampling)
        blocks = order if isinstance(order, BlockOrder) else None
        return budget, lambda epoch: budget.epoch_samples(epoch) / budget.samples, blocks, None
    from budgetloader.conditions import where
    from budgetloader.options import open_dataset
    from budgetloader.selections import Wanted, choose

    dataset = open_dataset(options.data, verify=False, label_field=None)
    wanted = Wanted(options.sampling, where(dataset, options.only), options.weights)
    chosen = choose(dataset.labels, wanted, schedule=schedule, batch_size=options.batch_size, seed=0)
    whole = chosen.blocks is not None and chosen.blocks.size == len(dataset.labels)
    return chosen.budget, chosen.share, chosen.blocks, dataset.labels if whole else None


def _table(title: str, schedule: Schedule, budget: Budget, share: Callable[[int], float | None]) -> Any:
    """A row for each run of epochs that have the same ratio."""
    from rich.table import Table

    view = Table(title=title)
    for name in ("epochs", "ratio", "batches", "samples", "of the set", ""):
        view.add_column(name, justify="left" if not name else "right")
    epoch = 0
    for (ratio, batches), group in itertools.groupby(zip(schedule.ratios, budget.batches, strict=True)):
        last = epoch + len(list(group)) - 1
        bar = "█" * max(1, round(24 * batches / budget.full))
        numbers = f"{epoch}–{last}" if last > epoch else str(epoch)
        seen = f"{share(epoch) or 0.0:.1%}"
        view.add_row(numbers, f"{float(ratio):.4g}", str(batches), f"{budget.epoch_samples(epoch):,}", seen, bar)
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
