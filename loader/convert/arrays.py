"""Sets that are two arrays on disk, images and labels: IDX files, and .npz archives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from budgetloader.convert import idx, npz
from budgetloader.errors import DatasetError
from budgetloader.limits import MAX_LABEL, MAX_PIXELS, check_pixels

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Arrays:
    """A split of a set.

    Attributes:
        images: uint8 [n, h, w] (grey) or [n, h, w, 3].
        labels: int64 [n].
        name: of the split, for messages.
    """

    images: np.ndarray
    labels: np.ndarray
    name: str


def has_split(path: Path, split: str) -> bool:
    """Whether a path is a folder of IDX files, or an .npz, with that split in it."""
    return _names(path, split) is not None


def is_arrays(path: Path) -> bool:
    """Whether a path is a folder of IDX files, or an .npz."""
    return any(has_split(path, split) for split in SPLITS)


def load(path: Path, *, split: str = "train", max_pixels: int = MAX_PIXELS) -> Arrays:
    """The images and labels of a split.

    Raises:
        DatasetError: there is no such split, or its files hold no images of bytes with a label for each.
    """
    if split not in SPLITS:
        raise DatasetError(f"split {split!r} is not known; {path} may have 'train' and 'test'")
    names = _names(path, split)
    if names is None:
        raise DatasetError(f"{path} has no {split} split; give another --split, or the folder that has it")
    if path.is_dir():
        images, labels = idx.read(path / names[0], axes=3), idx.read(path / names[1], axes=1)
    else:
        images, labels = (npz.read(path, name) for name in names)
    return Arrays(_images(images, names[0], max_pixels), _labels(labels, len(images), names[1]), f"{split} image")


def _names(path: Path, split: str) -> tuple[str, str] | None:
    if path.is_dir():
        found = idx.pair(path, split=split)
        return None if found is None else (found[0].name, found[1].name)
    return npz.pair(path, split=split) if path.suffix.lower() == ".npz" and path.is_file() else None


def _images(images: np.ndarray, name: str, max_pixels: int) -> np.ndarray:
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 3)):
        raise DatasetError(
            f"{name} is {images.dtype} {list(images.shape)}; images are uint8 [n, height, width] (or …, 3])"
        )
    check_pixels(images.shape[2], images.shape[1], most=max_pixels)
    return images


def _labels(labels: np.ndarray, count: int, name: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:  # MedMNIST's
        labels = labels[:, 0]
    if labels.dtype.kind not in "ui" or labels.ndim != 1:
        raise DatasetError(f"{name} is {labels.dtype} {list(labels.shape)}; labels are integers, one for each image")
    if len(labels) != count:
        raise DatasetError(f"{name} has {len(labels):,} labels for {count:,} images")
    if not 0 <= labels.min() <= labels.max() <= MAX_LABEL:
        raise DatasetError(f"{name} has labels {labels.min()} … {labels.max()}; give 0 … {MAX_LABEL:,}")
    return labels.astype(np.int64)
