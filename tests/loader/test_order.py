"""The order's statistics. Seeds are fixed: a test either always passes or always fails."""

import itertools
import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgetloader import Schedule, ScheduleError, order
from budgetloader.order import Order, Permutation

_SIGMAS = 4.5  # of a chi-squared, by the normal approximation: one in 100,000 for a fair draw


def permutation(size, seed=0, number=0) -> Permutation:
    return order._permutation.__wrapped__(size, seed, number)


def excess(counts, expected) -> float:
    """How many standard deviations a chi-squared statistic is above its mean."""
    counts = np.asarray(counts, float)
    degrees = counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - degrees) / math.sqrt(2 * degrees)


def make_order(schedule, samples, *, seed=0, batch_size=10, **kwargs) -> Order:
    return Order(schedule.budget(samples, batch_size=batch_size), seed=seed, **kwargs)


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_it_is_a_permutation(size, seed, number):
    ids = permutation(size, seed, number)(np.arange(size))
    assert sorted(ids.tolist()) == list(range(size))


@given(st.integers(1, 1 << 60), st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**64), min_size=2, max_size=50))
def test_elements_of_any_size_are_distinct_and_in_range(size, seed, numbers):
    positions = np.unique([n % size for n in numbers])
    ids = permutation(size, seed)(positions)
    assert len(np.unique(ids)) == len(positions) and ids.min() >= 0 and ids.max() < size


@pytest.mark.long
@pytest.mark.parametrize("size", [3, 4, 5])
def test_small_sets_are_permuted_in_all_ways_equally_often(size):
    draws = 24_000
    counts = Counter(tuple(permutation(size, seed)(np.arange(size))) for seed in range(draws))
    ways = list(itertools.permutations(range(size)))
    assert excess([counts[w] for w in ways], draws / len(ways)) < _SIGMAS


@pytest.mark.long
def test_the_check_above_sees_a_bad_cipher(monkeypatch):
    monkeypatch.setattr(order, "_ROUNDS", 4)
    draws = 24_000
    counts = Counter(tuple(permutation(5, seed)(np.arange(5))) for seed in range(draws))
    ways = list(itertools.permutations(range(5)))
    assert excess([counts[w] for w in ways], draws / len(ways)) > 10 * _SIGMAS


