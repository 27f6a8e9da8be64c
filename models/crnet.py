"""CRnet-CB and CRnet-CIB (sections 3.1.2 and 3.1.3, Tables 3-1 and 3-2), and the blocks that they compress.

A strategy "X-Y" names the kind of every block's first and second 1×1 layer: `gc`, `c1dw` or `dense`
(see `budgetloader.models.layers`). The CR module's own is "gc-c1dw" in CRnet-CB and "c1dw-gc" in CRnet-CIB;
"dense-dense" is the backbone that is not compressed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from budgetloader.models.layers import KINDS, Kind, pointwise

# Table 3-1: inner channels, blocks, stride of the first.
_CB_STAGES = ((16, 3, 1), (32, 4, 2), (32, 6, 1), (64, 3, 2))
# Table 3-2: outputs, stride, squeeze and excite, kernel of the depthwise convolutions.
_CIB_BLOCKS = (
    *((16, 1, "no", 3),) * 3,
    *((16, 1, "se", 5),) * 2,
    (32, 2, "no", 3),
    *((32, 1, "no", 3),) * 3,
    *((32, 1, "se", 3),) * 2,
    (64, 2, "se", 5),
    *((64, 1, "no", 3), (64, 1, "se", 3)) * 2,
)


def _parse(strategy: str) -> tuple[Kind, Kind]:
    kinds = tuple(strategy.split("-"))
    if len(kinds) != 2 or not set(kinds) <= set(KINDS):
        raise ValueError(f"strategy {strategy!r} is not known; give two of {', '.join(KINDS)}, as in 'gc-c1dw'")
    return cast("tuple[Kind, Kind]", kinds)


def _check(*, classes: int, expansion: int, dropout: float) -> None:
    if classes < 1 or expansion < 1 or not 0 <= dropout < 1:
        raise ValueError(
            f"classes {classes}, expansion {expansion}, dropout {dropout}: give at least 1, at least 1, and [0, 1)"
        )


class _Shortcut(nn.Sequential):
    """The identity, or a depthwise convolution and a dense 1×1 one."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, kernel: int) -> None:
        if stride == 1 and inputs == outputs:
            super().__init__()
            return
        super().__init__(
            nn.Conv2d(inputs, inputs, kernel, stride, kernel // 2, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )


class CBneck(nn.Module):
    """C-Bneck (Figure 3.4): 1×1 to `inner` channels, 3×3 depthwise, 1×1 to `outputs`, and a shortcut.

    Shapes:
        [n, inputs, h, w] → [n, outputs, h/stride, w/stride]
    """

    def __init__(
        self,
        inputs: int,
        inner: int,
        outputs: int,
        *,
        stride: int,
        kinds: tuple[Kind, Kind],
        groups: int,
        alpha: float,
        activation: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.first = pointwise(kinds[0], inputs, inner, groups=groups, alpha=alpha)
        self.activation = activation()
        self.middle = nn.Sequential(
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner)
        )
        self.second = pointwise(kinds[1], inner, outputs, groups=groups, alpha=alpha)
        self.shortcut = _Shortcut(inputs, outputs, stride=stride, kernel=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.middle(self.activation(self.first(x))))
        return self.activation(y + self.shortcut(x))


class SqueezeExcite(nn.Module):
    """Scales channels by a gate that sees all of them (J. Hu et al., CVPR 2018), as GhostNet has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Conv2d(channels, channels // 4, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 4, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x.mean((2, 3), keepdim=True))


class CIBneck(nn.Module):
    """C-IBneck (Figure 3.5): 1×1 to `inner` channels, 1×1 to `outputs`, and a shortcut.

    Between them a depthwise convolution where `stride` is 2, and squeeze and excite where asked.

    Shapes:
        [n, inputs, h, w] → [n, outputs, h/stride, w/stride]
    """

    def __init__(
        self,
        inputs: int,
        inner: int,
        outputs: int,
        *,
        stride: int,
        kernel: int,
        gate: str,
        kinds: tuple[Kind, Kind],
        groups: int,
        alpha: float,
        activation: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        layers = [pointwise(kinds[0], inputs, inner, groups=groups, alpha=alpha, activation=activation)]
        if stride > 1:
            conv = nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False)
            layers += [conv, nn.BatchNorm2d(inner)]
        if gate == "se":
            layers.append(SqueezeExcite(inner))
        self.layers = nn.Sequential(*layers, pointwise(kinds[1], inner, outputs, groups=groups, alpha=alpha))
        self.shortcut = _Shortcut(inputs, outputs, stride=stride, kernel=kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + self.shortcut(x)


class CRnet(nn.Module):
    """Features and a classifier. Images [n, 3, h, w] in (32×32 in the tables), scores [n, classes] out."""

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images).mean((2, 3), keepdim=True))


def _stem() -> list[nn.Module]:
    return [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]


def crnet_cb(
    *,
    classes: int = 10,
    expansion: int = 4,
    groups: int = 2,
    alpha: float = 0.5,
    strategy: str = "gc-c1dw",
    activation: Callable[[], nn.Module] = nn.ReLU,
    dropout: float = 0.0,
) -> CRnet:
    """CRnet-CB (Table 3-1): a ResNet50-like network of bottlenecks, its 1×1 layers compressed.

    Args:
        classes: outputs.
        expansion: a block's outputs per inner channel (4 and 6 in Tables 4-1 to 4-4).
        groups: of `gc`.
        alpha: of `c1dw`, the share of channels made densely.
        strategy: see this module's docstring.
        activation: behind the first 1×1 layer and the addition; the tables do not fix it.
        dropout: before the last layer; the tables do not fix it.
    """
    _check(classes=classes, expansion=expansion, dropout=dropout)
    kinds = _parse(strategy)
    layers, inputs = _stem(), 16
    for inner, blocks, first_stride in _CB_STAGES:
        for block in range(blocks):
            stride, outputs = (first_stride if block == 0 else 1), inner * expansion
            layers.append(
                CBneck(
                    inputs,
                    inner,
                    outputs,
                    stride=stride,
                    kinds=kinds,
                    groups=groups,
                    alpha=alpha,
                    activation=activation,
                )
            )
            inputs = outputs
    classifier = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(inputs, classes))
    return CRnet(nn.Sequential(*layers), classifier)


def crnet_cib(
    *,
    classes: int = 10,
    expansion: int = 4,
    groups: int = 2,
    alpha: float = 0.5,
    strategy: str = "c1dw-gc",
    activation: Callable[[], nn.Module] = nn.ReLU,
    dropout: float = 0.0,
) -> CRnet:
    """CRnet-CIB (Table 3-2): a GhostNet-like network of inverted bottlenecks, its 1×1 layers compressed.

    Args:
        classes: outputs.
        expansion: a block's inner channels per output (4 and 6 in Tables 4-5 to 4-8).
        groups, alpha, strategy, dropout: as in `crnet_cb`.
        activation: inside the first 1×1 layer, as in GhostNet; the tables do not fix it.
    """
    _check(classes=classes, expansion=expansion, dropout=dropout)
    kinds = _parse(strategy)
    layers, inputs = _stem(), 16
    for outputs, stride, gate, kernel in _CIB_BLOCKS:
        layers.append(
            CIBneck(
                inputs,
                outputs * expansion,
                outputs,
                stride=stride,
                kernel=kernel,
                gate=gate,
                kinds=kinds,
                groups=groups,
                alpha=alpha,
                activation=activation,
            )
        )
        inputs = outputs
    last = inputs * expansion
    layers += [nn.Conv2d(inputs, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU(inplace=True)]
    classifier = nn.Sequential(
        nn.Conv2d(last, 64, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(dropout), nn.Linear(64, classes)
    )
    return CRnet(nn.Sequential(*layers), classifier)


def resnet50_style(*, classes: int = 10, expansion: int = 4) -> CRnet:
    """CRnet-CB's backbone with dense 1×1 layers: what the strategies of Tables 4-1 to 4-4 compress."""
    return crnet_cb(classes=classes, expansion=expansion, strategy="dense-dense")


def ghostnet_style(*, classes: int = 10, expansion: int = 4) -> CRnet:
    """CRnet-CIB's backbone with dense 1×1 layers: what the strategies of Tables 4-5 to 4-8 compress.

    GhostNet's own choice for these layers is the strategy "c1dw-c1dw".
    """
    return crnet_cib(classes=classes, expansion=expansion, strategy="dense-dense")
