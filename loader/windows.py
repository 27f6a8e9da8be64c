"""Which part of an image a position shows: the crop window and the flip.

The random resized crop is that of C. Szegedy et al., "Going deeper with convolutions" (2015), with
torchvision's rule for windows that do not fit: up to ten tries, then the largest centred window
within the ratio's bounds.
"""

from __future__ import annotations

import numpy as np

from budgetloader import rng

AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
CENTER = 0.875  # the centred window of evaluation: 224 of 256 pixels
PAD = 4
_TRIES = 10


def random_resized_crop(
    heights: np.ndarray, widths: np.ndarray, positions: np.ndarray, *, seed: int, epoch: int
) -> np.ndarray:
    """Windows and flips of training.

    Args:
        heights, widths: int64 [n], the images' sizes in pixels.
        positions: int64 [n], the places in the epoch's order.

    Returns:
        int64 [n, 5]: top, left, height, width, flip (0 or 1).
    """
    height, width = _fallback(heights, widths)
    top, left = (heights - height) // 2, (widths - width) // 2
    place = rng.draws(positions, seed=seed, epoch=epoch, purpose=rng.WINDOW)
    pending = np.arange(len(positions))
    log_ratio = np.log(RATIO)
    for attempt in range(_TRIES):
        if not pending.size:
            break
        if attempt % 2 == 0:  # a block of four numbers serves two tries
            block = rng.draws(positions[pending], seed=seed, epoch=epoch, purpose=rng.WINDOW, block=1 + attempt // 2)
            pairs, known = block, pending
        mine = pairs[:, np.searchsorted(known, pending)]
        area, ratio = mine[2 * (attempt % 2)], mine[2 * (attempt % 2) + 1]
        pixels = (AREA[0] + (AREA[1] - AREA[0]) * rng.unit(area)) * (heights * widths)[pending]
        aspect = np.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * rng.unit(ratio))
        w = np.rint(np.sqrt(pixels * aspect)).astype(np.int64)
        h = np.rint(np.sqrt(pixels / aspect)).astype(np.int64)
        fits = (w > 0) & (h > 0) & (w <= widths[pending]) & (h <= heights[pending])
        chosen = pending[fits]
        height[chosen], width[chosen] = h[fits], w[fits]
        top[chosen] = rng.below(place[0, chosen], heights[chosen] - h[fits] + 1)
        left[chosen] = rng.below(place[1, chosen], widths[chosen] - w[fits] + 1)
        pending = pending[~fits]
    return np.stack((top, left, height, width, rng.below(place[2], 2)), axis=1)


def center_crop(heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Windows of evaluation: the centred square of 0.875 of the shorter side, unflipped.

    Resized to 224 pixels it is the usual "resize to 256, crop 224". Shapes as above.
    """
    side = np.maximum(np.rint(np.minimum(heights, widths) * CENTER).astype(np.int64), 1)
    return np.stack(((heights - side) // 2, (widths - side) // 2, side, side, np.zeros_like(side)), axis=1)


def padded_crop(heights: np.ndarray, widths: np.ndarray, positions: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Windows and flips of training on small images of one size: the image, shifted by up to 4 pixels.

    K. He et al., "Deep residual learning" (2016), section 4.2: pad 4 pixels on each side, crop the
    image's size. A window may reach outside the image, where it is black. Arguments and shapes as in
    `random_resized_crop`.
    """
    place = rng.draws(positions, seed=seed, epoch=epoch, purpose=rng.WINDOW)
    top, left = (rng.below(place[i], 2 * PAD + 1) - PAD for i in (0, 1))
    return np.stack((top, left, heights, widths, rng.below(place[2], 2)), axis=1)


def whole(heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Windows of evaluation on small images: all of each, unflipped. Shapes as above."""
    zero = np.zeros_like(heights)
    return np.stack((zero, zero, heights, widths, zero), axis=1)


def _fallback(heights: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Height and width of the largest window whose ratio is within bounds."""
    tall, wide = widths < heights * RATIO[0], widths > heights * RATIO[1]
    height = np.where(tall, np.rint(widths / RATIO[0]).astype(np.int64), heights)
    width = np.where(wide, np.rint(heights * RATIO[1]).astype(np.int64), widths)
    return np.clip(height, 1, heights), np.clip(width, 1, widths)
