"""Training time against sampling ratio: MobileNetV2 on ImageNet-like JPEGs (Tables 4-13, 4-14).

Claim: training on ⌊α_e·M⌋ of the M batches in epoch e takes the share of full training's time that
Corollary 1 (flat) and Corollary 2 (three-stage) of the dissertation give, from α alone.

    python -m bench.imagenet_mnv2                                # generated JPEGs, 2 cores, minutes
    python -m bench.imagenet_mnv2 --preset imagenet --data /imagenet --device cuda

How time is measured: an epoch's training time goes from asking for its first batch to the end of
its last optimiser step (synchronised on a GPU); evaluation, saving and warm-up are not in it and
are reported beside it. The settings run interleaved, epoch by epoch, in one process, and who is
first changes from round to round. The measured ratio compares epochs of the same round, without
the quarters of the rounds where the ratio was largest and smallest (bench/analysis.py); the ratio of
the plain sums stands beside it. Ctrl-C keeps what was measured; the same command goes on from there.
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

SETTINGS = ("full", "R1_0.8", "R1_0.618", "R2_2", "short")
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
    },
    "imagenet": {
        "epochs": 150,
        "batch_size": 256,
        "image_size": 224,
        "width": 1.0,
        "images": 20_000,
        "learning_rate": 0.05,
        "seeds": 1,
    },
}


def parse(arguments: Sequence[str] | None = None) -> tuple[job.Options, str]:
    """The options of a command line, and "fresh" or "resume"."""
    parser = job.parser("bench.imagenet_mnv2", __doc__ or "", presets=PRESETS, preset="quick", settings=SETTINGS)
    parser.add_argument("--width", type=float, help="MobileNetV2's width multiplier (preset)")
    options, how = job.options_of(vars(parser.parse_args(arguments)), presets=PRESETS)
    if options.preset == "imagenet" and not options.data:
        raise ScheduleError("--preset imagenet needs --data, the folder with ImageNet's train and val in it")
    return options, how


def cells(options: job.Options, data: Data) -> list[job.Cell]:
    """The settings, each with MobileNetV2."""
    from models import mobilenet_v2

    def network(classes: int) -> Any:
        return mobilenet_v2(classes=classes, width=options.extra["width"])

    return job.cells(options, samples=len(data.train), network=network)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; the exit status is 0, 1 for bad input, 130 where it was interrupted."""
    return job.guarded(functools.partial(_main, arguments))


def _main(arguments: Sequence[str] | None, console: Console) -> int:
    options, how = parse(arguments)
    from bench import dissertation
    from bench.report import report
    from models import IMAGENET

    record, interrupted = job.run(
        options,
        console,
        how=how,
        recipe=IMAGENET,
        cells_of=functools.partial(cells, options),
        builtin="generated",
    )
    figures = {"top1": "4.5", "top5": "4.6"}
    report(record, Path(options.out), console, network="MobileNetV2", printed=dissertation.IMAGENET, figures=figures)
    return job.finish(options, console, interrupted=interrupted)


if __name__ == "__main__":
    sys.exit(main())
