"""timm's ImageNet recipe: RandAugment, random erasing, MixUp and CutMix with soft labels, ahead of the trainer.

python examples/train_timm_recipe.py train.beton
"""

from typing import Any

import timm
import torch
from options import options
from timm.data import resolve_data_config
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter
from torch import nn
from torchvision.transforms import v2

import budgetloader
from budgetloader.transforms import PerGroup


class PixelErasing(v2.RandomErasing):
    """As timm's --remode pixel: noise that is standard normal once it is normalised."""

    def __init__(self, *, p: float, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__(p=p, scale=(0.02, 1 / 3))
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        params = super().make_params(flat_inputs)
        if params["v"] is not None:
            noise = torch.randn(3, params["h"], params["w"]) * self.std + self.mean
            params["v"] = (noise * 255).round().clamp(0, 255).to(torch.uint8)
        return params


class Smoothing:
    """Label smoothing of soft labels, as timm's Mixup has it."""

    rows, on = 1, "host"

    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing

    def __call__(self, images: torch.Tensor, targets: torch.Tensor, keys: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return images, targets * (1 - self.smoothing) + self.smoothing / targets.shape[1]


def augmentation(classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> list[Any]:
    """As `--aa rand-m9 --reprob 0.25 --remode pixel --mixup 0.2 --cutmix 1.0 --mixup-mode pair --smoothing 0.1`."""
    mixes = [v2.MixUp(alpha=0.2, num_classes=classes), v2.CutMix(alpha=1.0, num_classes=classes)]
    return [
        v2.RandAugment(num_ops=2, magnitude=9, num_magnitude_bins=11),
        PixelErasing(p=0.25, mean=mean, std=std),
        PerGroup(v2.RandomChoice(mixes)),
        Smoothing(0.1),
    ]


def train(
    network: nn.Module,
    data: str,
    schedule: budgetloader.Schedule,
    *,
    batch_size: int,
    image_size: int,
    workers: int | None = None,
) -> list[float]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device)
    data_config = resolve_data_config({"img_size": image_size}, model=network)
    optimizer = create_optimizer_v2(network, opt="sgd", lr=0.05)
    num_classes = network.num_classes
    loader_train = budgetloader.BudgetLoader(
        data,
        schedule=schedule,
        batch_size=batch_size,
        image_size=data_config["input_size"][-1],
        mean=data_config["mean"],
        std=data_config["std"],
        transform=augmentation(num_classes, data_config["mean"], data_config["std"]),
        workers=workers,
        device=device,
    )
    train_loss_fn = SoftTargetCrossEntropy().to(device)
    lr_scheduler, num_epochs = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=schedule.epochs, warmup_epochs=0
    )
    losses = []
    for epoch in range(num_epochs):
        loader_train.sampler.set_epoch(epoch)
        losses_m, steps = AverageMeter(), len(loader_train)
        for input, target in loader_train:
            output = network(input)
            loss = train_loss_fn(output, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses_m.update(loss.item(), input.size(0))
        print(f"Train: {epoch} [{steps} batches]  Loss: {losses_m.avg:#.3g}")
        lr_scheduler.step(epoch + 1, losses_m.avg)
        losses.append(losses_m.avg)
    print(f"The loader: {loader_train.verdict()}")
    loader_train.close()
    return losses


if __name__ == "__main__":
    o = options(__doc__)
    classes = int(budgetloader.Dataset(o.data).labels.max()) + 1
    o.network = timm.create_model("test_resnet", num_classes=classes)
    train(o.network, o.data, o.schedule, batch_size=o.batch_size, image_size=o.image_size)
