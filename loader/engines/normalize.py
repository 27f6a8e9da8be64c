"""Normalisation on a device, by table: the same bits as an engine that normalises as it resizes."""

from __future__ import annotations

import torch

from loader.engines.base import Output


class Normalize:
    """Turns pixels into what an output wants, on its device.

    Args:
        output: says mean, std, dtype, layout and device.
    """

    def __init__(self, output: Output) -> None:
        device = torch.device(output.device)
        self._pixels = output.dtype == "uint8"  # which are what they are
        self._table = output.table().flatten().to(device)
        self._offsets = 256 * torch.arange(3, device=device).view(1, 3, 1, 1)
        self._memory = torch.channels_last if output.layout == "channels_last" else torch.contiguous_format

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Values for pixels, both [n, 3, h, w].

        Args:
            pixels: 0 … 255 in any dtype (fractions are cut off), on any device, in any layout.
        """
        pixels = pixels.to(self._table.device)
        if self._pixels:
            return pixels.to(torch.uint8).contiguous(memory_format=self._memory)
        index = pixels.int() + self._offsets
        return self._table[index].contiguous(memory_format=self._memory)
