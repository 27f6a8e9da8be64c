import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from budgetloader.storage.index import Spans
from budgetloader.storage.ranges import requests_for

files = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 60)), min_size=1, max_size=40)


def laid_out(gaps_and_sizes, seed):
    """Samples in a file, in an order of their own."""
    starts, sizes, at = [], [], 0
    for gap, size in gaps_and_sizes:
        starts.append(at + gap)
        sizes.append(size)
        at += gap + size
    order = np.random.default_rng(seed).permutation(len(starts))
    return np.array(starts)[order], np.array(sizes)[order]


@given(files, st.integers(0, 2**32), st.integers(0, 60), st.integers(1, 300), st.data())
def test_requests_hold_every_sample_once_and_no_gap_that_is_too_wide(shape, seed, gap, most, data):
    starts, sizes = laid_out(shape, seed)
    wanted = np.array(sorted(data.draw(st.sets(st.integers(0, len(starts) - 1)))), np.int64)
    found = requests_for(wanted, starts, sizes, gap_bytes=gap, most_bytes=most)
    assert sorted(np.concatenate([r.samples for r in found]).tolist() if found else []) == wanted.tolist()
    for request in found:
        inside = request.samples
        assert request.start == starts[inside[0]] and request.stop == starts[inside[-1]] + sizes[inside[-1]]
        ends = starts[inside] + sizes[inside]
        assert (starts[inside][1:] - ends[:-1] <= gap).all() and (np.diff(starts[inside]) > 0).all()
        assert request.stop - request.start <= most or len(inside) == 1
    for one, two in itertools.pairwise(found):  # none that could have been joined was not
        apart = two.start - one.stop
        first = starts[two.samples[0]] + sizes[two.samples[0]]
        assert apart > gap or first - one.start > most


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=12), st.integers(0, 50), st.integers(0, 30))
def test_spans_are_the_set_of_bytes_that_were_added(added, start, length):
    spans, there = Spans(), set()
    for first, size in added:
        spans.add(first, first + size)
        there |= set(range(first, first + size))
    assert {byte for a, b in spans.all for byte in range(a, b)} == there
    assert all(a < b for a, b in spans.all)
    assert all(b < c for (_, b), (c, _) in itertools.pairwise(spans.all))
    missing = spans.missing(start, start + length)
    assert {byte for a, b in missing for byte in range(a, b)} == set(range(start, start + length)) - there
