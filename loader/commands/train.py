"""`budgetloader train`."""

from __future__ import annotations

import argparse
import functools

from budgetloader import engines
from budgetloader.commands.arguments import Add, add_sampling

HELP = "train a network by a schedule; the same command resumes exactly where it was stopped or killed"
EXAMPLES = """\
  budgetloader train --data train.beton --network mobilenet_v2 --recipe imagenet --schedule R1_0.618
  budgetloader train --data cifar-10-batches-py --network mypackage.mymodule:build --schedule R3
  budgetloader train --data service:imagenet --val val.beton …       (budgetloader serve runs beside it)
  torchrun --nproc_per_node 4 -m budgetloader train --data train.beton --device cuda …

A network of your own is a function of the number of classes, `def build(classes): …`, named MODULE:FUNCTION; MODULE
may lie in the working directory. The same command goes on from the checkpoint in --out; Ctrl-C writes one first.
log.jsonl has a line for each epoch."""
_NETWORKS = "resnet20, resnet32, resnet56, mobilenet_v2, crnet_cb, crnet_cib"


def add_arguments(add: Add) -> None:
    add("--data", required=True, help="a .beton, a folder of images, CIFAR's pickles, 'digits' or service:NAME")
    add("--val", help="a .beton or a folder of images to evaluate on")
    add("--network", default="resnet56", help=f"one of {_NETWORKS}, or MODULE:FUNCTION of your own")
    add("--recipe", choices=("cifar", "imagenet", "crnet"), default="cifar", help="optimiser and learning rate")
    add("--schedule", default="full", help="of sampling ratios, such as R3 or 0.618")
    add_sampling(add)
    for name, kind in (("epochs", int), ("batch-size", int), ("learning-rate", float)):
        add(f"--{name}", type=kind, help="none: the recipe's")
    add("--image-size", help="of each epoch: a number, '128@30,160@30,192@30' or 'ramp:128-192'; none: the recipe's")
    add("--val-size", type=int, help="image size of the evaluation; none: the largest of training")
    add("--device", default="cpu", help="cpu, cuda or cuda:N; with torchrun, cuda is each rank's own")
    add("--engine", choices=engines.NAMES, default="auto", help="the loader's; a service has its own")
    add("--workers", type=int, help="threads of the engine; none: one per core")
    add("--amp", choices=("auto", "on", "off"), default="auto", help="mixed precision; auto: on a GPU")
    add("--compile", choices=("on", "off"), default="off", help="torch.compile")
    add("--seed", type=int, default=0, help="of weights, order, crops and dropout")
    add("--eval-every", type=int, default=1, help="epochs between evaluations; 0: after the last only")
    add("--checkpoint-steps", type=int, default=0, help="batches between checkpoints; 0: only after each epoch")
    add("--tensorboard", choices=("on", "off"), default="off", help="write events to OUT/tensorboard")
    add("--out", default="runs/train", help="folder of checkpoint.pt, log.jsonl and converted data")


def run(options: argparse.Namespace) -> int:
    from budgetloader.console import guarded
    from budgetloader.training import train

    return guarded(functools.partial(train, options))
