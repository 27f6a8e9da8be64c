"""The 1×1 convolutions of CRnet (section 3.1): grouped, Ghost, and the one the CR module chooses.

Ghost: K. Han et al., "GhostNet: More features from cheap operations", CVPR 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

Kind = Literal["gc", "c1dw", "dense"]
KINDS: tuple[Kind, ...] = ("gc", "c1dw", "dense")


def grouped(
    inputs: int, outputs: int, *, groups: int, stride: int = 1, activation: Callable[[], nn.Module] = nn.Identity
) -> nn.Sequential:
    """`gc`: a 1×1 convolution in groups, and batch normalisation.

    Args:
        inputs, outputs: channels, both multiples of `groups`.
        groups: 1 is the dense convolution.
        stride: of the convolution.
        activation: makes the layer behind the normalisation.
    """
    if groups < 1 or inputs % groups or outputs % groups:
        raise ValueError(f"groups {groups} must divide {inputs} inputs and {outputs} outputs; give another number")
    conv = nn.Conv2d(inputs, outputs, 1, stride, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), activation())


class Ghost(nn.Module):
    """`c1dw`: a dense 1×1 convolution makes ⌈α·outputs⌉ channels, a 3×3 depthwise one the others from those.

    Args:
        inputs, outputs: channels.
        alpha: the share of the outputs that the dense convolution makes, in (0, 1].
        stride: of the dense convolution.
        activation: makes the layer behind each part's batch normalisation.

    Shapes:
        [n, inputs, h, w] → [n, outputs, ⌈h/stride⌉, ⌈w/stride⌉]
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        alpha: float,
        stride: int = 1,
        activation: Callable[[], nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha {alpha} is outside (0, 1]; it is the share of channels made densely")
        self.outputs = outputs
        dense = math.ceil(alpha * outputs)
        self.dense = grouped(inputs, dense, groups=1, stride=stride, activation=activation)
        copies = math.ceil((outputs - dense) / dense)
        self.cheap = None
        if copies:
            conv = nn.Conv2d(dense, dense * copies, 3, padding=1, groups=dense, bias=False)
            self.cheap = nn.Sequential(conv, nn.BatchNorm2d(dense * copies), activation())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dense(x)
        if self.cheap is None:
            return x
        return torch.cat((x, self.cheap(x)), dim=1)[:, : self.outputs]


def pointwise(
    kind: Kind,
    inputs: int,
    outputs: int,
    *,
    groups: int,
    alpha: float,
    activation: Callable[[], nn.Module] = nn.Identity,
) -> nn.Module:
    """A 1×1 layer with batch normalisation: "gc", "c1dw", or "dense" (not compressed)."""
    if kind == "c1dw":
        return Ghost(inputs, outputs, alpha=alpha, activation=activation)
    if kind in ("gc", "dense"):
        return grouped(inputs, outputs, groups=groups if kind == "gc" else 1, activation=activation)
    raise ValueError(f"layer {kind!r} is not known; give one of {', '.join(KINDS)}")


def conditional(inputs: int, outputs: int) -> Kind:
    """The CR module's choice: `c1dw` where channels grow, else `gc` (section 3.1.1)."""
    return "c1dw" if outputs > inputs else "gc"
