from dataclasses import replace

import pytest

from bench.analysis import compare, typical
from loader import Schedule
from models import EpochRecord


def epoch(batches, *, batch=1.0, first=0.0, wait=0.0, last=None, number=0):
    """An epoch whose full batches take `batch` seconds, after waiting `first` for the first one."""
    last = batch if last is None else last
    full = batches if last == batch else batches - 1
    return EpochRecord(
        epoch=number,
        batches=batches,
        images=batches * 10,
        train_seconds=first + full * batch + (last if full < batches else 0),
        first_wait_seconds=first,
        wait_seconds=wait,
        full_batches=full,
        full_batch_seconds=full * batch,
        last_batch_seconds=last,
        loss=1.0,
        learning_rate=0.1,
    )


def row(records, full, schedule, **options):
    options = {"rounds": len(full), "samples": 100 * 10, "batch_size": 10, **options}
    return compare(records, full, schedule=schedule, **options)


PARTS = ("rounding_points", "boundary_points", "starvation_points", "rest_points")


def test_a_perfect_machine_gives_the_corollary():
    s = Schedule.flat("0.8", epochs=3)
    r = row([epoch(80)] * 3, [epoch(100)] * 3, s)
    assert r["ratio_measured"] == r["ratio_theorem"] == r["ratio_corollary"] == pytest.approx(0.8)
    assert all(r[p] == pytest.approx(0) for p in PARTS)


@pytest.mark.parametrize(
    ("mine", "part", "points"),
    [
        ({"batches": 61}, "rounding_points", 100 * (0.61 - 0.618)),
        ({"batches": 61, "batch": 1.1}, "rest_points", 6.1),
    ],
)
def test_a_difference_is_put_where_it_comes_from(mine, part, points):
    r = row([epoch(**mine)], [epoch(100)], Schedule.flat("0.618", epochs=1))
    assert r[part] == pytest.approx(points)


def test_boundary_and_starvation_are_told_apart():
    s = Schedule.flat("0.5", epochs=1)
    late = row([epoch(50, first=2.0)], [epoch(100, first=2.0)], s)
    assert late["boundary_points"] == pytest.approx(100 * (2 - 0.5 * 2) / 102)
    slow = row([epoch(50, wait=5.0)], [epoch(100)], s)
    assert slow["starvation_points"] == pytest.approx(5.0) and slow["rest_points"] == pytest.approx(-5.0)


def test_the_parts_always_add_up():
    mine = [epoch(30, batch=1.03, first=0.7, wait=1.1), epoch(61, batch=0.97, first=0.2, wait=0.4)]
    full = [epoch(100, first=0.9, wait=2.0, last=0.4)] * 2
    r = row(mine, full, Schedule.of(["0.309", "0.618"]), samples=994)
    assert sum(r[p] for p in PARTS) == pytest.approx(r["difference_points"])
    assert r["difference_points"] == pytest.approx(100 * (r["ratio_measured"] - r["ratio_corollary"]))


def test_theorem_4_knows_the_short_last_batch_and_each_ratios_batch_time():
    full = [epoch(100, last=0.5)] * 2
    r = row([epoch(80, batch=1.1), epoch(50, batch=1.2)], full, Schedule.of(["0.8", "0.5"]), samples=994)
    assert r["ratio_theorem"] == pytest.approx((80 * 1.1 + 50 * 1.2) / (2 * 99.5))


def test_a_schedule_that_has_ended_is_compared_with_all_of_full_training():
    r = row([epoch(100)] * 2, [epoch(100)] * 4, Schedule.full(epochs=2))
    assert r["ratio_measured"] == r["ratio_theorem"] == r["ratio_corollary"] == pytest.approx(0.5)


def test_one_hiccup_does_not_decide_the_ratio():
    full = [epoch(100, number=i) for i in range(5)]
    full[2] = replace(full[2], train_seconds=600.0)
    r = row([epoch(50)] * 5, full, Schedule.flat("0.5", epochs=5))
    assert r["ratio_measured"] == pytest.approx(0.5) and r["ratio_of_sums"] == pytest.approx(0.25)


def test_typical_epochs_are_the_interquartile_mean_of_rounds_of_one_size():
    mine = [epoch(10, batch=b, first=b) for b in (1, 9, 2, 4, 3)] + [epoch(5, batch=9)]
    typical_mine, typical_full = typical(mine, [epoch(20)] * 7)
    assert [r.train_seconds for r in typical_mine] == [33, 33, 33, 33, 33, 45]
    assert typical_mine[0].first_wait_seconds == 3 and typical_mine[0].full_batch_seconds == 30
    assert [r.train_seconds for r in typical_full] == [20] * 7


def test_a_machine_that_slows_down_does_not_show_in_the_ratio():
    speeds = [1.0, 1.1, 1.3, 1.2, 1.6, 2.0]
    mine, full = [epoch(50, batch=s) for s in speeds], [epoch(100, batch=s) for s in speeds]
    assert row(mine, full, Schedule.flat("0.5", epochs=6))["ratio_measured"] == pytest.approx(0.5)
