"""Check every sample of a file against its checksum, and decode it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from budgetloader.dataset import Dataset
from budgetloader.errors import CorruptSampleError
from budgetloader.parallel import in_order


def problems(dataset: Dataset, *, threads: int | None = None) -> Iterator[str]:
    """For each sample in order what is wrong with it, or "".

    Args:
        dataset: compared with its checksums, if it has any, and decoded.
        threads: None: one per core.
    """
    from budgetloader.engines.rendering import Decoder

    def problem(sample: int) -> str:
        if dataset.checksums is not None and zlib.crc32(dataset.jpeg(sample).data) != dataset.checksums[sample]:
            return "its bytes are not those that were written: the checksum differs"
        try:
            Decoder(dataset).decode_whole(sample)
        except CorruptSampleError as error:
            return error.why
        return ""

    return in_order(problem, len(dataset), threads=threads)
