import gc
import mmap
import os
import socket

import numpy as np
import pytest

from loader.service import lending
from loader.service.lending import Borrower, Lender, Store

PAGE = mmap.ALLOCATIONGRANULARITY


@pytest.fixture
def shared():
    """Shared memory as the store has it: its descriptor, and it as an array."""
    descriptor = os.memfd_create("store")
    os.ftruncate(descriptor, 8 * PAGE)
    memory = np.frombuffer(mmap.mmap(descriptor, 8 * PAGE), np.uint8)
    memory[:] = np.arange(8 * PAGE) % 251
    yield descriptor, memory
    os.close(descriptor)


@pytest.fixture
def borrower(shared):
    ours, theirs = socket.socketpair()
    yield Borrower(os.dup(shared[0]), ours.detach()), theirs
    theirs.close()


def is_open(peer):
    peer.setblocking(False)
    try:
        return peer.recv(1) != b""
    except BlockingIOError:
        return True


def test_a_loan_is_the_stores_memory_and_is_returned_when_the_array_is_gone(shared, borrower):
    _, memory = shared
    offset = PAGE - 24
    array = borrower[0].array(7, offset=offset, shape=(2, 4, 4, 3))
    np.testing.assert_array_equal(array.ravel(), memory[offset : offset + 96])
    part = array[1:]
    del array
    gc.collect()
    assert borrower[0].returned() == []
    del part
    gc.collect()
    assert borrower[0].returned() == [7] and borrower[0].returned() == []


def test_what_is_written_to_a_loan_is_seen_by_it_alone(shared, borrower):
    _, memory = shared
    one = borrower[0].array(0, offset=10, shape=(100,))
    other = borrower[0].array(1, offset=60, shape=(100,))  # of the same page
    before = memory.copy()
    one[:] = 255
    np.testing.assert_array_equal(memory, before)
    np.testing.assert_array_equal(other, before[60:160])
    memory[60:160] = 9  # the store uses its memory anew: no stale page is shown
    assert (other == 9).all() and (one == 255).all()
    del one
    assert (borrower[0].array(2, offset=10, shape=(50,)) == before[10:60]).all()


def test_the_descriptors_are_closed_with_the_last_loan(borrower):
    lent, peer = borrower
    array = lent.array(0, offset=0, shape=(4,))
    del borrower, lent
    gc.collect()
    assert is_open(peer), "the batch is still there"
    assert array[0] == 0


def test_the_descriptors_are_closed_when_nothing_is_lent(shared):
    ours, theirs = socket.socketpair()
    lent = Borrower(os.dup(shared[0]), ours.detach())
    array = lent.array(0, offset=0, shape=(4,))
    del lent
    gc.collect()
    assert is_open(theirs)
    del array
    gc.collect()
    assert not is_open(theirs)
    theirs.close()


@pytest.fixture
def lender(shared, monkeypatch):
    """A lender, and blocks of four batches in a store that it finds."""
    descriptor, memory = shared
    start = memory.ctypes.data
    store = Store(start, start + memory.nbytes, 0, (descriptor, 0))
    monkeypatch.setattr(lending, "find_store", lambda array: store if store.where(array) is not None else None)
    return Lender(), memory.reshape(8, 4, -1)


def test_the_descriptors_go_with_the_first_loan(shared, lender):
    lent, blocks = lender
    answer, descriptors = lent.lend(blocks[0, 1], of="a", name=0, most=1)
    assert answer == {"loan": 0, "offset": PAGE // 4} and descriptors == [shared[0], 0]
    answer, descriptors = lent.lend(blocks[0, 2], of="a", name=0, most=1)
    assert answer == {"loan": 1, "offset": PAGE // 2} and descriptors == []


def test_no_more_blocks_are_held_than_may_be_and_a_returned_one_makes_room(lender):
    lent, blocks = lender

    def lend(number, part):
        found = lent.lend(blocks[number, part], of=number, name=number, most=2)
        return found and found[0]["loan"]

    assert [lend(0, 0), lend(0, 1), lend(1, 0)] == [0, 1, 2]
    assert lend(2, 0) is None and lend(1, 1) == 3, "another batch of a held block costs nothing"
    lent.take_back([0])
    assert lend(2, 0) is None, "the block's other batch is still out"
    lent.take_back([1])
    assert lend(2, 0) == 4


def test_memory_elsewhere_is_not_lent(lender):
    lent, blocks = lender
    assert lent.lend(blocks[0, 0], of=0, name=0, most=9)
    assert lent.lend(blocks[0, 0].copy(), of=1, name=1, most=9) is None


def test_without_a_store_nothing_is_lent():
    array = np.zeros(PAGE, np.uint8)
    assert lending.find_store(array) is None  # memory, but no connection to a store
    assert Lender().lend(array, of=0, name=0, most=9) is None
