from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from budgetloader.service.blocks import BLOCK, runs, spans
from budgetloader.shard import Shard


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(0, 50), st.integers(1, 4), st.data())
@settings(max_examples=200)
def test_a_batch_is_put_together_of_its_blocks(samples, batch_size, step, ranks, data):
    start = min(step * batch_size, samples - 1)
    rank = data.draw(st.integers(0, ranks - 1))
    positions = Shard(rank, ranks).positions(start, min(start + batch_size, samples))
    together = np.full(len(positions), -1)
    for number, rows, to in runs(spans(positions)):
        assert (together[to] == -1).all()
        together[to] = np.arange(number * BLOCK, (number + 1) * BLOCK)[rows]
    np.testing.assert_array_equal(together, positions)


@given(st.lists(st.integers(0, 30)))
def test_spans_are_the_positions_in_as_few_stretches_as_can_be(positions):
    found = spans(np.array(positions, np.int64))
    assert [p for start, stop in found for p in range(start, stop)] == positions
    assert all(one[1] != other[0] for one, other in pairwise(found))
