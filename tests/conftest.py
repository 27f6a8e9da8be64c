"""Small data that the tests share: real photographs as an ImageFolder and as a .beton."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from services import data, environment, registry_folder, served, services
from stores import configured, on_s3, own_home, proxy, s3, web

from budgetloader.convert.converting import Settings, convert
from budgetloader.convert.sources import Source, image_folder
from budgetloader.dataset import Dataset
from budgetloader.generate import generate

if TYPE_CHECKING:
    from budgetloader import BudgetLoader

__all__ = [
    "data",
    "environment",
    "registry_folder",
    "served",
    "services",
]  # fixtures: running services, see services.py
__all__ += ["configured", "on_s3", "own_home", "proxy", "s3", "web"]  # and object stores, see stores.py

# A shell's background job ignores Ctrl-C, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Nor are tests timed: a busy machine is no bug.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parent.parent


# These take longest, mostly waiting. They run first, so that no process has one of their files left at the end.
LONGEST = (ROOT / "tests" / "loader" / "service", ROOT / "tests" / "loader" / "storage", ROOT / "tests" / "bench")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the folders that take longest first, and mark as slow what imports FFCV or starts an S3 server."""
    items.sort(key=lambda item: not any(folder in item.path.parents for folder in LONGEST))
    for item in items:
        if "ffcv" in re.split(r"[-\[\]]", item.name) or "s3" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


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


@pytest.fixture(scope="session")
def small_beton(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`folder` with every image made 40 × 40, as CIFAR's are of one size."""
    path = tmp_path_factory.mktemp("beton") / "small.beton"
    source = image_folder(folder)
    load = lambda i: source.load(i).resize((40, 40))  # noqa: E731
    convert(Source(source.names, source.labels, source.classes, load), path, settings=Settings(quality=95))
    return path


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass at once, so many that what a busy machine adds is nothing beside them."""
    clock, passed = time.perf_counter, 0.0

    def pause(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: clock() + passed)
    return pause


@pytest.fixture
def open_loader(beton: Path) -> Iterator[Callable[..., BudgetLoader]]:
    """Makes loaders of small batches of `beton`, and closes them."""
    from budgetloader import BudgetLoader, Schedule

    opened: list[BudgetLoader] = []

    def open_loader(path: Any = beton, **options: Any) -> BudgetLoader:
        options = {
            "schedule": Schedule.paper("R3", epochs=12),
            "batch_size": 4,
            "image_size": 16,
            "with_ids": True,
            "workers": 2,
            **options,
        }
        opened.append(BudgetLoader(path, **options))
        return opened[-1]

    yield open_loader
    for loader in opened:
        loader.close()


@pytest.fixture
def dataset(beton: Path) -> Dataset:
    return Dataset(beton)


def damage(path: Path, target: Path, *, samples: tuple[int, ...]) -> Path:
    """A copy of a .beton in which some samples do not decode."""
    dataset = Dataset(path)
    shutil.copy(path, target)
    with open(target, "r+b") as file:
        for sample in samples:
            file.seek(int(dataset.starts[sample]))
            file.write(b"\xff\xd8 no jpeg at all")
    return target
