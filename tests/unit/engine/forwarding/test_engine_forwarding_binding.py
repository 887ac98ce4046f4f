"""engine.forwarding.binding: sockets that listen, and the words for those that do not."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from bucatini.base.address import pack
from bucatini.base.verdict import EGRESS
from bucatini.engine.forwarding.binding import (
    families,
    is_loopback,
    kind_of,
    listen_in_guest,
    listen_on_host,
    why,
    written,
)
from bucatini.engine.guest_sockets import GuestSockets
from bucatini.engine.reactor import Reactor
from bucatini.forward.portspec import Forward
from bucatini.host.channel import pair
from support.engines import PreparedFactory, free_port
from support.frames import settings


@pytest.fixture
def stock() -> Iterator[GuestSockets]:
    ours, agent = pair()
    ours.set_timeout(0)
    agent.set_timeout(0)
    reactor = Reactor()
    made = GuestSockets(PreparedFactory(ours, agent), reactor)
    yield made
    made.close()
    ours.close()
    agent.close()
    reactor.close()


@pytest.mark.parametrize("length", [4, 16])
@pytest.mark.parametrize("protocol", [6, 17])
def test_in_the_guest_only_loopback_listens(stock: GuestSockets, protocol: int, length: int) -> None:
    port = free_port(socket.SOCK_STREAM if protocol == 6 else socket.SOCK_DGRAM)
    forward = Forward(protocol, None, 1, port, EGRESS)
    with listen_in_guest(stock, forward, length, ours=False) as sock:
        assert sock.getsockname()[:2] == ("127.0.0.1" if length == 4 else "::1", port)
        assert sock.getblocking() is False
        with pytest.raises(OSError, match="in use"):
            listen_in_guest(stock, forward, length, ours=False)
        if protocol == 17:
            listen_in_guest(stock, forward, length, ours=True).close()


def test_a_udp_port_that_a_program_shares_is_not_joined(stock: GuestSockets) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        forward = Forward(17, None, 1, holder.getsockname()[1], EGRESS)
        with pytest.raises(OSError, match="in use"):
            listen_in_guest(stock, forward, 4, ours=False)


def test_conversations_join_the_listener(stock: GuestSockets) -> None:
    forward = Forward(17, None, 1, free_port(socket.SOCK_DGRAM), EGRESS)
    with listen_in_guest(stock, forward, 4, ours=False), stock.fetch("udp4") as conversation:
        conversation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        conversation.bind(("127.0.0.1", forward.guest_port))


def test_freebind_takes_any_address() -> None:
    for protocol in (6, 17):
        forward = Forward(protocol, pack("192.0.2.77"), free_port(), 80)
        with pytest.raises(OSError, match="assign"):
            listen_on_host(forward, 4, False, False)
        with listen_on_host(forward, 4, True, False) as sock:
            assert sock.getsockname()[0] == "192.0.2.77"
        six = forward._replace(address=pack("2001:db8::77"))
        with listen_on_host(six, 16, True, False) as sock:
            assert sock.getsockname()[0] == "2001:db8::77"


def test_a_device_is_asked_for_before_the_port() -> None:
    for protocol in (6, 17):
        forward = Forward(protocol, None, free_port(), 80, device="lo")
        with listen_on_host(forward, 4, False, False) as sock:
            name = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
            assert name.rstrip(b"\0") == b"lo"
        with pytest.raises(OSError, match="No such device"):
            listen_on_host(forward._replace(device="nowhere"), 4, False, False)


@pytest.mark.parametrize(
    ("number", "forward", "expected"),
    [
        (errno.EADDRINUSE, Forward(6, None, 80, 8080), "port 80 is in use on this host"),
        (errno.EADDRINUSE, Forward(6, None, 80, 8080, EGRESS), "port 8080 is in use in the guest"),
        (errno.EACCES, Forward(6, None, 80, 8080), "port 80 needs privilege here (net.ipv4.ip_unprivileged_port"),
        (errno.EADDRNOTAVAIL, Forward(6, pack("192.0.2.1"), 80, 1), "192.0.2.1 is not an address of this host"),
        (errno.ENODEV, Forward(6, None, 80, 1, device="x"), "port 80: this host has no interface 'x'"),
        (errno.EPERM, Forward(6, None, 80, 1, device="x"), "port 80: this kernel lets only root bind to an interface"),
        (errno.EMFILE, Forward(6, None, 80, 1), "port 80: Too many open files; raise the limit (ulimit -n)"),
        (errno.ENOBUFS, Forward(6, None, 80, 1), "port 80: No buffer space available"),
    ],
)  # fmt: skip
def test_words(number: int, forward: Forward, expected: str) -> None:
    assert why(OSError(number, os.strerror(number)), forward).startswith(expected)


def test_small_parts() -> None:
    assert written(Forward(17, None, 53, 5353, EGRESS)) == "5353:53/udp"
    assert written(Forward(6, pack("::1"), 53, 5353)) == "[::1]:53:5353/tcp"
    assert [kind_of(6, 4), kind_of(17, 16)] == ["tcp4", "udp6"]
    assert [is_loopback(pack(each)) for each in ("127.9.9.9", "::1", "128.0.0.1", "::2")] == [True, True, False, False]


def test_families_are_on_before_the_guest_has_an_address() -> None:
    assert families(settings()) == (4, 16)
    assert families(settings(guest_ipv6=None, gateway_ipv6=None)) == (4,)
    assert families(settings(guest_ipv4=None, ipv4=True)) == (4, 16)
    assert families(settings(ipv4=False)) == (16,)
