"""What decoding overlapping views once gains, and what grey saves: images per second on the native engine.

    python -m budgetloader.bench.overlapping

Claim: the views of a sample together take no longer than each by itself, and their pixels are the same.

How it is measured: loaders in one process, an epoch of each in turns; the first is warm-up. Of an epoch, the batches
behind the third are timed, since those before were made ahead. "Each by itself" is the same engine with the search for
overlaps turned off. A ratio is that of a turn's two epochs; medians over the turns, and the middle half of them. Images
are generated JPEGs of about 500 × 375 pixels, shown as uint8.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from budgetloader.bench.entry import generated, parser_of
from budgetloader.bench.grid import Grid

if TYPE_CHECKING:
    from rich.console import Console

VIEWS = (1, 2, 4, 8)
_PREFETCH, _AHEAD = 2, 3  # batches under way, and those that are not timed


@contextmanager
def apart() -> Iterator[None]:
    """Views are decoded each by itself."""
    from unittest import mock

    from budgetloader.engines import rows

    with mock.patch.object(rows, "unite", lambda *_: None):
        yield


def measure(path: Path, *, turns: int, batch_size: int, image_size: int) -> list[dict[str, Any]]:
    """One row per number of views, and one for grey images."""
    from budgetloader import BudgetLoader, Schedule

    shape: dict[str, Any] = {"image_size": image_size, "engine": "native", "dtype": "uint8", "crop": "resized"}
    shape["prefetch"], shape["schedule"] = _PREFETCH, Schedule.full(epochs=2 * (turns + 1))
    rates: dict[str, list[tuple[float, float]]] = {}
    shares: dict[str, float] = {}
    with ExitStack() as stack:
        loaders: dict[str, Any] = {
            f"{views} views": BudgetLoader(path, batch_size=max(batch_size // views, 1), views=views, **shape)
            for views in VIEWS
        }
        coloured = BudgetLoader(path, batch_size=batch_size, **shape)
        loaders["grey"] = BudgetLoader(path, batch_size=batch_size, channels=1, **shape)
        for batches in (*loaders.values(), coloured):
            stack.enter_context(batches)
        for turn in range(turns + 1):
            for name, batches in loaders.items():
                other = coloured if name == "grey" else batches
                pair = [(batches, False), (other, name != "grey")][:: (-1) ** turn]  # who is first changes
                found = {}
                for which, alone in pair:
                    with apart() if alone else ExitStack():
                        found[which is other if name == "grey" else alone] = _rate(which)
                    if which is batches and not alone:
                        stats = batches.stats[-1]
                        shares[name] = stats.samples_shared / stats.samples_emitted
                if turn:
                    rates.setdefault(name, []).append((found[False], found[True]))
    return [_row(name, pairs, shares[name]) for name, pairs in rates.items()]


def _rate(batches: Any) -> float:
    """Images per second of an epoch, without the first batches, which were made ahead while another loader's ran."""
    began, images = 0.0, 0
    for number, (taken, _) in enumerate(batches):
        if number < _AHEAD:
            began = time.perf_counter()
        else:
            images += taken.shape[0] * (taken.shape[1] if taken.ndim == 5 else 1)
    return images / (time.perf_counter() - began)


def _row(name: str, pairs: list[tuple[float, float]], shared: float) -> dict[str, Any]:
    ratios = [ours / other for ours, other in pairs]
    return {
        "what": name,
        "images_per_second": statistics.median(ours for ours, _ in pairs),
        "other_images_per_second": statistics.median(other for _, other in pairs),
        "ratio": statistics.median(ratios),
        "middle_half": np.quantile(ratios, (0.25, 0.75)).tolist(),
        "shared": shared,
    }


def grid(record: dict[str, Any]) -> Grid:
    """The table of a record."""
    cells = [
        (
            "grey, beside three channels" if row["what"] == "grey" else row["what"].replace("1 views", "1 view"),
            f"{row['images_per_second']:,.0f}",
            f"{row['other_images_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            "{:.2f} to {:.2f}".format(*row["middle_half"]),
            "" if row["what"] == "grey" else f"{row['shared']:.0%}",
        )
        for row in record["rows"]
    ]
    return Grid(
        "overlapping: images per second, views together and each by itself",
        ("", "images/s", "without", "ratio", "middle half", "cut from another's pixels"),
        cells,
        f"Medians of {record['options']['turns']} turns. Without: each view by itself; of grey, three channels.",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("overlapping", __doc__)
    parser.add_argument("--images", type=int, default=512, help="JPEGs to generate")
    parser.add_argument("--turns", type=int, default=7, help="counted epochs of each")
    parser.add_argument("--batch-size", type=int, default=32, help="images, all views together")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--out", default="runs/overlapping")
    from budgetloader.bench.console import guarded

    return guarded(
        functools.partial(_main, parser.parse_args(arguments), arguments), interrupted="nothing was recorded"
    )


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from budgetloader.bench import page
    from budgetloader.bench.record import command, environment

    out = Path(options.out)
    data = generated(out / "data", images=options.images, console=console)
    sizes = {"turns": options.turns, "batch_size": options.batch_size, "image_size": options.image_size}
    results: dict[str, Any] = {
        "environment": environment(),
        "command": command("budgetloader.bench.overlapping", arguments),
        "options": {"images": options.images, **sizes},
        "rows": measure(data, **sizes),
    }
    page.publish(
        results,
        out,
        console,
        title="Views decoded once, and grey images",
        claim="The views of a sample together take no longer than each by itself.",
        parts=[grid(results)],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
