"""guard.binding: leases that begin, end and are replaced; addresses and prefixes bound beside them."""

from __future__ import annotations

import math

import pytest

from bucatini.base.address import pack
from bucatini.guard.binding import Binding, LeaseState

MAC = bytes.fromhex("020000000001")
GATEWAY, OWN, OTHER = pack("192.168.0.1"), pack("192.168.0.2"), pack("192.168.0.9")
LINK, ASSIGNED = pack("fe80::ff:fe00:1"), pack("2001:db8::2")


def six(bound: Binding, address: bytes, now: float) -> bool:
    return bound.holds_ipv6(memoryview(bytearray(b"\xee" + address)), 1, now)


def test_in_the_beginning_there_is_the_link_local_address_alone() -> None:
    bound = Binding(MAC)
    assert bound.state(0.0) is LeaseState.NONE
    assert bound.leased is None
    assert bound.link_local == LINK
    assert six(bound, LINK, 1e9)
    assert bound.holds(LINK, 0.0)
    for address in (OWN, bytes(4), b"\xff" * 4, ASSIGNED, bytes(16), b"\xff" * 16):
        assert not bound.holds(address, 0.0)
        assert not bound.expired(address, 1e9)


def test_the_life_of_a_lease() -> None:
    bound = Binding(MAC, margin=0.1)
    bound.lease(OWN, 600, 100.0)
    assert bound.leased == OWN
    assert bound.state(100.0) is bound.state(699.8) is LeaseState.LEASED
    assert bound.holds(OWN, 699.8)
    assert not bound.expired(OWN, 699.8)
    assert bound.state(699.95) is LeaseState.EXPIRED
    assert not bound.holds(OWN, 699.95)
    assert bound.expired(OWN, 699.95)
    assert bound.leased == OWN, "the record is kept"
    bound.lease(OWN, 600, 700.0)
    assert bound.state(1299.0) is LeaseState.LEASED
    bound.clear()
    assert bound.state(700.0) is LeaseState.NONE
    assert not bound.holds(OWN, 700.0)
    assert not bound.expired(OWN, 1e9)


def test_a_new_lease_replaces_everything() -> None:
    bound = Binding(MAC)
    bound.lease(OWN, 600, 0.0, [GATEWAY])
    bound.lease(OTHER, 60, 1.0)
    assert (bound.leased, bound.until, bound.dns) == (OTHER, 61.0, frozenset())
    assert not bound.holds(OWN, 2.0)
    assert bound.holds(OTHER, 2.0)


@pytest.mark.parametrize("seconds", [0, 0.05])
def test_a_lease_shorter_than_the_margin_is_over_at_once(seconds: float) -> None:
    bound = Binding(MAC, margin=0.1)
    bound.lease(OWN, seconds, 5.0)
    assert bound.until == 5.0
    assert bound.state(5.0) is LeaseState.EXPIRED


def test_a_static_lease_never_ends() -> None:
    bound = Binding(MAC, margin=0.1)
    bound.lease(OWN, math.inf, 0.0)
    assert bound.holds(OWN, 1e18)


def test_revision_counts_changes_of_the_lease() -> None:
    bound = Binding(MAC)
    bound.bind(OTHER)
    assert bound.revision == 0
    bound.lease(OWN, 1, 0.0)
    bound.lease(OWN, 1, 0.0)
    bound.clear()
    assert bound.revision == 3


def test_resolvers_of_the_lease_and_static_ones() -> None:
    bound = Binding(MAC, dns=[GATEWAY])
    bound.lease(OWN, 1, 0.0, [OTHER])
    assert bound.dns == {GATEWAY, OTHER}
    bound.clear()
    assert bound.dns == {GATEWAY}


def test_servers_are_the_ipv4_gateways_unless_told() -> None:
    assert Binding(MAC, [GATEWAY, LINK]).servers == {GATEWAY}
    assert Binding(MAC, [GATEWAY], servers=[OTHER]).servers == {OTHER}
    assert Binding(MAC, [GATEWAY], servers=[]).servers == frozenset()


@pytest.mark.parametrize("address", [OTHER, ASSIGNED])
def test_bound_addresses_last_until_taken_back(address: bytes) -> None:
    bound = Binding(MAC)
    bound.bind(address)
    assert bound.holds(address, 1e9)
    bound.bind(address, until=50.0)
    assert bound.holds(address, 49.0)
    assert not bound.holds(address, 50.0)
    assert bound.expired(address, 50.0)
    bound.unbind(address)
    bound.unbind(address)
    assert not bound.holds(address, 0.0)
    assert not bound.expired(address, 50.0)


def test_a_bound_address_outlives_the_lease() -> None:
    bound = Binding(MAC)
    bound.lease(OWN, 10, 0.0)
    bound.bind(OTHER)
    bound.clear()
    assert bound.holds(OTHER, 1e9)


def test_the_last_answer_about_ipv6_is_kept_no_longer_than_it_is_true() -> None:
    bound = Binding(MAC)
    assert not six(bound, ASSIGNED, 0.0)
    bound.bind(ASSIGNED, until=50.0)
    assert six(bound, ASSIGNED, 0.0)
    assert six(bound, ASSIGNED, 49.0)
    assert not six(bound, ASSIGNED, 50.0)
    assert six(bound, LINK, 50.0)
    for index in range(16):
        assert not six(bound, LINK[:index] + bytes([LINK[index] ^ 0x80]) + LINK[index + 1 :], 0.0)
        assert six(bound, LINK, 0.0)
    bound.unbind(ASSIGNED)
    assert not six(bound, ASSIGNED, 0.0)
    bound.bind_prefix(pack("2001:db8::"), 64)
    assert six(bound, ASSIGNED, 0.0)


@pytest.mark.parametrize(
    ("network", "length", "inside", "outside"),
    [
        ("2001:db8:5::", 64, "2001:db8:5::ffff", "2001:db8:5:1::"),
        ("2001:db8:5:100::", 56, "2001:db8:5:1ff::1", "2001:db8:5:200::1"),
        ("2001:db8::7", 128, "2001:db8::7", "2001:db8::6"),
        ("10.1.0.0", 16, "10.1.255.255", "10.2.0.0"),
        ("fe80::", 64, "fe80::1234", "fe80:0:0:1::1234"),
    ],
)
def test_prefixes(network: str, length: int, inside: str, outside: str) -> None:
    bound = Binding(MAC)
    bound.bind_prefix(pack(network), length)
    assert bound.holds(pack(inside), 0.0)
    assert not bound.holds(pack(outside), 0.0)
    assert not bound.holds(pack("0.0.0.0"), 0.0)


@pytest.mark.parametrize(("network", "length"), [("10.0.0.0", 0), ("10.0.0.0", 33), ("::", 0), ("::", 129)])
def test_no_prefix_holds_everything(network: str, length: int) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Binding(MAC).bind_prefix(pack(network), length)


@pytest.mark.parametrize("mac", [b"", b"\2\0\0\0\1", b"\1\0\x5e\0\0\1", b"\xff" * 6])
def test_a_guest_has_the_mac_of_one_station(mac: bytes) -> None:
    with pytest.raises(ValueError, match="MAC"):
        Binding(mac)


def test_mac_in_a_frame() -> None:
    bound = Binding(MAC)
    frame = bytearray(b"\xee" + MAC)
    assert bound.is_mac(memoryview(frame), 1)
    for index in range(1, 7):
        frame[index] ^= 1
        assert not bound.is_mac(memoryview(frame), 1)
        frame[index] ^= 1
