"""Small data that the tests share: real photographs as an ImageFolder and as a .beton."""

from __future__ import annotations

from pathlib import Path

import pytest

from loader.convert import convert
from loader.dataset import Dataset
from loader.generate import generate
from loader.sources import image_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder of 70 generated JPEGs in 14 classes."""
    root = tmp_path_factory.mktemp("images") / "train"
    generate(root, images=70, seed=7)
    return root


@pytest.fixture(scope="session")
def beton(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`folder` as a .beton."""
    path = tmp_path_factory.mktemp("beton") / "train.beton"
    convert(image_folder(folder), path)
    return path


@pytest.fixture
def dataset(beton: Path) -> Dataset:
    return Dataset(beton)
