"""services.address_plan: which addresses there are, and that none is in a network that is somebody else's."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.address import pack, text
from bucatini.base.errors import ConfigError
from bucatini.services.address_plan import AddressPlan, LeaseRange, Place


def network(spec: str) -> tuple[bytes, int]:
    address, _, length = spec.partition("/")
    return pack(address), int(length)


def shared(spec: str, **fields: str) -> LeaseRange:
    return LeaseRange(*network(spec), **{name: pack(value) for name, value in fields.items()})


def cut(spec: str, length: int) -> LeaseRange:
    return LeaseRange(*network(spec), guest_length=length)


def listed(plan: AddressPlan) -> list[str]:
    return [text(plan.at(index).address) for index in range(plan.size)]


def test_a_shared_network() -> None:
    plan = AddressPlan([shared("192.0.2.0/24")])
    assert listed(plan) == [f"192.0.2.{host}" for host in range(2, 255)]
    assert plan.at(0) == Place(pack("192.0.2.2"), 24, pack("192.0.2.1"))


def test_host_bits_are_ignored() -> None:
    assert listed(AddressPlan([shared("192.0.2.77/29")])) == [f"192.0.2.{host}" for host in range(74, 79)]


def test_a_part_of_a_network_with_its_gateway_inside() -> None:
    plan = AddressPlan([shared("192.0.2.0/24", first="192.0.2.10", last="192.0.2.14", gateway="192.0.2.12")])
    assert listed(plan) == ["192.0.2.10", "192.0.2.11", "192.0.2.13", "192.0.2.14"]
    assert plan.at(3).gateway == pack("192.0.2.12")


def test_a_network_for_each_guest() -> None:
    plan = AddressPlan([cut("10.1.0.0/28", 30)])
    assert listed(plan) == ["10.1.0.2", "10.1.0.6", "10.1.0.10", "10.1.0.14"]
    assert plan.at(2) == Place(pack("10.1.0.10"), 30, pack("10.1.0.9"))


def test_networks_of_ipv6() -> None:
    plan = AddressPlan([shared("2001:db8::/64")])
    assert plan.at(0) == Place(pack("2001:db8::2"), 64, pack("2001:db8::1"))
    assert plan.size == 2**64 - 2
    assert plan.at(plan.size - 1).address == pack("2001:db8::ffff:ffff:ffff:ffff"), "there is no broadcast"
    plan = AddressPlan([cut("fd00::/48", 64)])
    assert plan.at(5) == Place(pack("fd00:0:0:5::2"), 64, pack("fd00:0:0:5::1"))
    assert plan.size == 1 << 16


def test_several_ranges() -> None:
    plan = AddressPlan([shared("192.0.2.8/30"), cut("10.0.0.0/29", 30), shared("192.0.2.0/30", gateway="192.0.2.2")])
    assert listed(plan) == ["10.0.0.2", "10.0.0.6", "192.0.2.1", "192.0.2.10"]


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        ("10.0.0.4/30", ["10.0.0.2", "10.0.0.10", "10.0.0.14"]),
        ("10.0.0.7/32", ["10.0.0.2", "10.0.0.10", "10.0.0.14"]),
        ("10.0.0.0/29", ["10.0.0.10", "10.0.0.14"]),
        ("10.0.0.8/29", ["10.0.0.2", "10.0.0.6"]),
        ("11.0.0.0/8", ["10.0.0.2", "10.0.0.6", "10.0.0.10", "10.0.0.14"]),
        ("fd00::/8", ["10.0.0.2", "10.0.0.6", "10.0.0.10", "10.0.0.14"]),
    ],
)
def test_networks_that_are_taken(taken: str, left: list[str]) -> None:
    assert listed(AddressPlan([cut("10.0.0.0/28", 30)], [network(taken)])) == left


def test_a_large_prefix_of_which_much_is_taken() -> None:
    plan = AddressPlan([cut("10.0.0.0/8", 30)], [network("10.0.0.0/9"), network("10.128.0.0/10")])
    assert plan.at(0).address == pack("10.192.0.2")
    assert plan.size == 1 << 20


def test_a_shared_network_that_overlaps_one_taken_is_not_used_at_all() -> None:
    ranges = [shared("192.0.2.0/24"), shared("198.51.100.0/30")]
    assert listed(AddressPlan(ranges, [network("192.0.2.128/25")])) == ["198.51.100.2"]
    with pytest.raises(ConfigError, match="no address is left"):
        AddressPlan(ranges[:1], [network("192.0.0.0/16")])


def test_reserved_addresses() -> None:
    reserved = [pack("10.0.0.5"), pack("192.0.2.3"), pack("fd00::1")]
    plan = AddressPlan([cut("10.0.0.0/28", 30), shared("192.0.2.0/29")], (), reserved)
    assert listed(plan) == ["10.0.0.2", "10.0.0.10", "10.0.0.14", "192.0.2.2", "192.0.2.4", "192.0.2.5", "192.0.2.6"]


def test_gateways() -> None:
    plan = AddressPlan([cut("10.0.0.0/28", 30), shared("192.0.2.0/29")], [network("10.0.0.4/30")])
    found = [each for each in ip_network("10.0.0.0/28") if plan.is_gateway(each.packed)]
    assert [str(each) for each in found] == ["10.0.0.1", "10.0.0.9", "10.0.0.13"]
    assert plan.is_gateway(pack("192.0.2.1"))
    assert not plan.is_gateway(pack("192.0.2.2"))
    assert not plan.is_gateway(b"")
    assert not plan.is_gateway(pack("fd00::1"))
    assert not plan.is_gateway(b"\xff" * 4)


@pytest.mark.parametrize(
    ("ranges", "complaint"),
    [
        pytest.param([], "no address is left", id="none"),
        pytest.param([shared("192.0.2.0/24"), shared("fd00::/64")], "one address family", id="families"),
        pytest.param([LeaseRange(b"abc", 24)], "one address family", id="no address"),
        pytest.param([shared("192.0.2.0/31")], "prefix length of 1 to 30", id="long"),
        pytest.param([shared("192.0.2.0/0")], "prefix length of 1 to 30", id="all"),
        pytest.param([shared("fd00::/127")], "prefix length of 1 to 126", id="long, IPv6"),
        pytest.param([shared("224.0.0.0/24")], "not a network of hosts", id="groups"),
        pytest.param([shared("127.0.0.0/8")], "not a network of hosts", id="loopback"),
        pytest.param([shared("0.0.0.0/8")], "not a network of hosts", id="nothing"),
        pytest.param([shared("ff02::/64")], "not a network of hosts", id="groups, IPv6"),
        pytest.param([shared("192.0.2.0/24", gateway="192.0.3.1")], "192.0.3.1 is not a host", id="gateway"),
        pytest.param([shared("192.0.2.0/24", first="fd00::1")], "fd00::1 is not a host", id="first"),
        pytest.param([LeaseRange(*network("192.0.2.0/24"), last=b"x")], "78 is not a host", id="last"),
        pytest.param([cut("10.0.0.0/8", 31)], "lengths of 8 to 30, not 31", id="too small"),
        pytest.param([cut("10.0.0.0/24", 16)], "lengths of 24 to 30, not 16", id="too large"),
        pytest.param([LeaseRange(pack("10.0.0.0"), 8, 30, pack("10.0.0.1"))], "first host", id="a gateway for all"),
        pytest.param([shared("192.0.2.0/24"), shared("192.0.2.128/25")], "overlap at", id="within"),
        pytest.param([cut("10.0.0.0/24", 30), shared("10.0.0.16/28")], "overlap at", id="between"),
        pytest.param([shared("192.0.2.0/24"), shared("192.0.2.0/24")], "overlap at 192.0.2.2", id="twice"),
        pytest.param([shared("192.0.2.0/24", first="192.0.2.9", last="192.0.2.8")], "no address is left", id="empty"),
    ],
)
def test_what_cannot_be(ranges: list[LeaseRange], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        AddressPlan(ranges)


def networks(length: Any) -> Any:
    addresses = st.integers(0x0A000000, 0x0A0000FF).map(lambda number: number.to_bytes(4, "big"))
    return st.tuples(addresses, length)


@given(st.integers(24, 30), st.lists(networks(st.integers(26, 32)), max_size=4), st.booleans(), st.data())
def test_every_address_is_found_and_none_is_where_it_must_not_be(
    length: int, taken: list[tuple[bytes, int]], single: bool, data: st.DataObject
) -> None:
    block = LeaseRange(pack("10.0.0.0"), 24, None if single else length)
    reserved = data.draw(st.lists(networks(st.just(32)), max_size=3))
    try:
        plan = AddressPlan([block], taken, [address for address, _ in reserved])
    except ConfigError:
        return
    places = [plan.at(index) for index in range(plan.size)]
    assert len(set(places)) == len(places)
    for place in places:
        assert plan.place(place.address) == place
        assert plan.is_gateway(place.gateway)
        around = ip_network((place.address, place.prefix_length), strict=False)
        hosts = list(around.hosts())
        assert ip_address(place.address) in hosts
        assert ip_address(place.gateway) == hosts[0]
        for address, bits in taken:
            assert not around.overlaps(ip_network((address, bits), strict=False))
        for address, _ in reserved:
            assert place.address != address
            assert single or ip_address(address) not in around
    given_away = {place.address for place in places}
    for each in ip_network("10.0.0.0/24"):
        assert (plan.place(each.packed) is not None) == (each.packed in given_away)
