"""The sets that studies train on: where they come from, as a pair of .beton files."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from rich.console import Console

from budgetloader import Dataset, DatasetError
from budgetloader.bench.study import fonts, glyphs
from budgetloader.bench.study.run import Files
from budgetloader.convert.converting import convert
from budgetloader.convert.sources import open_source

FASHION = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"


def files(name: str, data: Path | None, *, folder: Path, console: Console) -> Files:
    """The training and test set of a study, converted into `folder` unless they are there.

    Args:
        name: of the study.
        data: where the images are (for the rendered characters, the fonts); None: what packages have, which are
            installed where they can be.
        folder: for train.beton and test.beton.

    Raises:
        DatasetError: the images are not there.
    """
    if name == "glyphs":
        return Files(*(_glyphs(part, data, folder=folder, console=console) for part in ("train", "test")))
    if data is None:
        if name != "fashion":
            raise DatasetError(f"the images of {name} come with no package; say where they are with --data")
        data = fashion(console)
    found = []
    for split in ("train", "test"):
        path, source = folder / f"{split}.beton", _part(data, split)
        if source.suffix == ".beton":
            path = source
        elif not path.exists():
            console.print(f"convert {split} images", soft_wrap=True)
            folder.mkdir(parents=True, exist_ok=True)
            convert(open_source(source, split=split), path, exists="replace")
        found.append(Dataset(path))
    return Files(*found)


def tuning(name: str, data: Path | None, *, folder: Path, console: Console) -> Dataset | None:
    """What the pilot is measured on, where a set has a part of its own for that; None: on what each seed holds out."""
    return _glyphs("tuning", data, folder=folder, console=console) if name == "glyphs" else None


def _glyphs(part: str, data: Path | None, *, folder: Path, console: Console) -> Dataset:
    """A part of the rendered characters; `data` is a folder of fonts."""
    path = folder / f"{part}.beton"
    if not path.exists():
        console.print(f"render {glyphs.SIZES[part]:,} characters: {part}", soft_wrap=True)
        folder.mkdir(parents=True, exist_ok=True)
        convert(glyphs.source(part, fonts.families(part, data, console=console)), path, exists="replace")
    return Dataset(path)


def classes(data: Path) -> int:
    """How many classes a set has."""
    train = _part(data, "train")
    labels = Dataset(train).labels.tolist() if train.suffix == ".beton" else open_source(train).labels
    return 1 + max(labels)


def _part(data: Path, split: str) -> Path:
    """Where a split is: train.beton and val.beton in a folder, train/ and val/ in it, or in the folder itself."""
    for name in ("train",) if split == "train" else ("val", "test"):
        for path in (data / f"{name}.beton", data / name):
            if path.exists() and (path.is_dir() or path.suffix == ".beton"):
                return path
    return data


def fashion(console: Console) -> Path:
    """The folder of Debian's package of Fashion-MNIST, which is installed if this is root on a Debian.

    Raises:
        DatasetError: it is not there, and cannot be installed.
    """
    if not FASHION.is_dir() and hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        console.print(f"install the Debian package {PACKAGE}", soft_wrap=True)
        quiet = {"check": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (("update",), ("install", "-y", "--no-install-recommends", PACKAGE)):
            subprocess.run(["apt-get", "-qq", *command], env=environment, **quiet)  # type: ignore[call-overload]
    if not FASHION.is_dir():
        raise DatasetError(
            f"Fashion-MNIST is not on this machine: apt-get install {PACKAGE} (Debian, Ubuntu), or give --data the "
            "folder with its files train-images-idx3-ubyte.gz, …"
        )
    return FASHION
