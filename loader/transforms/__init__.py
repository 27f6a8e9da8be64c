"""Augmentation of batches, with random numbers that (seed, epoch, position) determine.

``BudgetLoader(…, transform=…)`` takes a function of (images, targets, keys)::

    def darker(images, targets, keys):            # uint8 [n, 3, h, w], int64 [n], uint64 [n]
        strength = transforms.uniform(keys)[:, 0]  # one number per sample, in [0, 1)
        factors = torch.from_numpy(1 - 0.5 * strength).view(-1, 1, 1, 1)
        return (images * factors).to(torch.uint8), targets

or an image transform of torchvision or kornia, or a list of these. `PerSample`, `PerGroup` and `PerBatch` call such a
transform with torch's random numbers taken from the samples' keys.
"""

from __future__ import annotations

from budgetloader.transforms.adapters import PerBatch, PerGroup, PerSample
from budgetloader.transforms.chain import Chain, Transform, as_transform
from budgetloader.transforms.keys import derived, sample_keys, uniform

__all__ = [
    "Chain",
    "PerBatch",
    "PerGroup",
    "PerSample",
    "Transform",
    "as_transform",
    "derived",
    "sample_keys",
    "uniform",
]
