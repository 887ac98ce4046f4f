"""host.port_scan: against sockets that are really there, and against answers no kernel gives."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from bucatini.base.errors import HostError
from bucatini.host.port_scan import BoundPorts, PortScan, open_scan, scan
from support.forked import in_new_network

HEADER = struct.Struct("=IHHII")
DONE, ERROR, BY_FAMILY = 3, 2, 20


@pytest.fixture
def ports() -> Iterator[PortScan]:
    made = open_scan()
    yield made
    made.close()


def test_nothing_is_bound() -> None:
    def look() -> BoundPorts:
        return scan(open_scan())

    assert in_new_network(look) == BoundPorts(frozenset(), frozenset())


def test_what_counts_as_bound(ports: PortScan) -> None:
    before = scan(ports)
    tcp4, tcp6 = socket.create_server(("127.0.0.1", 0)), socket.create_server(("::1", 0), family=socket.AF_INET6)
    both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    client = socket.create_connection(tcp4.getsockname())
    only_bound = socket.socket()
    only_bound.bind(("127.0.0.1", 0))
    udp4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp4.bind(("127.0.0.1", 0))
    udp6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp6.bind(("::", 0))
    joined = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    joined.connect(udp4.getsockname())
    every = (tcp4, tcp6, both, client, only_bound, udp4, udp6, joined)
    try:
        found = scan(ports)
        assert found.tcp - before.tcp == {sock.getsockname()[1] for sock in (tcp4, tcp6, both)}
        assert found.udp - before.udp == {sock.getsockname()[1] for sock in (udp4, udp6)}
    finally:
        for sock in every:
            sock.close()
    assert not (scan(ports).tcp - before.tcp) & found.tcp


def test_very_many_take_several_turns(ports: PortScan) -> None:
    def look() -> tuple[int, int]:
        held = []
        for number in range(4000):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("127.0.0.1", 10000 + number))
            held.append(sock)
        mine = open_scan()
        mine.begin()
        turns = 1
        while (found := mine.advance()) is None:
            mine.begin()
            turns += 1
        return turns, len(found.udp)

    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[1], 8192), limits[1]))
    try:
        turns, count = in_new_network(look)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (turns > 1, count) == (True, 4000)


class Kernel:
    """The other end of a socket pair answers as no kernel does."""

    def __init__(self) -> None:
        ours, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ports = PortScan(_Unaddressed(fileno=ours.detach()))

    def message(self, kind: int, body: bytes, sequence: int = 1, length: int | None = None) -> bytes:
        size = HEADER.size + len(body) if length is None else length
        return HEADER.pack(size, kind, 0, sequence, 0) + body + bytes(-len(body) % 4)


class _Unaddressed(socket.socket):
    def sendto(self, data: bytes, *_: object) -> int:  # type: ignore[override]
        return self.send(data)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.ports.close()
    made.end.close()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EPROTONOSUPPORT])
def test_a_kernel_without_inet_diag(kernel: Kernel, number: int) -> None:
    kernel.ports.begin()
    kernel.end.send(kernel.message(ERROR, struct.pack("=i", -number) + bytes(16)))
    with pytest.raises(HostError, match="CONFIG_INET_DIAG"):
        kernel.ports.advance()


def test_another_error(kernel: Kernel) -> None:
    kernel.ports.begin()
    kernel.end.send(kernel.message(ERROR, struct.pack("=i", -errno.EBUSY)))
    with pytest.raises(HostError, match="cannot list bound ports: Device or resource busy"):
        kernel.ports.advance()


def test_what_is_left_over_or_cut_is_passed_over(kernel: Kernel) -> None:
    kernel.ports.begin()
    good = bytes(4) + (8080).to_bytes(2, "big") + bytes(66)
    old = bytes(4) + (9090).to_bytes(2, "big") + bytes(66)
    parts = [
        kernel.message(BY_FAMILY, old, sequence=77) + kernel.message(BY_FAMILY, good),
        kernel.message(BY_FAMILY, b"\0" * 4),
        kernel.message(BY_FAMILY, old, length=9999),
        kernel.message(BY_FAMILY, old, length=3),
        b"short",
    ]
    for part in parts:
        kernel.end.send(part)
    for sequence in (1, 2, 3, 4):
        kernel.end.send(kernel.message(DONE, bytes(4), sequence))
    found = kernel.ports.advance() or kernel.ports.advance()
    assert found == BoundPorts(frozenset({8080}), frozenset())


def test_silence_is_an_error_and_not_a_wait(kernel: Kernel) -> None:
    kernel.ports.begin()
    with pytest.raises(HostError, match="cannot list bound ports"):
        kernel.ports.advance()
