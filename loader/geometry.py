"""Where points, boxes and masks of a stored image come to lie in a batch's image: one definition for all engines.

A batch's image shows a window of the stored one, resized to image_size × image_size, and perhaps mirrored. Coordinates
are continuous: pixel i covers [i, i + 1), so that an image of width w reaches from 0 to w, and mirroring takes x to
w − x. Windows are those of the plan; with crop="pad" they may reach outside the image.
"""

from __future__ import annotations

import numpy as np

from budgetloader.columns import Ragged


def move_boxes(boxes: np.ndarray, windows: np.ndarray, flips: np.ndarray, *, image_size: int) -> np.ndarray:
    """Boxes as a batch's images have them, cut off at the images' borders.

    A box that lies outside its window has no width or no height then; none is left out.

    Args:
        boxes: [k, …, 4]: left, top, right and bottom, in pixels of the stored image.
        windows: int64 [k, 4], each box's image's: top, left, height, width.
        flips: bool [k].
        image_size: pixels.

    Returns:
        float32, the same shape: left, top, right and bottom, 0 … image_size.
    """
    windows, flips = _spread(boxes, windows, flips)
    left, right = (_across(boxes[..., i], windows, flips, image_size) for i in (0, 2))
    top, bottom = (_down(boxes[..., i], windows, image_size) for i in (1, 3))
    left, right = np.where(flips, right, left), np.where(flips, left, right)
    moved = np.stack((left, top, right, bottom), axis=-1)
    return np.clip(moved, 0, image_size).astype(np.float32)


def move_points(
    points: np.ndarray,
    windows: np.ndarray,
    flips: np.ndarray,
    *,
    image_size: int,
    mirrored: np.ndarray | None = None,
) -> np.ndarray:
    """Points as a batch's images have them; those outside stay outside.

    Args:
        points: [k, …, 2 or 3]: x, y, and perhaps whether it is visible (0: not), in pixels of the stored image.
        windows, flips, image_size: as in `move_boxes`.
        mirrored: int64 [p], for points [k, p, …]: which point takes each place where the image is mirrored, as a left
            eye becomes a right one.

    Returns:
        float32, the same shape. What is outside the image, or was not visible, is not visible.
    """
    w, f = _spread(points, windows, flips)
    moved = points.astype(np.float32)
    x, y = _across(points[..., 0], w, f, image_size), _down(points[..., 1], w, image_size)
    moved[..., 0], moved[..., 1] = x, y
    if points.shape[-1] > 2:
        inside = (x >= 0) & (x <= image_size) & (y >= 0) & (y <= image_size)
        moved[..., 2] = np.where(inside, points[..., 2], 0)
    if mirrored is not None and points.ndim > 2:
        moved[flips] = moved[flips][:, mirrored]
    return moved


def move_mask(mask: np.ndarray, window: np.ndarray, flip: bool, *, image_size: int, fill: int = 0) -> np.ndarray:
    """A mask as a batch's image has it: each pixel is the nearest one of the stored mask.

    Args:
        mask: [height, width, …], of the stored image's size.
        window: int64 [4]: top, left, height, width.
        flip: whether it is mirrored.
        image_size: pixels.
        fill: what stands outside the stored mask.

    Returns:
        The mask's dtype, [image_size, image_size, …].
    """
    top, left, height, width = (int(side) for side in window)
    # The centre of pixel i is at (i + 1/2) · height / size: whole numbers, rounded down exactly.
    centres = 2 * np.arange(image_size) + 1
    rows, columns = top + centres * height // (2 * image_size), left + centres * width // (2 * image_size)
    if flip:
        columns = columns[::-1]
    outside = ((rows < 0) | (rows >= mask.shape[0]))[:, None] | ((columns < 0) | (columns >= mask.shape[1]))[None]
    shown = mask[np.clip(rows, 0, mask.shape[0] - 1)[:, None], np.clip(columns, 0, mask.shape[1] - 1)[None]]
    if outside.any():
        shown[outside] = fill
    return shown


def each(values: Ragged | np.ndarray, windows: np.ndarray, flips: np.ndarray) -> tuple[np.ndarray, ...]:
    """The entries of n samples, with each one's window and flip.

    Args:
        values: of n samples, [n, …], or lists, whose entries are put one behind the other.
        windows: int64 [n, 4].
        flips: bool [n].
    """
    if isinstance(values, Ragged):
        rows = np.repeat(np.arange(len(values)), values.lengths)
        return values.flat, windows[rows], flips[rows]
    return values, windows, flips


def _spread(entries: np.ndarray, windows: np.ndarray, flips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows and flips in the shape of entries [k, …, coordinates]."""
    between = (slice(None), *(None,) * (entries.ndim - 2))
    return windows[between], flips[between]


def _across(x: np.ndarray, windows: np.ndarray, flips: np.ndarray, image_size: int) -> np.ndarray:
    moved = (x - windows[..., 1]) * (image_size / windows[..., 3])
    return np.where(flips, image_size - moved, moved)


def _down(y: np.ndarray, windows: np.ndarray, image_size: int) -> np.ndarray:
    return (y - windows[..., 0]) * (image_size / windows[..., 2])
