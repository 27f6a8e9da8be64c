import pytest

from loader.stats import EpochStats, judge


def epoch(**seconds):
    return EpochStats(0, batches=10, seconds=10.0, **seconds)


@pytest.mark.parametrize(
    ("seconds", "bound", "headroom"),
    [
        ({"trainer_wait_seconds": 4.0}, "loader-bound", 0.6),
        ({"trainer_wait_seconds": 0.6}, "loader-bound", 0.94),
        ({"trainer_wait_seconds": 0.1, "engine_wait_seconds": 5.0}, "trainer-bound", 2.0),
        ({"trainer_wait_seconds": 0.1, "engine_wait_seconds": 0.5}, "balanced", 1 / 0.95),
    ],
)
def test_the_verdict_follows_who_waits(seconds, bound, headroom):
    verdict = judge([epoch(**seconds), epoch(**seconds)])
    assert verdict.bound == bound and verdict.headroom == pytest.approx(headroom)
    assert bound in str(verdict)


def test_there_is_no_verdict_without_time():
    assert judge([]) is None and judge([EpochStats(0)]) is None
