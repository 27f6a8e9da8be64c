import os
import zlib

import numpy as np
import pytest

from budgetloader import DatasetError
from budgetloader.storage.ledger import Ledger
from budgetloader.storage.mirror import BLOCK, Mirror
from budgetloader.storage.oracle import NEVER, Oracle
from budgetloader.storage.shared import SharedLedger
from budgetloader.storage.traffic import Counter

SIZES = np.random.default_rng(3).integers(3 * BLOCK, 9 * BLOCK, 40)
STARTS = 5000 + np.concatenate(([0], np.cumsum(SIZES)[:-1]))
TOTAL = int(STARTS[-1] + SIZES[-1]) + 1000
BYTES = np.random.default_rng(4).integers(1, 256, TOTAL, np.uint8)


def shared(folder, **options):
    """A process's view of a cache: with its own descriptors, as another process has them."""
    descriptor = os.open(folder / "data", os.O_RDWR | os.O_CREAT, 0o600)
    mirror, counter = Mirror(descriptor, TOTAL, name="data"), Counter()
    return SharedLedger(folder, mirror, STARTS, SIZES, counter=counter, **{"most_bytes": None, **options})


def fetch(ledger, samples):
    """What a source does: claim, bring what is missing, and say so."""
    claim = ledger.claim(np.array(samples))
    for sample in claim.mine.tolist():
        fill(ledger, sample)
    return claim


def fill(ledger, sample):
    claim = ledger.fetching(sample)
    assert claim is not None
    ledger.filled(sample, write(ledger, sample), claim)


def write(ledger, sample):
    data = BYTES[STARTS[sample] : STARTS[sample] + SIZES[sample]]
    ledger._mirror.write(int(STARTS[sample]), data.data)
    return zlib.crc32(data.data)


def there(ledger, sample):
    found = ledger._mirror.bytes[STARTS[sample] : STARTS[sample] + SIZES[sample]]
    return bool((found == BYTES[STARTS[sample] : STARTS[sample] + SIZES[sample]]).all())


def on_disk(ledger):
    return 512 * os.fstat(ledger._mirror.descriptor).st_blocks


def test_without_a_cache_nothing_is_kept_that_is_not_in_use():
    ledger = Ledger(Mirror.in_memory(TOTAL), STARTS, SIZES, counter=Counter())
    assert fetch(ledger, range(10)).mine.tolist() == list(range(10))
    assert fetch(ledger, range(5, 15)).mine.tolist() == list(range(10, 15))
    ledger.release(np.arange(10))
    assert [ledger.usable(i) for i in range(15)] == [False] * 5 + [True] * 10
    assert all(there(ledger, i) for i in range(5, 15)), "a neighbour's blocks are not dropped"
    ledger.release(np.arange(5, 15))
    assert on_disk(ledger) <= 2 * BLOCK  # the edges, which the index may have a part of


def test_samples_that_share_bytes_are_refused():
    with pytest.raises(DatasetError, match="samples 3 and 4 share bytes"):
        Ledger(Mirror.in_memory(TOTAL), STARTS, np.where(np.arange(40) == 3, SIZES + 1, SIZES), counter=Counter())


def test_what_one_process_fetched_another_finds_and_checks_once(tmp_path):
    one, two = shared(tmp_path), shared(tmp_path)
    fetch(one, [1, 2, 3])
    claim = two.claim(np.array([2, 3, 4]))
    assert (claim.mine.tolist(), claim.unchecked.tolist()) == ([4], [2, 3])
    assert not two.usable(2)
    for sample in (2, 3):
        assert two.checked(sample, zlib.crc32(two._mirror.bytes[STARTS[sample] :][: SIZES[sample]].data))
    assert two.usable(2) and not two.checked(3, 12345)
    two.release(np.array([2, 3, 4]))
    assert two.claim(np.array([2, 3])).unchecked.size == 0


def test_what_is_being_fetched_is_not_fetched_twice_unless_its_process_is_gone(tmp_path):
    one, two = shared(tmp_path), shared(tmp_path)
    assert one.claim(np.array([5, 6])).mine.tolist() == [5, 6]
    assert two.claim(np.array([5, 6, 7])).others.tolist() == [5, 6]
    assert two.claim_left(np.array([5, 6])).tolist() == []
    one.failed(np.array([6]))
    assert two.claim_left(np.array([5, 6])).tolist() == [6]
    one.close()  # as the kernel does it for a process that ends
    assert two.claim_left(np.array([5])).tolist() == [5]


def test_a_slot_that_was_freed_pins_nothing_and_is_used_again(tmp_path):
    one, two = shared(tmp_path), shared(tmp_path, most_bytes=int(SIZES[:6].sum()))
    fetch(one, range(5))
    slot = one.slot
    one.close()
    fetch(two, range(10, 14))  # there is no room but that of the process that has gone
    assert sum(there(two, i) for i in range(5)) < 5
    assert shared(tmp_path).slot == slot


