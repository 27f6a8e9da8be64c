from hypothesis import given, settings
from hypothesis import strategies as st

from loader.service.blocks import BLOCK, Key, Spec
from loader.service.cache import BlockCache

SPEC = Spec("f" * 16, 8, "antialias", "resized", 0, "raise")
SAMPLES = 10 * BLOCK + 7
BLOCK_BYTES = BLOCK * SPEC.image_bytes


def cache(blocks):
    made = []
    return made, BlockCache(
        lambda key: made.append(key) or (key, len(made)), samples=SAMPLES, capacity_bytes=blocks * BLOCK_BYTES
    )


def key(number, epoch=0):
    return Key(SPEC, epoch, number)


def test_what_is_there_or_under_way_is_not_made_again():
    made, blocks = cache(4)
    first, decoded = blocks.take([key(0), key(1)])
    assert decoded == 2 * BLOCK
    again, decoded = blocks.take([key(1), key(0)])
    assert again == first[::-1] and decoded == 0 and made == [key(0), key(1)]
    assert (blocks.counts.hits, blocks.counts.misses, blocks.counts.decoded) == (2, 2, 2 * BLOCK)


def test_the_least_recently_wanted_is_dropped_at_the_cap():
    made, blocks = cache(2)
    blocks.take([key(0), key(1)])
    blocks.take([key(0)])
    blocks.take([key(2)])  # in place of 1
    blocks.take([key(0)])
    assert made == [key(0), key(1), key(2)]
    blocks.take([key(1)])
    assert made[-1] == key(1)


def test_the_last_block_of_an_epoch_is_short():
    _, blocks = cache(4)
    assert blocks.take([key(10)])[1] == 7 and blocks.used_bytes == 7 * SPEC.image_bytes


def test_specs_and_epochs_are_other_blocks():
    made, blocks = cache(8)
    other = Spec("f" * 16, 8, "linear", "resized", 0, "raise")
    blocks.take([key(0), key(0, epoch=1), Key(other, 0, 0)])
    assert len(made) == 3


def test_a_lost_block_is_made_again_once():
    made, blocks = cache(4)
    (first,), _ = blocks.take([key(0)])
    blocks.drop(key(0), first)
    (second,), _ = blocks.take([key(0)])
    blocks.drop(key(0), first)  # another trainer found the same loss, later
    assert blocks.take([key(0)])[0] == [second] and len(made) == 2


@given(st.lists(st.lists(st.integers(0, 10), max_size=6), max_size=40), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_the_cap_holds_and_every_block_asked_for_comes(asked, most):
    _, blocks = cache(most)
    for numbers in asked:
        keys = [key(n) for n in numbers]
        found, _ = blocks.take(keys)
        assert [f[0] for f in found] == keys
        assert blocks.used_bytes <= most * BLOCK_BYTES
        assert blocks.used_bytes == sum(k.size(SAMPLES) * SPEC.image_bytes for k in blocks._blocks)
