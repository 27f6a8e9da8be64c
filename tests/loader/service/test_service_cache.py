from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from budgetloader.service.blocks import BLOCK, Key, Spec
from budgetloader.service.cache import BlockCache

SPEC = Spec("f" * 16, 8, "antialias", "resized", 0, "raise")
BLOCK_BYTES = BLOCK * SPEC.image_bytes


def cache(blocks):
    made = []

    def decode(key, start, stop):
        made.append((key, start, stop))
        return len(made)

    return made, BlockCache(decode=decode, capacity_bytes=blocks * BLOCK_BYTES)


def key(number, epoch=0):
    return Key(SPEC, epoch, number)


def whole(*numbers):
    return [(key(number), BLOCK) for number in numbers]


def test_what_is_there_or_under_way_is_not_made_again():
    made, blocks = cache(4)
    first, decoded = blocks.take(whole(0, 1))
    assert decoded == 2 * BLOCK
    again, decoded = blocks.take(whole(1, 0))
    assert again == first[::-1] and decoded == 0 and made == [(key(0), 0, BLOCK), (key(1), 0, BLOCK)]
    assert (blocks.counts.hits, blocks.counts.misses, blocks.counts.decoded) == (2, 2, 2 * BLOCK)


def test_no_row_is_made_that_nobody_wants_and_none_twice():
    made, blocks = cache(4)
    assert blocks.take([(key(0), 7)]) == ([[(0, 7, 1)]], 7)
    assert blocks.take([(key(0), 100)]) == ([[(0, 7, 1), (7, 100, 2)]], 93)
    assert blocks.take([(key(0), 7)]) == ([[(0, 7, 1)]], 0)
    assert blocks.take([(key(0), 8)]) == ([[(0, 7, 1), (7, 100, 2)]], 0)
    assert made == [(key(0), 0, 7), (key(0), 7, 100)] and blocks.used_bytes == 100 * SPEC.image_bytes


def test_the_least_recently_wanted_is_dropped_at_the_cap():
    made, blocks = cache(2)
    blocks.take(whole(0, 1))
    blocks.take(whole(0))
    blocks.take(whole(2))  # in place of 1
    blocks.take(whole(0))
    assert [k for k, _, _ in made] == [key(0), key(1), key(2)]
    blocks.take(whole(1))
    assert made[-1][0] == key(1)


def test_what_is_wanted_at_once_is_not_dropped_for_each_other():
    made, blocks = cache(6)
    blocks.take(whole(1, 2, 3, 4, 5, 6))
    assert blocks.take(whole(0, 1, 2, 3, 4, 5))[1] == BLOCK
    assert [k.number for k, _, _ in made] == [1, 2, 3, 4, 5, 6, 0]


def test_a_block_that_grows_is_not_dropped_to_make_room_for_itself():
    _, blocks = cache(2)
    blocks.take([(key(0), 10)])
    blocks.take(whole(1))
    parts, _ = blocks.take(whole(0))
    assert [(p.start, p.stop) for p in parts[0]] == [(0, 10), (10, BLOCK)] and len(blocks) == 2
    blocks.take([(key(2), 5)])
    blocks.take(whole(2))
    assert len(blocks) == 2 and blocks.used_bytes == 2 * BLOCK_BYTES


def test_specs_and_epochs_are_other_blocks():
    made, blocks = cache(8)
    other = Spec("f" * 16, 8, "linear", "resized", 0, "raise")
    blocks.take([(key(0), 5), (key(0, epoch=1), 5), (Key(other, 0, 0), 5)])
    assert len(made) == 3


def test_a_lost_block_is_made_again_once():
    made, blocks = cache(4)
    blocks.take([(key(0), 3)])
    (first,), _ = blocks.take(whole(0))
    blocks.drop(key(0), first[1:])
    (second,), _ = blocks.take(whole(0))
    blocks.drop(key(0), first)  # another trainer found the same loss, later
    assert blocks.take(whole(0))[0] == [second] and len(made) == 3 and blocks.used_bytes == BLOCK_BYTES


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 10), st.integers(1, BLOCK)), max_size=6), max_size=40), st.integers(1, 6)
)
@settings(max_examples=100)
def test_the_cap_holds_and_every_row_requested_comes_once(requests, most):
    made, blocks = cache(most)
    for numbers in requests:
        wanted = [(key(number), rows) for number, rows in numbers]
        found, _ = blocks.take(wanted)
        for (k, rows), parts in zip(wanted, found, strict=True):
            assert parts[0].start == 0 and parts[-1].stop >= rows > parts[-1].start
            assert all(one.stop == other.start for one, other in pairwise(parts))
            assert all(made[part.content - 1] == (k, part.start, part.stop) for part in parts)
        assert blocks.used_bytes <= most * BLOCK_BYTES
        assert blocks.used_bytes == sum(parts[-1].stop * SPEC.image_bytes for parts in blocks._blocks.values())
