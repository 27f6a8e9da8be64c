"""Tars of JPEGs: an index of where each lies, of which nothing is ever unpacked."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from budgetloader.errors import ArgumentError, DatasetError
from budgetloader.image_folder import SUFFIXES, JpegFolder, Ordinary, changed, printable
from budgetloader.limits import MAX_LABEL
from budgetloader.paths import local
from budgetloader.pickles import cifar_folder

_MOST_HEADER_BYTES = 1 << 20  # of a member's names and attributes
_LABEL_BYTES = 32
_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst")


@dataclass(frozen=True)
class Member:
    """A file in a tar.

    Attributes:
        name: its path in the archive, which is never a path here.
        start, size: where its bytes are, and how many.
    """

    name: str
    start: int
    size: int


class JpegTar(Ordinary):
    """A tar of JPEGs that stays packed: of class folders, or a WebDataset shard.

    `CLASS/NAME.jpg` has the class that its folder names. Where there are members `KEY.cls`, as WebDataset writes them,
    each `KEY.jpg` has the number in its `KEY.cls`.

    Args:
        path: the tar, not compressed.

    Raises:
        DatasetError: no tar, a compressed or damaged one, no JPEGs in it, labels that are missing or no numbers.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = local(path)
        self._file = open_regular(self.path)
        status = os.fstat(self._file.fileno())
        self._as_opened = (status.st_size, status.st_mtime_ns)
        found = label_members(self._file, list(members_of_tar(self._file, self.path)), self.path)
        self._starts = np.array([image.start for image in found.images], np.int64)
        self._bytes = np.array([image.size for image in found.images], np.int64)
        super().__init__(self.path, [image.name for image in found.images], found.labels, found.classes)

    def jpeg(self, sample: int) -> np.ndarray:
        return self._same(self._read(int(sample), int(self._bytes[sample])), int(sample))

    def _sizes(self) -> np.ndarray:
        return self._bytes

    def _read(self, sample: int, size: int) -> bytes:
        found = os.fstat(self._file.fileno())
        if (found.st_size, found.st_mtime_ns) != self._as_opened:
            raise changed(self.path, self.names[sample])
        try:
            return os.pread(self._file.fileno(), size, int(self._starts[sample]))
        except OSError as error:
            raise DatasetError(f"{self.path} cannot be read: {error.strerror}") from None


@dataclass(frozen=True)
class Labelled:
    """The images of a tar with what they show.

    Attributes:
        images: in the tar's order.
        labels: int64 [n].
        classes: the classes' names, or () where labels are numbers.
    """

    images: list[Member]
    labels: np.ndarray
    classes: tuple[str, ...]


def label_members(
    file: BinaryIO, members: list[Member], path: Path, *, suffixes: tuple[str, ...] = SUFFIXES
) -> Labelled:
    """The images of a tar, with the labels of their `.cls`, or of their folders.

    Args:
        file: the tar.
        members: its files.
        path: of the tar, for messages.
        suffixes: of images.

    Raises:
        DatasetError: no image; labels that are missing or no numbers.
    """
    images = [member for member in members if member.name.lower().endswith(suffixes)]
    if not images:
        raise DatasetError(f"{path} has no image ({', '.join(sorted(suffixes))}) among its {len(members):,} files")
    numbers = {_key(member.name): member for member in members if member.name.endswith(".cls")}
    if numbers:
        return Labelled(images, np.array([_number(file, image, numbers, path) for image in images], np.int64), ())
    folders = [PurePosixPath(image.name).parent.name for image in images]
    for image, folder in zip(images, folders, strict=True):
        if not folder:
            raise DatasetError(
                f"{path}: {printable(image.name)} lies in no folder and has no .cls beside it, so nobody knows its "
                "class; pack CLASS/NAME.jpg, or KEY.jpg with KEY.cls"
            )
    classes = tuple(sorted(set(folders)))
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[name] for name in folders], np.int64)
    return Labelled(images, labels, tuple(printable(name) for name in classes))


