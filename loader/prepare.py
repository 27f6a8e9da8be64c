"""Make data ready to train on: a `.beton`, a folder of images to convert, generated JPEGs, handwritten digits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from rich.progress import Progress

from budgetloader.convert import arrays
from budgetloader.convert.converting import convert
from budgetloader.convert.sources import Source, open_source
from budgetloader.dataset import Dataset
from budgetloader.errors import DatasetError
from budgetloader.generate import generate
from budgetloader.paths import local
from budgetloader.pickles import cifar_folder
from budgetloader.plans import Index

if TYPE_CHECKING:
    from budgetloader.plans import Index

_HOLD_OUT = 8  # without a validation folder, every eighth image of each class is kept for it


@dataclass(frozen=True)
class Data:
    """A training set, and what to evaluate on (None: nothing). `name` is for people."""

    name: str
    train: Index
    evaluation: Dataset | None

    @property
    def classes(self) -> int:
        sets = [d for d in (self.train, self.evaluation) if d is not None]
        return 1 + max(int(d.labels.max()) for d in sets)


def prepare(
    data: Path | None,
    *,
    evaluation: Path | None,
    folder: Path,
    images: int,
    seed: int,
    progress: Progress,
    builtin: str = "generated",
    image_size: int | None = None,
) -> Data:
    """Make data ready to train on; what is in `folder` already is taken as it is.

    Args:
        data: a `.beton`; an ImageFolder with train and val (or test) in it; one with the classes
            right in it, of which every eighth image is held out; a folder of CIFAR's pickles or of IDX
            files, or an .npz; or None for `builtin`.
        evaluation: a `.beton` or ImageFolder to evaluate on; default: see above, and for a `.beton`
            the val.beton beside it, if there is one.
        folder: where to put what is made.
        images: how many to generate for training; half as many for evaluation.
        seed: of the generator.
        builtin: "generated", JPEGs made of photographs; or "digits", scikit-learn's.
        image_size: pixels of the digits.
    """
    if data is None and builtin == "digits":
        return _digits(folder, images=images, image_size=image_size or 32, progress=progress)
    if data is None:
        return _generated(folder, images=images, seed=seed, progress=progress)
    if not data.exists():
        raise DatasetError(f"{data} does not exist; give --data a .beton file or a folder of images")
    if data.is_file() and not arrays.is_arrays(data):
        beside = data.with_name("val.beton")
        if evaluation is None and beside.is_file() and beside != data:
            evaluation = beside
        held_out = _as_dataset(evaluation, folder / "val.beton", progress) if evaluation else None
        return _checked(Data(data.name, Dataset(data), held_out))
    if (data / "train").is_dir():
        named = [data / name for name in ("val", "test") if (data / name).is_dir()]
        evaluation = evaluation or (named[0] if named else None)
        train = _as_dataset(data / "train", folder / "train.beton", progress)
        held_out = _as_dataset(evaluation, folder / "val.beton", progress) if evaluation else None
        return _checked(Data(data.name, train, held_out))
    source = open_source(data)
    if evaluation is None and (cifar_folder(data) is not None or arrays.has_split(data, "test")):
        test = open_source(data, split="test")
        train = _converted(source, folder / "train.beton", progress)
        return _checked(Data(data.name, train, _converted(test, folder / "val.beton", progress)))
    if evaluation is not None:
        train = _converted(source, folder / "train.beton", progress)
        return _checked(Data(data.name, train, _as_dataset(evaluation, folder / "val.beton", progress)))
    kept = _hold_out(source)
    rest = dataclasses.replace(_part(source, ~kept), warnings=source.warnings)
    train = _converted(rest, folder / "train.beton", progress)
    return _checked(Data(data.name, train, _converted(_part(source, kept), folder / "val.beton", progress)))


def served(name: str, train: Index, *, evaluation: str | None, folder: Path, progress: Progress) -> Data:
    """A service's dataset, and a `.beton` or ImageFolder to evaluate on, if any."""
    held_out = _as_dataset(local(evaluation), folder / "val.beton", progress) if evaluation else None
    return _checked(Data(name, train, held_out))


