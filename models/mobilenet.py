"""MobileNetV2 (M. Sandler et al., CVPR 2018), the backbone of Tables 4-13 and 4-14."""

from __future__ import annotations

import torch
from torch import nn

# Expansion t, channels c, blocks n, stride s of the first: Table 2 of the paper.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _channels(count: int, width: float) -> int:
    """The multiple of 8 nearest to width·count, but not below 90 % of it (the authors' rule)."""
    scaled = count * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def _conv(inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise, linear 1×1 projection; with a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [*_conv(inputs, hidden, kernel=1), nn.ReLU6(inplace=True)]
        layers += [*_conv(hidden, hidden, kernel=3, stride=stride, groups=hidden), nn.ReLU6(inplace=True)]
        self.layers = nn.Sequential(*layers, *_conv(hidden, outputs, kernel=1))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


class MobileNetV2(nn.Module):
    """See `mobilenet_v2`. Images [n, 3, h, w] in, scores [n, classes] out."""

    def __init__(self, *, classes: int, width: float, dropout: float) -> None:
        super().__init__()
        inputs = _channels(32, width)
        layers: list[nn.Module] = [*_conv(3, inputs, kernel=3, stride=2), nn.ReLU6(inplace=True)]
        for expansion, channels, blocks, stride in _STAGES:
            for block in range(blocks):
                outputs = _channels(channels, width)
                first = stride if block == 0 else 1
                layers.append(InvertedResidual(inputs, outputs, stride=first, expansion=expansion))
                inputs = outputs
        last = _channels(1280, max(width, 1.0))
        layers += [*_conv(inputs, last, kernel=1), nn.ReLU6(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images).mean((2, 3)))


def mobilenet_v2(*, classes: int = 1000, width: float = 1.0, dropout: float = 0.2) -> MobileNetV2:
    """MobileNetV2.

    Args:
        classes: outputs.
        width: multiplier of every layer's channels, except that the last convolution's 1280 are
            never made fewer.
        dropout: before the classifier.
    """
    if classes < 1 or width <= 0:
        raise ValueError(f"classes {classes} and width {width}: give at least 1, and above 0")
    return MobileNetV2(classes=classes, width=width, dropout=dropout)
