import random

import pytest

from budgetloader import Schedule
from budgetloader.bench.analysis import Measured, compare
from budgetloader.models import EpochRecord


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


def row(records, full, schedule, *, timed=(), **options):
    options = {"rounds": len(full), "samples": 100 * 10, "batch_size": 10, **options}
    return compare([Measured(records, full, list(timed))], schedule=schedule, **options)


PARTS = ("rounding_points", "boundary_points", "starvation_points", "rest_points")


def test_a_perfect_machine_gives_the_corollary():
    s = Schedule.flat("0.8", epochs=3)
    r = row([epoch(80)] * 3, [epoch(100)] * 3, s)
    assert [r[f"ratio_{name}"] for name in ("measured", "of_sums", "theorem", "corollary")] == pytest.approx([0.8] * 4)
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
    slow = row([epoch(50, batch=1.1, wait=5.0)], [epoch(100)], s)
    assert slow["starvation_points"] == pytest.approx(5.0) and slow["rest_points"] == pytest.approx(0.0)


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


def noisy(count, *, batches, seed, slow=1.0):
    """Epochs on a machine whose speed wanders by a few percent from one epoch to the next."""
    random_ = random.Random(seed)
    return [epoch(batches, batch=slow * random_.uniform(0.97, 1.03), number=i) for i in range(count)]


def test_one_epoch_ten_times_too_long_hardly_moves_the_ratio():
    s = Schedule.flat("0.618", epochs=20)
    mine, full = noisy(20, batches=61, seed=1), noisy(20, batches=100, seed=2)
    before = row(mine, full, s)
    for records in (mine, full):
        spoilt = list(records)
        spoilt[7] = epoch(records[7].batches, batch=10.0, number=7)
        pair = (spoilt, full) if records is mine else (mine, spoilt)
        after = row(*pair, s)
        assert abs(after["difference_points"] - before["difference_points"]) < 0.5
        assert abs(after["ratio_of_sums"] - before["ratio_of_sums"]) > 0.1  # the plain sums show it


def test_a_setting_whose_batches_take_five_percent_longer_is_found_within_its_interval():
    s = Schedule.flat("0.61", epochs=20)
    for seed in range(20):
        slower = noisy(20, batches=61, seed=seed, slow=1.05)
        r = row(slower, noisy(20, batches=100, seed=100 + seed), s)
        assert abs(r["ratio_measured"] - 1.05 * 0.61) <= r["ratio_half_width"]
        assert r["ratio_measured"] - r["ratio_half_width"] > 0.61  # and that it is slower is certain


def test_the_intervals_contain_the_truth_as_often_as_they_say():
    s = Schedule.flat("0.61", epochs=12)
    inside = 0
    for seed in range(300):
        r = row(noisy(12, batches=61, seed=seed), noisy(12, batches=100, seed=1000 + seed), s)
        inside += abs(r["ratio_measured"] - 0.61) <= r["ratio_half_width"]
    assert 0.91 <= inside / 300 <= 0.99


def test_slices_of_timing_alone_narrow_the_interval_and_leave_the_parts_whole():
    s = Schedule.flat("0.61", epochs=20)
    mine, full = noisy(20, batches=61, seed=1), noisy(20, batches=100, seed=2)
    wide = row(mine, full, s)
    narrow = row(mine, full, s, timed=[(1.0 + 0.001 * (i % 3), 1.001) for i in range(60)])
    assert narrow["ratio_half_width"] < wide["ratio_half_width"] / 5
    assert narrow["ratio_measured"] == pytest.approx(0.61, abs=0.001) and narrow["slices_measured"] == 60
    assert sum(narrow[p] for p in PARTS) == pytest.approx(narrow["difference_points"])


def test_full_training_is_exactly_itself():
    full = noisy(6, batches=100, seed=3)
    r = row(full, full, Schedule.full(epochs=6))
    assert r["ratio_measured"] == 1 and r["ratio_half_width"] == 0 and r["conclusive"]


def test_too_few_rounds_are_not_conclusive():
    r = row([epoch(61)] * 3, [epoch(100)] * 3, Schedule.flat("0.61", epochs=3))
    assert not r["conclusive"] and r["ratio_measured"] == pytest.approx(0.61)


def test_several_seeds_are_one_estimate():
    s = Schedule.flat("0.61", epochs=6)
    seeds = [Measured(noisy(6, batches=61, seed=i), noisy(6, batches=100, seed=10 + i), []) for i in range(4)]
    r = compare(seeds, schedule=s, rounds=6, samples=1000, batch_size=10)
    one = compare(seeds[:1], schedule=s, rounds=6, samples=1000, batch_size=10)
    assert r["rounds_measured"] == 24 and r["ratio_half_width"] < one["ratio_half_width"]
    assert r["batches"] == one["batches"] == 6 * 61 and r["samples"] == 6 * 610


def test_a_machine_that_slows_down_does_not_show_in_the_ratio():
    speeds = [1.0, 1.1, 1.3, 1.2, 1.6, 2.0]
    mine, full = [epoch(50, batch=s) for s in speeds], [epoch(100, batch=s) for s in speeds]
    assert row(mine, full, Schedule.flat("0.5", epochs=6))["ratio_measured"] == pytest.approx(0.5)
