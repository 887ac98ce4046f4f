"""Bytes between a guest and the world, or the host: TCP and UDP, both families, from either side, large and small.

TCP carries as many bytes back as it carried there.
"""

from __future__ import annotations

import socket

import pytest

from support import vm_peers
from support.fakehost import HOST4, HOST6, PUBLIC4, PUBLIC6, FakeHost, Namespace
from support.vm_engine import PUBLISHED
from support.vm_served import Served

pytestmark = pytest.mark.root

DEBIAN_FAILS = {
    "test_tcp_out_the_guest_shuts_down_first": "hangs: a guest that has shut down is not told of the other's end",
}

PUBLIC = {4: PUBLIC4, 6: PUBLIC6}
OWN = {4: HOST4, 6: HOST6}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
LENGTHS = {"many": ("medium", vm_peers.DATAGRAM), "one": ("small", vm_peers.SIZES["small"])}
"""Of UDP transfers: the size of the whole and of a datagram."""


def cases(most: str, least: str, peer: str) -> pytest.MarkDecorator:
    """Much with one peer, a little with both."""
    other = "host" if peer == "world" else "world"
    return pytest.mark.parametrize(("peer", "size"), [(peer, most), (peer, least), (other, least)])


def callee(served: Served, peer: str, family: int) -> tuple[Namespace, str, str]:
    """Where somebody listens, at which address, and what the guest calls it: the host's loopback is its gateway."""
    if peer == "world":
        return served.host.world, PUBLIC[family], PUBLIC[family]
    return served.host.net, LOOPBACK[family], served.network.gateway(family)


def caller(host: FakeHost, peer: str, family: int, kind: int) -> tuple[socket.socket, tuple[str, int]]:
    """The socket of somebody who calls, and what he calls the published port."""
    if peer == "world":
        return host.world.bound(PUBLIC[family], kind=kind), (OWN[family], PUBLISHED)
    return host.net.bound(LOOPBACK[family], kind=kind), (LOOPBACK[family], PUBLISHED)


@cases("big", "small", "world")
@FAMILIES
def test_tcp_out(served: Served, family: int, peer: str, size: str) -> None:
    net, where, to = callee(served, peer, family)
    whence = vm_peers.guest_connects(served.machine, net, served.files, where, to, size)
    assert whence == (OWN[family] if peer == "world" else where)


@FAMILIES
def test_tcp_out_the_guest_shuts_down_first(served: Served, family: int) -> None:
    net, where, to = callee(served, "world", family)
    vm_peers.guest_connects(served.machine, net, served.files, where, to, "medium", first=True)


@cases("big", "small", "host")
@FAMILIES
def test_tcp_in(served: Served, family: int, peer: str, size: str) -> None:
    sock, where = caller(served.host, peer, family, socket.SOCK_STREAM)
    vm_peers.guest_is_called(served.machine, sock, served.files, where, PUBLISHED, size)


@cases("many", "one", "world")
@FAMILIES
def test_udp_out(served: Served, family: int, peer: str, size: str) -> None:
    net, where, to = callee(served, peer, family)
    vm_peers.guest_sends_datagrams(served.machine, net, served.files, where, to, *LENGTHS[size])


@pytest.mark.parametrize("size", LENGTHS)
@FAMILIES
def test_udp_out_and_back(served: Served, family: int, size: str) -> None:
    net, where, to = callee(served, "world", family)
    vm_peers.guest_fetches_datagrams(served.machine, net, where, to, *LENGTHS[size])


@cases("many", "one", "host")
@FAMILIES
def test_udp_in(served: Served, family: int, peer: str, size: str) -> None:
    sock, where = caller(served.host, peer, family, socket.SOCK_DGRAM)
    vm_peers.guest_gets_datagrams(served.machine, sock, where, PUBLISHED, *LENGTHS[size])
