"""A torch Dataset of one's own, with the budgets in its sampler: python examples/train_own_dataset.py FOLDER

FOLDER has images in CLASS/IMAGE. Killed at any moment, the same command goes on from own_dataset.pt.
"""

import argparse
import os
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

import loader
import models


def train(
    network: nn.Module,
    dataset: Dataset,
    schedule: loader.Schedule,
    *,
    batch_size: int,
    checkpoint: Path,
    checkpoint_steps: int = 10,
) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    sampler = loader.BudgetSampler(dataset, schedule=schedule, batch_size=batch_size, seed=0)
    batches = DataLoader(dataset, batch_sampler=sampler, num_workers=2, persistent_workers=True)
    if checkpoint.exists():
        state = torch.load(checkpoint)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        sampler.load_state_dict(state["sampler"])
    for epoch in range(sampler.epoch, schedule.epochs):
        print(f"epoch {epoch}: {len(batches)} batches")
        for step, (images, labels) in enumerate(sampler.over(batches), start=1):
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % checkpoint_steps == 0:
                parts = {"network": network, "optimizer": optimizer, "sampler": sampler}
                torch.save({name: part.state_dict() for name, part in parts.items()}, "checkpoint.partial")
                os.replace("checkpoint.partial", checkpoint)  # killed at any moment, it is the old one or the new


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--schedule", default="0.618@3")
    o = parser.parse_args()
    steps = [transforms.RandomResizedCrop(64), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    folder = ImageFolder(o.folder, transforms.Compose(steps))
    train(
        models.mobilenet_v2(classes=len(folder.classes), width=0.25),
        folder,
        loader.Schedule.parse(o.schedule),
        batch_size=32,
        checkpoint=Path("own_dataset.pt"),
    )
