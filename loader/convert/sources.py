"""Sources of images to convert: folders, CIFAR's pickles, IDX files, .npz, torchvision datasets on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from budgetloader import pickles
from budgetloader.convert import arrays
from budgetloader.errors import DatasetError, first_line
from budgetloader.fields import Field
from budgetloader.limits import MAX_PIXELS, check_max_pixels, check_pixels, check_scans, max_bytes
from budgetloader.paths import local

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"}
# The formats that Pillow may read, whatever a file's name: others start programs (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
_BYTES_PER_PIXEL = 16  # of the least compressed of these
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
# Files that users also have their images in: end of the name → its kind, and what to do.
_FOREIGN = {
    **dict.fromkeys((".beton",), "is a .beton already, which needs no conversion; give it alone to store it otherwise"),
    **dict.fromkeys((".tar",), "is a tar, which is a source by itself; give it alone"),
    **dict.fromkeys((".tar.gz", ".tgz", ".tar.xz", ".zip"), "is an archive; unpack it, and give the folder"),
    **dict.fromkeys(
        (".parquet", ".arrow", ".feather"),
        "is a table of columns; write its images to CLASS/NAME.jpg, and give that folder",
    ),
    **dict.fromkeys(
        (".tfrecord", ".rec", ".mdb", ".h5", ".hdf5", ".npy", ".mat", ".pkl", ".pickle"),
        "is another program's container; write its images to CLASS/NAME.jpg, and give that folder",
    ),
    ".npz": "has no arrays that are known as images and labels; name them train_images, train_labels (and test_…)",
    **dict.fromkeys(
        (".csv", ".json", ".jsonl", ".txt"),
        "is a list, and labels come from folders; sort the images into CLASS/NAME.jpg",
    ),
}


@dataclass(frozen=True)
class Filled:
    """A field with a value for each image of a source.

    Attributes:
        field: what the values are.
        values: one for each image, as `Field.encode` takes them. Boxes and points are in pixels of the image as `load`
            gives it, and follow it where it is made smaller.
    """

    field: Field
    values: Sequence[Any]


@dataclass(frozen=True)
class Source:
    """Labelled images that are loaded one at a time, from any thread.

    Attributes:
        names: what to call each image in messages.
        labels: each image's class; [] where there are columns in their place.
        classes: the classes' names, or () where they are not known.
        load: gives image i as PIL has it, in any mode.
        lossy: whether the images have been through a lossy codec already (False for CIFAR's pixels).
        read: gives the bytes of image i's file, or None where there are no files.
        warnings: probable mistakes of its user, and what to do about them.
        columns: what each image has besides.
        plain: whether `load` gives what `read`'s bytes are, as `image_of` does.
        notes: JSON-able facts to keep with the file, under names that the writer has not.
    """

    names: list[str]
    labels: list[int]
    classes: tuple[str, ...]
    load: Callable[[int], Image.Image]
    lossy: bool = True
    read: Callable[[int], bytes] | None = None
    warnings: tuple[str, ...] = ()
    columns: tuple[Filled, ...] = ()
    plain: bool = False
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)


def open_source(path: str | Path, *, split: str = "train", max_pixels: int = MAX_PIXELS) -> Source:
    """The source that `path` is: a folder of class folders, one with CIFAR's pickles or IDX files, or an .npz.

    Args:
        path: the folder, or the .npz.
        split: "train" or "test", for CIFAR, IDX files and an .npz.
        max_pixels: of an image; larger ones cannot be read.

    Raises:
        DatasetError: it is none of them; the message says what to do with a file of that kind.
    """
    root = local(path)
    if arrays.is_arrays(root):
        return of_arrays(arrays.load(root, split=split, max_pixels=max_pixels))
    if not root.is_dir():
        raise DatasetError(f"{root} {_instead(root)}")
    found = pickles.cifar_folder(root)
    return image_folder(root, max_pixels=max_pixels) if found is None else cifar(found, split=split)


def _instead(path: Path) -> str:
    """What a path is that is no folder, and what to do."""
    if not path.exists():
        return "does not exist; give a folder with a folder of images for each class"
    name = path.name.lower()
    known = [text for end, text in _FOREIGN.items() if name.endswith(end)]
    if Path(name).suffix in SUFFIXES:
        known = ["is one image; give a folder with a folder of images for each class"]
    return known[0] if known else "is no folder; give one with a folder of images for each class"


def image_folder(root: str | Path, *, max_pixels: int = MAX_PIXELS, flat: bool = False) -> Source:
    """A folder with a folder for each class, as torchvision's ImageFolder reads it (sorted).

    Args:
        root: the folder.
        max_pixels: of an image; larger ones cannot be read.
        flat: take all images in it, however deep they lie, and give them no labels.
    """
    from PIL import Image

    if check_max_pixels(max_pixels) > (Image.MAX_IMAGE_PIXELS or max_pixels):
        Image.MAX_IMAGE_PIXELS = max_pixels  # which is the process's, and would be the lower limit
    root = local(root)
    try:
        classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        classes = [""] if flat else classes
        files = [
            (file, label)
            for label, name in enumerate(classes)
            for file in sorted((root / name).rglob("*"))
            if file.suffix.lower() in SUFFIXES and file.is_file() and not file.name.startswith(".")
        ]
    except OSError as error:
        raise DatasetError(f"{error.filename or root} cannot be read: {error.strerror}") from None
    if not files:
        raise DatasetError(
            f"{root} has no images in class folders; it needs CLASS/NAME.jpg ({', '.join(sorted(SUFFIXES))})"
            f"{_also_there(root)}"
        )

    def load(i: int) -> Image.Image:
        return image_of(read(i), max_pixels=max_pixels)

    read = Files([str(file) for file, _ in files], max_pixels=max_pixels)
    names, labels = [str(f.relative_to(root)) for f, _ in files], [label for _, label in files]
    if flat:
        return Source(names, [], (), load, read=read)
    warnings = _split_warnings(root, classes, names)
    return Source(names, labels, tuple(classes), load, read=read, warnings=warnings, plain=True)


class Files:
    """What reads images that are files of their own, for `Source.read`.

    Args:
        paths: of the images.
        max_pixels: of an image.
    """

    def __init__(self, paths: list[str], *, max_pixels: int) -> None:
        self.paths, self._max_pixels = paths, max_pixels

    def __call__(self, i: int) -> bytes:
        return file_of(self.paths[i], max_pixels=self._max_pixels)


def file_of(path: str | Path, *, max_pixels: int) -> bytes:
    """An image's file.

    Raises:
        DatasetError: it is larger than any image of `max_pixels`.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > _BYTES_PER_PIXEL * max_pixels + max_bytes(1):
            raise DatasetError(f"it has {size:,} bytes, more than any image of {max_pixels:,} pixels")
        return file.read(size)


def image_of(data: bytes, *, max_pixels: int) -> Image.Image:
    """The image that a file's bytes are, as PIL has it.

    Args:
        data: of a file in one of `FORMATS`.
        max_pixels: of an image; larger ones are not decoded.
    """
    with opened(data, max_pixels=max_pixels) as image:
        image.load()
        return image


@contextlib.contextmanager
def opened(data: bytes, *, max_pixels: int) -> Iterator[Image.Image]:
    """As `image_of`, but not decoded yet."""
    from PIL import Image

    if max_pixels > (Image.MAX_IMAGE_PIXELS or max_pixels):
        Image.MAX_IMAGE_PIXELS = max_pixels  # which is the process's, and would be the lower limit
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_pixels(*image.size, most=max_pixels)
        if image.format in ("JPEG", "MPO"):
            check_scans(data)
        yield image


def _also_there(root: Path) -> str:
    """What a folder without images has in their place."""
    try:
        entries = sorted(entry for entry in root.iterdir() if entry.is_file() and not entry.name.startswith("."))
    except OSError:
        return ""
    for entry in entries:
        if entry.suffix.lower() in SUFFIXES:
            return f"; {entry.name} lies in it beside no class folder"
        if any(entry.name.lower().endswith(end) for end in _FOREIGN):
            return f"; {entry.name} in it {_instead(entry)}"
    return ""


def _split_warnings(root: Path, classes: list[str], names: list[str]) -> tuple[str, ...]:
    """Whether the classes of a folder look like a training and a validation set, with classes of their own."""
    if not {name.lower() for name in classes} <= _SPLITS or not all(len(Path(name).parts) > 2 for name in names):
        return ()
    commands = ", ".join(f"`budgetloader convert {root / name} {name}.beton`" for name in classes)
    return (
        f"{root} is converted with the classes {' and '.join(classes)}, whose folders have class folders in them; "
        f"if they are sets of their own, convert each: {commands}",
    )


def cifar(root: str | Path, *, split: str = "train") -> Source:
    """CIFAR-10 or CIFAR-100 as its authors distribute it ("python version", unpacked)."""
    from PIL import Image

    root = local(root)
    tens = (root / "batches.meta").is_file()
    if split not in ("train", "test"):
        raise DatasetError(f"split {split!r} is not known; CIFAR has 'train' and 'test'")
    files = (
        [f"data_batch_{i}" for i in range(1, 6)] if tens and split == "train" else [f"{split}_batch" if tens else split]
    )
    meta = pickles.load(root / ("batches.meta" if tens else "meta"))
    parts = [pickles.load(root / name) for name in files]
    key = b"labels" if tens else b"fine_labels"
    try:
        pixels = np.concatenate([part[b"data"] for part in parts]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = [label for part in parts for label in part[key]]
        classes = tuple(name.decode() for name in meta[b"label_names" if tens else b"fine_label_names"])
    except (KeyError, ValueError, TypeError) as error:
        raise DatasetError(f"{root} does not hold CIFAR's pickles as they are distributed ({error})") from None
    names = [f"{split} image {i}" for i in range(len(labels))]
    return Source(names, labels, classes, lambda i: Image.fromarray(np.ascontiguousarray(pixels[i])), lossy=False)


def of_arrays(found: arrays.Arrays) -> Source:
    """Images and labels that are in memory; the classes have no names."""
    from PIL import Image

    names = [f"{found.name} {i}" for i in range(len(found.labels))]
    return Source(names, found.labels.tolist(), (), lambda i: Image.fromarray(found.images[i]), lossy=False)


def torchvision_dataset(name: str, root: str | Path, *, split: str | None = None) -> Source:
    """A torchvision dataset that is on disk already, such as "Flowers102" (nothing is downloaded)."""
    import inspect

    from PIL import Image

    try:
        import torchvision.datasets as datasets
    except ImportError:
        raise DatasetError("torchvision is not installed; pip install torchvision") from None
    factory = getattr(datasets, name, None)
    if not (isinstance(factory, type) and issubclass(factory, datasets.VisionDataset)):
        raise DatasetError(f"torchvision has no dataset {name!r}")
    options: dict[str, Any] = {}
    parameters = inspect.signature(factory).parameters
    if split is not None:
        if "split" in parameters:
            options["split"] = split
        elif "train" in parameters:
            options["train"] = split == "train"
    try:
        dataset = factory(str(local(root)), **options)
        count = len(dataset)
        labels = _labels(dataset, count)
    except (RuntimeError, OSError, ValueError) as error:
        raise DatasetError(f"torchvision's {name} cannot be read from {root}: {first_line(error)}") from None
    classes = tuple(str(c) for c in getattr(dataset, "classes", ()))

    def load(i: int) -> Image.Image:
        image = dataset[i][0]
        return image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))

    return Source([f"{name} {i}" for i in range(count)], labels, classes, load)


def _labels(dataset: Any, count: int) -> list[int]:
    for attribute in ("targets", "labels", "_labels"):
        values = getattr(dataset, attribute, None)
        if values is not None and len(values) == count:
            return [int(v) for v in values]
    return [int(dataset[i][1]) for i in range(count)]
