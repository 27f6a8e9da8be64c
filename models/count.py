"""Parameters and FLOPs as Tables 4-1 to 4-8 count them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Counts:
    """The size of a network, and the cost of one image.

    Attributes:
        parameters: trainable numbers.
        flops: multiply-adds of an image's forward pass: each convolution's weights times its output's
            height and width; the weights of each linear and batch normalisation layer, once.
    """

    parameters: int
    flops: int


@torch.no_grad()
def count(model: nn.Module, shape: tuple[int, int, int]) -> Counts:
    """Count a network's parameters and FLOPs. The network is left as it was.

    Args:
        model: images [n, channels, height, width] → anything.
        shape: (channels, height, width) of an image.

    Raises:
        ValueError: `shape` has not three positive sizes, or the network does not take it.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape {shape} is not (channels, height, width) of an image")
    flops = 0

    def convolution(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal flops
        flops += module.weight.numel() * output[0, 0].numel()  # type: ignore[operator,union-attr]

    def weights(module: nn.Module, *_: Any) -> None:
        nonlocal flops
        if isinstance(module.weight, torch.Tensor):  # a normalisation may have none
            flops += module.weight.numel()

    handles, training = [], {module: module.training for module in model.modules()}
    for module in training:
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            handles.append(module.register_forward_hook(convolution))
        elif isinstance(module, (nn.Linear, nn.modules.batchnorm._BatchNorm)):
            handles.append(module.register_forward_hook(weights))
    like = next(model.parameters(), torch.zeros(()))
    try:
        model.eval()
        model(torch.zeros(1, *shape, device=like.device, dtype=like.dtype))
    except RuntimeError as error:
        raise ValueError(f"the network does not take an image of shape {tuple(shape)}: {error}") from None
    finally:
        for handle in handles:
            handle.remove()
        for module, was in training.items():
            module.training = was
    return Counts(sum(p.numel() for p in model.parameters() if p.requires_grad), flops)
