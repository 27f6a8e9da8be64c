"""What a transform costs: images per second with one, beside the same loader without.

Claim: a transform that does nothing costs at most 3 % of throughput.

    python -m budgetloader.bench.augmenting

How it is measured: a process for each transform, which take turns; the first turn is warm-up. A turn is a new loader,
of which the first batches are not timed, and which ends with it: a loader that went on would make its next epoch's
first batches while another one is timed. A ratio is that of a turn's rate to the same turn's without a transform;
trimmed means over the turns with 95 % intervals. Images are generated JPEGs of 500 × 375 pixels, on the native engine.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetloader.bench.entry import generated, parser_of
from budgetloader.bench.grid import Grid

if TYPE_CHECKING:
    from rich.console import Console

MOST_LOST = 0.03  # of throughput, that a transform which does nothing may cost
_MOST_FILES = 768
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


def augmenter(*, name: str, path: str, images: int, batch_size: int, image_size: int, dtype: str) -> Callable[[], Any]:
    """A function that measures a transform once, in a process of its own: its rate, and its share of the time."""
    from budgetloader import BudgetLoader, Dataset, Schedule

    untimed = 8 * batch_size  # their time has the start of the threads in it, and the first touch of every buffer
    epochs = -(-(images + untimed) // len(Dataset(path)))
    options: dict[str, Any] = {"batch_size": batch_size, "image_size": image_size, "dtype": dtype, "engine": "native"}
    options |= {"schedule": Schedule.full(epochs=epochs), "transform": transforms()[name]}

    def measured() -> dict[str, float]:
        with BudgetLoader(path, **options) as batches:
            stream = (len(labels) for _ in batches.epochs() for _, labels in batches)
            taken = 0
            while taken < untimed:
                taken += next(stream)
            began = time.perf_counter()
            taken = sum(stream)
            seconds, verdict = time.perf_counter() - began, batches.verdict()
            assert verdict is not None, "an epoch has ended"
            return {"images_per_second": taken / seconds, "share": verdict.transform_share}

    return measured


def measure(path: Path, *, names: Sequence[str], turns: int, say: Callable[[str], object], **shape: Any) -> list[Any]:
    """One row per transform."""
    from budgetloader.bench.child import Child, in_turns
    from budgetloader.bench.estimate import trimmed_mean

    made = (
        Child(
            "budgetloader.bench.augmenting:augmenter", name=name, arguments={"name": name, "path": str(path), **shape}
        )
        for name in names
    )
    answers = in_turns(made, turns=turns, say=say)
    rates = {name: [answer["images_per_second"] for answer in found] for name, found in answers.items()}
    rows: list[dict[str, Any]] = []
    for name in names:
        ratio = trimmed_mean([a / b for a, b in zip(rates[name], rates[PLAIN], strict=True)])
        rows.append(
            {
                "transform": name,
                "images_per_second": statistics.median(rates[name]),
                "ratio": ratio.value,
                "half_width": ratio.half_width if math.isfinite(ratio.half_width) else None,
                "verdict_share": statistics.median(answer["share"] for answer in answers[name]),
                "turns": rates[name],
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("augmenting", __doc__)
    parser.add_argument("--images", type=int, default=2048, help="images of a turn")
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--dtype", default="float32", help="of the images that are handed out")
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
    data = generated(out / "data", images=min(options.images, _MOST_FILES), console=console)
    names = [PLAIN, NOTHING, ROWS] if options.few else list(transforms())
    sizes = {name: getattr(options, name) for name in ("images", "batch_size", "image_size", "dtype")}
    rows = measure(data, names=names, turns=options.turns, say=console.print, **sizes)
    results: dict[str, Any] = {
        "environment": environment(),
        "command": command("budgetloader.bench.augmenting", arguments),
        "options": {"turns": options.turns, **sizes},
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
    options = record["options"]
    cells = [
        (
            row["transform"],
            f"{row['images_per_second']:,.0f}",
            f"{row['ratio']:.3f}" + (f" ± {row['half_width']:.3f}" if row["half_width"] else ""),
            f"{row['verdict_share']:.0%}",
        )
        for row in record["rows"]
    ]
    return Grid(
        "augmenting: images per second with a transform, and without",
        ("transform", "images/s", "ratio to none", "its share, says the verdict"),
        cells,
        f"Medians, and trimmed means of the ratios, of {options['turns']} turns of {options['images']:,} images, "
        f"{options['dtype']}, in batches of {options['batch_size']}.",
    )


if __name__ == "__main__":
    sys.exit(main())
