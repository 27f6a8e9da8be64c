"""Sources for `convert` beside folders and pickles: `.beton` files, tars, and objects of one's own."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from budgetloader.convert.packed import parquet_source, shard_source
from budgetloader.convert.sources import SUFFIXES, Filled, Source, image_of, open_source
from budgetloader.convert.streamed import streamed_source
from budgetloader.custom_source import GivenDataset, load_callable
from budgetloader.dataset import Dataset
from budgetloader.errors import DatasetError
from budgetloader.image_folder import printable
from budgetloader.limits import MAX_PIXELS, max_bytes
from budgetloader.paths import local
from budgetloader.tars import Labelled, label_members, members_of_tar, open_regular

_MOST_LOOKED_AT = 40  # entries of a folder


def any_source(path: str | Path, *, split: str = "train", max_pixels: int = MAX_PIXELS) -> Source:
    """The source that a path is: a `.beton`, a tar, Parquet, MDS, LitData's chunks, or what `open_source` knows.

    Raises:
        DatasetError: it is none; says what to do with a file of that kind.
    """
    found = local(path)
    if found.is_file() and found.name.lower().endswith(".beton"):
        return beton_source(found, max_pixels=max_pixels)
    if found.is_file() and found.name.lower().endswith(".tar"):
        return shard_source(found, max_pixels=max_pixels) or tar_source(found, max_pixels=max_pixels)
    if found.suffix.lower() == ".parquet" or (found.is_dir() and _has_parquet(found)):
        return parquet_source(found, split=split, max_pixels=max_pixels)
    streamed = streamed_source(found, split=split, max_pixels=max_pixels) if found.is_dir() else None
    if streamed is not None:
        return streamed
    return open_source(found, split=split, max_pixels=max_pixels)


def _has_parquet(folder: Path, *, deep: int = 2) -> bool:
    """Whether Parquet files lie in a folder, or in the folders in it, as Hugging Face's repositories have them.

    Of a folder a few entries are looked at: one of a class may have a million, none of which is Parquet.
    """
    with os.scandir(folder) as entries:
        some = list(itertools.islice(entries, _MOST_LOOKED_AT))
    if any(entry.name.endswith(".parquet") for entry in some):
        return True
    return deep > 0 and any(_has_parquet(Path(entry.path), deep=deep - 1) for entry in some if entry.is_dir())


def beton_source(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Source:
    """The images of a `.beton`, such as one that FFCV wrote, with its fields."""
    dataset = Dataset(path, max_pixels=max_pixels)
    names = [f"sample {sample} of {dataset.path}" for sample in range(len(dataset))]
    labels = np.empty(0, np.int64) if dataset.label_field is None else dataset.labels
    made = _jpegs(lambda i: dataset.jpeg(i).tobytes(), names, labels, dataset.classes, max_pixels=max_pixels)
    if len(dataset.raw):
        made = dataclasses.replace(made, load=_or_pixels(dataset, made.load), read=None, plain=False)
    others = [name for name in dataset.fields if name not in (dataset.image_field, dataset.label_field)]
    columns = [dataset.column(name) for name in others]
    return dataclasses.replace(made, columns=tuple(Filled(column.field, column) for column in columns))


def _or_pixels(dataset: Dataset, decoded: Callable[[int], Any]) -> Callable[[int], Any]:
    """What gives the image of a sample, of which some are stored as pixels."""
    from PIL import Image

    def load(i: int) -> Image.Image:
        size = int(dataset.widths[i]), int(dataset.heights[i])
        return Image.frombytes("RGB", size, dataset.jpeg(i).tobytes()) if dataset.raw[i] else decoded(i)

    return load


def tar_source(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Source:
    """The images of a tar, which stays packed: of class folders, or a WebDataset shard with `.cls`."""
    place = local(path)
    file = open_regular(place)
    found: Labelled = label_members(file, list(members_of_tar(file, place)), place, suffixes=tuple(SUFFIXES))
    largest = 16 * max_pixels + max_bytes(1)  # as folders have it: the least compressed of these formats

    def read(i: int) -> bytes:
        image = found.images[i]
        if image.size > largest:
            raise DatasetError(f"it has {image.size:,} bytes, more than any image of {max_pixels:,} pixels")
        return _pread(file.fileno(), image.size, image.start)

    names = [f"{printable(image.name)} in {place}" for image in found.images]
    return _jpegs(read, names, found.labels, found.classes, max_pixels=max_pixels)


def callable_source(text: str, argument: str | None = None, *, max_pixels: int = MAX_PIXELS) -> Source:
    """The source that a function of one's own makes.

    Args:
        text: `module:callable`.
        argument: what it is called with; None: nothing.
        max_pixels: of an image.

    Raises:
        DatasetError: there is no such function, or it gives nothing that can be converted.
    """
    made = load_callable(text)(*([] if argument is None else [argument]))
    if isinstance(made, Source):
        return made
    if hasattr(made, "jpeg"):
        missing = [name for name in ("heights", "widths", "labels", "fingerprint") if not hasattr(made, name)]
        if missing:
            raise DatasetError(f"{text} gives a {type(made).__name__} without {missing[0]} (see JpegSource)")
        source = GivenDataset(made)
        names = [f"sample {sample} of {source.path}" for sample in range(len(source))]
        return _jpegs(lambda i: source.jpeg(i).tobytes(), names, source.labels, source.classes, max_pixels=max_pixels)
    if hasattr(made, "__getitem__") and hasattr(made, "__len__"):
        return _indexed(made, text)
    raise DatasetError(
        f"{text} gives a {type(made).__name__}; give a budgetloader.convert.Source, a budgetloader.JpegSource, or "
        "what has __len__ and __getitem__, which gives (image, label)"
    )


def _indexed(made: Any, text: str) -> Source:
    """A torch Dataset of images and labels. Each is loaded twice where its labels are not known by themselves."""
    from PIL import Image

    count = len(made)
    known = next((found for name in ("targets", "labels") if len(found := getattr(made, name, ())) == count), None)

    def pair(i: int) -> tuple[Any, int]:
        item = made[i]
        if not isinstance(item, tuple) or len(item) != 2:
            raise DatasetError(f"{text}: item {i} is a {type(item).__name__}; give (image, label)")
        return item

    def load(i: int) -> Image.Image:
        image = pair(i)[0]
        return image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))

    labels = [int(label) for label in known] if known is not None else [int(pair(i)[1]) for i in range(count)]
    classes = tuple(str(name) for name in getattr(made, "classes", ()))
    return Source([f"item {i} of {text}" for i in range(count)], labels, classes, load)


def _jpegs(
    read: Callable[[int], bytes], names: list[str], labels: np.ndarray, classes: tuple[str, ...], *, max_pixels: int
) -> Source:
    """A source of images by their files' bytes."""
    from PIL import Image

    def load(i: int) -> Image.Image:
        return image_of(read(i), max_pixels=max_pixels)

    return Source(names, [int(label) for label in labels], classes, load, read=read, plain=True)


def _pread(descriptor: int, size: int, start: int) -> bytes:
    data = os.pread(descriptor, size, start)
    if len(data) != size:
        raise DatasetError("its tar was cut short while it was read")
    return data
