"""Accuracy and training time against sampling ratio: ResNet56 on CIFAR (Tables 4-9 to 4-12).

Claim: the schedules of Tables 4-9 and 4-11 take the share of full training's time that Corollaries 1
and 2 give, and keep its accuracy to within about a percentage point; beside them the baselines that
spend as much (bench/job.py): "short", "static" and "cyclic".

    python -m bench.cifar_resnet56 --data path/to/cifar-10-batches-py --device cuda    # 120 epochs
    python -m bench.cifar_resnet56 --data path/to/cifar-100-python --device cuda
    python -m bench.cifar_resnet56 --quick     # scikit-learn's digits, small, 3 seeds, 2 cores, minutes

CIFAR cannot be fetched by this command: download its "python version" and unpack it. How time is
measured: as in bench/imagenet_mnv2.py.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import job
from bench.data import Data
from loader.errors import ScheduleError

SETTINGS = ("full", "R1_0.8", "R1_0.618", "R2", "R2_1", "R3", "short", "static", "cyclic")
# quick: 1,440 digits are 60 batches of 24, of which each ratio of the schedules takes very nearly its share.
PRESETS: dict[str, dict[str, Any]] = {
    "cifar": {
        "epochs": 120,
        "batch_size": 128,
        "image_size": 32,
        "depth": 56,
        "images": 50_000,
        "learning_rate": 0.1,
        "seeds": 3,
    },
    "quick": {
        "epochs": 30,
        "batch_size": 24,
        "image_size": 16,
        "depth": 20,
        "images": 1440,
        "learning_rate": 0.02,
        "seeds": 3,
    },
}


def parse(arguments: Sequence[str] | None = None) -> tuple[job.Options, str]:
    """The options of a command line, and "fresh" or "resume"."""
    parser = job.parser("bench.cifar_resnet56", __doc__ or "", presets=PRESETS, preset="cifar", settings=SETTINGS)
    parser.add_argument("--depth", type=int, help="of the ResNet, 6n + 2 (preset)")
    parser.add_argument("--quick", action="store_const", const="quick", dest="preset", help="--preset quick")
    options, how = job.options_of(vars(parser.parse_args(arguments)), presets=PRESETS)
    if options.preset == "cifar" and not options.data:
        raise ScheduleError("give --data, the folder with CIFAR's unpacked pickles in it, or --quick without it")
    return options, how


def cells(options: job.Options, data: Data) -> list[job.Cell]:
    """The settings, each with the ResNet."""
    from models import resnet

    def network(classes: int) -> Any:
        return resnet(options.extra["depth"], classes=classes)

    return job.cells(options, samples=len(data.train), network=network)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; the exit status is 0, 1 for bad input, 130 where it was interrupted."""
    return job.guarded(functools.partial(_main, arguments))


def _main(arguments: Sequence[str] | None, console: Console) -> int:
    options, how = parse(arguments)
    from bench import dissertation
    from bench.report import report
    from models import CIFAR

    record, interrupted = job.run(
        options, console, how=how, recipe=CIFAR, cells_of=functools.partial(cells, options), builtin="digits"
    )
    hundred = "100" in record["options"]["data"]
    printed = dissertation.CIFAR100 if hundred else dissertation.CIFAR10
    figures = {"top1": "4.3", "top5": "4.4"} if hundred else {"top1": "4.1", "top5": "4.2"}
    network = f"ResNet{options.extra['depth']}"
    report(record, Path(options.out), console, network=network, printed=printed, figures=figures)
    return job.finish(options, console, interrupted=interrupted)


if __name__ == "__main__":
    sys.exit(main())