def test_what_is_pinned_by_any_process_is_never_dropped(tmp_path):
    most = int(SIZES[:12].sum())
    one, two = shared(tmp_path, most_bytes=most), shared(tmp_path, most_bytes=most)
    fetch(one, [0, 1, 2])
    for first in range(3, 36, 3):
        samples = np.arange(first, first + 3)
        fetch(two, samples)
        assert all(there(two, i) for i in samples)
        two.release(samples)
    assert all(one.usable(i) and there(one, i) for i in range(3))
    one.release(np.array([0, 1, 2]))
    assert on_disk(two) <= most + 3 * 10 * BLOCK


def test_a_ledger_that_was_cut_off_while_it_was_made_is_made_anew(tmp_path):
    (tmp_path / "map").write_bytes(b"RRS")
    (tmp_path / "map").chmod(0o600)
    assert fetch(shared(tmp_path), [1]).mine.tolist() == [1]


def belady(draws, room):
    """How often an optimal cache of equal samples fetches."""
    there, fetched = set(), 0
    for at, sample in enumerate(draws):
        if sample not in there:
            fetched += 1
            there.add(sample)
            if len(there) > room:
                rest = draws[at + 1 :]
                there.discard(max(there, key=lambda s: rest.index(s) if s in rest else 1 << 60))
    return fetched


def test_what_is_needed_last_goes_first_and_no_cache_could_fetch_much_less(tmp_path):
    """Belady's rule, against an optimal simulation, and against dropping what was used least recently."""
    count, epochs, budget, size = 200, 4, 120, 2 * BLOCK
    starts, sizes = np.arange(count) * size, np.full(count, size)
    orders = [np.random.default_rng(epoch).permutation(count)[:budget] for epoch in range(epochs)]
    oracle = Oracle(count, wanted=False)
    oracle.follow(lambda epoch: (orders[epoch], np.arange(budget)) if epoch < epochs else None)
    descriptor = os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT, 0o600)
    mirror, counter, room = Mirror(descriptor, count * size, name="data"), Counter(), 80
    ledger = SharedLedger(
        tmp_path, mirror, starts, sizes, counter=counter, most_bytes=room * size, next_use=oracle.next_use
    )
    fetched = 0
    for epoch in range(epochs):
        for position, sample in enumerate(orders[epoch].tolist()):
            oracle.at(epoch, position)
            claim = ledger.claim(np.array([sample]))
            fetched += len(claim.mine)
            for one in claim.mine.tolist():
                ledger.filled(one, 0, ledger.fetching(one))
            ledger.release(np.array([sample]))
    best = belady(np.concatenate(orders).tolist(), room)
    assert best <= fetched <= 1.05 * best < 0.9 * epochs * budget


@pytest.mark.parametrize("again", [False, True])
def test_what_is_dropped_between_its_writing_and_its_record_does_not_count_as_there(again):
    ledger, sample = Ledger(Mirror.in_memory(TOTAL), STARTS, SIZES, counter=Counter()), np.array([3])
    ledger.claim(sample)
    claim = ledger.fetching(3)
    checksum = write(ledger, 3)
    ledger.release(sample)  # a selection dropped the plan: the bytes are gone
    if again:  # a new plan wants it, and fetches it anew
        assert ledger.claim(sample).mine.tolist() == [3]
    ledger.filled(3, checksum, claim)
    assert not ledger.arrived(sample)[0] and not ledger.usable(3)
    if again:
        fill(ledger, 3)
        assert ledger.usable(3) and there(ledger, 3)


def test_the_oracle_tells_the_next_use_across_epochs():
    draws = {0: [3, 1, 4], 1: [1, 5, 3], 2: [0, 1, 2]}
    oracle = Oracle(7, wanted=False)
    assert oracle.next_use() is None
    oracle.follow(lambda e: (np.array(draws[e]), np.arange(3)) if e in draws else None)
    oracle.at(0, 1)
    order = np.argsort(oracle.next_use(), kind="stable").tolist()
    assert order == [1, 4, 5, 3, 0, 2, 6] and oracle.next_use()[6] == NEVER


def test_an_oracle_whose_schedule_cannot_say_knows_what_it_can():
    def draws(epoch):
        if epoch:
            raise RuntimeError("not yet")
        return np.array([2, 0]), np.array([0, 1])

    oracle = Oracle(3, wanted=True)
    oracle.follow(draws)
    oracle.at(0, 0)
    assert np.argsort(oracle.next_use(), kind="stable").tolist() == [2, 0, 1]
