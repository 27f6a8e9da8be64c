"""Messages between a trainer and the process between."""

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


@pytest.mark.parametrize("size", [0, 1000, wire.MESSAGE_BYTES, 5_000_000])
def test_messages_of_any_size_arrive_with_their_descriptors(ends, size):
    reading, writing = os.pipe()
    wire.send(ends[0], {"a": "x" * size}, [writing])
    message, (got,) = wire.receive(ends[1])
    assert message == {"a": "x" * size} and not os.get_inheritable(got)
    os.write(got, b"y")
    assert os.read(reading, 1) == b"y"
    for descriptor in (reading, writing, got):
        os.close(descriptor)


def test_the_end_is_none(ends):
    ends[0].close()
    assert wire.receive(ends[1]) is None


def test_what_is_too_large_is_not_sent(ends, monkeypatch):
    monkeypatch.setattr(wire, "MOST_BYTES", 1 << 17)
    with pytest.raises(wire.WireError, match="is more than"):
        wire.send(ends[0], {"a": "x" * (1 << 18)}, [])


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


@given(st.one_of(st.binary(min_size=1, max_size=200), st.sampled_from([b"[" * 60_000, b"1" * 5000, b"null", b"@"])))
def test_anything_else_is_one_error(data):
    first, second = wire.pair()
    with first, second:
        first.send(data)
        try:
            message, descriptors = wire.receive(second)
        except wire.WireError:
            return
        assert isinstance(message, dict) and descriptors == []
