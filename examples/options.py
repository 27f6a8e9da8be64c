"""What the examples' command lines have in common."""

from __future__ import annotations

import argparse

import torch

import budgetloader
from budgetloader import models


def options(text: str | None) -> argparse.Namespace:
    """data, schedule, batch_size, image_size, and a small `network` for the data's classes."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("data", help="a .beton file")
    parser.add_argument("--schedule", default="0.618@3", help="any string that Schedule.parse takes")
    parser.add_argument("--batch-size", type=int, default=32, help="of all ranks together")
    parser.add_argument("--image-size", type=int, default=64)
    chosen = parser.parse_args()
    chosen.schedule = budgetloader.Schedule.parse(chosen.schedule)
    chosen.network = network(chosen.data)
    return chosen


def network(data: str) -> torch.nn.Module:
    """A small network with as many outputs as the file has classes."""
    torch.manual_seed(0)
    return models.mobilenet_v2(classes=int(budgetloader.Dataset(data).labels.max()) + 1, width=0.25)
