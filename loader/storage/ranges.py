"""Which requests fetch some samples: neighbours are joined where the gap costs less than another request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_BYTES = 8 << 20  # of a request of several samples


@dataclass(frozen=True)
class Request:
    """One range of bytes, and the samples in it.

    Attributes:
        start, stop: offsets in the object.
        samples: int64 [n], their numbers, in the order of their bytes.
    """

    start: int
    stop: int
    samples: np.ndarray


def requests_for(
    samples: np.ndarray, starts: np.ndarray, sizes: np.ndarray, *, gap_bytes: int, most_bytes: int
) -> list[Request]:
    """The requests that fetch some samples.

    Args:
        samples: int64 [n], their numbers, each once.
        starts, sizes: int64 [D], of every sample of the object.
        gap_bytes: samples that are at most so far apart are fetched by one request.
        most_bytes: of a request of several samples: larger ones are split, so that they come at the same time.
    """
    if not len(samples):
        return []
    order = samples[np.argsort(starts[samples], kind="stable")]
    begins, ends = starts[order], starts[order] + sizes[order]
    # Samples may overlap in a stranger's file: what is behind a sample begins behind all before it.
    ends = np.maximum.accumulate(ends)
    parts: list[Request] = []
    first = 0
    for place in range(1, len(order) + 1):
        near = place < len(order) and begins[place] - ends[place - 1] <= gap_bytes
        if near and ends[place] - begins[first] <= most_bytes:
            continue
        parts.append(Request(int(begins[first]), _end(order[first:place], starts, sizes), order[first:place]))
        first = place
    return parts


def _end(samples: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> int:
    return int((starts[samples] + sizes[samples]).max())
