"""Several dataset files as one set."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from budgetloader.columns import Column, Joined, Scalars
from budgetloader.dataset import Dataset
from budgetloader.errors import ArgumentError, ArgumentTypeError, DatasetError
from budgetloader.limits import MAX_PIXELS
from budgetloader.storage import open_files
from budgetloader.storage.traffic import Traffic, together


class Mixture:
    """Several files, of which every batch holds fixed proportions, whatever the files' sizes.

    Over any first n samples of an epoch, a file with share s has n·s of them, ±1; each file goes through an order of
    its own, without replacement until it is used up, and through another one then. M = ⌈D/B⌉ is that of all samples.

    Args:
        shares: each file's share, above 0, to five digits; they need not add up to 1.
    """

    def __init__(self, shares: Mapping[str | os.PathLike, float | str | Fraction]) -> None:
        if not isinstance(shares, Mapping) or not shares:
            raise ArgumentTypeError(f"Mixture({shares!r}): give a dict of files and their shares")
        self.shares = dict(shares)

    def __repr__(self) -> str:
        return f"Mixture({self.shares!r})"


def join(
    paths: Sequence[str | os.PathLike] | Mixture,
    *,
    verify: bool = False,
    label_field: str | None = None,
    max_pixels: int = MAX_PIXELS,
    cache: str | os.PathLike | None = None,
    cache_bytes: float | None = None,
) -> JoinedDataset:
    """Open several files as one set.

    Args:
        paths: the files, in the order of their samples' numbers, or a mixture of them.
        verify, label_field, max_pixels: as in `Dataset`.
        cache, cache_bytes: as in `BudgetLoader`; each file in object storage gets an equal part of the bytes.

    Raises:
        DatasetError: one cannot be opened, or they do not go together.
        ArgumentError: no file was given.
    """
    files = list(paths.shares if isinstance(paths, Mixture) else paths)
    if not files:
        raise ArgumentError("path is an empty list; give one .beton file at least")
    for file in files:
        if not isinstance(file, (str, os.PathLike)):
            raise ArgumentTypeError(
                f"path holds {file!r}, and not .beton files; make one (budgetloader convert), or keep it, with "
                "DataLoader(dataset, batch_sampler=budgetloader.BudgetSampler(dataset, schedule=…, batch_size=…))"
            )
    options: Any = {"verify": verify, "label_field": label_field, "max_pixels": max_pixels}
    parts = open_files(files, cache=cache, cache_bytes=cache_bytes, **options)
    return JoinedDataset(parts, shares=list(paths.shares.values()) if isinstance(paths, Mixture) else None)


class JoinedDataset:
    """Several files whose samples are numbered one after the other; nothing is copied.

    Where the files name their classes, a class is told by its name: files with other classes, or the same in another
    order, get the numbers of the joined list. Where none does, their labels are taken as they are.

    Args:
        parts: open datasets, in the order of the numbers.
        shares: of each part in a batch, or None.

    Attributes:
        heights, widths: int64 [D], pixels.
        labels: int64 [D], numbers in `classes`.
        classes: the names of all parts' classes, in the order in which they first occur, or ().
        mixture: (samples of each part, share of each part), or None: see `Mixture`.
        fingerprint: 16 hex digits of the parts' own.

    Raises:
        DatasetError: no part; some parts name their classes, and some do not; one file twice.
    """

    mapped = False  # not one file's map: engine "ffcv" refuses it

    def __init__(self, parts: Sequence[Dataset], *, shares: Sequence[Any] | None = None) -> None:
        if not parts:
            raise DatasetError("no file was given; give one at least")
        prints = [part.fingerprint for part in parts]
        for place, one in enumerate(prints):
            if one in prints[:place]:
                raise DatasetError(
                    f"{parts[place].path} and {parts[prints.index(one)].path} are the same samples; "
                    "use weights= to draw samples more often"
                )
        self.parts = tuple(parts)
        sizes = tuple(len(part) for part in parts)
        self.mixture = None if shares is None else (sizes, tuple(shares))
        self._firsts = np.cumsum((0, *sizes))
        self.heights = np.concatenate([part.heights for part in parts])
        self.widths = np.concatenate([part.widths for part in parts])
        self.raw = _raw(parts)
        self.classes, self.labels = _classes(parts)
        self.fingerprint = hashlib.sha256(" ".join(prints).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that all parts have, in the first one's order."""
        return tuple(name for name in self.parts[0].fields if all(name in part.fields for part in self.parts))

    @property
    def label_field(self) -> str | None:
        """The name of the field that holds the labels, as the first part has it; None if a part has none."""
        return None if any(part.label_field is None for part in self.parts) else self.parts[0].label_field

    def column(self, name: str) -> Column:
        """See `Dataset.column`. Labels are numbers in `classes`.

        Raises:
            DatasetError: a part has no such field, or one of another kind, dtype or shape.
        """
        if name == self.label_field:
            return Scalars(self.parts[0].column(name).field, self.labels)
        return Joined([part.column(name) for part in self.parts])

    def image(self, name: str) -> JoinedDataset:
        """See `Dataset.image`.

        Raises:
            DatasetError: a part has no such image.
        """
        return JoinedDataset([part.image(name) for part in self.parts])

    @property
    def path(self) -> str:
        """The files' names, for messages."""
        return " + ".join(str(part.path) for part in self.parts)

    @property
    def verifies(self) -> bool:
        return all(part.verifies for part in self.parts)

    @property
    def traffic(self) -> Traffic | None:
        """What the files in object storage have cost together; None where all are on this machine."""
        return together([part.traffic for part in self.parts if hasattr(part, "traffic")])

    def jpeg(self, sample: int) -> np.ndarray:
        """The bytes of one sample: uint8 [size]. See `Dataset.jpeg`."""
        part, inside = self._place(sample)
        return part.jpeg(inside)

    def intact(self, sample: int) -> bool:
        """See `Dataset.intact`."""
        part, inside = self._place(sample)
        return part.intact(inside)

    def check_unchanged(self) -> None:
        """See `Dataset.check_unchanged`."""
        for part in self.parts:
            part.check_unchanged()

    def _place(self, sample: int) -> tuple[Dataset, int]:
        part = int(np.searchsorted(self._firsts, sample, side="right")) - 1
        return self.parts[part], int(sample) - int(self._firsts[part])


def _raw(parts: Sequence[Dataset]) -> np.ndarray:
    """Which samples are pixels: bool [D], or [0] where none is."""
    raw = [getattr(part, "raw", ()) for part in parts]
    if not any(map(len, raw)):
        return np.zeros(0, np.bool_)
    return np.concatenate(
        [of if len(of) else np.zeros(len(part), np.bool_) for of, part in zip(raw, parts, strict=True)]
    )


def _classes(parts: Sequence[Dataset]) -> tuple[tuple[str, ...], np.ndarray]:
    named = [bool(part.classes) for part in parts]
    if not any(named):
        return (), np.concatenate([part.labels for part in parts])
    if not all(named):
        with_names, without = parts[named.index(True)], parts[named.index(False)]
        raise DatasetError(
            f"{with_names.path} names its classes and {without.path} does not, so nobody can tell which labels are "
            "the same; convert the files alike"
        )
    classes = tuple(dict.fromkeys(name for part in parts for name in part.classes))
    number = {name: place for place, name in enumerate(classes)}
    labels = [np.array([number[name] for name in part.classes], np.int64)[part.labels] for part in parts]
    return classes, np.concatenate(labels)
