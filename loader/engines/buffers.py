"""Memory for batches on the host, and the format in which pixels are written to it."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable

import numpy as np
import torch

from budgetloader.engines.base import Output


def tone(output: Output) -> np.ndarray:
    """What `resample` needs to write this output, into arrays of `buffer_dtype`."""
    if output.torch_dtype.itemsize == 2:
        return output.table().view(torch.uint16).numpy()
    return output.affine() if output.dtype == "float32" else np.empty((3, 0), np.float32)


def buffer_dtype(output: Output) -> np.dtype:
    """The output's dtype in numpy; float16 and bfloat16 as their bits, which numba can copy."""
    return np.dtype({1: np.uint8, 2: np.uint16, 4: np.float32}[output.torch_dtype.itemsize])


class BufferPool:
    """Batch buffers that return when the last tensor that shows them is gone.

    A buffer is of `buffer_dtype`, [batch, h, w, 3] for channels-last memory and [batch, 3, h, w] for
    contiguous.
    """

    def __init__(
        self,
        output: Output,
        batch_size: int,
        *,
        allocate: Callable[[tuple[int, ...], np.dtype], np.ndarray] = np.empty,
    ) -> None:
        size = output.image_size
        self._allocate = allocate
        self._dtype = output.torch_dtype
        self._channels_last = output.layout == "channels_last"
        self._shape = (batch_size, size, size, 3) if self._channels_last else (batch_size, 3, size, size)
        self._buffer_dtype = buffer_dtype(output)
        self._free: deque[np.ndarray] = deque()

    def take(self, count: int) -> np.ndarray:
        """A buffer for `count` images. It returns to the pool when the array given here is gone."""
        try:
            whole = self._free.pop()
        except IndexError:
            whole = self._allocate(self._shape, self._buffer_dtype)
        buffer = whole[:count]
        weakref.finalize(buffer, self._free.append, whole).atexit = False
        return buffer

    def image(self, buffer: np.ndarray, row: int) -> np.ndarray:
        """One image of a buffer: [h, w, 3]."""
        return buffer[row] if self._channels_last else buffer[row].transpose(1, 2, 0)

    def tensor(self, buffer: np.ndarray) -> torch.Tensor:
        """A buffer as images [count, 3, h, w], without a copy; it keeps the buffer from returning."""
        images = torch.from_numpy(buffer).view(self._dtype)
        return images.permute(0, 3, 1, 2) if self._channels_last else images
