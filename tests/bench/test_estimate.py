import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader.bench.estimate import Estimate, interquartile_range, mean, share, trimmed_mean, weighted


def test_the_mean_has_students_interval():
    found = mean([1.0, 2.0, 3.0, 4.0])
    assert found.value == 2.5
    assert found.half_width == pytest.approx(3.1824 * statistics.stdev([1, 2, 3, 4]) / 2, rel=1e-4)
    assert (found.low, found.high) == (found.value - found.half_width, found.value + found.half_width)


def test_one_value_has_no_interval():
    assert mean([2.0]) == Estimate(2.0, math.inf, 1)
    assert trimmed_mean([3.0, 1.0]).half_width == math.inf


@given(st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=40), st.floats(1e4, 1e9))
def test_a_wild_value_does_not_take_the_trimmed_mean_beyond_the_others(values, wild):
    assert min(values) - 1e-6 <= trimmed_mean([*values, wild]).value <= max(values) + 1e-6


def test_the_trimmed_means_interval_contains_the_truth_as_often_as_it_says():
    generator = random.Random(0)
    inside = sum(
        abs(found.value) <= found.half_width
        for found in (trimmed_mean([generator.gauss(0, 1) for _ in range(20)]) for _ in range(1000))
    )
    assert 0.93 <= inside / 1000 <= 0.97


def test_wilsons_interval_of_a_share():
    found = share(0.5, 100)
    assert found.half_width == pytest.approx(0.0962, abs=1e-4)
    assert 0 < share(1.0, 50).half_width < 0.1  # not zero, though every one was a hit


def test_estimates_are_weighted_by_their_precision():
    both = weighted([Estimate(1.0, 0.1, 5), Estimate(2.0, 0.2, 7)])
    assert both.value == pytest.approx((1 / 0.01 + 2 / 0.04) / (1 / 0.01 + 1 / 0.04)) and both.count == 12
    assert both.half_width == pytest.approx((1 / 0.01 + 1 / 0.04) ** -0.5)


def test_an_estimate_without_an_interval_counts_for_nothing_beside_others():
    known = Estimate(1.0, 0.1, 5)
    assert weighted([Estimate(9.0, math.inf, 2), known]) is known
    assert weighted([Estimate(9.0, math.inf, 2)]).value == 9.0


def test_the_interquartile_range():
    assert interquartile_range([1, 2, 3, 4, 5]) == 2 and interquartile_range([7]) == 0
