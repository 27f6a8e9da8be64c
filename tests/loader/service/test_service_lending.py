import gc
import mmap
import os
import socket
import weakref

import numpy as np
import pytest

from budgetloader.service import lending
from budgetloader.service.lending import Borrower, Lender, Store
from budgetloader.service.protocol import Loan, ProtocolError

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
    near, far = socket.socketpair()
    yield Borrower(os.dup(shared[0]), near.detach()), far
    far.close()


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


def lent(shared, count):
    """A borrower, its arrays, and the other end of its connection."""
    near, far = socket.socketpair()
    borrower = Borrower(os.dup(shared[0]), near.detach())
    return borrower, [borrower.array(n, offset=n * PAGE, shape=(PAGE,)) for n in range(count)], far


def test_the_descriptors_are_closed_with_the_last_loan(shared):
    borrower, arrays, far = lent(shared, 2)
    del borrower
    gc.collect()
    arrays.pop()
    assert is_open(far)
    arrays.pop()
    gc.collect()
    assert not is_open(far)


def test_the_descriptors_are_closed_where_nothing_is_lent(shared):
    borrower, _, far = lent(shared, 0)
    assert is_open(far)
    del borrower
    gc.collect()
    assert not is_open(far)


def test_what_is_out_is_the_trainers_own_after_settling(shared):
    borrower, arrays, far = lent(shared, 3)
    before = [array.copy() for array in arrays[1:]]
    arrays[0][:] = 3
    arrays[1][5] = before[0][5] = 77
    borrower.settle()
    assert not is_open(far), "the store may free and use its memory now"
    shared[1][:] = 255
    assert (arrays[0] == 3).all()
    for array, expected in zip(arrays[1:], before, strict=True):
        np.testing.assert_array_equal(array, expected)
    arrays[2][0] = 1
    assert shared[1][2 * PAGE] == 255


def test_a_loan_that_cannot_be_mapped_is_returned(shared):
    borrower, _, _ = lent(shared, 0)
    with pytest.raises(ValueError, match="mmap"):
        borrower.array(4, offset=8 * PAGE, shape=(PAGE,))
    assert borrower.returned() == [4]


@pytest.fixture
def lender(shared, monkeypatch):
    """A lender, and blocks of four batches in a store that it finds."""
    descriptor, memory = shared
    start = memory.ctypes.data
    store = Store(start, start + memory.nbytes, 0, (descriptor, 0))
    monkeypatch.setattr(lending, "find_store", lambda array: store if store.where(array) is not None else None)
    monkeypatch.setattr(lending, "_LEAST_BYTES", 1)
    return Lender(), memory.reshape(8, 4, -1)


def test_the_descriptors_go_with_the_first_loan(shared, lender):
    lent, blocks = lender
    answer, descriptors = lent.lend(blocks[0, 1], of=blocks[0], most=1)
    assert answer == Loan(0, PAGE // 4) and descriptors == [shared[0], 0]
    answer, descriptors = lent.lend(blocks[0, 2], of=blocks[0], most=1)
    assert answer == Loan(1, PAGE // 2) and descriptors == []
    assert lent.store_bytes == 8 * PAGE


def test_no_more_is_held_than_may_be_and_what_is_returned_makes_room(lender):
    lent, blocks = lender

    def lend(number, part):
        found = lent.lend(blocks[number, part], of=blocks[number], most=2)
        return found and found[0].number

    assert [lend(0, 0), lend(0, 1), lend(1, 0)] == [0, 1, 2]
    assert lend(2, 0) is None and lend(1, 1) == 3, "another batch of what is held costs nothing"
    lent.take_back([0])
    assert lend(2, 0) is None, "the block's other batch is still out"
    lent.take_back([1])
    assert lend(2, 0) == 4


def test_what_was_not_lent_cannot_be_returned(lender):
    lent, blocks = lender
    lent.lend(blocks[0, 0], of=blocks[0], most=1)
    lent.take_back([0])
    for loan in (0, 1):
        with pytest.raises(ProtocolError, match=f"loan {loan}"):
            lent.take_back([loan])


def test_what_is_lent_is_held_also_if_the_same_batch_was_lent_from_elsewhere(lender):
    """A block that was dropped and decoded anew, while a batch of the old one is kept."""
    lent, blocks = lender
    kept = []
    for number in range(2):
        array = blocks[number][:]  # an object of its own
        kept.append(weakref.ref(array))
        assert lent.lend(array[0], of=array, most=2)
        del array
    gc.collect()
    assert all(reference() is not None for reference in kept)
    lent.take_back([0, 1])
    gc.collect()
    assert not any(reference() is not None for reference in kept)


def test_memory_elsewhere_is_not_lent_and_does_not_end_lending(lender):
    lent, blocks = lender
    elsewhere = blocks[0].copy()
    assert lent.lend(elsewhere[0], of=elsewhere, most=9) is None
    assert lent.lend(blocks[0, 0], of=blocks[0], most=9)
    assert lent.lend(elsewhere[0], of=elsewhere, most=9) is None


def test_without_a_store_nothing_is_lent():
    array = np.zeros(PAGE, np.uint8)
    assert lending.find_store(array) is None  # memory, but no connection to a store
    assert Lender().lend(array, of=array, most=9) is None
