"""The base of the fuzzer's kinds of input, and functions that damage valid input."""

from __future__ import annotations

import copy
import random
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    1 << 31,
    (1 << 32) - 1,
    1 << 62,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
_JSON: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 1 << 31, 1 << 63, 1 << 70, -(1 << 70), 1.5, 1e308, float("nan"), float("inf")),
    *("", "a", "x" * 999, [], {}, [[]], [1, "a"], {"a": {}}),
)


def any_json(rng: random.Random) -> Any:
    """A value that JSON has, of any kind."""
    return copy.deepcopy(rng.choice(_JSON))


class Kind(ABC):
    """One kind of input.

    Attributes:
        size: of the corpus that cases are made from.
    """

    size: int

    @abstractmethod
    def __init__(self, folder: Path) -> None:
        """Make the corpus. `folder` may be written to."""

    @abstractmethod
    def run(self, seed: int, number: int) -> bool:
        """Run a case: whether it was accepted. An error that is none of ours, which no reader may raise, is raised."""


def mangle(rng: random.Random, data: bytearray, *, within: int) -> None:
    """Change some bytes among the first `within`: bits, numbers of any width, slices that are moved."""
    for _ in range(rng.choice((1, 1, 2, 4, 12))):
        if not data:
            return
        at, how = rng.randrange(max(1, min(within, len(data)))), rng.random()
        if how < 0.35:
            data[at] ^= 1 << rng.randrange(8)
        elif how < 0.75:
            number, width = rng.choice(NUMBERS), rng.choice((1, 2, 2, 4, 8))
            order: Any = rng.choice(("little", "big"))
            data[at : at + width] = (number & ((1 << 8 * width) - 1)).to_bytes(width, order)[: len(data) - at]
        elif how < 0.85:
            length, to = rng.randrange(1, 40), rng.randrange(max(1, min(within, len(data))))
            data[to : to + length] = data[at : at + length]
        elif how < 0.95:
            data[at : at + rng.randrange(1, 30)] = rng.randbytes(rng.randrange(30))
        else:
            del data[rng.randrange(len(data) // 2, len(data)) :]
