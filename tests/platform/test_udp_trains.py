"""UDP_SEGMENT (Linux 4.18) and UDP_GRO (5.0), udp(7): one call for many equal datagrams, each way."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

UDP_SEGMENT, UDP_GRO = 103, 104
TRAIN = b"".join(bytes([number]) * 100 for number in range(5)) + b"tail"


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["ipv4", "ipv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Sender, connected, and receiver."""
    family, address = request.param
    with socket.socket(family, socket.SOCK_DGRAM) as sender, socket.socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.bind((address, 0))
        receiver.settimeout(5)
        sender.connect(receiver.getsockname())
        yield sender, receiver


def send(sock: socket.socket) -> int:
    return sock.sendmsg([TRAIN], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 100))])


def test_train_is_cut_for_who_takes_single_datagrams(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    assert send(sender) == len(TRAIN)
    assert [receiver.recv(65536) for _ in range(6)] == [TRAIN[at : at + 100] for at in range(0, len(TRAIN), 100)]


def test_train_arrives_whole_with_its_cut(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    receiver.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    send(sender)
    data, ancillary, _, _ = receiver.recvmsg(65536, 64)
    assert data == TRAIN
    assert [(level, kind, struct.unpack("=i", value)) for level, kind, value in ancillary] == [
        (socket.IPPROTO_UDP, UDP_GRO, (100,))
    ]


def test_single_datagram_has_no_cut(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    receiver.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    sender.send(b"one")
    data, ancillary, _, _ = receiver.recvmsg(65536, 64)
    assert (data, ancillary) == (b"one", [])


def test_train_beyond_the_limit_is_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    """128 since Linux 6.5, 64 before: `engine.datagrams` sends no more than 64."""
    sender, _ = pair
    cut = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 1))]
    assert sender.sendmsg([bytes(64)], cut) == 64
    with pytest.raises(OSError, match="Invalid argument"):
        sender.sendmsg([bytes(1000)], cut)
