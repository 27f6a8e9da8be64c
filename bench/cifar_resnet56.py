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

import argparse
import sys
from typing import Any

from budgetloader.bench import dissertation
from budgetloader.bench.options import Options
from budgetloader.bench.schedules import ScheduleBench

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


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--depth", type=int, help="of the ResNet, 6n + 2 (preset)")
    parser.add_argument("--quick", action="store_const", const="quick", dest="preset", help="--preset quick")


def _network(options: Options, classes: int) -> Any:
    from budgetloader.models import resnet

    return resnet(options.extra["depth"], classes=classes)


def _figures(data_set: str | None) -> dict[str, str]:
    return {"top1": "4.3", "top5": "4.4"} if data_set == "CIFAR-100" else {"top1": "4.1", "top5": "4.2"}


BENCH = ScheduleBench(
    module="budgetloader.bench.cifar_resnet56",
    doc=__doc__ or "",
    presets=PRESETS,
    preset="cifar",
    settings=SETTINGS,
    add=_add,
    without_data={"cifar": "give --data, the folder with CIFAR's unpacked pickles in it, or --quick without it"},
    builtin="digits",
    recipe="cifar",
    network=_network,
    label=lambda options: f"ResNet{options.extra['depth']}",
    printed={"CIFAR-10": dissertation.CIFAR10, "CIFAR-100": dissertation.CIFAR100},
    figures=_figures,
)
parse, main = BENCH.parse, BENCH.main

if __name__ == "__main__":
    sys.exit(main())