@pytest.mark.long
@pytest.mark.parametrize("size", [97, 1000, 1281])
def test_every_sample_comes_equally_often_to_every_position(size):
    draws = 3000
    tenths = np.zeros((10, 10))
    for number in range(draws):
        ids = permutation(size, 1, number)(np.arange(size))
        np.add.at(tenths, (np.arange(size) * 10 // size, ids * 10 // size), 1)
    expected = np.outer(*[np.bincount(np.arange(size) * 10 // size)] * 2) / size * draws
    # Rows and columns have fixed sums, and a permutation's cells are no independent draws: the
    # statistic of fair permutations has mean 81 · size/(size − 1) and about the usual spread.
    statistic = ((tenths - expected) ** 2 / expected).sum()
    assert abs(statistic - 81) / math.sqrt(2 * 81) < _SIGMAS


def test_prefixes_hold_every_sample_equally_often():
    size, prefix, draws = 500, 309, 4000
    counts = np.zeros(size)
    for number in range(draws):
        counts[permutation(size, 2, number)(np.arange(prefix))] += 1
    variance = draws * (prefix / size) * (1 - prefix / size)
    statistic = ((counts - draws * prefix / size) ** 2 / variance).sum() * (size - 1) / size
    assert abs(statistic - (size - 1)) / math.sqrt(2 * (size - 1)) < _SIGMAS


@pytest.mark.slow
def test_pairs_of_samples_meet_in_a_prefix_as_often_as_chance_has_it():
    size, prefix, draws = 60, 20, 6000
    together = np.zeros((size, size))
    for number in range(draws):
        ids = permutation(size, 3, number)(np.arange(prefix))
        together[np.ix_(ids, ids)] += 1
    pairs = together[np.triu_indices(size, 1)]
    p = prefix * (prefix - 1) / (size * (size - 1))
    assert abs(pairs.mean() / draws - p) < 1e-9
    assert abs((pairs - draws * p) / math.sqrt(draws * p * (1 - p))).max() < _SIGMAS


def test_consecutive_epochs_are_independent():
    size = 1000
    first, second = (permutation(size, 4, number)(np.arange(size)) for number in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < _SIGMAS / math.sqrt(size)
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < _SIGMAS / math.sqrt(size)


def test_the_first_batch_of_a_billion_costs_no_memory():
    tracemalloc.start()
    make_order(Schedule.full(epochs=2), 10**9, batch_size=256).ids(0, np.arange(256))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_budget_is_a_prefix_whatever_the_ratio():
    ids = [make_order(Schedule.flat(a, epochs=3), 1000).ids(2, np.arange(300)) for a in ("0.3", "0.618", "1")]
    np.testing.assert_array_equal(ids[0], ids[1])
    np.testing.assert_array_equal(ids[0], ids[2])


def test_epochs_and_seeds_draw_afresh():
    s = Schedule.full(epochs=2)
    a, b = make_order(s, 1000), make_order(s, 1000, seed=1)
    assert (a.ids(0, np.arange(1000)) == a.ids(1, np.arange(1000))).mean() < 0.02
    assert (a.ids(0, np.arange(1000)) == b.ids(0, np.arange(1000))).mean() < 0.02


@given(st.lists(st.sampled_from(["0.1", "0.3", "0.618", "1"]), min_size=1, max_size=12), st.integers(10, 90))
def test_cyclic_sees_every_sample_equally_often_up_to_one(ratios, samples):
    s = Schedule.of(ratios)
    try:
        o = make_order(s, samples, batch_size=3, sampling="cyclic")
    except ScheduleError:
        return  # a budget of zero batches
    seen = np.zeros(samples, int)
    for epoch in range(s.epochs):
        np.add.at(seen, o.ids(epoch, np.arange(o.budget.epoch_samples(epoch))), 1)
        assert seen.max() - seen.min() <= 1


def test_bad_seeds_and_sampling_are_refused():
    s = Schedule.full(epochs=1)
    for seed in (-1, 2**64, 1.5, None):
        with pytest.raises(ScheduleError, match="seed"):
            make_order(s, 10, seed=seed)
    with pytest.raises(ScheduleError, match="random"):
        make_order(s, 10, sampling="random")


def test_benchmark_first_batch_of_a_billion(benchmark):
    """The bar: under 10 ms."""
    s = Schedule.full(epochs=2)
    benchmark(lambda: make_order(s, 10**9, batch_size=256, seed=next(_seeds)).ids(0, np.arange(256)))


_seeds = itertools.count()


@given(st.integers(1, 300), st.integers(1, 40), st.fractions(0, 1), st.integers(0, 2**64 - 1))
@settings(max_examples=100)
def test_static_takes_one_subset_in_fresh_orders(samples, batch_size, ratio, seed):
    try:
        budget = Schedule.flat(ratio, epochs=4).budget(samples, batch_size=batch_size)
    except ScheduleError:
        return
    order = Order(budget, seed=seed, sampling="static")
    count = budget.epoch_samples(0)
    epochs = [order.ids(e, np.arange(count)) for e in range(4)]
    assert all(len(np.unique(ids)) == count for ids in epochs)
    assert all(set(ids.tolist()) == set(epochs[0].tolist()) for ids in epochs)
    if count > 10:
        assert any((ids != epochs[0]).any() for ids in epochs[1:])


def test_the_static_subset_depends_on_the_seed_and_not_on_the_number_of_epochs():
    def subset(seed, epochs):
        budget = Schedule.flat("0.3", epochs=epochs).budget(1000, batch_size=10)
        return set(Order(budget, seed=seed, sampling="static").ids(0, np.arange(300)).tolist())

    assert subset(1, 3) == subset(1, 30) != subset(2, 3)
