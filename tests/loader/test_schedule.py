from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import Schedule, ScheduleError
from budgetloader.schedule import PAPER_SETTINGS, as_ratio

F = Fraction


def test_flat_has_the_same_ratio_in_every_epoch():
    assert Schedule.flat("0.618", epochs=3).ratios == (F(309, 500),) * 3


def test_bottleneck_blocks_share_their_border_epochs_and_are_cut_off():
    s = Schedule.bottleneck("0.8", squeeze="0.5", inner=2, epochs=8)
    assert s.ratios == tuple(F(x, 10) for x in (8, 4, 4, 8, 4, 4, 8, 4))


def test_three_stage_stage_two_starts_with_the_squeezed_epochs():
    s = Schedule.three_stage(("0.8", "1", "0.5"), stages=("1/3", "1/2", "1/6"), squeeze="0.8", inner=4, epochs=24)
    four = [F(4, 5)] * 4
    assert list(s.ratios) == [F(4, 5)] * 8 + four + [F(1)] + four + [F(1)] + [F(4, 5)] * 2 + [F(1, 2)] * 4


def test_three_stage_lengths_are_nearest_and_the_middle_takes_the_rest():
    s = Schedule.three_stage(("1", "0.5", "0.25"), stages=("1/3", "1/2", "1/6"), squeeze="1", epochs=10)
    assert [s.ratios.count(F(1, n)) for n in (1, 2, 4)] == [3, 5, 2]


def test_three_stage_with_one_share_is_flat():
    s = Schedule.three_stage(("0.8", "0.5", "0.1"), stages=("1", "0", "0"), epochs=5)
    assert s == Schedule.flat("0.8", epochs=5)


def test_three_stage_without_a_first_stage_starts_as_a_bottleneck_does():
    s = Schedule.three_stage(("1", "0.8", "0.5"), stages=("0", "2/3", "1/3"), squeeze="0.5", inner=2, epochs=9)
    assert s.ratios[:6] == Schedule.bottleneck("0.8", squeeze="0.5", inner=2, epochs=6).ratios
    assert s.ratios[6:] == (F(1, 2),) * 3


@pytest.mark.parametrize(
    ("stages", "epochs"), [(("1/3", "1/3", "1/6"), 120), (("1/3", "1/3", "1/3"), 1), (("2", "-1", "0"), 10)]
)
def test_stages_that_do_not_fit_are_refused(stages, epochs):
    with pytest.raises(ScheduleError, match="stages"):
        Schedule.three_stage(("0.8",) * 3, stages=stages, epochs=epochs)


def test_a_float_is_the_decimal_that_is_printed():
    assert as_ratio(0.29) == F(29, 100) == as_ratio("0.29") == as_ratio(Decimal("0.29"))


@pytest.mark.parametrize("ratio", [0, -0.1, 1.0001, "1.2", "-1", 2])
def test_a_ratio_outside_0_1_is_refused_with_its_value(ratio):
    with pytest.raises(ScheduleError, match=rf"{ratio} is outside \(0, 1\]"):
        Schedule.flat(ratio, epochs=3)


@pytest.mark.parametrize("ratio", ["abc", "1/0", None, True, float("nan"), float("inf"), [0.5]])
def test_what_is_no_number_is_refused(ratio):
    with pytest.raises(ScheduleError, match="is not a number"):
        Schedule.flat(ratio, epochs=3)


@pytest.mark.parametrize("epochs", [0, -1, 2.5, True, "3"])
def test_epochs_must_be_a_positive_whole_number(epochs):
    with pytest.raises(ScheduleError, match="epochs"):
        Schedule.flat("0.5", epochs=epochs)


def test_of_needs_an_epoch_and_a_sequence():
    with pytest.raises(ScheduleError, match="at least one epoch"):
        Schedule.of([])
    with pytest.raises(ScheduleError, match="not a sequence"):
        Schedule.of("0.5")


def test_the_unknown_is_refused_with_what_there_is():
    with pytest.raises(ScheduleError, match="R2_2"):
        Schedule.paper("R9", epochs=3)
    with pytest.raises(ScheduleError, match="three_stage:"):
        Schedule.parse("half", epochs=3)


@pytest.mark.parametrize(
    "text",
    [
        "flat:",
        "flat:2",
        "bottleneck:0.8,inner=x",
        "bottleneck:0.8,foo=1",
        "bottleneck:0.8,inner=2,inner=3",
        "three_stage:0.8-0.8",
        "three_stage:0.8-0.8-0.8,stages=1-1-1",
        "of:0.5*x",
        "of:",
        "0.5@x",
        "1.5",
    ],
)
def test_a_malformed_string_is_quoted_in_the_error(text):
    with pytest.raises(ScheduleError) as caught:
        Schedule.parse(text, epochs=30)
    assert text in str(caught.value)


def test_epochs_in_the_text_and_in_the_argument_must_agree():
    assert Schedule.parse("R3@120").epochs == 120
    with pytest.raises(ScheduleError, match="120"):
        Schedule.parse("R3@120", epochs=60)
    with pytest.raises(ScheduleError, match="missing"):
        Schedule.parse("R3")


ratios = st.fractions(min_value=F(1, 1000), max_value=1, max_denominator=1000)


@given(st.lists(ratios, min_size=1, max_size=40))
def test_any_ratios_survive_the_string(values):
    s = Schedule.of(values)
    assert Schedule.parse(str(s)) == s and Schedule.parse(str(s), epochs=s.epochs) == s


@given(ratios, ratios, st.integers(1, 9), st.integers(1, 60))
def test_bottlenecks_survive_the_string(ratio, squeeze, inner, epochs):
    s = Schedule.bottleneck(ratio, squeeze=squeeze, inner=inner, epochs=epochs)
    assert Schedule.parse(str(s)) == s


@given(ratios, ratios, ratios, ratios, st.integers(0, 6), st.integers(1, 6), st.integers(0, 6), st.integers(1, 9))
def test_three_stages_survive_the_string(a, b, c, squeeze, first, middle, last, inner):
    total = first + middle + last
    shares = [F(n, total) for n in (first, middle, last)]
    s = Schedule.three_stage((a, b, c), stages=shares, squeeze=squeeze, inner=inner, epochs=total * 3)
    assert Schedule.parse(str(s)) == s


@pytest.mark.parametrize("name", PAPER_SETTINGS)
def test_the_named_settings_survive_the_string(name):
    s = Schedule.paper(name, epochs=120)
    assert Schedule.parse(name, epochs=120) == s == Schedule.parse(str(s))