def _digits(folder: Path, *, images: int, image_size: int, progress: Progress) -> Data:
    """Handwritten digits, 1,797 of 8×8 pixels in grey, made larger; those behind the first `images` are held out.

    E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, as scikit-learn ships them.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DatasetError("the digits come with scikit-learn; pip install 'budgetloader[bench]'") from None

    digits = load_digits()
    if not 10 <= images < len(digits.target):
        raise DatasetError(f"--images {images}: there are {len(digits.target)} digits; give from 10 to one less")
    pixels = (digits.images * 255 / 16).astype(np.uint8)

    def load(i: int) -> Image.Image:
        return Image.fromarray(pixels[i]).convert("RGB").resize((image_size, image_size), Image.Resampling.BICUBIC)

    def part(numbers: range) -> Source:
        names = [f"digit {i}" for i in numbers]
        labels = [int(digits.target[i]) for i in numbers]
        return Source(names, labels, tuple("0123456789"), lambda i: load(numbers[i]), lossy=False)

    train = _converted(part(range(images)), folder / "train.beton", progress)
    held_out = _converted(part(range(images, len(pixels))), folder / "val.beton", progress)
    return _checked(Data("scikit-learn's digits", train, held_out))


def _generated(folder: Path, *, images: int, seed: int, progress: Progress) -> Data:
    train = _generated_set(folder, "train", images=images, seed=2 * seed, progress=progress)
    evaluation = _generated_set(folder, "val", images=max(images // 2, 1), seed=2 * seed + 1, progress=progress)
    return _checked(Data("generated JPEGs", train, evaluation))


def _generated_set(folder: Path, name: str, *, images: int, seed: int, progress: Progress) -> Dataset:
    path, jpegs = folder / f"{name}.beton", folder / "jpegs" / name
    if path.exists():
        return Dataset(path)
    if not jpegs.is_dir():
        jpegs.parent.mkdir(parents=True, exist_ok=True)
        task = progress.add_task(f"generate {name}", total=images)
        generate(jpegs, images=images, seed=seed, progress=lambda n: progress.update(task, completed=n))
    return _converted(open_source(jpegs), path, progress)


def _as_dataset(path: Path, target: Path, progress: Progress) -> Dataset:
    return Dataset(path) if path.is_file() else _converted(open_source(path, split="test"), target, progress)


def _converted(source: Source, path: Path, progress: Progress) -> Dataset:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in source.warnings:
            _say(progress, f"warning: {line}")
        task = progress.add_task(f"convert {path.stem}", total=len(source))
        report = convert(source, path, progress=lambda n: progress.update(task, completed=n))
        fewest, most = min(report.labels.values()), max(report.labels.values())
        classes = f"{len(report.labels):,} classes, {fewest:,} to {most:,} of each"
        _say(progress, f"{path.name}: {report.samples:,} images of {classes}")
    return Dataset(path)


def _say(progress: Progress, line: str) -> None:
    if not progress.disable:
        progress.console.print(line, soft_wrap=True, markup=False, highlight=False)


def _hold_out(source: Source) -> np.ndarray:
    """Which images are held out: every eighth of each class, and one of a class that has from 2 to 7."""
    kept = np.zeros(len(source), bool)
    labels = np.asarray(source.labels)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        if len(places) > 1:
            kept[places[min(len(places), _HOLD_OUT) - 1 :: _HOLD_OUT]] = True
    if not kept.any():
        raise DatasetError("no class has two images, so that none can be held out; give --val a folder to evaluate on")
    return kept


def _part(source: Source, chosen: np.ndarray) -> Source:
    where = np.flatnonzero(chosen)
    return Source(
        names=[source.names[i] for i in where],
        labels=[source.labels[i] for i in where],
        classes=source.classes,
        load=lambda i: source.load(int(where[i])),
        lossy=source.lossy,
    )


def _checked(data: Data) -> Data:
    if int(data.train.labels.min()) < 0:
        raise DatasetError(f"{data.name} has a negative label; labels are 0 … classes − 1")
    other = data.evaluation
    if other is not None and data.train.classes and other.classes and data.train.classes != other.classes:
        raise DatasetError(
            f"{data.name} and {other.path} have other classes ({len(data.train.classes)} and "
            f"{len(other.classes)}), so that labels would not mean the same; convert both from the same class folders"
        )
    return data
