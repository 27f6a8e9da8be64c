"""Training time against sampling ratio: MobileNetV2 on ImageNet-like JPEGs (Tables 4-13, 4-14).

Claim: training on ⌊α_e·M⌋ of the M batches in epoch e takes the share of full training's time that
Corollary 1 (flat) and Corollary 2 (three-stage) of the dissertation give, from α alone.

    python -m budgetloader.bench.imagenet_mnv2                                # generated JPEGs, 2 cores, minutes
    python -m budgetloader.bench.imagenet_mnv2 --preset imagenet --data /imagenet --device cuda

How time is measured: an epoch's training time goes from asking for its first batch to the end of
its last optimiser step (synchronised on a GPU); evaluation, saving and warm-up are not in it and
are reported beside it, and the progress is drawn outside the clock. The settings run interleaved, epoch
by epoch, in one process, and who is first changes from round to round. The measured ratio compares times
per batch of epochs of the same round, and has a 95 % interval (bench/analysis.py); where that is wider
than ±1 point, more rounds are run for their times alone, and where it stays so, the row says "not
conclusive here". The ratio of the plain sums stands beside it. On a CPU the quick preset trains with one
thread: with two, a process that keeps a core busy multiplies the time of these small networks
(bench/threads.py). Ctrl-C keeps what was measured; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from budgetloader.bench import dissertation
from budgetloader.bench.options import Options
from budgetloader.bench.schedules import ScheduleBench

SETTINGS = ("full", "R1_0.8", "R1_0.618", "R2_2", "short:R1_0.618")
# quick: 955 images are 60 batches of 16, of which ⌊0.618·60⌋ = 37 (0.6167), the last one short. Epochs are
# short, so that a round of all settings is over before the machine's speed has drifted; in 20 of them R2_2
# has the mean ratio that it has in 150. The learning rate is smaller with the batch.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "epochs": 20,
        "batch_size": 16,
        "image_size": 64,
        "width": 0.5,
        "images": 955,
        "learning_rate": 0.01,
        "seeds": 1,
        "torch_threads": 1,
        "extra_rounds": 16,
        "boundary": "on",
    },
    "imagenet": {
        "epochs": 150,
        "batch_size": 256,
        "image_size": 224,
        "width": 1.0,
        "images": 20_000,
        "learning_rate": 0.05,
        "seeds": 1,
        "torch_threads": 0,
        "extra_rounds": 5,
        "boundary": "on",
    },
}


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=float, help="MobileNetV2's width multiplier (preset)")


def _network(options: Options, classes: int) -> Any:
    from budgetloader.models import mobilenet_v2

    return mobilenet_v2(classes=classes, width=options.extra["width"])


BENCH = ScheduleBench(
    module="budgetloader.bench.imagenet_mnv2",
    doc=__doc__ or "",
    presets=PRESETS,
    preset="quick",
    settings=SETTINGS,
    add=_add,
    without_data={"imagenet": "--preset imagenet needs --data, the folder with ImageNet's train and val in it"},
    builtin="generated",
    recipe="imagenet",
    network=_network,
    label=lambda options: "MobileNetV2",
    printed={"ImageNet": dissertation.IMAGENET},
    figures=lambda data_set: {"top1": "4.5", "top5": "4.6"},
)
parse, main = BENCH.parse, BENCH.main

if __name__ == "__main__":
    sys.exit(main())
