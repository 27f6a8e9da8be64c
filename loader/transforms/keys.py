"""Keys: one number per sample that everything random in its augmentation is drawn from."""

from __future__ import annotations

import numpy as np

from budgetloader import rng
from budgetloader.arguments import check_count

_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
_UNIFORM, _DERIVED = 0, 1  # what is drawn from a key


def sample_keys(positions: np.ndarray, *, seed: int, epoch: int, view: int = 0) -> np.ndarray:
    """The key of each position of an epoch's order: uint64 [n].

    Args:
        positions: int64 [n].
        seed, epoch: as in `BudgetLoader`.
        view: which of a sample's views it is.
    """
    numbers = rng.draws(positions, seed=seed, epoch=epoch, purpose=rng.TRANSFORM, block=view)
    return numbers[0] << _SHIFT | numbers[1]


def uniform(keys: np.ndarray, draws: int = 1) -> np.ndarray:
    """Random numbers that the keys determine: float64 [n, draws], uniform on [0, 1).

    A sample's row is the same whatever other samples there are.

    Args:
        keys: uint64 [n].
        draws: numbers per sample.
    """
    count = check_count(draws, what="draws")
    blocks = [_draw(keys, number=block, purpose=_UNIFORM) for block in range(-(-count // 4))]
    return np.ascontiguousarray(rng.unit(np.concatenate(blocks)[:count].T))


def derived(keys: np.ndarray, number: int) -> np.ndarray:
    """Other keys, which the keys and a number determine: uint64 [n]. For a second transform of the same samples."""
    words = _draw(keys, number=number, purpose=_DERIVED)
    return words[0] << _SHIFT | words[1]


def _draw(keys: np.ndarray, *, number: int, purpose: int) -> np.ndarray:
    keys = np.asarray(keys, dtype=np.uint64)
    return rng.philox((keys & _LOW, keys >> _SHIFT, number, purpose), key=0)
