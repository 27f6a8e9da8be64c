"""A socket pair between a trainer and its bridge: messages as bytes, with file descriptors attached.

A message above the socket's limit (a dataset's class names) goes as memory whose descriptor is attached. What the bytes
mean is `protocol`'s concern. Neither end trusts the other: what is no message, or too large, is a `WireError`.
"""

from __future__ import annotations

import mmap
import os
import socket

MESSAGE_BYTES = 1 << 16  # sent as they are
MOST_BYTES = 1 << 28  # of a message in memory
_MOST_DESCRIPTORS = 4
_IN_MEMORY = b"@"  # stands for a message in memory; no JSON begins with it


class WireError(Exception):
    """What came is no message."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * MESSAGE_BYTES)
    return ends


def send(end: socket.socket, message: bytes, descriptors: list[int]) -> None:
    """Send a message, not empty.

    Raises:
        OSError: the other end is closed.
        WireError: it is too large.
    """
    if len(message) <= MESSAGE_BYTES:
        socket.send_fds(end, [message], descriptors)
        return
    if len(message) > MOST_BYTES:
        raise WireError(f"a message of {len(message):,} bytes is longer than {MOST_BYTES:,}")
    memory = os.memfd_create("message")
    try:
        with os.fdopen(os.dup(memory), "wb") as file:
            file.write(message)
        socket.send_fds(end, [_IN_MEMORY], [memory, *descriptors])
    finally:
        os.close(memory)


def receive(end: socket.socket) -> tuple[bytes, list[int]] | None:
    """The next message and its descriptors, which processes started later do not inherit; None at the end.

    Raises:
        WireError: it is no message.
    """
    try:
        data, descriptors, flags, _ = socket.recv_fds(end, MESSAGE_BYTES + 1, _MOST_DESCRIPTORS)
    except OSError:
        return None
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    if not data and not descriptors:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(data) > MESSAGE_BYTES:
            raise WireError(f"a message is longer than {MESSAGE_BYTES:,} bytes")
        if data == _IN_MEMORY:
            data = _from_memory(descriptors)
        return data, descriptors
    except BaseException:
        close_all(descriptors)
        raise


def close_all(descriptors: list[int]) -> None:
    """Close descriptors that nobody needs."""
    while descriptors:
        os.close(descriptors.pop())


def _from_memory(descriptors: list[int]) -> bytes:
    """The bytes of a message in memory. Its descriptor, the first, is closed."""
    if not descriptors:
        raise WireError("the memory of a long message is missing")
    memory = descriptors.pop(0)
    try:
        size = os.fstat(memory).st_size
        if not 0 < size <= MOST_BYTES:
            raise WireError(f"a message of {size:,} bytes is not among 1 … {MOST_BYTES:,}")
        with mmap.mmap(memory, size, prot=mmap.PROT_READ) as view:
            return view[:]
    except OSError as error:
        raise WireError(f"a message's memory cannot be read ({error})") from None
    finally:
        os.close(memory)
