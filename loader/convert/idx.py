"""IDX, the format of MNIST and of the sets that took its place (Fashion-MNIST, EMNIST, KMNIST), plain or gzipped.

A header of big-endian numbers (two zero bytes, a type, the number of axes, and their lengths) in front of the values.
Files are a stranger's: what the header says is compared with the file before memory is taken for it.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np

from budgetloader.errors import DatasetError

MOST_BYTES = 2 << 30  # of one file's values, unpacked; EMNIST's largest set has 550 MB
_UINT8 = 8
_AT_ONCE = 1 << 24
_IMAGES = re.compile(
    r"(?P<set>.*?)(?P<split>train|t10k|test)[-_.]images[-_.]idx3[-_.]ubyte(?P<gz>\.gz)?", re.IGNORECASE
)
_SPLITS = {"train": ("train",), "test": ("t10k", "test")}


def pair(folder: Path, *, split: str) -> tuple[Path, Path] | None:
    """The files of a split's images and labels in a folder, as MNIST names them; None where there are none.

    Args:
        folder: with files such as train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz.
        split: "train" or "test" (whose files are called t10k-…, or test-…).

    Raises:
        DatasetError: there are several sets in the folder, or no labels beside the images.
    """
    found: dict[str, tuple[Path, Path | None]] = {}
    for path in sorted(folder.iterdir()):
        match = _IMAGES.fullmatch(path.name)
        if match and match["split"].lower() in _SPLITS[split] and path.is_file():
            found.setdefault(match["set"] + match["split"], (path, _labels_beside(path)))  # plain before .gz
    if not found:
        return None
    if len(found) > 1:
        names = ", ".join(path.name for path, _ in found.values())
        raise DatasetError(f"{folder} has several sets ({names}); put each into a folder of its own")
    images, labels = next(iter(found.values()))
    if labels is None:
        wanted = images.name.replace("images", "labels").replace("idx3", "idx1")
        raise DatasetError(f"{images} has no labels beside it; {wanted} is missing")
    return images, labels


def _labels_beside(images: Path) -> Path | None:
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    plain = name.removesuffix(".gz")
    return next((images.with_name(n) for n in (name, plain, plain + ".gz") if images.with_name(n).is_file()), None)


def read(path: Path, *, axes: int) -> np.ndarray:
    """A file's values: uint8, as many axes as asked for.

    Raises:
        DatasetError: it cannot be read, is no IDX file of bytes with that many axes, or has more or fewer bytes than
            its header says.
    """
    try:
        with _opened(path) as file:
            return _read(file, path, axes=axes)
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DatasetError(f"{path} cannot be read: {why}") from None


def _opened(path: Path) -> gzip.GzipFile | BufferedReader:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else open(path, "rb")


def _read(file: gzip.GzipFile | BufferedReader, path: Path, *, axes: int) -> np.ndarray:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0":
        raise DatasetError(f"{path} is no IDX file: it begins with {head!r}, and not with two zero bytes")
    if head[2] != _UINT8:
        raise DatasetError(f"{path} has values of IDX type {head[2]:#04x}; only bytes ({_UINT8:#04x}) are images")
    if head[3] != axes:
        raise DatasetError(f"{path} has {head[3]} axes, and {axes} are needed here")
    lengths = file.read(4 * axes)
    if len(lengths) < 4 * axes:
        raise DatasetError(f"{path} ends in its header")
    shape = tuple(int(n) for n in np.frombuffer(lengths, ">u4"))
    count = math.prod(shape)
    if not count:
        raise DatasetError(f"{path} is empty: its header says {_times(shape)}")
    if count > MOST_BYTES:
        raise DatasetError(f"{path}: its header says {_times(shape)} bytes, more than the {MOST_BYTES:,} that are read")
    # Part by part: a header alone, whatever it says, takes no memory.
    parts: list[bytes] = []
    left = count
    while left:
        part = file.read(min(left, _AT_ONCE))
        if not part:
            raise DatasetError(f"{path} ends {left:,} bytes early: its header says {_times(shape)}")
        parts.append(part)
        left -= len(part)
    if file.read(1):
        raise DatasetError(f"{path} goes on behind the {count:,} bytes of its header ({_times(shape)})")
    return np.frombuffer(b"".join(parts), np.uint8).reshape(shape)


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{n:,}" for n in shape)
