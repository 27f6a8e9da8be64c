"""What a transform costs: images per second with one, beside the same loader without.

Claim: a transform that does nothing costs at most 3 % of throughput.

    python -m budgetloader.bench.augmenting

How it is measured: a loader for each transform in one process, an epoch of each in turns; the first epoch of each is
warm-up. A ratio is that of a turn's epoch to the same turn's without a transform; medians over the turns, and the
middle half of them. Images are generated JPEGs of 500 × 375 pixels, on the native engine.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from budgetloader.bench.entry import generated, parser_of
from budgetloader.bench.grid import Grid

if TYPE_CHECKING:
    from rich.console import Console

MOST_LOST = 0.03  # of throughput, that a transform which does nothing may cost
PLAIN, NOTHING, ROWS = "none", "nothing, on whole batches", "nothing, on parts of batches"


class Nothing:
    """A transform of samples that changes nothing."""

    rows, on = 1, "host"

    def __call__(self, images: Any, targets: Any, keys: Any) -> tuple[Any, Any]:
        return images, targets


def transforms() -> dict[str, Any]:
    """What is measured, by name; None: no transform."""
    from torchvision.transforms import v2

    from budgetloader.transforms import PerGroup

    mix = v2.RandomChoice([v2.MixUp(alpha=0.2, num_classes=1000), v2.CutMix(alpha=1.0, num_classes=1000)])
    return {
        PLAIN: None,
        NOTHING: lambda images, targets, keys: (images, targets),
        ROWS: Nothing(),
        "RandomErasing": v2.RandomErasing(p=0.25),
        "TrivialAugmentWide": v2.TrivialAugmentWide(),
        "RandAugment": v2.RandAugment(),
        "ColorJitter": v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        "MixUp or CutMix, by pairs": PerGroup(mix),
        "timm's recipe": [v2.RandAugment(), v2.RandomErasing(p=0.25), PerGroup(mix)],
    }


def measure(path: Path, *, names: Sequence[str], turns: int, batch_size: int, image_size: int) -> list[dict[str, Any]]:
    """One row per transform."""
    from contextlib import ExitStack

    from budgetloader import BudgetLoader, Schedule

    known = transforms()
    options: dict[str, Any] = {"batch_size": batch_size, "image_size": image_size, "engine": "native"}
    rates: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        loaders = {
            name: stack.enter_context(
                BudgetLoader(path, schedule=Schedule.full(epochs=turns + 1), transform=known[name], **options)
            )
            for name in names
        }
        for turn in range(turns + 1):
            for name, batches in loaders.items():
                began, images = time.perf_counter(), 0
                for taken, _ in batches:
                    images += len(taken)
                if turn:
                    rates[name].append(images / (time.perf_counter() - began))
        shares = {name: batches.verdict().transform_share for name, batches in loaders.items()}  # type: ignore[union-attr]
    rows = []
    for name in names:
        ratios = [a / b for a, b in zip(rates[name], rates[PLAIN], strict=True)]
        low, high = np.quantile(ratios, (0.25, 0.75)).tolist()
        row: dict[str, Any] = {"transform": name, "images_per_second": statistics.median(rates[name])}
        row |= {"ratio": statistics.median(ratios), "middle_half": [low, high], "verdict_share": shares[name]}
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("augmenting", __doc__)
    parser.add_argument("--images", type=int, default=768, help="JPEGs to generate")
    parser.add_argument("--turns", type=int, default=7, help="counted epochs of each")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--few", action="store_true", help="only those that do nothing")
    parser.add_argument("--out", default="runs/augmenting")
    from budgetloader.bench.console import guarded

    return guarded(
        functools.partial(_main, parser.parse_args(arguments), arguments), interrupted="nothing was recorded"
    )


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from budgetloader.bench import page
    from budgetloader.bench.record import command, environment

    out = Path(options.out)
    data = generated(out / "data", images=options.images, console=console)
    names = [PLAIN, NOTHING, ROWS] if options.few else list(transforms())
    sizes = {"turns": options.turns, "batch_size": options.batch_size, "image_size": options.image_size}
    rows = measure(data, names=names, **sizes)
    results: dict[str, Any] = {
        "environment": environment(),
        "command": command("budgetloader.bench.augmenting", arguments),
        "options": {"images": options.images, **sizes},
        "rows": rows,
    }
    page.publish(
        results,
        out,
        console,
        title="What a transform costs",
        claim=f"A transform that does nothing costs at most {MOST_LOST:.0%} of throughput.",
        parts=[grid(results)],
    )
    return 0


def grid(record: dict[str, Any]) -> Grid:
    """The table of a record."""
    cells = [
        (
            row["transform"],
            f"{row['images_per_second']:,.0f}",
            f"{row['ratio']:.3f}",
            "{:.3f} to {:.3f}".format(*row["middle_half"]),
            f"{row['verdict_share']:.0%}",
        )
        for row in record["rows"]
    ]
    return Grid(
        "augmenting: images per second with a transform, and without",
        ("transform", "images/s", "ratio to none", "middle half", "its share, says the verdict"),
        cells,
        f"Medians of {record['options']['turns']} turns.",
    )


if __name__ == "__main__":
    sys.exit(main())
