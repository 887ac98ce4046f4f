"""What a guest may call itself follows from its network, and from nothing else."""

from __future__ import annotations

import dataclasses

import pytest

from bucatini.base.address import pack
from bucatini.engine.identity import NOBODY, bind
from bucatini.services.router import RouterSettings
from bucatini.stack.settings import StackSettings
from bucatini.wire.ndp import Prefix

MAC = bytes.fromhex("020000000007")
FOREVER = 0xFFFFFFFF
ROUTER = RouterSettings(
    mac=bytes.fromhex("020000000001"),
    link_local=pack("fe80::1"),
    prefixes=(Prefix(pack("fd00:1::"), 64, True, True, FOREVER, FOREVER),),
    mtu=1500,
    dns=(),
    search=(),
)
SETTINGS = StackSettings(
    MAC, bytes.fromhex("020000000001"), pack("10.0.0.2"), pack("fd00:1::2"), pack("10.0.0.1"), pack("fd00:1::1"),
    1500, False, False, router=ROUTER, given=(pack("10.0.0.2"), pack("10.9.0.2"), pack("fd00:1::2")),
)  # fmt: skip
MOVED = dataclasses.replace(SETTINGS, guest_ipv4=pack("10.8.0.2"), guest_ipv6=None, router=None, given=())


@pytest.mark.parametrize(
    ("address", "bound", "leased"),
    [
        ("10.0.0.2", True, False),
        ("10.9.0.2", True, False),  # a second address that was given
        ("10.0.0.1", False, False),
        ("10.0.0.3", False, False),
        ("fd00:1::2", True, True),
        ("fd00:1::1234:5678", True, True),  # one that it makes itself
        ("fd00:1::1", False, False),  # the gateway's
        ("fe80::1", False, False),
        ("fd00:2::2", False, False),
        ("fe80::ff:fe00:7", True, True),
        ("fe80::1234", True, True),  # RFC 7217
        ("fe80:0:0:1::1", False, False),
    ],
)
def test_bound(address: str, bound: bool, leased: bool) -> None:
    assert bind(SETTINGS).holds(pack(address), 0.0) == bound
    assert bind(SETTINGS, leased=True).holds(pack(address), 0.0) == leased


def test_servers_and_gateways_are_ours() -> None:
    binding = bind(SETTINGS)
    assert binding.servers == {pack("10.0.0.1")}
    assert binding.gateways == {pack("10.0.0.1"), pack("fd00:1::1"), pack("fe80::1")}


def test_another_network_leaves_the_last_one_in_use() -> None:
    binding = bind(MOVED, before=SETTINGS)
    for address in ("10.8.0.2", "10.0.0.2", "fd00:1::77"):
        assert binding.holds(pack(address), 0.0)
    again = bind(dataclasses.replace(MOVED, guest_ipv4=pack("10.7.0.2")), before=MOVED)
    assert not again.holds(pack("10.0.0.2"), 0.0)
    assert not again.holds(pack("fd00:1::77"), 0.0)


def test_an_unmet_guest_is_nobody() -> None:
    binding = bind(SETTINGS, unmet=True)
    assert binding.mac == NOBODY
    for mac in (MAC, NOBODY):
        assert not binding.is_mac(memoryview(bytearray(mac)), 0)
