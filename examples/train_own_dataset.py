"""A torch Dataset of one's own, with the budgets in its sampler: python examples/train_own_dataset.py FOLDER

FOLDER has images in CLASS/IMAGE. Killed at any moment, the same command goes on from own_dataset.pt.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

import budgetloader
from budgetloader import models

CHECKPOINT = Path("own_dataset.pt")


def save(**parts: Any) -> None:
    torch.save({name: part.state_dict() for name, part in parts.items()}, "own_dataset.partial")
    os.replace("own_dataset.partial", CHECKPOINT)  # killed in between, the old one is whole


def train(network: nn.Module, dataset: Dataset, schedule: budgetloader.Schedule, *, batch_size: int) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    sampler = budgetloader.BudgetSampler(dataset, schedule=schedule, batch_size=batch_size)
    batches = DataLoader(dataset, batch_sampler=sampler, num_workers=2, persistent_workers=True)
    if CHECKPOINT.exists():
        state = torch.load(CHECKPOINT)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        sampler.load_state_dict(state["sampler"])
    for epoch in range(sampler.epoch, schedule.epochs):
        print(f"epoch {epoch}: {len(batches)} batches", flush=True)
        for step, (images, labels) in enumerate(sampler.over(batches), start=1):
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 4 == 0:
                save(network=network, optimizer=optimizer, sampler=sampler)
        save(network=network, optimizer=optimizer, sampler=sampler)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--schedule", default="0.618@3")
    parser.add_argument("--batch-size", type=int, default=32)
    o = parser.parse_args()
    steps = [transforms.RandomResizedCrop(64), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    folder = ImageFolder(o.folder, transforms.Compose(steps))
    network = models.mobilenet_v2(classes=len(folder.classes), width=0.25)
    train(network, folder, budgetloader.Schedule.parse(o.schedule), batch_size=o.batch_size)
