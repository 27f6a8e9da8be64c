"""Sets that grow: files that were added behind a first one, which is never written to again."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from budgetloader.convert.converting import Report, convert
from budgetloader.convert.sources import Source
from budgetloader.dataset import Dataset
from budgetloader.errors import DatasetError
from budgetloader.joined import JoinedDataset
from budgetloader.paths import local

_MOST = 9999


def shards(path: str | os.PathLike) -> list[Path]:
    """A `.beton` and the files that `append` added to it, in their order: `train.beton`, `train.0001.beton`, ….

    Give the list to `BudgetLoader`: samples that were there keep their numbers.

    Raises:
        DatasetError: the first file does not exist, or one in between is missing.
    """
    first = local(path)
    if not first.is_file():
        raise DatasetError(f"{first} does not exist; make it with: budgetloader convert")
    pattern = re.compile(re.escape(first.stem) + r"\.(\d{4})" + re.escape(first.suffix))
    found = sorted(int(match[1]) for entry in first.parent.iterdir() if (match := pattern.fullmatch(entry.name)))
    if found != list(range(1, len(found) + 1)):
        missing = next(number for number in range(1, _MOST + 1) if number not in found)
        raise DatasetError(f"{_shard(first, missing)} is missing, and {_shard(first, found[-1])} is there; put it back")
    return [first, *(_shard(first, number) for number in found)]


def append(source: Source, path: str | os.PathLike, **options: Any) -> tuple[Path, Report]:
    """Convert more images as a file behind those of a set; nothing that was there is written to.

    Args:
        source: the images. Their classes are told by name; new ones come behind those that there are.
        path: the set's first file.
        options: as `budgetloader.convert.convert` takes them.

    Returns:
        The new file, and the counts of its conversion.

    Raises:
        DatasetError: there is no such set, it does not name its classes as the source does, it has these very samples
            already, or an image cannot be converted.
    """
    there = shards(path)
    if len(there) > _MOST:
        raise DatasetError(f"{there[0]} has {_MOST:,} files behind it already; convert the set to one anew")
    named = bool(Dataset(there[0]).classes)
    if named != bool(source.classes):
        has = "names its classes" if named else "does not name its classes"
        raise DatasetError(f"{there[0]} {has}, unlike what is added, so nobody could tell which labels are the same")
    target = _shard(there[0], len(there))
    report = convert(source, target, **options)
    try:
        JoinedDataset([Dataset(part) for part in (*there, target)])
    except DatasetError:
        target.unlink()
        raise
    return target, report


def _shard(first: Path, number: int) -> Path:
    return first.with_name(f"{first.stem}.{number:04}{first.suffix}")
