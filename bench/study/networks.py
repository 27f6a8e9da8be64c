"""The networks of the studies, by name: classes → a network, and whether it is meant for small images."""

from __future__ import annotations

from typing import Any

from torch import nn

from budgetloader.models import resnet


def resnet8(classes: int) -> nn.Module:
    """ResNet-8 (75,290 parameters for 10 classes); the first convolution has stride 2: stages of 14, 7 and 4 pixels."""
    return resnet(8, classes=classes, stem_stride=2)


def resnet18_small(classes: int) -> nn.Module:
    """ResNet-18 as it is used on CIFAR: a first convolution of 3×3 with stride 1, and no pooling behind it."""
    from torchvision.models import resnet18

    model = resnet18(num_classes=classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()  # type: ignore[assignment]
    return model


def resnet18(classes: int) -> nn.Module:
    """torchvision's ResNet-18, for 224 pixels."""
    from torchvision import models

    return models.resnet18(num_classes=classes)


NETWORKS: dict[str, Any] = {"resnet8": resnet8, "resnet18-small": resnet18_small, "resnet18": resnet18}
