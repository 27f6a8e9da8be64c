"""Memory for batches on the host, and the format in which pixels are written to it."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from budgetloader.engines.base import Output

if TYPE_CHECKING:  # a service's workers, which start often, do without
    import torch

_STORED = {"uint8": np.uint8, "float16": np.uint16, "bfloat16": np.uint16, "float32": np.float32}


def tone(output: Output) -> np.ndarray:
    """What `resample` needs to write this output, into arrays of `buffer_dtype`."""
    if buffer_dtype(output) == np.uint16:
        import torch

        return output.table().view(torch.uint16).numpy()
    return output.affine() if output.dtype == "float32" else np.empty((output.channels, 0), np.float32)


def buffer_dtype(output: Output) -> np.dtype:
    """The output's dtype in numpy; float16 and bfloat16 as their bits, which numba can copy."""
    return np.dtype(_STORED[output.dtype])


class BufferPool:
    """Batch buffers that return when the last tensor that shows them is gone.

    A buffer is of `buffer_dtype`, [batch, h, w, c] for channels-last memory and [batch, c, h, w] for
    contiguous. There is a pool for each size of images. When another size is asked for, what is free of the size
    before is given back to the system, and so is what returns later: epochs of one size follow each other.
    """

    def __init__(
        self,
        output: Output,
        batch_size: int,
        *,
        allocate: Callable[[tuple[int, ...], np.dtype], np.ndarray] = np.empty,
    ) -> None:
        self._allocate, self._batch_size = allocate, batch_size
        self._usual, self._channels = output.image_size, output.channels
        self._output = output
        self._channels_last = output.layout == "channels_last"
        self._buffer_dtype = buffer_dtype(output)
        self._pools: dict[int, deque[np.ndarray]] = {}

    def take(self, count: int, image_size: int = 0) -> np.ndarray:
        """A buffer for `count` images. It returns to its pool when the array given here is gone.

        Args:
            count: images, at most the batch size.
            image_size: their height and width, pixels; 0: the output's.
        """
        size = image_size or self._usual
        free = self._pools.get(size)
        if free is None:
            self._pools = {size: (free := deque())}  # the old pools' memory goes with the last buffer of each
        try:
            whole = free.pop()
        except IndexError:
            whole = self._allocate(self._shape(size), self._buffer_dtype)
        buffer = whole[:count]
        weakref.finalize(buffer, free.append, whole).atexit = False
        return buffer

    @property
    def spare(self) -> int:
        """Buffers that wait to be taken."""
        return sum(map(len, self._pools.values()))

    def _shape(self, size: int) -> tuple[int, ...]:
        images = (size, size, self._channels) if self._channels_last else (self._channels, size, size)
        return (self._batch_size, *images)

    def image(self, buffer: np.ndarray, row: int) -> np.ndarray:
        """One image of a buffer: [h, w, c]."""
        return buffer[row] if self._channels_last else buffer[row].transpose(1, 2, 0)

    def images(self, buffer: np.ndarray) -> np.ndarray:
        """All images of a buffer, or of some rows of one: [n, h, w, c]."""
        return buffer if self._channels_last else buffer.transpose(0, 2, 3, 1)

    def tensor(self, buffer: np.ndarray) -> torch.Tensor:
        """A buffer as images [count, c, h, w], without a copy; it keeps the buffer from returning."""
        import torch

        images = torch.from_numpy(buffer).view(self._output.torch_dtype)
        return images.permute(0, 3, 1, 2) if self._channels_last else images
