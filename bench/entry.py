"""What every bench begins with: its options' parser, and generated JPEGs to measure with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def parser_of(name: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser for `python -m budgetloader.bench.NAME`, whose help is the first paragraph of the bench's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m budgetloader.bench.{name}",
        description=(doc or "").split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def generated(folder: Path, *, images: int, console: Console) -> Path:
    """A `.beton` of generated photographs, made in a folder unless it is there already.

    Args:
        folder: where it is made.
        images: how many.
        console: that shows the progress.
    """
    from budgetloader.bench.console import bars
    from budgetloader.prepare import prepare

    with bars(console) as progress:
        prepare(None, evaluation=None, folder=folder, images=images, seed=0, progress=progress)
    return folder / "train.beton"
