from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import Schedule, ScheduleError
from budgetloader.plans import EvaluationPlanner, Planner, stream
from budgetloader.shard import Shard


def index(samples: int, seed: int = 0):
    random = np.random.default_rng(seed)

    class Index(SimpleNamespace):
        def __len__(self):
            return samples

    return Index(
        heights=random.integers(50, 500, samples),
        widths=random.integers(50, 500, samples),
        labels=random.integers(0, 10, samples),
    )


def planner(samples=100, schedule=None, batch_size=8, **kwargs):
    schedule = schedule or Schedule.full(epochs=3)
    return Planner(index(samples), schedule=schedule, batch_size=batch_size, seed=3, **kwargs)


def rows(plan):
    """int64 [n, 6]: sample, top, left, height, width, flip."""
    return np.column_stack((plan.samples, plan.windows, plan.flips))


def test_the_stream_runs_on_across_epochs_with_each_epochs_budget():
    p = planner(schedule=Schedule.of([1, "0.5", "0.25"]))
    assert [(b.epoch, b.step) for b in stream(p, epoch=0, step=11)] == (
        [(0, 11), (0, 12)] + [(1, s) for s in range(6)] + [(2, s) for s in range(3)]
    )


def test_a_plan_is_the_same_alone_as_in_the_stream():
    p = planner()
    for plan in stream(p, epoch=1, step=4):
        alone = planner().plan(plan.epoch, plan.step)
        np.testing.assert_array_equal(rows(plan), rows(alone))
        np.testing.assert_array_equal(plan.labels, alone.labels)


def test_the_last_batch_of_a_full_epoch_is_short():
    assert len(planner(samples=100, batch_size=8).plan(0, 12)) == 4


def test_plans_do_not_depend_on_the_schedule():
    a = planner(schedule=Schedule.full(epochs=3)).plan(2, 5)
    b = planner(schedule=Schedule.flat("0.5", epochs=9)).plan(2, 5)
    np.testing.assert_array_equal(rows(a), rows(b))


@pytest.mark.slow
@given(st.integers(8, 300), st.sampled_from([1, 2, 4]), st.sampled_from(["1", "0.618", "0.3"]))
def test_ranks_have_equal_shares_that_together_are_the_global_batch(samples, world, ratio):
    s = Schedule.flat(ratio, epochs=2)
    try:
        whole = planner(samples, s)
    except ScheduleError:
        return
    ranks = [planner(samples, s, shard=Shard(r, world)) for r in range(world)]
    for plan in stream(whole, epoch=0, step=0):
        parts = [p.plan(plan.epoch, plan.step) for p in ranks]
        assert len({len(p) for p in parts}) == 1 and len(parts[0]) > 0
        together = np.concatenate([rows(p) for p in parts])
        np.testing.assert_array_equal(together[: len(plan)], rows(plan))
        extra = len(together) - len(plan)
        assert extra < world
        np.testing.assert_array_equal(together[len(plan) :], np.resize(rows(plan), (extra, 6)))


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(ScheduleError, match="batch_size 8 .* world_size 3"):
        planner(shard=Shard(0, 3))
    with pytest.raises(ScheduleError, match="rank 2"):
        Shard(2, 2)


def test_replacements_depend_on_position_and_attempt_alone():
    p = planner()
    plan = p.plan(1, 3)
    first = p.replacement(plan, 2, attempt=0)
    again = planner().replacement(planner().plan(1, 3), 2, attempt=0)
    np.testing.assert_array_equal(rows(first), rows(again))
    others = [p.replacement(plan, 2, attempt=1), p.replacement(plan, 3, attempt=0)]
    assert all((rows(o) != rows(first)).any() for o in others)


def test_evaluation_takes_every_sample_once_in_file_order():
    p = EvaluationPlanner(index(21), batch_size=8)
    plans = list(stream(p, epoch=0, step=0))
    assert [len(b) for b in plans] == [8, 8, 5] == [len(b) for b in plans]
    np.testing.assert_array_equal(np.concatenate([b.samples for b in plans]), np.arange(21))


def test_evaluations_ranks_share_every_sample_once():
    plans = [
        b
        for r in range(3)
        for b in stream(EvaluationPlanner(index(20), batch_size=4, shard=Shard(r, 3)), epoch=0, step=0)
    ]
    assert sorted(np.concatenate([b.samples for b in plans])) == list(range(20))


def test_benchmark_plan_of_imagenet(benchmark):
    p = Planner(index(1_281_167), schedule=Schedule.full(epochs=1), batch_size=256, seed=0)
    steps = iter(range(5000))
    benchmark.pedantic(lambda: p.plan(0, next(steps)), rounds=50, warmup_rounds=2)
