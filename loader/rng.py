"""Random numbers that are a function of (seed, epoch, position), with no state.

Philox4x32-10 of J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as
1, 2, 3" (SC 2011), in numpy over arrays of positions. It passes its authors' test vectors
(tests/loader/test_rng.py), so the numbers are the same on every machine and with every numpy.
"""

from __future__ import annotations

import numpy as np

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

# What a draw is for; draws for different purposes are independent.
ORDER_KEY, WINDOW, REPLACEMENT, SUBSET_KEY, WEIGHTED, MIXTURE_KEY = (number << 24 for number in range(6))
BLOCK_CUT, BLOCK_KEY, POOL_KEY = (number << 24 for number in range(6, 9))
TRANSFORM, VIEW = 16 << 24, 17 << 24
PRUNE = 32 << 24  # with room for others' numbers in between


def philox(counter: tuple, *, key: int) -> np.ndarray:
    """Philox4x32-10.

    Args:
        counter: four unsigned integers below 2³², each a scalar or an array; they broadcast.
        key: an unsigned integer below 2⁶⁴.

    Returns:
        uint64 [4, …], each value below 2³².
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, dtype=np.uint64) for c in counter))
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack((c0, c1, c2, c3))


def draws(positions: np.ndarray, *, seed: int, epoch: int, purpose: int, block: int = 0) -> np.ndarray:
    """Four 32-bit numbers for each position: uint64 [4, n], uniform on [0, 2³²).

    Args:
        positions: int64 [n], the places in the epoch's order (not the samples' numbers).
        seed: below 2⁶⁴.
        epoch: below 2³².
        purpose: one of this module's constants.
        block: which four; below 2²⁴.
    """
    positions = np.asarray(positions).astype(np.uint64)
    return philox((positions & _LOW, positions >> _SHIFT, epoch, purpose + block), key=seed)


def below(numbers: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Integers uniform on [0, bound) from 32-bit numbers: int64. Bias below bound/2³²."""
    return ((numbers * np.asarray(bound).astype(np.uint64)) >> _SHIFT).astype(np.int64)


def unit(numbers: np.ndarray) -> np.ndarray:
    """float64 uniform on [0, 1) from 32-bit numbers."""
    return numbers.astype(np.float64) * 2.0**-32
