"""JPEGs that somebody else's object gives: the protocol of sources, and what a loader makes of one."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from budgetloader.errors import ArgumentTypeError, DatasetError
from budgetloader.limits import MAX_PIXELS, max_bytes


class JpegSource(Protocol):
    """JPEGs of your own that a loader takes in place of a `.beton`, and `convert` writes to one.

    Attributes:
        heights, widths: integers [D], pixels of each image, as stored.
        labels: integers [D].
        fingerprint: a short text that tells this set from others; a state is resumed where it is the same.
        classes: the classes' names, by label; may be missing.
        path: what messages call it; may be missing.
    """

    heights: np.ndarray
    widths: np.ndarray
    labels: np.ndarray
    fingerprint: str

    def jpeg(self, sample: int) -> bytes | np.ndarray:
        """The bytes of a sample's JPEG: bytes, or uint8 [size]. Called from several threads, again and again."""


class GivenDataset:
    """Somebody's `JpegSource`, checked: what engines read are bytes of a JPEG, of the size that was said.

    Args:
        source: the object. What else it has, such as `column`, is found here, too.

    Raises:
        DatasetError: its arrays are not what they must be; names which.
    """

    mapped = False  # no file's map: engine "ffcv" refuses it
    verifies = False
    label_field = None

    def __init__(self, source: Any) -> None:
        self._source = source
        self.path = str(getattr(source, "path", type(source).__name__))
        self.heights, self.widths, self.labels = (
            _integers(source, name, path=self.path) for name in ("heights", "widths", "labels")
        )
        if not len(self.heights) == len(self.widths) == len(self.labels) > 0:
            counts = f"{len(self.heights):,}, {len(self.widths):,} and {len(self.labels):,}"
            raise DatasetError(
                f"{self.path} has {counts} heights, widths and labels; give as many of each, one at least"
            )
        for name, array in (("heights", self.heights), ("widths", self.widths)):
            if array.min() < 1 or array.max() > 65_535:
                wrong = int(np.flatnonzero((array < 1) | (array > 65_535))[0])
                raise DatasetError(f"{self.path}: {name}[{wrong}] is {array[wrong]}; give pixels, 1 … 65,535")
        large = np.flatnonzero(self.heights * self.widths > MAX_PIXELS)
        if len(large):
            raise DatasetError(f"{self.path}: sample {large[0]} has more pixels than {MAX_PIXELS:,}; make it smaller")
        self.classes = tuple(str(name) for name in getattr(source, "classes", ()))
        if self.classes and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise DatasetError(f"{self.path} has labels that none of its {len(self.classes)} classes has; mend them")
        self.fingerprint = str(source.fingerprint)

    def __len__(self) -> int:
        return len(self.labels)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    def jpeg(self, sample: int) -> np.ndarray:
        """The bytes of one sample: uint8 [size].

        Raises:
            DatasetError: the source gave something else.
        """
        data = self._source.jpeg(int(sample))
        array = np.frombuffer(data, np.uint8) if isinstance(data, (bytes, bytearray, memoryview)) else data
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 1:
            raise DatasetError(f"{self.path}: jpeg({sample}) gave {type(data).__name__}; give bytes, or uint8 [size]")
        if len(array) > max_bytes(MAX_PIXELS):
            raise DatasetError(f"{self.path}: jpeg({sample}) gave {len(array):,} bytes, which no JPEG has")
        return np.ascontiguousarray(array)

    def intact(self, sample: int) -> bool:
        """True: there is nothing to compare a sample with."""
        return True

    def check_unchanged(self) -> None:
        """Do nothing: the source knows."""
        return


def given(source: Any) -> Any:
    """An open data set as a loader takes it: one of this package as it is, somebody else's checked."""
    return source if hasattr(source, "mapped") or not hasattr(source, "jpeg") else GivenDataset(source)


def _integers(source: Any, name: str, *, path: str) -> np.ndarray:
    array = np.asarray(getattr(source, name))
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DatasetError(f"{path}: {name} are {array.dtype} {list(array.shape)}; give one integer for each image")
    return array.astype(np.int64)


def load_callable(text: str) -> Any:
    """What `module:callable` names.

    Raises:
        DatasetError: there is no such module, or nothing of that name in it that can be called.
    """
    import importlib

    module, colon, name = text.partition(":")
    if not (colon and module and name):
        raise DatasetError(f"{text!r} names no function; give MODULE:FUNCTION, such as my_data:train")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] and error.name != module:
            raise
        raise DatasetError(f"{text!r}: there is no module {module!r} here; run it where {module}.py lies") from None
    except AttributeError:
        raise DatasetError(f"{text!r}: module {module!r} has no {name!r}") from None
    if not callable(found):
        raise ArgumentTypeError(f"{text!r} is a {type(found).__name__}; give a function that makes the data set")
    return found
