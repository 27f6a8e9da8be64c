"""Trains over a service, and goes on after it was restarted: python examples/reconnect.py imagenet train.beton

Start the service before or after it: budgetloader serve train.beton --name imagenet --memory 1GB
"""

import functools
import sys

import torch
from options import network
from torch import nn

import budgetloader


def train(network: nn.Module, name: str, schedule: budgetloader.Schedule, *, batch_size: int, image_size: int) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    connect = functools.partial(
        budgetloader.connect,
        name,
        schedule=schedule,
        batch_size=batch_size,
        image_size=image_size,
        wait_seconds=600,  # for the service to be started, or started again
    )
    batches = connect()
    while True:
        try:
            for _ in batches.epochs():  # from where the loader stands, also in the middle of an epoch
                for images, labels in batches:
                    loss = nn.functional.cross_entropy(network(images), labels)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            break
        except budgetloader.ServiceGoneError as error:
            print(error)
            state = batches.state_dict()  # stands behind the last batch that was trained on
            batches.close()
            batches = connect()
            batches.load_state_dict(state)
    batches.close()


if __name__ == "__main__":
    service, data = sys.argv[1:]
    train(network(data), service, budgetloader.Schedule.parse("0.618@3"), batch_size=32, image_size=64)
