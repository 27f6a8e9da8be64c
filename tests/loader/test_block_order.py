"""Blocks: an order as fair as the uniform one for each sample, whose mixing is what it says.

Seeds are fixed: a test either always passes or always fails.
"""

import itertools
import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import BudgetSampler, Schedule, ScheduleError, block_order
from budgetloader.block_order import BlockOrder, Blocks, classes_in_batch, order_of
from budgetloader.order import Order
from budgetloader.plans import Planner
from budgetloader.selections import Wanted, choose
from budgetloader.shard import Shard

_SIGMAS = 4.5  # of a chi-squared, by the normal approximation: one in 100,000 for a fair draw


def order(samples, block, buffer, *, seed=0, batch_size=10, schedule=None) -> BlockOrder:
    budget = (schedule or Schedule.full(epochs=3)).budget(samples, batch_size=batch_size)
    return BlockOrder(budget, seed=seed, shape=Blocks(block, buffer))


def epoch_of(o, epoch=0):
    return o.ids(epoch, np.arange(o.size))


def places_of(ids):
    places = np.empty_like(ids)
    places[ids] = np.arange(len(ids))
    return places


@pytest.mark.slow
@given(st.integers(1, 700), st.integers(1, 60), st.integers(0, 300), st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_an_epoch_takes_each_sample_once(samples, block, more, seed, epoch):
    o = order(samples, block, block + more, seed=seed, batch_size=1)
    ids = epoch_of(o, epoch)
    assert sorted(ids.tolist()) == list(range(samples))
    picked = np.arange(0, samples, 3)[::-1]
    assert (o.ids(epoch, picked) == ids[picked]).all(), "a position's sample depends on nothing else"


@given(st.integers(1, 700), st.integers(1, 60), st.integers(0, 300), st.integers(0, 2**64 - 1))
def test_pools_are_of_whole_blocks_of_neighbours_and_fit_the_buffer(samples, block, more, seed):
    o = order(samples, block, block + more, seed=seed, batch_size=1)
    ids, everywhere = epoch_of(o), np.arange(samples)
    starts, stops = o.pool_spans(everywhere)
    assert ((starts <= everywhere) & (everywhere < stops)).all()
    pools = [(int(a), int(b)) for a, b in sorted(set(zip(starts.tolist(), stops.tolist(), strict=True)))]
    assert len(pools) == o.pools and pools[0][0] == 0 and pools[-1][1] == samples
    assert all(one[1] == two[0] for one, two in itertools.pairwise(pools))
    for start, stop in pools:
        assert stop - start <= block + more
        inside = np.sort(ids[start:stop])
        breaks = np.flatnonzero(np.diff(inside) != 1)
        runs = len(breaks) + 1 - (inside[0] == 0 and inside[-1] == samples - 1 and len(breaks) > 0)
        assert runs <= -(-(stop - start) // block) + (stop == samples), "blocks are of neighbours, on a circle"
    sizes = [-(-(stop - start) // block) for start, stop in pools]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("shape", ["blocks:8/64", "blocks:5/37", "blocks:1/1"])
def test_budgets_of_any_ratio_are_prefixes_of_one_order(shape):
    found = []
    for ratio in ("0.3", "0.618", "1"):
        budget = Schedule.flat(ratio, epochs=3).budget(1000, batch_size=10)
        found.append(order_of(budget, seed=3, sampling=shape).ids(2, np.arange(300)).tolist())
    assert found[0] == found[1] == found[2]


@pytest.mark.long
def test_every_sample_comes_equally_often_to_every_position():
    size, draws = 97, 4000
    tenths = np.zeros((10, 10))
    o = order(size, 8, 32, batch_size=1)
    place = np.arange(size) * 10 // size
    for epoch in range(draws):
        np.add.at(tenths, (place, epoch_of(o, epoch) * 10 // size), 1)
    expected = np.outer(np.bincount(place), np.bincount(place)) / size * draws
    # Blocks come together, so that the cells vary more than those of independent draws: by up to a block's samples.
    deviations = (tenths - expected) / np.sqrt(expected * 8)
    assert abs(deviations).max() < _SIGMAS and abs(deviations.mean()) < 0.1


def last_place() -> float:
    """By how many standard deviations the sample that stands at the last position most often is above its share."""
    seen, o, draws = np.zeros(97), order(97, 8, 32, batch_size=1), 4000
    for epoch in range(draws):
        seen[epoch_of(o, epoch)[-1]] += 1
    return (seen.max() - draws / 97) / math.sqrt(draws / 97)


@pytest.mark.long
def test_the_left_over_block_is_of_any_samples():
    assert last_place() < _SIGMAS


@pytest.mark.long
def test_the_test_above_sees_blocks_that_are_always_cut_at_the_same_places(monkeypatch):
    monkeypatch.setattr("budgetloader.block_order._cut", lambda size, seed, epoch: 0)
    assert last_place() > 5 * _SIGMAS


@pytest.mark.long
def test_prefixes_hold_every_sample_equally_often():
    size, prefix, draws = 500, 309, 4000
    counts, o = np.zeros(size), order(500, 8, 64)
    for epoch in range(draws):
        counts[o.ids(epoch, np.arange(prefix))] += 1
    spread = math.sqrt(draws * (prefix / size) * (1 - prefix / size))
    assert abs(counts - draws * prefix / size).max() / spread < _SIGMAS


@pytest.mark.long
def test_within_a_pool_any_order_is_as_likely_as_any_other():
    """Where two neighbours of a block stand is no better known than where any two samples of the pool do."""
    draws, together, expected = 3000, 0, 0.0
    o = order(640, 8, 64, batch_size=16)
    for epoch in range(draws):
        places = places_of(epoch_of(o, epoch))
        pools = o.pool_spans(places)[0]
        same = pools[:-1] == pools[1:]
        together += int((places[:-1] // 16 == places[1:] // 16)[same].sum())
        expected += same.sum() * 15 / 63
    assert abs(together - expected) / math.sqrt(expected) < _SIGMAS


def test_epochs_and_seeds_draw_afresh():
    one, other = order(4096, 8, 64), order(4096, 8, 64, seed=1)
    assert (epoch_of(one) == epoch_of(one, 1)).mean() < 0.02
    assert (epoch_of(one) == epoch_of(other)).mean() < 0.02
    first, second = epoch_of(one), epoch_of(one, 1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


@pytest.mark.parametrize("shape", ["blocks:8/64", "blocks:16/512", "blocks:32/4096"])
def test_neighbours_end_up_as_far_apart_as_it_says(shape):
    budget = Schedule.full(epochs=1).budget(4096, batch_size=64)
    o = order_of(budget, seed=0, sampling=shape)
    found = [np.abs(np.diff(places_of(epoch_of(o, epoch)))).mean() for epoch in range(40)]
    assert np.mean(found) == pytest.approx(o.neighbour_distance(), rel=0.05)


@pytest.mark.parametrize(("block", "buffer"), [(8, 64), (16, 512), (32, 4096), (1, 64)])
def test_a_batch_has_samples_of_as_many_blocks_as_it_says(block, buffer):
    o = order(4096, block, buffer, batch_size=64)
    batches = [(e, o.ids(e, np.arange(s * 64, s * 64 + 64))) for e in range(20) for s in range(0, 64, 3)]
    blocks = [len(np.unique((ids - block_order._cut(4096, 0, e)) % 4096 // block)) for e, ids in batches]
    assert np.mean(blocks) == pytest.approx(o.blocks_in_batch(), rel=0.02)


def test_classes_of_a_sorted_file_are_those_of_as_many_blocks():
    """1,000 classes in order, and batches of 256: nearly as many as uniform draws see, where blocks are small."""
    labels = np.arange(128_000) // 128
    seen = {}
    for shape in ("independent", "blocks:4/16384", "blocks:32/8192", "blocks:64/64"):
        budget = Schedule.full(epochs=1).budget(128_000, batch_size=256)
        seen[shape] = classes_in_batch(order_of(budget, seed=0, sampling=shape), labels)
    uniform = 1000 * (1 - (1 - 1 / 1000) ** 256)
    assert seen["independent"] == pytest.approx(uniform, rel=0.02)
    assert seen["blocks:4/16384"] > 0.93 * uniform
    for shape, tolerance in (("blocks:4/16384", 0.06), ("blocks:32/8192", 0.06)):
        blocks = order_of(Schedule.full(epochs=1).budget(128_000, batch_size=256), seed=0, sampling=shape)
        expected = 1000 * (1 - (1 - 1 / 1000) ** blocks.blocks_in_batch())
        assert seen[shape] == pytest.approx(expected, rel=tolerance)
    assert seen["blocks:64/64"] < 10, "a buffer of one block does not mix"


@pytest.mark.slow
def test_a_class_of_a_sorted_file_varies_by_the_root_of_the_block_more():
    """What blocks cost: an epoch's share of a class has the spread of fewer draws."""

    def spread(sampling):
        budget = Schedule.flat("0.5", epochs=1).budget(8192, batch_size=64)
        o = order_of(budget, seed=5, sampling=sampling)
        return np.std([(o.ids(e, np.arange(budget.epoch_samples(0))) < 1024).sum() for e in range(400)])

    assert 3.2 < spread("blocks:16/256") / spread("independent") < 4.8


def test_one_pool_of_the_whole_set_is_a_uniform_order():
    o = order(200, 8, 10_000, batch_size=16)
    assert o.pools == 1 and o.neighbour_distance() == pytest.approx(201 / 3)
    runs = [np.abs(np.diff(places_of(epoch_of(o, e)))).mean() for e in range(300)]
    assert np.mean(runs) == pytest.approx(201 / 3, rel=0.02)


def test_a_batch_of_a_billion_costs_no_memory():
    o = order(10**9, 32, 8192, batch_size=256)
    o.ids(0, np.arange(8))
    tracemalloc.start()
    o.ids(1, np.arange(5 * 10**8, 5 * 10**8 + 256))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("sampling", ["blocks:", "blocks:8", "blocks:8/", "blocks:a/b", "blocky", "blocks:8/64/2"])
def test_words_that_are_not_known_are_refused(sampling):
    budget = Schedule.full(epochs=1).budget(100, batch_size=10)
    with pytest.raises(ScheduleError, match="blocks"):
        order_of(budget, seed=0, sampling=sampling)


@pytest.mark.parametrize("sampling", ["blocks:0/8", "blocks:9/8"])
def test_a_buffer_holds_a_block_of_one_sample_at_least(sampling):
    with pytest.raises(ScheduleError, match="holds a block"):
        Blocks.parse(sampling)


def test_what_the_word_says():
    assert Blocks.parse("blocks") == Blocks() and Blocks.parse("independent") is None
    assert str(Blocks.parse("blocks:4/32")) == "blocks:4/32" and Blocks.parse(str(Blocks())) == Blocks()
    budget = Schedule.full(epochs=1).budget(100, batch_size=10)
    assert isinstance(order_of(budget, seed=0, sampling="cyclic"), Order)


class _Index:
    heights = widths = np.full(1000, 64)
    labels, classes, fingerprint = np.arange(1000) // 10, (), "x"

    def __len__(self):
        return 1000


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_have_the_whole_batch_among_them(world_size):
    shape = {"schedule": Schedule.flat("0.5", epochs=2), "batch_size": 20, "seed": 1}
    whole = Planner(_Index(), wanted=Wanted("blocks:8/64"), **shape)
    parts = [
        Planner(_Index(), wanted=Wanted("blocks:8/64"), shard=Shard(r, world_size), **shape)
        for r in range(4)[:world_size]
    ]
    for step in range(whole.steps[1]):
        found = np.concatenate([part.plan(1, step).samples for part in parts])
        assert found.tolist() == whole.plan(1, step).samples.tolist()


def test_blocks_of_a_subset_are_of_neighbours_in_the_file():
    shape = {"schedule": Schedule.full(epochs=1), "batch_size": 10, "seed": 1}
    for samples in (np.arange(1000) % 2 == 0, np.random.default_rng(0).permutation(500) * 2):
        chosen = choose(np.zeros(1000, np.int64), Wanted("blocks:10/20", samples=samples), **shape)
        start, stop = chosen.blocks.pool_spans(np.zeros(1, np.int64))
        ids = np.sort(chosen.ids(0, np.arange(start[0], stop[0])))
        assert (np.diff(ids) == 2).sum() >= len(ids) - 3
        assert np.isin(chosen.ids(0, np.arange(500)), np.arange(0, 1000, 2)).all()


def test_a_state_tells_blocks_apart_and_the_sampler_draws_the_same():
    options = {"schedule": Schedule.flat("0.5", epochs=2), "batch_size": 10, "seed": 3}
    sampler = BudgetSampler(1000, sampling="blocks:8/64", **options)
    planner = Planner(_Index(), wanted=Wanted("blocks:8/64"), **options)
    assert list(sampler) == [planner.plan(0, step).samples.tolist() for step in range(50)]
    state = json.loads(json.dumps(sampler.state_dict(step=50)))
    assert state["sampling"] == planner.identity["sampling"] == "blocks:8/64"
    with pytest.raises(Exception, match="blocks:8/64"):
        BudgetSampler(1000, sampling="blocks:8/128", **options).load_state_dict(state)
    assert BudgetSampler(1000, sampling="blocks", **options).state_dict()["sampling"] == "blocks:32/8192"
