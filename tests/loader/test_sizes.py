"""Image size by epoch: what `image_size` may be, and that it reads back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import ArgumentError, SizeSchedule
from budgetloader.sizes import image_sizes, one_size

sizes = st.lists(st.integers(1, 4096), min_size=1, max_size=60)


@given(sizes)
def test_a_text_parses_back(values):
    schedule = SizeSchedule.of(values)
    assert SizeSchedule.parse(str(schedule)) == schedule
    assert SizeSchedule.parse(str(schedule), epochs=len(values)) == schedule


@given(sizes)
def test_a_sequence_a_function_and_a_text_mean_the_same(values):
    expected = SizeSchedule.of(values)
    epochs = len(values)
    assert image_sizes(values, epochs=epochs) == expected
    assert image_sizes(values.__getitem__, epochs=epochs) == expected
    assert image_sizes(str(expected), epochs=epochs) == expected
    assert image_sizes(expected, epochs=epochs) is expected


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 90), st.integers(0, 40), st.integers(1, 64))
def test_a_ramp_goes_one_way_from_the_first_size_to_the_last_in_steps(first, last, epochs, begin, step):
    end = begin + 30
    ramp = SizeSchedule.ramp(first, last, epochs=epochs, begin=begin, end=end, step=step)
    assert len(ramp) == epochs
    assert list(ramp) == sorted(ramp, reverse=last < first)
    assert all(size == first for size in ramp.sizes[: begin + 1])
    assert all(size == last for size in ramp.sizes[end:])
    assert all(size % step == 0 or size in (first, last) for size in ramp)


def test_ffcvs_ramp_is_made():
    # rn50_config of its ImageNet recipe, 16 epochs: 160 to 192, from epoch 0 to 13; np.round(np.interp / 32) * 32
    ramp = SizeSchedule.parse("ramp:160-192,end=13", epochs=16)
    assert str(ramp) == "160@7,192@9"
    assert SizeSchedule.ramp(128, 192, epochs=5).sizes == (128, 128, 160, 192, 192)


def test_the_last_size_of_a_text_lasts_for_the_rest():
    assert str(SizeSchedule.parse("128@2, 160@3, 192", epochs=9)) == "128@2,160@3,192@4"
    assert str(SizeSchedule.parse("224", epochs=3)) == "224@3"
    assert str(SizeSchedule.parse("128@2,192", epochs=2)) == "128@2"


def test_what_occurs_is_said():
    schedule = SizeSchedule.parse("192@2,128@1,192@1")
    assert schedule.distinct == (128, 192) and schedule.largest == 192 and schedule[2] == 128 and len(schedule) == 4


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (0, "image_size 0"),
        (True, "image_size True"),
        (12.5, "image_size 12.5"),
        ("", "''"),
        ("128@", "epochs '' is no whole number"),
        ("128@0,160", "'128@0' is for 0 epochs"),
        ("128@3", "is for 3 epochs, and the schedule has 4"),
        ("128@2,160@3", "is for 5 epochs, and the schedule has 4"),
        ("128,160@2", "the number of epochs of '128' is missing"),
        ("70000", "image_size 70000 is not a whole number of pixels"),
        ("128@999999999", "give 1 … 100,000"),
        ("0x80", "'0x80' is no whole number"),
        ("ramp:128", "'128' is not FIRST-LAST"),
        ("ramp:128-192,pace=3", "'pace=3' is not understood"),
        ("ramp:128-192,begin=3,end=3", "end 3 is not after begin 3"),
        ([128, 160, 192], "is for 3 epochs, and the schedule has 4"),
        ((24, 24), r"image_size \(24, 24\) has two sizes"),
        ([128, "a", 160, 192], "no size, nor a size per epoch"),
        ([], "no size, nor a size per epoch"),
        (lambda epoch: 32 * epoch, "epoch 0: image_size 0"),
        (SizeSchedule.of([8]), "is for 1 epochs"),
    ],
)
def test_what_is_no_size_is_refused_with_its_value(value, why):
    with pytest.raises(ArgumentError, match=why):
        image_sizes(value, epochs=4)


def test_where_one_size_is_needed_a_schedule_is_refused():
    assert one_size(24, where="a service") == one_size("24", where="a service") == 24
    with pytest.raises(ArgumentError, match="image_size '128@3': a service has images of one size; give a number"):
        one_size("128@3", where="a service")
