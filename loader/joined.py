"""Several dataset files as one set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from budgetloader.dataset import Dataset
from budgetloader.errors import DatasetError


class JoinedDataset:
    """Several files whose samples are numbered one after the other; nothing is copied.

    Where the files name their classes, a class is told by its name: files with other classes, or the same in another
    order, get the numbers of the joined list. Where none does, their labels are taken as they are.

    Args:
        parts: open datasets, in the order of the numbers.

    Attributes:
        heights, widths: int64 [D], pixels.
        labels: int64 [D], numbers in `classes`.
        classes: the names of all parts' classes, in the order in which they first occur, or ().
        part_sizes: samples of each part.
        fingerprint: 16 hex digits of the parts' own.

    Raises:
        DatasetError: no part; some parts name their classes, and some do not; one file twice.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
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
        self.part_sizes = tuple(len(part) for part in parts)
        self._firsts = np.cumsum((0, *self.part_sizes))
        self.heights = np.concatenate([part.heights for part in parts])
        self.widths = np.concatenate([part.widths for part in parts])
        self.classes, self.labels = _classes(parts)
        self.fingerprint = hashlib.sha256(" ".join(prints).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def path(self) -> str:
        """The files' names, for messages."""
        return " + ".join(str(part.path) for part in self.parts)

    @property
    def verifies(self) -> bool:
        return all(part.verifies for part in self.parts)

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
