from collections import Counter

import pytest

from budgetloader.stats import BusySince, EpochStats, judge


def epoch(*, waiting, busy, seconds=10.0, made=100):
    """An epoch of 100 samples in 10 seconds."""
    return EpochStats(
        0,
        batches=10,
        samples_emitted=100,
        seconds=seconds,
        trainer_wait_seconds=waiting,
        engine_busy_seconds=busy,
        samples_made=made,
    )


@pytest.mark.parametrize(
    ("times", "bound", "headroom"),
    [
        ({"waiting": 4.0, "busy": 10.0}, "loader-bound", 0.6),
        ({"waiting": 0.6, "busy": 10.0}, "loader-bound", 0.94),
        ({"waiting": 0.0, "busy": 5.0}, "trainer-bound", 2.0),
        ({"waiting": 0.0, "busy": 2.5, "made": 50}, "trainer-bound", 2.0),  # the rest was made before
        ({"waiting": 0.0, "busy": 9.5}, "balanced", 1 / 0.95),
        ({"waiting": 0.0, "busy": 0.5}, "trainer-bound", 20.0),
    ],
)
def test_the_verdict_compares_a_samples_time_with_the_engine_at_work(times, bound, headroom):
    verdict = judge([epoch(**times), epoch(**times)])
    assert verdict.bound == bound and verdict.headroom == pytest.approx(headroom)
    assert bound in str(verdict)


def test_a_headroom_is_said_only_as_far_as_it_was_observed():
    assert "more than 10 times" in str(judge([epoch(waiting=0.0, busy=1e-6)]))
    assert "2.00 times" in str(judge([epoch(waiting=0.0, busy=5.0)]))


@pytest.mark.parametrize("epochs", [[], [EpochStats(0)], [epoch(waiting=0.0, busy=1.0, made=0)]])
def test_there_is_no_verdict_without_time_or_work(epochs):
    assert judge(epochs) is None


class Engine:
    """Its parts work at the same time: what it says that each did, in all."""

    def __init__(self):
        self.stages, self.made = Counter(), 0

    def busy(self):
        return dict(self.stages), self.made


def test_an_epoch_is_given_the_work_since_the_epoch_before_by_the_busiest_stage():
    engine, since, first, second = Engine(), BusySince(), EpochStats(0), EpochStats(1)
    since.next_epoch()
    engine.stages.update({"decode": 4.0, "": 1.0})
    engine.made = 40
    since.measure(first, engine)
    since.next_epoch()
    engine.stages.update({"decode": 1.0, "": 3.0})  # in the pause: prefetching for the second epoch
    engine.made += 30
    since.measure(second, engine)
    assert (first.engine_busy_seconds, first.samples_made) == (4.0, 40)
    assert (second.engine_busy_seconds, second.samples_made) == (3.0, 30)
