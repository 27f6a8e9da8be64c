"""Folders and tars of ordinary JPEGs as data sets, without a conversion.

Their headers are read once, when they are opened; an image is decoded whole, however little of it is shown.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from budgetloader.errors import DatasetError
from budgetloader.jpeg import JpegError, read_frame
from budgetloader.limits import MAX_PIXELS, max_bytes
from budgetloader.parallel import in_order
from budgetloader.paths import local

SUFFIXES = (".jpg", ".jpeg")
_HEAD_BYTES = 32 << 10  # in which most headers end
_log = logging.getLogger("budgetloader")
_CONVERT = "make a .beton of them: budgetloader convert"


class Ordinary(ABC):
    """Ordinary JPEGs where they lie: an open data set that a loader takes in place of a `.beton`.

    Attributes:
        path: of the folder or the tar.
        names: of the images, inside it.
        heights, widths: int64 [D], pixels, as stored (an EXIF orientation turns nothing).
        labels: int64 [D], numbers in `classes`.
        classes: the classes' names, sorted, or () where a tar has numbers only.
        fingerprint: 16 hex digits of names, labels and sizes.
    """

    mapped = False  # no one file's map: engine "ffcv" refuses it
    verifies = False  # there are no checksums
    label_field = None

    def __init__(self, path: Path, names: Sequence[str], labels: np.ndarray, classes: tuple[str, ...]) -> None:
        self.path, self.names, self.labels, self.classes = path, tuple(names), labels, classes
        sides = np.empty((len(names), 2), np.int64)
        for sample, found in enumerate(in_order(self._sides, len(names))):
            sides[sample] = found
        self.heights, self.widths = np.ascontiguousarray(sides[:, 0]), np.ascontiguousarray(sides[:, 1])
        state = hashlib.blake2b("\0".join(names).encode(errors="surrogateescape"), digest_size=8)
        for array in (self.labels, self.heights, self.widths, self._sizes()):
            state.update(np.ascontiguousarray(array, "<i8").tobytes())
        self.fingerprint = state.hexdigest()
        _log.warning(
            "%s has %s ordinary JPEGs, which are decoded whole, by engine native at about 0.6 times the rate of a "
            ".beton of them, which budgetloader convert makes (see docs/converting.md)",
            path,
            f"{len(names):,}",
        )

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def jpeg(self, sample: int) -> np.ndarray:
        """The bytes of one sample: uint8 [size], read-only.

        Raises:
            DatasetError: they are not those that were there when the data set was opened.
        """

    @abstractmethod
    def _sizes(self) -> np.ndarray:
        """Bytes of each image: int64 [D]."""

    @abstractmethod
    def _read(self, sample: int, size: int) -> bytes:
        """The first bytes of an image, as many as there are up to a number."""

    def intact(self, sample: int) -> bool:
        """True: there is nothing to compare a sample with."""
        return True

    def check_unchanged(self) -> None:
        """Do nothing: it is checked whenever an image is read."""
        return

    def _sides(self, sample: int) -> tuple[int, int]:
        """An image's height and width, by its header."""
        size, name = int(self._sizes()[sample]), self.names[sample]
        where = f"{self.path}: {printable(name)}"
        if not 0 < size <= max_bytes(MAX_PIXELS):
            raise DatasetError(f"{where} has {size:,} bytes, as no JPEG of 1 … {MAX_PIXELS:,} pixels has; {_LEAVE}")
        try:
            try:
                frame = read_frame(self._read(sample, min(size, _HEAD_BYTES)))
            except JpegError:
                if size <= _HEAD_BYTES:
                    raise
                frame = read_frame(self._read(sample, size))
        except JpegError as error:
            raise DatasetError(f"{where} {error}; {_LEAVE}") from None
        if frame.components not in (1, 3):
            raise DatasetError(f"{where} has {frame.components} channels, and 1 or 3 are read; {_CONVERT}")
        if frame.width * frame.height > MAX_PIXELS:
            raise DatasetError(
                f"{where} has {frame.width:,} × {frame.height:,} pixels, more than {MAX_PIXELS:,}; "
                "budgetloader convert has --max-pixels"
            )
        return frame.height, frame.width

    def _same(self, data: bytes, sample: int) -> np.ndarray:
        if len(data) != self._sizes()[sample]:
            raise changed(self.path, self.names[sample])
        return np.frombuffer(data, np.uint8)


