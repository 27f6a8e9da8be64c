"""Normalisation on a device: the same bits as an engine that normalises as it resizes."""

from __future__ import annotations

import torch

from budgetloader.engines.base import Output


class Normalize:
    """Turns pixels into what an output wants, on its device.

    Args:
        output: says mean, std, dtype, layout and device.
    """

    def __init__(self, output: Output) -> None:
        affine = torch.from_numpy(output.affine()).to(output.device)
        self._slope, self._offset = (affine[:, i].view(1, -1, 1, 1) for i in range(2))
        self._dtype = output.torch_dtype
        self._memory = torch.channels_last if output.layout == "channels_last" else torch.contiguous_format

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Values for pixels, both [n, channels, h, w].

        Args:
            pixels: 0 … 255 in any dtype (fractions are cut off), on any device, in any layout.
        """
        values = pixels.to(self._slope.device).to(torch.uint8)
        if self._dtype != torch.uint8:
            # Two operations, each rounded: one that fuses them would round once, and give other bits.
            values = values.to(torch.float32).mul_(self._slope).add_(self._offset).to(self._dtype)
        return values.contiguous(memory_format=self._memory)
