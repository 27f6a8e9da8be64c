"""A schedule of ratios and of image sizes, and the time that was predicted for it.

Claim: the time of a training is its budget times its sizes' batch times, so that it can be told beforehand from
batches of each size that are timed before.

    python -m budgetloader.bench.sizes

How it is measured: MobileNetV2 at a quarter of its width on generated JPEGs. First some batches of each size are
trained and timed, in turn; from their medians comes the prediction (`budgetloader.forecast`). Then R1_0.618 with sizes
that grow from 128 to 192 pixels, and full training at 192, are trained side by side: an epoch of each in turn, and
which is first changes, so that a machine's drift hits both alike. Each setting's time is the sum of its epochs', from
asking for the first batch to the end of the last step.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetloader.bench.entry import generated, parser_of
from budgetloader.bench.grid import Grid

_UNTIMED, _TIMED = 2, 8  # batches of a calibration's turn

if TYPE_CHECKING:
    from rich.console import Console

    from budgetloader import BudgetLoader, Schedule, SizeSchedule
    from budgetloader.forecast import BatchSeconds
    from budgetloader.models import Trainer


def train(
    data: Path,
    *,
    schedule: Schedule,
    sizes: SizeSchedule,
    batch_size: int,
    width: float,
    calibration: int,
    say: Callable[[str], object],
) -> dict[str, Any]:
    """Train the schedule with its sizes, and full training at the largest, and compare with the prediction.

    Args:
        data: a .beton.
        schedule, sizes, batch_size: what is trained.
        width: of MobileNetV2.
        calibration: turns in which batches of each size are timed beforehand.
        say: told of progress.

    Returns:
        The row of a record: `predicted`, `measured` and `plain` (the pixels alone) are shares of full training's time.
    """
    from budgetloader import BudgetLoader, Schedule, SizeSchedule
    from budgetloader.forecast import time_share

    full = Schedule.full(epochs=schedule.epochs)
    settings = {
        "full": (full, SizeSchedule.constant(sizes.largest, epochs=schedule.epochs)),
        "sized": (schedule, sizes),
    }
    options: dict[str, Any] = {"batch_size": batch_size, "engine": "native", "workers": 1}
    loaders = {n: BudgetLoader(data, schedule=s, image_size=z, **options) for n, (s, z) in settings.items()}
    try:
        samples = len(loaders["full"].dataset)
        trainers = {name: _trainer(width, loader, schedule.epochs) for name, loader in loaders.items()}
        seconds = calibrate(trainers["full"], sizes, batch_size=batch_size, turns=calibration)
        say("batch seconds: " + ", ".join(f"{size}: {t:.3f}" for size, t in sorted(seconds.measured.items())))
        shape: dict[str, Any] = {"samples": samples, "batch_size": batch_size}
        predicted = time_share(schedule, sizes, **shape, batch_seconds=seconds)
        spent = _side_by_side(loaders, trainers, epochs=schedule.epochs, say=say)
    finally:
        for loader in loaders.values():
            loader.close()
    return {
        "schedule": str(schedule),
        "sizes": str(sizes),
        "batches": {name: [s.batches for s in loader.stats] for name, loader in loaders.items()},
        "batch_seconds": {str(size): t for size, t in seconds.measured.items()},
        "predicted": predicted,
        "plain": time_share(schedule, sizes, **shape),
        "measured": sum(spent["sized"]) / sum(spent["full"]),
        "seconds": spent,
    }


def calibrate(trainer: Trainer, sizes: SizeSchedule, *, batch_size: int, turns: int) -> BatchSeconds:
    """The median time of a batch of each size, from some turns of each; weights are put back.

    As in an epoch, a size stays for a while: its first batches, for which memory is allocated anew, are not timed.
    """
    import copy

    import torch

    from budgetloader.forecast import BatchSeconds

    saved = copy.deepcopy(trainer.state_dict())
    images = {
        size: torch.randn(batch_size, 3, size, size).contiguous(memory_format=torch.channels_last) for size in sizes
    }
    labels = torch.zeros(batch_size, dtype=torch.int64)
    laps: dict[int, list[float]] = {size: [] for size in sizes.distinct}
    for _ in range(turns):
        for size in sizes.distinct:
            trainer.train_epoch([(images[size], labels)] * _UNTIMED, epoch=0)
            record = trainer.train_epoch([(images[size], labels)] * _TIMED, epoch=0)
            laps[size].append(record.train_seconds / _TIMED)
    trainer.load_state_dict(saved)
    return BatchSeconds({size: statistics.median(times) for size, times in laps.items()})


def _trainer(width: float, loader: BudgetLoader, epochs: int) -> Trainer:
    import torch

    from budgetloader.models import IMAGENET, Trainer, mobilenet_v2

    torch.manual_seed(0)
    classes = 1 + int(loader.dataset.labels.max())
    recipe = dataclasses.replace(IMAGENET, learning_rate=0.001)
    return Trainer(mobilenet_v2(classes=classes, width=width), recipe=recipe, epochs=epochs)


def _side_by_side(
    loaders: dict[str, BudgetLoader], trainers: dict[str, Trainer], *, epochs: int, say: Callable[[str], object]
) -> dict[str, list[float]]:
    """Each setting's seconds by epoch; who is first changes from epoch to epoch."""
    spent: dict[str, list[float]] = {name: [] for name in loaders}
    for epoch in range(epochs):
        names = list(loaders)
        for name in names if epoch % 2 else reversed(names):
            loaders[name].set_epoch(epoch)
            spent[name].append(trainers[name].train_epoch(loaders[name], epoch=epoch).train_seconds)
        if epoch % 10 == 9 or epoch == epochs - 1:
            share = sum(spent["sized"]) / sum(spent["full"])
            say(f"epoch {epoch + 1} of {epochs}: {sum(map(sum, spent.values())):.0f} s, share so far {share:.4f}")
    return spent


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("sizes", __doc__)
    parser.add_argument("--schedule", default="R1_0.618", help="of ratios")
    parser.add_argument("--image-size", default="ramp:128-192", help="of each epoch's images")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--images", type=int, default=52, help="JPEGs to generate")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--width", type=float, default=0.25, help="of MobileNetV2")
    parser.add_argument(
        "--calibration", type=int, default=10, help="turns in which batches of each size are timed beforehand"
    )
    parser.add_argument("--out", default="runs/sizes")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options, arguments), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    import torch

    from budgetloader import Schedule
    from budgetloader.bench import page
    from budgetloader.bench.record import command, environment
    from budgetloader.sizes import image_sizes

    torch.set_num_threads(1)  # what else a machine does costs a trainer of one thread the least
    out = Path(options.out)
    data = generated(out / "data", images=options.images, console=console)
    row = train(
        data,
        schedule=Schedule.parse(options.schedule, epochs=options.epochs),
        sizes=image_sizes(options.image_size, epochs=options.epochs),
        batch_size=options.batch_size,
        width=options.width,
        calibration=options.calibration,
        say=console.print,
    )
    results: dict[str, Any] = {
        "environment": environment(),
        "command": command("budgetloader.bench.sizes", arguments),
        "options": {name: getattr(options, name) for name in ("images", "batch_size", "width", "calibration")},
        "rows": [row],
    }
    page.publish(
        results,
        out,
        console,
        title="Ratios and image sizes together",
        claim="A training's time is its budget times its sizes' batch times, and can be told beforehand.",
        parts=[grid(results)],
    )
    return 0


def grid(record: dict[str, Any]) -> Grid:
    """The table of a record."""
    cells = [
        (
            row["schedule"],
            row["sizes"],
            *(f"{row[name]:.4f}" for name in ("predicted", "measured")),
            f"{100 * (row['measured'] - row['predicted']):+.2f}",
            f"{row['plain']:.4f}",
        )
        for row in record["rows"]
    ]
    return Grid(
        "time as a share of full training's at the largest size",
        ("schedule", "sizes", "predicted", "measured", "points", "by pixels alone"),
        cells,
        "predicted: budget × the batch times that were measured before. points: by how many hundredths it was off.",
    )


if __name__ == "__main__":
    sys.exit(main())
