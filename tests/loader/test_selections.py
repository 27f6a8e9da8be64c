"""Which samples a selection draws: pure functions of (seed, epoch, position)."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import ScheduleError
from budgetloader.order import Permutation, round_keys
from budgetloader.selections.mixture import Mixed, pattern
from budgetloader.selections.subset import Subset, members_of
from budgetloader.selections.weighted import Weighted, balanced


class InOrder:
    def ids(self, epoch, positions):
        return positions


def chi_square(counts, expected):
    return float((((counts - expected) ** 2) / expected).sum())


# Weighted


def test_weighted_draws_are_in_proportion_over_100_seeds():
    """Chi-square with 5 degrees of freedom has the mean 5 and the variance 10; the mean of 100 is within 5 of its σ."""
    weights = np.array([0.0, 1, 2, 3, 4, 0.5, 10])
    expected = 4000 * weights[1:] / weights.sum()
    found = []
    for seed in range(100):
        counts = np.bincount(Weighted(weights, seed=seed).ids(0, np.arange(4000)), minlength=7)
        assert counts[0] == 0
        found.append(chi_square(counts[1:], expected))
    assert abs(np.mean(found) - 5) < 5 * np.sqrt(10 / 100)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(lambda w: max(w) > 0))
def test_the_alias_table_holds_the_exact_probabilities(weights):
    made = Weighted(weights, seed=0)
    shares = np.zeros(made.size)
    np.add.at(shares, np.arange(made.size), made._keep)
    np.add.at(shares, made._alias, 1 - made._keep)
    np.testing.assert_allclose(shares / made.size, made.probabilities, atol=1e-12)


def test_balanced_draws_each_class_equally_often_on_a_set_of_1_to_100():
    labels = np.array([0] * 1000 + [1] * 10)
    draws = labels[Weighted(balanced(labels), seed=3).ids(0, np.arange(20_000))]
    ones = np.count_nonzero(draws)
    assert abs(ones - 10_000) < 5 * np.sqrt(20_000 / 4)


def test_a_draw_depends_on_seed_epoch_and_position_alone():
    made = Weighted(np.arange(1, 50), seed=7)
    whole = made.ids(3, np.arange(1000))
    assert np.array_equal(whole[500:600], Weighted(np.arange(1, 50), seed=7).ids(3, np.arange(500, 600)))
    assert not np.array_equal(whole, made.ids(4, np.arange(1000)))
    assert not np.array_equal(whole, Weighted(np.arange(1, 50), seed=8).ids(3, np.arange(1000)))


def test_the_expected_share_is_what_draws_see():
    made = Weighted(np.r_[np.ones(500), np.full(500, 9.0)], seed=1)
    seen = np.mean([len(np.unique(made.ids(epoch, np.arange(1000)))) for epoch in range(30)]) / 1000
    assert abs(seen - made.expected_share(1000)) < 0.01


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "one number per sample"),
        ([[1.0]], r"shape \(1, 1\)"),
        ([1, -2], r"weights\[1\] is -2"),
        ([1, float("nan")], r"weights\[1\] is nan"),
        ([0, 0], "all weights are 0"),
    ],
)
def test_weights_that_are_none_are_refused(weights, message):
    with pytest.raises(ScheduleError, match=message):
        Weighted(weights, seed=0)


# Mixtures


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_any_prefix_of_a_mixture_holds_each_share_within_one(counts):
    shares = [Fraction(count, sum(counts)) for count in counts]
    sources = pattern(shares)
    taken = np.cumsum(sources[:, None] == np.arange(len(counts)), axis=0)
    exact = np.arange(1, len(sources) + 1)[:, None] * np.array([float(share) for share in shares])
    assert np.abs(taken - exact).max() < 1
    assert np.array_equal(taken[-1] * sum(counts), np.array(counts) * len(sources))


def test_a_source_is_used_up_before_a_sample_of_it_comes_again():
    mixed = Mixed([10, 1000], ["0.7", "0.3"], seed=5)
    ids = mixed.ids(2, np.arange(500))
    small = ids[ids < 10]
    assert len(small) == 350
    for cycle in small.reshape(-1, 10):
        assert sorted(cycle) == list(range(10))
    large = ids[ids >= 10]
    assert len(np.unique(large)) == len(large) == 150 and large.max() < 1010


def test_a_mixtures_orders_are_uniform_over_100_seeds():
    counts = np.zeros((6, 6))
    for seed in range(100):
        for epoch in range(6):
            ids = Mixed([6, 3], [2, 1], seed=seed).ids(epoch, np.arange(9))
            counts[np.arange(6), ids[ids < 6]] += 1
    assert chi_square(counts, 100) < 25 + 5 * np.sqrt(50)


def test_a_mixture_is_the_same_in_parts():
    mixed = Mixed([100, 50, 7], [0.5, 0.25, 0.25], seed=1)
    whole = mixed.ids(4, np.arange(640))
    parts = [mixed.ids(4, np.arange(start, 640, 4)) for start in range(4)]
    assert np.array_equal(whole, np.stack(parts, axis=1).reshape(-1))


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (["a", 1], "numbers above 0"),
        ([0, 1], "numbers above 0"),
        ([1], "2 sources and 1 shares"),
        ([0.1234567, 0.5], "five digits"),
    ],
)
def test_shares_that_are_none_are_refused(shares, message):
    with pytest.raises(ScheduleError, match=message):
        Mixed([3, 4], shares, seed=0)


# Subsets


def test_a_subset_gives_its_members_in_the_order_of_as_many():
    order = Permutation(3, key=round_keys(1, 0))

    class Shuffled:
        def ids(self, epoch, positions):
            return order(positions)

    members = members_of([9, 4, 2], size=10)
    assert sorted(Subset(members, Shuffled()).ids(0, np.arange(3))) == [2, 4, 9]
    assert Subset(members, InOrder()).ids(0, np.array([2, 0])).tolist() == [2, 9]


def test_a_mask_means_the_samples_where_it_is_true():
    assert members_of(np.array([True, False, True]), size=3).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "names none"),
        ([True, False], "2 entries, and the set 3"),
        ([False] * 3, "names none"),
        ([0, 3], "sample 3 is outside"),
        ([-1], "sample -1 is outside"),
        ([1, 1], "sample 1 is there twice"),
        ([0.5], "dtype float64"),
        ([[1]], r"shape \(1, 1\)"),
    ],
)
def test_samples_that_are_none_are_refused(samples, message):
    with pytest.raises(ScheduleError, match=message):
        members_of(samples, size=3)
