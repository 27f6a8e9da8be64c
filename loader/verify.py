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

    images = [dataset, *(dataset.image(name) for name in dataset.fields if _is_another_image(dataset, name))]

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


def _is_another_image(dataset: Dataset, name: str) -> bool:
    """Whether a field is one, which is on this machine."""
    try:
        column = dataset.column(name)
        return name != dataset.image_field and column.field.kind == "image" and not column[:0]
    except DatasetError:  # of a type that only its writer knows, or not fetched
        return False
