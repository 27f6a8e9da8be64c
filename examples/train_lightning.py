"""PyTorch Lightning: python examples/train_lightning.py train.beton"""

from __future__ import annotations

import lightning
import torch
from options import options
from torch import nn

import budgetloader


class Images(lightning.LightningDataModule):
    """The training's batches. Lightning's checkpoints hold where it stands, also in mid-epoch."""

    def __init__(self, data: str, schedule: budgetloader.Schedule, *, batch_size: int, image_size: int) -> None:
        super().__init__()
        self.data, self.schedule, self.batch_size, self.image_size = data, schedule, batch_size, image_size

    def setup(self, stage: str) -> None:
        self.batches = budgetloader.BudgetLoader(
            self.data,
            schedule=self.schedule,
            batch_size=self.batch_size,
            image_size=self.image_size,
            device=self.trainer.strategy.root_device,
        )

    def train_dataloader(self) -> budgetloader.BudgetLoader:
        self.batches.set_epoch(self.trainer.current_epoch)  # so that its length is this epoch's
        return self.batches

    def teardown(self, stage: str) -> None:
        self.batches.close()


class Classifier(lightning.LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def trainer(schedule: budgetloader.Schedule, **more: object) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=schedule.epochs,
        reload_dataloaders_every_n_epochs=1,  # Lightning asks for the length of each epoch
        **more,
    )


if __name__ == "__main__":
    o = options(__doc__)
    images = Images(o.data, o.schedule, batch_size=o.batch_size, image_size=o.image_size)
    trainer(o.schedule, logger=False).fit(Classifier(o.network), datamodule=images)
