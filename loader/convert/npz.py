"""Images and labels in one .npz, read without pickles.

An archive is a stranger's: each array's own header (dtype and shape) is compared with the bytes that the archive has
of it, and with a limit, before it is unpacked; arrays of Python objects, which numpy unpickles, are refused.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from budgetloader.errors import DatasetError, first_line

MOST_BYTES = 8 << 30  # of one array, unpacked
_HEADER_CHARACTERS = 1024
_SPLITS = {"train": ("train",), "test": ("test", "val")}
_IMAGES, _LABELS = ("x", "images", "data"), ("y", "labels", "targets")


def names(path: Path) -> list[str]:
    """The names of an archive's arrays.

    Raises:
        DatasetError: it is no archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DatasetError(f"{path} is no .npz that can be read ({error})") from None


def pair(path: Path, *, split: str) -> tuple[str, str] | None:
    """The names of a split's images and labels; None where there are none.

    Known are x_train and y_train (Keras), train_images and train_labels (MedMNIST), images and labels, data and
    labels, x and y; the last three are a training set. Of a test split, "test" is taken before "val".
    """
    known = names(path)
    for part in _SPLITS[split]:
        for image, label in zip(_IMAGES, _LABELS, strict=True):
            for pattern in ("{0}_{1}", "{1}_{0}"):
                found = pattern.format(image, part), pattern.format(label, part)
                if set(found) <= set(known):
                    return found
    if split == "train":
        for image in _IMAGES:
            for label in _LABELS:
                if image in known and label in known:
                    return image, label
    return None


def read(path: Path, name: str) -> np.ndarray:
    """An array of numbers.

    Raises:
        DatasetError: it holds anything else, has other bytes than its header says, or is larger than the limit.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            return _read(file, f"{path}: {name}")
    except (DatasetError, MemoryError):
        raise
    except Exception as error:  # zip, deflate and numpy's parser of headers have an error each for what is damaged
        raise DatasetError(f"{path}: {name} cannot be read ({first_line(error)})") from None


def _read(file: IO[bytes], what: str) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file, max_header_size=_HEADER_CHARACTERS)
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise DatasetError(f"{what} has values of {dtype}; images are of uint8, labels of integers")
    count = math.prod(shape) if all(side >= 0 for side in shape) else 0
    size = count * dtype.itemsize
    if not 0 < size <= MOST_BYTES:
        raise DatasetError(f"{what} says that it has {shape} values; between 1 and {MOST_BYTES:,} bytes are read")
    parts, left = [], size
    while left:
        part = file.read(min(left, 1 << 24))
        if not part:
            raise DatasetError(f"{what} ends {left:,} bytes early: its header says {shape} of {dtype}")
        parts.append(part)
        left -= len(part)
    if file.read(1):
        raise DatasetError(f"{what} goes on behind the {size:,} bytes of its header")
    return np.frombuffer(b"".join(parts), dtype).reshape(shape, order="F" if fortran else "C")
