import numpy as np
import pytest

from budgetloader import rng


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # Random123's known answers for philox4x32-10
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, 0xFFFFFFFF_FFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0_A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_its_authors_answers(counter, key, expected):
    assert tuple(rng.philox(counter, key=key).tolist()) == expected


def test_a_draw_depends_on_its_position_alone():
    positions = np.arange(100)
    whole = rng.draws(positions, seed=5, epoch=2, purpose=rng.WINDOW)
    part = rng.draws(positions[40:50], seed=5, epoch=2, purpose=rng.WINDOW)
    np.testing.assert_array_equal(whole[:, 40:50], part)


@pytest.mark.parametrize("other", [{"seed": 6}, {"epoch": 3}, {"purpose": rng.REPLACEMENT}, {"block": 1}])
def test_seed_epoch_purpose_and_block_each_change_the_draws(other):
    same = {"seed": 5, "epoch": 2, "purpose": rng.WINDOW, "block": 0}
    a, b = (rng.draws(np.arange(50), **kwargs) for kwargs in (same, {**same, **other}))
    assert not (a == b).any()


def test_positions_above_32_bits_are_told_apart():
    a, b = rng.draws(np.array([7, 7 + (1 << 32)]), seed=0, epoch=0, purpose=0).T
    assert (a != b).all()


def test_below_and_unit_stay_in_range():
    ends = np.array([0, 0xFFFFFFFF], np.uint64)
    np.testing.assert_array_equal(rng.below(ends, 10), [0, 9])
    assert rng.unit(ends)[0] == 0 and rng.unit(ends)[1] < 1
