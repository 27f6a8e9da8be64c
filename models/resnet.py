"""ResNets for 32×32 images (K. He et al., CVPR 2016, section 4.2), with parameter-free shortcuts."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: the identity, or option A (every second pixel, zero channels)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.new_channels = stride, outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride > 1 or self.new_channels:
            before = self.new_channels // 2
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, before, self.new_channels - before))
        return functional.relu(x + y)


class ResNet(nn.Module):
    """See `resnet`. Images [n, 3, h, w] in (32×32 in the paper), scores [n, classes] out."""

    def __init__(self, *, blocks: int, classes: int, stem_stride: int = 1) -> None:
        super().__init__()
        stem = nn.Conv2d(3, 16, 3, stem_stride, 1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        layers, inputs = [], 16
        for outputs in (16, 32, 64):
            for block in range(blocks):
                stride = 2 if block == 0 and outputs != inputs else 1
                layers.append(BasicBlock(inputs, outputs, stride=stride))
                inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.blocks(self.stem(images)).mean((2, 3)))


def resnet(depth: int, *, classes: int = 10, stem_stride: int = 1) -> ResNet:
    """The ResNet of `depth` = 6n + 2 layers, n blocks in each of three stages of 16, 32 and 64 channels.

    Args:
        depth: 8, 14, 20, …
        classes: scores per image.
        stem_stride: of the first convolution; 2 quarters the work of everything behind it.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1 or classes < 1:
        raise ValueError(f"depth {depth} and classes {classes}: the depth is 6n + 2 (20, 32, 44, 56, …), classes ≥ 1")
    return ResNet(blocks=blocks, classes=classes, stem_stride=stem_stride)


def resnet20(*, classes: int = 10) -> ResNet:
    """ResNet-20: 0.27 M parameters with 10 classes."""
    return resnet(20, classes=classes)


def resnet32(*, classes: int = 10) -> ResNet:
    """ResNet-32: 0.46 M parameters with 10 classes."""
    return resnet(32, classes=classes)


def resnet56(*, classes: int = 10) -> ResNet:
    """ResNet-56: 853,018 parameters with 10 classes; the backbone of Tables 4-9 to 4-12."""
    return resnet(56, classes=classes)
