"""timm: the loop of its train.py, with its model, optimizer, scheduler and meters.

python examples/train_timm.py train.beton
"""

import timm
import torch
from options import options
from timm.data import resolve_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, accuracy
from torch import nn

import budgetloader


def train(
    network: nn.Module, data: str, schedule: budgetloader.Schedule, *, batch_size: int, image_size: int
) -> list[float]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device)
    data_config = resolve_data_config({"img_size": image_size}, model=network)
    optimizer = create_optimizer_v2(network, opt="sgd", lr=0.05)
    loader_train = budgetloader.BudgetLoader(
        data,
        schedule=schedule,
        batch_size=batch_size,
        image_size=data_config["input_size"][-1],
        mean=data_config["mean"],
        std=data_config["std"],
        device=device,
    )
    lr_scheduler, num_epochs = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=schedule.epochs, warmup_epochs=0
    )
    losses = []
    for epoch in range(num_epochs):
        loader_train.sampler.set_epoch(epoch)
        losses_m, top1_m = AverageMeter(), AverageMeter()
        last_batch_idx = len(loader_train) - 1
        for batch_idx, (input, target) in enumerate(loader_train):
            output = network(input)
            loss = nn.functional.cross_entropy(output, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses_m.update(loss.item(), len(input))
            top1_m.update(accuracy(output, target)[0].item(), len(input))
            if batch_idx == last_batch_idx:
                print(f"Train: {epoch} [{batch_idx + 1}/{last_batch_idx + 1}]  Loss: {losses_m.avg:#.3g}")
        lr_scheduler.step(epoch + 1, losses_m.avg)
        losses.append(losses_m.avg)
    loader_train.close()
    return losses


if __name__ == "__main__":
    o = options(__doc__)
    classes = int(budgetloader.Dataset(o.data).labels.max()) + 1
    o.network = timm.create_model("test_resnet", num_classes=classes)
    train(o.network, o.data, o.schedule, batch_size=o.batch_size, image_size=o.image_size)
