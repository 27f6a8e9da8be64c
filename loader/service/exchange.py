"""What the bridge and the coordinator tell each other through Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from budgetloader.service.blocks import Part


@dataclass(frozen=True, slots=True)
class Progress:
    """What a trainer has done so far; it goes with every request for blocks.

    Attributes:
        name, schedule: the trainer's, for people to see.
        epoch, step: of the batch that is being made.
        emitted: samples that it was given.
        waited_seconds: by its bridge, for blocks.
        copied: batches that were copied because the object store's memory was not found.
    """

    name: str
    schedule: str
    epoch: int
    step: int
    emitted: int
    waited_seconds: float
    copied: int


class Taken(NamedTuple):
    """The coordinator's answer to a request for blocks.

    Attributes:
        blocks: the parts of each, whose contents are Ray's references.
        cached: whether each had been asked for before.
        decoded: samples that are decoded for this request.
        trainers: that share the memory.
    """

    blocks: list[list[Part]]
    cached: list[bool]
    decoded: int
    trainers: int


@dataclass(frozen=True, slots=True)
class ServedDataset:
    """What trainers plan with.

    Attributes:
        path: of the file or the files, on the service's machine, for people to see.
        files: the path of each file, and its samples.
        fingerprint, classes: as in `budgetloader.dataset.Dataset`.
        verifies: whether checksums are compared.
        capacity_bytes: of the blocks that the service caches.
        workers: decoding processes.
        heights, widths: uint16 [samples], pixels; labels: int64 [samples].
    """

    path: str
    files: tuple[tuple[str, int], ...]
    fingerprint: str
    classes: tuple[str, ...]
    verifies: bool
    capacity_bytes: int
    workers: int
    heights: np.ndarray
    widths: np.ndarray
    labels: np.ndarray
