"""Bytes and descriptors between a trainer and its bridge."""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader.service import wire


@pytest.fixture
def ends():
    made = wire.pair()
    yield made
    for end in made:
        end.close()


@pytest.mark.parametrize("size", [1, 1000, wire.MESSAGE_BYTES, wire.MESSAGE_BYTES + 1, 5_000_000])
def test_messages_of_any_size_arrive_with_their_descriptors(ends, size):
    reading, writing = os.pipe()
    wire.send(ends[0], b"x" * size, [writing])
    message, (got,) = wire.receive(ends[1])
    assert message == b"x" * size and not os.get_inheritable(got)
    os.write(got, b"y")
    assert os.read(reading, 1) == b"y"
    for descriptor in (reading, writing, got):
        os.close(descriptor)


def test_the_end_is_none(ends):
    ends[0].close()
    assert wire.receive(ends[1]) is None


def test_what_is_too_large_is_not_sent(ends, monkeypatch):
    monkeypatch.setattr(wire, "MOST_BYTES", 1 << 17)
    with pytest.raises(wire.WireError, match="is longer than 131,072"):
        wire.send(ends[0], b"x" * (1 << 18), [])


def test_a_message_that_says_it_is_in_memory_is_as_large_as_that(ends):
    descriptor = os.memfd_create("bomb")
    os.ftruncate(descriptor, 1 << 40)
    before = len(os.listdir("/proc/self/fd"))
    for descriptors in ([descriptor], []):
        socket.send_fds(ends[0], [b"@"], descriptors)
        with pytest.raises(wire.WireError):
            wire.receive(ends[1])
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(descriptor)


def test_what_is_longer_than_a_message_is_refused(ends):
    ends[0].send(b"x" * (wire.MESSAGE_BYTES + 1))
    with pytest.raises(wire.WireError, match="longer than"):
        wire.receive(ends[1])


@given(st.binary(min_size=1, max_size=200).filter(lambda data: data != b"@"))
def test_any_other_bytes_arrive_as_they_are(data):
    first, second = wire.pair()
    with first, second:
        first.send(data)
        assert wire.receive(second) == (data, [])
