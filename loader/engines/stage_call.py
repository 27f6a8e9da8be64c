"""Calling a trainer's own transform: what it gives is checked, and what it draws."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch

from budgetloader.errors import ArgumentError
from budgetloader.transforms import rows
from budgetloader.transforms.chain import Transform, name_of

_numbers_lock = threading.Lock()
_SAME_ON_DEVICE = 0.999  # of the values: a device's sums may differ in their last bit, and pixels then by 1


class Call:
    """A transform whose results are checked.

    Args:
        transform: see `budgetloader.transforms.Transform`.
    """

    def __init__(self, transform: Transform) -> None:
        self._transform, self._name = transform, name_of(transform)

    def __call__(
        self, images: torch.Tensor, targets: Any, keys: np.ndarray, *, twice: bool
    ) -> tuple[torch.Tensor, Any]:
        """Images and targets after the transform.

        Args:
            images, targets, keys: as `Transform` has them.
            twice: call it twice, and compare.

        Raises:
            ArgumentError: it gives something else than it should, or not the same twice.
        """
        if not twice:
            return self._called(images, targets, keys)
        before = images.clone(memory_format=torch.preserve_format), rows.copied(targets)
        once, its_targets = self._called(*before, keys)
        again, targets = self._called(images, targets, keys)
        same = (once == again).float().mean().item()
        if same < (1.0 if images.device.type == "cpu" else _SAME_ON_DEVICE) or not rows.equal(its_targets, targets):
            raise ArgumentError(
                f"transform {self._name} gave two results for the same samples and keys: it draws random numbers that "
                "keys do not determine (Python's random, numpy.random, or torch's outside PerSample), or keeps a "
                "state; draw from transforms.uniform(keys), or wrap it as transforms.PerSample(…)"
            )
        return again, targets

    def _called(self, images: torch.Tensor, targets: Any, keys: np.ndarray) -> tuple[torch.Tensor, Any]:
        found = self._transform(images, targets, keys)
        if not isinstance(found, tuple) or len(found) not in (2, 3):
            raise ArgumentError(f"transform {self._name} gave a {type(found).__name__}; return (images, targets)")
        made, changed = found[:2]
        if not isinstance(made, torch.Tensor) or made.shape != images.shape or made.dtype != torch.uint8:
            shown = f"{made.dtype} {list(made.shape)}" if isinstance(made, torch.Tensor) else type(made).__name__
            raise ArgumentError(
                f"transform {self._name} gave {shown} as images; return torch.uint8 {list(images.shape)}: image_size= "
                "says their size, and they are normalised behind it"
            )
        if not hasattr(changed, "__len__") or rows.count(changed) != len(images):
            raise ArgumentError(f"transform {self._name} gave targets of other than {len(images)} samples")
        return made, changed


def on_one_thread() -> None:
    """Have torch's operations that are called by this thread run in it alone; others' are left as they are.

    Batches are divided among threads already; and how a sum over an image is rounded would depend on the number.
    """
    with _numbers_lock:
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # for this thread, and for those that begin later
        again = threading.Thread(target=torch.set_num_threads, args=(before,))  # for those that begin later
        again.start()
        again.join()