_LEAVE = "mend or remove it, or have budgetloader convert --on-bad skip leave it out"


class JpegFolder(Ordinary):
    """A folder with a folder of JPEGs for each class, as torchvision's ImageFolder has it.

    Links are followed where they lead to something inside the folder. What is neither a file nor a folder, and what has
    another suffix than .jpg and .jpeg, is refused or passed over by name.

    Args:
        path: the folder.

    Raises:
        DatasetError: no JPEGs in class folders, images of other kinds, a link that leads out of the folder, headers
            that cannot be read.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        root = local(path)
        self._root = root.resolve()
        try:
            classes = tuple(sorted(entry.name for entry in os.scandir(root) if _is_class(entry)))
            found = [(file, label) for label, name in enumerate(classes) for file in self._files(name)]
            self._bytes, self._times = np.array([self._status(file) for file, _ in found], np.int64).reshape(-1, 2).T
        except OSError as error:
            raise DatasetError(f"{error.filename or root} cannot be read: {error.strerror}") from None
        if not found:
            raise DatasetError(f"{root} has no JPEGs in class folders; it needs CLASS/NAME.jpg")
        names = [file for file, _ in found]
        super().__init__(root, names, np.array([label for _, label in found], np.int64), classes)

    def jpeg(self, sample: int) -> np.ndarray:
        return self._same(self._read(int(sample), int(self._bytes[sample])), int(sample))

    def _sizes(self) -> np.ndarray:
        return self._bytes

    def _files(self, folder: str) -> list[str]:
        """The images below a folder, sorted, as paths from the root."""
        found: list[str] = []
        below = [folder]
        while below:
            here = below.pop()
            for entry in os.scandir(self._inside(here)):
                name = f"{here}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    below.append(name)
                elif entry.is_file() and entry.name.lower().endswith(SUFFIXES):
                    if entry.is_symlink():
                        self._inside(name)
                    found.append(name)
                elif entry.name.lower().endswith(_OTHERS):
                    raise DatasetError(
                        f"{self._root / name} is no JPEG, and nothing else is read without a conversion; {_CONVERT}"
                    )
        return sorted(found, key=lambda name: Path(name).parts)

    def _inside(self, name: str) -> Path:
        path = self._root / name
        if not path.resolve().is_relative_to(self._root):
            raise DatasetError(
                f"{path} is a link that leads out of {self._root}; put the images there, or convert the folder"
            )
        return path

    def _status(self, name: str) -> tuple[int, int]:
        """A file's size, and when it was written to last."""
        status = os.stat(self._root / name)
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{self._root / name} is no file; remove it")
        return status.st_size, status.st_mtime_ns

    def _read(self, sample: int, size: int) -> bytes:
        name = self.names[sample]
        try:
            descriptor = os.open(self._root / name, _OPEN)
            try:
                found = os.fstat(descriptor)
                if (found.st_size, found.st_mtime_ns) != (self._bytes[sample], self._times[sample]):
                    raise changed(self.path, name)
                return os.read(descriptor, size)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DatasetError(f"{self._root / name} cannot be read: {error.strerror}") from None


_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # opening a pipe would wait for a writer
_OTHERS = (".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")


def _is_class(entry: os.DirEntry) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def changed(path: Path, name: str) -> DatasetError:
    """The error for an image that is not the one that was there when its set was opened."""
    return DatasetError(
        f"{path}: {printable(name)} was written to or cut short since it was opened; open it anew, or {_CONVERT}"
    )


def printable(name: str) -> str:
    """A name from a stranger's archive, fit for a terminal."""
    return name.encode(errors="backslashreplace").decode() if name.isprintable() else ascii(name)[1:-1]
