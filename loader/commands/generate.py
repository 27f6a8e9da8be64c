"""`budgetloader generate`."""

from __future__ import annotations

import argparse

from budgetloader.commands.arguments import Add

WRITES = True  # whole files, or none: what Ctrl-C is answered with
HELP = "make an ImageNet-like folder of JPEGs from photographs that packages ship"


def add_arguments(add: Add) -> None:
    add("folder", help="to make; must not exist, or be empty")
    add("--images", type=int, default=2048, help="how many")
    add("--seed", type=int, default=0, help="of what is drawn; another seed gives other images of the same classes")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from budgetloader.console import bars
    from budgetloader.generate import generate

    with bars(Console(stderr=True)) as progress:
        task = progress.add_task("generate", total=options.images)
        size = generate(
            options.folder,
            images=options.images,
            seed=options.seed,
            progress=lambda n: progress.update(task, completed=n),
        )
    print(f"{options.folder}: {options.images:,} images, {size / options.images / 1000:.1f} kB each")
    return 0
