import math
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import Schedule, ScheduleError


def test_cifar_at_batch_128_has_391_batches_and_241_of_them_at_0618():
    b = Schedule.flat("0.618", epochs=2).budget(samples=50_000, batch_size=128)
    assert (b.full, b.batches, b.total) == (391, (241, 241), 482)


@pytest.mark.parametrize("ratio", ["0.29", 0.29, Fraction(29, 100)])
def test_029_of_100_is_29_exactly(ratio):
    assert Schedule.flat(ratio, epochs=1).budget(samples=100, batch_size=1).batches == (29,)


def test_ratio_one_gives_every_batch_and_every_sample():
    b = Schedule.full(epochs=1).budget(samples=1001, batch_size=10)
    assert b.batches == (101,) and b.epoch_samples(0) == 1001


def test_a_budget_of_zero_batches_is_refused_with_what_to_do():
    with pytest.raises(ScheduleError, match=r"epoch 1: ratio 1/100 of 20 batches.*at least 1/20"):
        Schedule.of([1, "0.01"]).budget(samples=200, batch_size=10)


@pytest.mark.parametrize("bad", [{"samples": 0, "batch_size": 1}, {"samples": 10, "batch_size": 0}])
def test_sizes_must_be_positive(bad):
    with pytest.raises(ScheduleError, match="at least 1"):
        Schedule.full(epochs=1).budget(**bad)


@given(
    st.fractions(min_value=Fraction(1, 50), max_value=1, max_denominator=10**6),
    st.integers(1, 10**7),
    st.integers(1, 1000),
)
def test_the_budget_is_the_floor_and_never_float(ratio, samples, batch_size):
    full = math.ceil(Fraction(samples, batch_size))
    if math.floor(ratio * full) == 0:
        return
    b = Schedule.flat(ratio, epochs=1).budget(samples=samples, batch_size=batch_size)
    assert b.full == full
    assert b.batches[0] <= ratio * full < b.batches[0] + 1


@given(st.integers(1, 3000), st.integers(1, 400), st.fractions(Fraction(1, 300), 1))
def test_the_batch_size_that_the_error_names_is_the_largest_that_works(samples, batch_size, ratio):
    try:
        Schedule.of([ratio]).budget(samples, batch_size=batch_size)
    except ScheduleError as error:
        found = re.search(r"a batch size of at most (\d+)$", str(error))
        most = int(found.group(1)) if found else 0
        assert most < batch_size and not re.search(r"at least 1/1\b", str(error))
        if most:
            assert Schedule.of([ratio]).budget(samples, batch_size=most).total == 1
        with pytest.raises(ScheduleError, match="zero batches"):
            Schedule.of([ratio]).budget(samples, batch_size=most + 1)
