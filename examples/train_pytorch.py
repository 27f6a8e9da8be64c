"""A plain PyTorch loop: python examples/train_pytorch.py train.beton"""

import torch
from options import options
from torch import nn

import budgetloader


def train(network: nn.Module, data: str, schedule: budgetloader.Schedule, *, batch_size: int, image_size: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=schedule.epochs)
    batches = budgetloader.BudgetLoader(
        data, schedule=schedule, batch_size=batch_size, image_size=image_size, device=device
    )
    for epoch in batches.epochs():
        print(f"epoch {epoch}: {len(batches)} batches")
        for images, labels in batches:
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    batches.close()


if __name__ == "__main__":
    o = options(__doc__)
    train(o.network, o.data, o.schedule, batch_size=o.batch_size, image_size=o.image_size)
