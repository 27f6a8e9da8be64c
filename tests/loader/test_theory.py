import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import Schedule, ScheduleError, theory


@pytest.mark.parametrize(
    ("name", "epochs", "value"),
    [
        ("full", 120, 1),
        ("R1_0.8", 120, 0.8),
        ("R1_0.618", 120, 0.618),
        ("R2", 120, 0.757333),
        ("R2_1", 120, 0.813333),
        ("R3", 120, 0.644333),
        ("R2_2", 150, 0.62),
    ],
)
def test_corollaries_of_the_dissertations_settings(name, epochs, value):
    assert theory.corollary(Schedule.paper(name, epochs=epochs)) == pytest.approx(value, abs=5e-7)


def test_miss_probabilities_7a_and_7b():
    assert theory.miss_probability(Schedule.flat("0.8", epochs=120)) == pytest.approx(1.3292e-84, rel=5e-5)
    assert theory.miss_probability(Schedule.flat("0.618", epochs=120)) == pytest.approx(7.0405e-51, rel=5e-5)


def test_miss_probability_of_three_stages_is_theorem_3():
    s = Schedule.paper("R3", epochs=120)  # 40 + 12 epochs at 0.8, 48 at 0.64, 20 at 0.25
    assert theory.miss_probability(s) == pytest.approx(0.2**52 * 0.36**48 * 0.75**20)


def test_the_logarithm_does_not_underflow():
    s = Schedule.flat("0.8", epochs=1000)
    assert theory.miss_probability(s) == 0
    assert theory.log10_miss_probability(s) == pytest.approx(1000 * math.log10(0.2))
    assert theory.log10_miss_probability(Schedule.full(epochs=2)) == -math.inf


def test_the_miss_probability_of_a_budget_is_that_of_the_samples_it_draws():
    s = Schedule.of(["0.5", "0.25"])  # of 5 batches of 10, 2 and 1
    assert theory.miss_probability(s.budget(50, batch_size=10)) == pytest.approx((1 - 20 / 50) * (1 - 10 / 50))
    assert theory.miss_probability(s) == pytest.approx(0.5 * 0.75)


@given(st.fractions(min_value=Fraction(1, 4), max_value=1), st.integers(40, 10_000), st.integers(1, 10))
def test_rounding_down_makes_a_miss_at_most_likelier_where_batches_are_whole(ratio, batches, batch_size):
    s = Schedule.flat(ratio, epochs=3)
    drawn = theory.log10_miss_probability(s.budget(batches * batch_size, batch_size=batch_size))
    assert drawn >= theory.log10_miss_probability(s) or math.isclose(drawn, theory.log10_miss_probability(s))


def test_full_training_s_theorem_exceeds_1_where_its_last_batch_is_short():
    sizes = {"samples": 95, "batch_size": 10, "batch_seconds": 1.0, "last_batch_seconds": 0.5}
    assert theory.time_ratio(Schedule.full(epochs=2), **sizes) == pytest.approx(10 / 9.5)


def test_theorem_2_by_hand():
    # M = 391, M_α = 241; (241·0.11) / (390·0.1 + 0.07)
    ratio = theory.time_ratio(
        Schedule.flat("0.618", epochs=7),
        samples=50_000,
        batch_size=128,
        batch_seconds=0.1,
        reduced_batch_seconds=0.11,
        last_batch_seconds=0.07,
    )
    assert ratio == pytest.approx(241 * 0.11 / (390 * 0.1 + 0.07))


def test_theorem_4_by_hand_with_a_time_for_each_ratio():
    s = Schedule.of(["0.8", "0.5", "0.5"])
    ratio = theory.time_ratio(
        s,
        samples=100,
        batch_size=10,
        batch_seconds=1.0,
        reduced_batch_seconds={Fraction(4, 5): 1.1, Fraction(1, 2): 1.2},
        last_batch_seconds=0.5,
    )
    assert ratio == pytest.approx((8 * 1.1 + 2 * 5 * 1.2) / (9.5 * 3))


def test_a_ratio_without_a_time_is_named():
    with pytest.raises(ScheduleError, match="1/2"):
        theory.time_ratio(
            Schedule.of(["0.5"]), samples=10, batch_size=1, batch_seconds=1, reduced_batch_seconds={Fraction(1): 1.0}
        )


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, "1"])
def test_times_must_be_positive(seconds):
    with pytest.raises(ScheduleError, match="batch_seconds"):
        theory.time_ratio(Schedule.full(epochs=1), samples=10, batch_size=1, batch_seconds=seconds)


def test_bounds_of_one_batch_have_no_upper_end():
    assert theory.time_ratio_bounds(Schedule.full(epochs=1), samples=5, batch_size=10) == (1.0, math.inf)


@given(
    st.fractions(min_value=Fraction(1, 4), max_value=Fraction(999, 1000)),
    st.integers(40, 10_000),
    st.integers(1, 10),
    st.floats(0.01, 1),
)
def test_theorem_2_lies_within_the_bounds_of_eq_9(ratio, samples, batch_size, last):
    s = Schedule.flat(ratio, epochs=3)
    sizes = {"samples": samples, "batch_size": batch_size}
    low, high = theory.time_ratio_bounds(s, batch_seconds=1.0, reduced_batch_seconds=1.3, **sizes)
    value = theory.time_ratio(s, batch_seconds=1.0, reduced_batch_seconds=1.3, last_batch_seconds=last, **sizes)
    assert low * (1 - 1e-12) <= value < high
