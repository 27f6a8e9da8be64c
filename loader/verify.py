"""Check every sample of a file against its checksum, and decode it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

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

    images = [dataset, *_others(dataset)]

    def problem(sample: int) -> str:
        if dataset.checksums is not None and zlib.crc32(dataset.jpeg(sample).data) != dataset.checksums[sample]:
            return "its bytes are not those that were written: the checksum differs"
        try:
            for each in images:
                Decoder(each).decode_whole(sample)
        except CorruptSampleError as error:
            return error.why if each is dataset else f"its image {each.image_field!r}: {error.why}"
        return ""

    return in_order(problem, len(dataset), threads=threads)


def _others(dataset: Dataset) -> list[Dataset]:
    """The other images of the samples; none of a file in object storage, of which one image is fetched.

    Raises:
        DatasetError: the index is damaged where it says where one is.
    """
    found: list[Dataset] = []
    if hasattr(dataset, "traffic"):
        return found
    for name in dataset.fields:
        try:
            kind = dataset.column(name).field.kind
        except DatasetError:  # of a type that only its writer knows
            continue
        if kind == "image" and name != dataset.image_field:
            found.append(dataset.image(name))
    return found
