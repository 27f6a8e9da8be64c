"""Hugging Face Accelerate: accelerate launch examples/train_accelerate.py train.beton"""

import torch
from accelerate import Accelerator
from options import options
from torch import nn

import budgetloader


def train(
    network: nn.Module, data: str, schedule: budgetloader.Schedule, *, batch_size: int, image_size: int
) -> Accelerator:
    accelerator = Accelerator()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    network, optimizer = accelerator.prepare(network, optimizer)
    batches = budgetloader.BudgetLoader(
        data, schedule=schedule, batch_size=batch_size, image_size=image_size, device=accelerator.device
    )
    accelerator.register_for_checkpointing(batches)  # save_state and load_state resume it, also in mid-epoch
    for epoch in batches.epochs():
        accelerator.print(f"epoch {epoch}: {len(batches)} batches")
        for images, labels in batches:
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
    batches.close()
    return accelerator


if __name__ == "__main__":
    o = options(__doc__)
    train(o.network, o.data, o.schedule, batch_size=o.batch_size, image_size=o.image_size)
