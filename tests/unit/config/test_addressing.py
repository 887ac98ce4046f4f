"""Every vector of the slot-addressing contract, and what must be refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.address import pack, text
from bucatini.base.errors import ConfigError
from bucatini.config.addressing import MAX_SLOT, derive, guest_environment, mac_text


@pytest.mark.parametrize(
    ("slot", "guest_mac", "guest4", "gateway4", "guest6"),
    [
        (0, "02:6d:73:00:00:02", "172.16.0.2", "172.16.0.1", "fd42:6d73:62::2"),
        (1, "02:6d:73:00:01:02", "172.16.0.6", "172.16.0.5", "fd42:6d73:62:1::2"),
        (2, "02:6d:73:00:02:02", "172.16.0.10", "172.16.0.9", "fd42:6d73:62:2::2"),
        (43, "02:6d:73:00:2b:02", "172.16.0.174", "172.16.0.173", "fd42:6d73:62:2b::2"),
        (63, "02:6d:73:00:3f:02", "172.16.0.254", "172.16.0.253", "fd42:6d73:62:3f::2"),
        (64, "02:6d:73:00:40:02", "172.16.1.2", "172.16.1.1", "fd42:6d73:62:40::2"),
        (256, "02:6d:73:01:00:02", "172.16.4.2", "172.16.4.1", "fd42:6d73:62:100::2"),
        (4660, "02:6d:73:12:34:02", "172.16.72.210", "172.16.72.209", "fd42:6d73:62:1234::2"),
        (65535, "02:6d:73:ff:ff:02", "172.19.255.254", "172.19.255.253", "fd42:6d73:62:ffff::2"),
    ],
)
def test_default_pools(slot: int, guest_mac: str, guest4: str, gateway4: str, guest6: str) -> None:
    found = derive(slot)
    assert mac_text(found.guest_mac) == guest_mac
    assert mac_text(found.gateway_mac) == guest_mac[:-1] + "1"
    assert (found.guest_ipv4, found.gateway_ipv4) == (pack(guest4), pack(gateway4))
    assert (found.guest_ipv6, found.gateway_ipv6) == (pack(guest6), pack(guest6[:-1] + "1"))


@pytest.mark.parametrize(
    ("pool", "slot", "guest"),
    [
        ("172.31.240.0/24", 0, "172.31.240.2"),
        ("172.31.240.0/24", 63, "172.31.240.254"),
        ("172.31.240.77/24", 63, "172.31.240.254"),
        ("10.0.0.4/30", 0, "10.0.0.6"),
    ],
)
def test_ipv4_pools(pool: str, slot: int, guest: str) -> None:
    assert derive(slot, ipv4_pool=pool).guest_ipv4 == pack(guest)


@pytest.mark.parametrize(("slot", "guest"), [(0, "fd7a:115c:a1e0:100::2"), (3, "fd7a:115c:a1e0:103::2")])
def test_ipv6_pools(slot: int, guest: str) -> None:
    assert derive(slot, ipv6_pool="fd7a:115c:a1e0:100::/56").guest_ipv6 == pack(guest)


@pytest.mark.parametrize(
    ("slot", "options", "message"),
    [
        (65536, {}, "exceeds address pool capacity (max 65535)"),
        (-1, {}, "exceeds address pool capacity"),
        (0, {"ipv4_pool": "10.0.0.0/31"}, "must be large enough to contain at least one /30 block"),
        (64, {"ipv4_pool": "172.31.240.0/24"}, "exceeds IPv4 pool 172.31.240.0/24 capacity (64 /30 blocks)"),
        (0, {"ipv6_pool": "fd00::/65"}, "must be large enough to contain at least one /64 prefix"),
        (256, {"ipv6_pool": "fd00::/56"}, "exceeds IPv6 pool fd00::/56 capacity (256 /64 prefixes)"),
        (0, {"ipv4_pool": "10.0.0.0"}, "must be ADDRESS/PREFIX"),
        (0, {"ipv4_pool": "10.0.0.0/33"}, "must be ADDRESS/PREFIX"),
        (0, {"ipv4_pool": "fd00::/8"}, "is not an IPv4 address"),
        (0, {"ipv6_pool": "10.0.0.0/8"}, "is not an IPv6 address"),
        (0, {"ipv4_address": "0.0.0.0"}, "must be a unicast address"),
        (0, {"ipv4_address": "224.0.0.9"}, "must be a unicast address"),
        (0, {"ipv4_address": "nonsense"}, "is not an IPv4 address"),
        (0, {"ipv6_address": "fd00::1"}, "is the gateway"),
        (0, {"ipv6_address": "ff02::2"}, "must be a unicast address"),
        (0, {"mac": b"\x01\x00\x00\x00\x00\x01"}, "unicast"),
    ],
)
def test_refused(slot: int, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        derive(slot, **options)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_pool_of_a_family_that_needs_none_is_not_looked_at() -> None:
    assert derive(900, ipv4=False, ipv4_pool="10.0.0.0/24").guest_ipv4 is None
    assert derive(900, ipv4_pool="10.0.0.0/24", ipv4_address="10.9.9.9").gateway_ipv4 == pack("10.9.9.8")


def test_explicit_addresses() -> None:
    found = derive(7, ipv4=False, ipv6=False, ipv6_address="fd42:6d73:62:99::2", mac=b"\x02abcde")
    assert found.guest_ipv4 is None
    assert found.gateway_ipv6 == pack("fd42:6d73:62:99::1")
    assert found.guest_mac == b"\x02abcde"
    assert mac_text(found.gateway_mac) == "02:6d:73:00:07:01"


@pytest.mark.parametrize(
    ("families", "names"),
    [
        ({"ipv6": False}, ["MSB_NET", "MSB_HOST_ALIAS", "MSB_NET_IPV4"]),
        ({}, ["MSB_NET", "MSB_HOST_ALIAS", "MSB_NET_IPV4", "MSB_NET_IPV6"]),
        ({"ipv4": False}, ["MSB_NET", "MSB_HOST_ALIAS", "MSB_NET_IPV6"]),
        ({"ipv4": False, "ipv6": False}, ["MSB_NET", "MSB_HOST_ALIAS"]),
    ],
)
def test_environment_names(families: dict[str, bool], names: list[str]) -> None:
    assert [name for name, _ in guest_environment(derive(0, **families), 1500)] == names  # type: ignore[arg-type]


def test_environment_values() -> None:
    assert guest_environment(derive(0), 1500) == [
        ("MSB_NET", "iface=eth0,mac=02:6d:73:00:00:02,mtu=1500"),
        ("MSB_HOST_ALIAS", "host.microsandbox.internal"),
        ("MSB_NET_IPV4", "addr=172.16.0.2/30,gw=172.16.0.1,dns=172.16.0.1"),
        ("MSB_NET_IPV6", "addr=fd42:6d73:62::2/64,gw=fd42:6d73:62::1,dns=fd42:6d73:62::1"),
    ]
    explicit = dict(guest_environment(derive(0, ipv6=False, ipv6_address="fd42:6d73:62:99::2"), 1500))
    assert explicit["MSB_NET_IPV6"].startswith("addr=fd42:6d73:62:99::2/64,")


@given(st.integers(0, MAX_SLOT), st.integers(0, MAX_SLOT))
def test_slots_never_share_an_address(one: int, other: int) -> None:
    first, second = derive(one), derive(other)
    shared = set(first) & set(second)
    assert shared == (set(first) if one == other else set())
    assert text(first.guest_ipv4 or b"").startswith("172.")
