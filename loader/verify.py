"""Check every sample of a file against its checksum, and decode it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from budgetloader.dataset import Dataset
from budgetloader.errors import CorruptSampleError, DatasetError
from budgetloader.parallel import in_order


def problems(dataset: Dataset, *, threads: int | None = None) -> Iterator[str]:
    """For each sample in order what is wrong with it, or "".

    Args:
        dataset: compared with its checksums, if it has any, and decoded.
        threads: None: one per core.
    """
    from budgetloader.engines.rendering import Decoder

    images, columns = [dataset, *_others(dataset)], [dataset.column(name) for name in _fields(dataset)]

    def problem(sample: int) -> str:
        for each in images:
            try:
                if each.checksums is not None:
                    each.check_sum(sample, each.jpeg(sample))
                Decoder(each).decode_whole(sample)
            except CorruptSampleError as error:
                return error.why if each is dataset else f"its image {each.image_field!r}: {error.why}"
        try:
            for column in columns:
                column.check(np.array([sample]))
        except CorruptSampleError as error:
            return error.why
        return ""

    return in_order(problem, len(dataset), threads=threads)


def _others(dataset: Dataset) -> list[Dataset]:
    """The other images of the samples; none of a file in object storage, of which one image is fetched.

    Raises:
        DatasetError: the index is damaged where it says where one is.
    """
    if hasattr(dataset, "traffic"):
        return []
    names = [name for name in _fields(dataset) if dataset.column(name).field.kind == "image"]
    return [dataset.image(name) for name in names if name != dataset.image_field]


def _fields(dataset: Dataset) -> list[str]:
    """The fields of types that we know: the others are their writer's."""
    found = []
    for name in dataset.fields:
        with contextlib.suppress(DatasetError):
            dataset.column(name)
            found.append(name)
    return found
