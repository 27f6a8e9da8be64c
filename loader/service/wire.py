"""Messages between a trainer and the process between: JSON over a socket pair, with descriptors attached.

A message above the socket's limit (a dataset's class names) goes as memory whose descriptor is attached. Both ends
are one user's, but neither believes the other: a message that is none, or too large, is a `WireError`.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
from typing import Any

MESSAGE_BYTES = 1 << 16  # sent as they are
MOST_BYTES = 1 << 28  # of a message in memory
_MOST_DESCRIPTORS = 4
_IN_MEMORY = b"@"  # what stands for such a message; no JSON begins so


class WireError(Exception):
    """What came is no message."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * MESSAGE_BYTES)
    return ends


def send(end: socket.socket, message: dict[str, Any], descriptors: list[int]) -> None:
    """Send a message.

    Raises:
        OSError: the other end is closed.
        WireError: it is too large.
    """
    data = json.dumps(message).encode()
    if len(data) <= MESSAGE_BYTES:
        socket.send_fds(end, [data], descriptors)
        return
    if len(data) > MOST_BYTES:
        raise WireError(f"a message of {len(data):,} bytes is more than {MOST_BYTES:,}")
    memory = os.memfd_create("message")
    try:
        with os.fdopen(os.dup(memory), "wb") as file:
            file.write(data)
        socket.send_fds(end, [_IN_MEMORY], [memory, *descriptors])
    finally:
        os.close(memory)


def receive(end: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors, which no process that is started later has; None at the end.

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
            raise WireError("a message is longer than messages are")
        if data == _IN_MEMORY:
            data = _from_memory(descriptors)
        message = json.loads(data)
        if not isinstance(message, dict):
            raise WireError("a message is no object")
        return message, descriptors
    except BaseException as error:
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(error, (ValueError, RecursionError)):
            raise WireError(f"a message is no JSON ({str(error)[:60]})") from None
        raise


def _from_memory(descriptors: list[int]) -> bytes:
    """The bytes of a message in memory. Its descriptor, the first, is closed."""
    if not descriptors:
        raise WireError("a message's memory did not come with it")
    memory = descriptors.pop(0)
    try:
        size = os.fstat(memory).st_size
        if not 0 < size <= MOST_BYTES:
            raise WireError(f"a message of {size:,} bytes is none")
        with mmap.mmap(memory, size, prot=mmap.PROT_READ) as view:
            return view[:]
    except OSError as error:
        raise WireError(f"a message's memory cannot be read ({error})") from None
    finally:
        os.close(memory)
