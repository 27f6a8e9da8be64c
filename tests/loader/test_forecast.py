"""Predicted time: budget × size, calibrated by measured batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import ArgumentError, EpochStats, Schedule, SizeSchedule, theory
from budgetloader.cli import main
from budgetloader.forecast import BatchSeconds, time_share, total_seconds

SHAPE = {"samples": 1000, "batch_size": 10}


@given(st.floats(0.1, 1), st.integers(1, 20), st.integers(8, 300))
def test_with_one_size_it_is_the_share_of_the_batches(ratio, epochs, size):
    schedule = Schedule.flat(str(round(ratio, 3)), epochs=epochs)
    share = time_share(schedule, SizeSchedule.constant(size, epochs=epochs), **SHAPE)
    budget = schedule.budget(1000, batch_size=10)
    assert share == pytest.approx(budget.total / (budget.full * epochs))
    assert share == pytest.approx(theory.time_ratio(schedule, **SHAPE, batch_seconds=2.0))


@given(st.floats(1e-7, 1e-3), st.floats(0, 10), st.sets(st.integers(8, 400), min_size=2, max_size=5))
def test_times_on_a_line_are_found_again(slope, offset, sizes):
    seconds = BatchSeconds({size: offset + slope * size * size for size in sizes})
    for size in (8, 100, 400):
        assert seconds(size) == pytest.approx(offset + slope * size * size, rel=1e-3, abs=1e-9)


def test_a_measured_size_is_taken_as_it_is_and_times_never_fall_below_nothing():
    seconds = BatchSeconds({100: 2.0, 200: 1.0})  # noise: larger images were faster
    assert seconds(100) == 2.0 and seconds(200) == 1.0 and seconds(150) > 0 and seconds(1) > 0
    steep = BatchSeconds({100: 1.0, 200: 16.0})  # steeper than the pixels
    assert steep(50) > 0
    assert BatchSeconds({100: 3.0})(200) == pytest.approx(12.0)
    assert BatchSeconds()(200) / BatchSeconds()(100) == 4


def test_the_prediction_of_an_example_by_hand():
    schedule, sizes = Schedule.of([1, "0.5"]), SizeSchedule.of([100, 200])
    seconds = BatchSeconds({100: 0.25, 200: 1.0})
    assert total_seconds(schedule, sizes, **SHAPE, batch_seconds=seconds) == 100 * 0.25 + 50 * 1.0
    assert time_share(schedule, sizes, **SHAPE, batch_seconds=seconds) == 75 / 200
    assert time_share(schedule, sizes, **SHAPE, batch_seconds=seconds, reference_size=100) == 75 / 50


def test_stats_give_the_medians_without_the_first_epoch_of_each_size():
    epochs = [
        EpochStats(i, batches=10, seconds=t, image_size=s) for i, (t, s) in enumerate(((9, 64), (1, 64), (3, 96)))
    ]
    assert BatchSeconds.of(epochs).measured == {64: 0.1, 96: 0.3}
    assert BatchSeconds.of([EpochStats(0)]).measured == {}


@pytest.mark.parametrize(("text", "why"), [("128", "'128'"), ("a=1", "'a=1'"), ("128=0", "128 pixels is 0.0")])
def test_what_is_no_time_is_refused_with_its_value(text, why):
    with pytest.raises(ArgumentError, match=why):
        BatchSeconds.parse(text)


def test_the_plan_command_prints_it(capsys):
    arguments = ["plan", "0.5", "--epochs", "4", "--samples", "1000", "--batch-size", "10", "--image-size", "100@2,200"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "image size by epoch: 100@2,200@2" in shown
    assert "100 pixels: 100 batches, each 0.2500 of one of 200 pixels (estimated from the pixels)" in shown
    assert "predicted time, budget × size: 0.312500 of full training's at 200 pixels" in shown
    assert main([*arguments, "--batch-seconds", "100=0.5,200=1"]) == 0
    shown = capsys.readouterr().out
    assert "each 0.5000 of one of 200 pixels (measured)" in shown
    assert "budget × size: 0.375000" in shown and "150 s in batches" in shown


def test_the_plan_command_refuses_times_without_sizes(capsys):
    arguments = ["plan", "0.5", "--epochs", "4", "--samples", "1000", "--batch-seconds", "100=1"]
    assert main(arguments) != 0
    assert "give --image-size, too" in capsys.readouterr().err
