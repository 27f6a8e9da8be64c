import pytest

from budgetloader.engines.laps import Laps


def test_a_lap_that_others_interrupted_counts_as_the_usual_one():
    laps = Laps()
    assert [laps.usual(0.1, 10) for _ in range(20)] == [0.1] * 20
    assert laps.usual(5.0, 10) == pytest.approx(0.1)
    assert laps.usual(10.0, 20) == pytest.approx(0.2)
    assert laps.usual(0.19, 10) == 0.19


def test_work_that_stays_slow_counts():
    laps = Laps()
    for _ in range(64):
        laps.usual(0.1, 10)
    slow = [laps.usual(1.0, 10) for _ in range(64)]
    assert slow[0] == pytest.approx(0.1) and slow[-1] == 1.0


def test_the_first_laps_count_as_they_are():
    laps = Laps()
    assert [laps.usual(seconds, 1) for seconds in (1.0, 50.0, 0.1)] == [1.0, 50.0, 0.1]
