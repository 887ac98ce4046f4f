"""SO_PEEK_OFF on TCP (socket(7); Linux 6.9): the flow's cursor in the host socket's queue is the kernel's.

`flows.tcp_output` peeks on from where it was, consumes what the guest acknowledged, and goes back by setting 0. It
relies on the offset falling by what is consumed, and on its stopping at the head of the queue.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from bucatini.host.sockets import SO_PEEK_OFF, keeps_peek_offset

pytestmark = pytest.mark.skipif(not keeps_peek_offset(), reason="this kernel keeps no peek offset on TCP")


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["ipv4", "ipv6"])
def queue(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """A TCP socket with ten bytes in its queue, and its offset at 0."""
    family, address = request.param
    with socket.create_server((address, 0), family=family) as listener:
        with socket.create_connection(listener.getsockname()[:2], timeout=5) as near:
            far, _ = listener.accept()
            with far:
                far.settimeout(5)
                far.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
                near.sendall(b"0123456789")
                yield far


def offset(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)


def test_each_peek_continues_where_the_last_ended(queue: socket.socket) -> None:
    peeked = [queue.recv(3, socket.MSG_PEEK) for _ in range(3)]
    assert (peeked, offset(queue)) == ([b"012", b"345", b"678"], 9)


def test_falls_by_what_is_consumed(queue: socket.socket) -> None:
    queue.recv(6, socket.MSG_PEEK)
    queue.recv(4, socket.MSG_TRUNC)
    assert offset(queue) == 2
    assert queue.recv(2, socket.MSG_PEEK) == b"67"


def test_stops_at_the_head(queue: socket.socket) -> None:
    queue.recv(2, socket.MSG_PEEK)
    queue.recv(5, socket.MSG_TRUNC)
    assert offset(queue) == 0
    assert queue.recv(2, socket.MSG_PEEK) == b"56"


def test_zero_goes_back_to_the_first_byte_not_consumed(queue: socket.socket) -> None:
    queue.recv(4, socket.MSG_TRUNC)
    queue.recv(4, socket.MSG_PEEK)
    queue.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
    assert queue.recv(2, socket.MSG_PEEK) == b"45"


def test_beyond_the_end_there_is_nothing_yet(queue: socket.socket) -> None:
    queue.recv(10, socket.MSG_PEEK)
    queue.setblocking(False)
    with pytest.raises(BlockingIOError):
        queue.recv(1, socket.MSG_PEEK)


def test_end_of_stream_is_seen_behind_the_last_byte(queue: socket.socket) -> None:
    """Consumed bytes are not needed for it: the guest learns of the end while its last bytes are in flight."""
    queue.recv(10, socket.MSG_PEEK)
    queue.shutdown(socket.SHUT_RD)
    assert queue.recv(1, socket.MSG_PEEK) == b""
