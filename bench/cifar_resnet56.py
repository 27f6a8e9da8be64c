"""Accuracy and training time against sampling ratio: ResNet56 on CIFAR (Tables 4-9 to 4-12).

Claim: the schedules of Tables 4-9 and 4-11 take the share of full training's time that Corollaries 1 and 2
give. Their accuracies are shown with intervals, and beside each the baselines that spend exactly as many
samples (bench/settings.py): "short:", "short-linear:", "static:" and "cyclic:".

    python -m budgetloader.bench.cifar_resnet56 --data path/to/cifar-10-batches-py --device cuda    # 120 epochs
    python -m budgetloader.bench.cifar_resnet56 --data path/to/cifar-100-python --device cuda
    python -m budgetloader.bench.cifar_resnet56 --quick     # scikit-learn's digits, small, 3 seeds, 2 cores, minutes

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

from budgetloader.bench import job
from budgetloader.bench.console import guarded
from budgetloader.bench.data import Data
from budgetloader.bench.options import Options, options_of, parser
from budgetloader.bench.settings import Cell, cells
from budgetloader.errors import ScheduleError

SETTINGS = (
    *("full", "R1_0.8", "R1_0.618", "R2", "R2_1", "R3"),
    *("short:R1_0.618", "short-linear:R1_0.618", "static:R1_0.618", "cyclic:R1_0.618", "short:R3"),
)
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
        "torch_threads": 0,
        "extra_rounds": 5,
        "boundary": "on",
    },
    "quick": {
        "epochs": 30,
        "batch_size": 24,
        "image_size": 16,
        "depth": 20,
        "images": 1440,
        "learning_rate": 0.02,
        "seeds": 3,
        "torch_threads": 1,
        "extra_rounds": 30,
        "boundary": "on",
    },
}


def parse(arguments: Sequence[str] | None = None) -> tuple[Options, str]:
    """The options of a command line, and "fresh" or "resume"."""
    asked = parser(
        "budgetloader.bench.cifar_resnet56", __doc__ or "", presets=PRESETS, preset="cifar", settings=SETTINGS
    )
    asked.add_argument("--depth", type=int, help="of the ResNet, 6n + 2 (preset)")
    asked.add_argument("--quick", action="store_const", const="quick", dest="preset", help="--preset quick")
    options, how = options_of(vars(asked.parse_args(arguments)), presets=PRESETS)
    if options.preset == "cifar" and not options.data:
        raise ScheduleError("give --data, the folder with CIFAR's unpacked pickles in it, or --quick without it")
    return options, how


def cells_of(options: Options, data: Data) -> list[Cell]:
    """The settings, each with the ResNet."""
    from budgetloader.models import resnet

    def network(classes: int) -> Any:
        return resnet(options.extra["depth"], classes=classes)

    shape = {"epochs": options.epochs, "samples": len(data.train), "batch_size": options.batch_size}
    return cells(options.settings, network=network, **shape)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; the exit status is 0, 1 for bad input, 130 where it was interrupted."""
    return guarded(functools.partial(_main, list(sys.argv[1:] if arguments is None else arguments)))


def _main(arguments: Sequence[str], console: Console) -> int:
    options, how = parse(arguments)
    from budgetloader.bench import dissertation
    from budgetloader.bench.record import command
    from budgetloader.bench.report import report
    from budgetloader.models import CIFAR

    record, interrupted = job.run(
        options, console, how=how, recipe=CIFAR, cells_of=functools.partial(cells_of, options), builtin="digits"
    )
    hundred = record["data_set"] == "CIFAR-100"
    report(
        record,
        Path(options.out),
        console,
        network=f"ResNet{options.extra['depth']}",
        command=command("budgetloader.bench.cifar_resnet56", arguments),
        printed={"CIFAR-10": dissertation.CIFAR10, "CIFAR-100": dissertation.CIFAR100},
        figures={"top1": "4.3", "top5": "4.4"} if hundred else {"top1": "4.1", "top5": "4.2"},
    )
    return job.finish(options, console, interrupted=interrupted)


if __name__ == "__main__":
    sys.exit(main())