def _number(file: BinaryIO, image: Member, numbers: dict[str, Member], path: Path) -> int:
    """The label in the `.cls` of an image."""
    member = numbers.get(_key(image.name))
    if member is None:
        raise DatasetError(f"{path}: {printable(image.name)} has no .cls beside it, as others have; pack one")
    data = os.pread(file.fileno(), min(member.size, _LABEL_BYTES), member.start)
    text = data.decode("ascii", "replace")
    if member.size > _LABEL_BYTES or not text.strip().isdecimal() or int(text) > MAX_LABEL:
        raise DatasetError(f"{path}: {printable(member.name)} has {text[:20]!r}, and no number from 0 to {MAX_LABEL:,}")
    return int(text)


def open_regular(path: Path) -> BinaryIO:
    """A file to read from, which is neither a pipe nor a device.

    Raises:
        DatasetError: it is, or cannot be read.
    """
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DatasetError(f"{path} is no file; give the tar itself")
    return file


def members_of_tar(file: BinaryIO, path: Path) -> Iterator[Member]:
    """The regular files of a tar, in its order; links, devices and folders are passed over.

    Raises:
        DatasetError: it is no tar, compressed, damaged or cut short, or says that files lie outside it.
    """
    if path.name.lower().endswith(_COMPRESSED):
        raise DatasetError(f"{path} is compressed, so no image in it can be read by itself; decompress it to a .tar")
    size = os.fstat(file.fileno()).st_size
    try:
        archive = tarfile.TarFile(fileobj=_Guarded(file, path))  # type: ignore[arg-type]
        before = -1
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            if member.size < 0 or archive.offset <= before:
                raise DatasetError(f"{path} is damaged: {printable(member.name)} ends before it begins; pack it again")
            before = archive.offset
            if member.isreg() and not member.issparse():
                if not 0 <= member.offset_data <= member.offset_data + member.size <= size:
                    raise DatasetError(f"{path} is cut short: {printable(member.name)} ends behind it")
                yield Member(member.name, member.offset_data, member.size)
        end = archive.offset
    except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError) as error:
        raise DatasetError(f"{path} is no tar that can be read ({printable(str(error))}); pack it again") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    rest = os.pread(file.fileno(), tarfile.BLOCKSIZE, end)
    if rest.strip(b"\0"):
        raise DatasetError(f"{path} is damaged: there is no file's header at byte {end:,}; pack it again")


class _Guarded:
    """A file of which nobody reads more at once than a header has: a stranger's may say that its has gigabytes."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self.name, self.mode = str(path), "rb"

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_HEADER_BYTES:
            raise DatasetError(f"{self._path} is damaged: a file's header has {size:,} bytes; pack it again")
        return self._file.read(size)

    def seek(self, to: int, whence: int = 0) -> int:
        return self._file.seek(to, whence)

    def tell(self) -> int:
        return self._file.tell()


def _key(name: str) -> str:
    """What the files of one WebDataset sample have in common: the path up to its last name's first dot."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def is_ordinary(path: str | os.PathLike) -> bool:
    """Whether a path is a folder, or is called as tars are."""
    text = os.fspath(path)
    return os.path.isdir(text) or str(text).lower().endswith((".tar", *(f".tar{end}" for end in _COMPRESSED), ".tgz"))


def open_ordinary(path: str | os.PathLike, *, verify: bool = False, label_field: str | None = None) -> Ordinary:
    """A folder or a tar of ordinary JPEGs, as a data set.

    Raises:
        DatasetError: see `JpegFolder` and `JpegTar`; with `verify`, there are no checksums.
        ArgumentError: it has no fields.
    """
    if verify:
        raise DatasetError(f"{path} has no checksums to verify; convert it to a .beton: budgetloader convert")
    if label_field is not None:
        raise ArgumentError(f"label_field={label_field!r}: {path} has no fields; labels come from its class folders")
    if not os.path.isdir(path):
        return JpegTar(path)
    if cifar_folder(local(path)) is not None:
        raise DatasetError(f"{path} has CIFAR's pickles; convert them: budgetloader convert {path} FILE.beton")
    return JpegFolder(path)
