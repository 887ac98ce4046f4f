"""host.mirror: what is chosen from a host's addresses and routes."""

from __future__ import annotations

from bucatini.base.address import pack
from bucatini.host.mirror import HostFamily, HostNetwork, read_host, reflect
from bucatini.host.netlink import Address, Link, RouteEntry
from bucatini.host.settings import Route

LO, ETH, WLAN = 1, 2, 3
LINKS = [Link(LO, "lo", 65536), Link(ETH, "eth", 1500), Link(WLAN, "wlan", 1400)]
NOTHING = HostNetwork()


def address(interface: int, cidr: str, *, scope: int = 0, deprecated: bool = False) -> Address:
    host, length = cidr.split("/")
    return Address(interface, pack(host), int(length), scope, deprecated)


def route(interface: int, cidr: str, gateway: str = "") -> RouteEntry:
    network, length = cidr.split("/")
    return RouteEntry(interface, pack(network), int(length), pack(gateway) if gateway else None)


DEFAULT4 = route(ETH, "0.0.0.0/0", "192.0.2.254")
DEFAULT6 = route(ETH, "::/0", "fe80::1")
HOME4 = address(ETH, "192.0.2.1/24")
HOME6 = address(ETH, "2001:db8::1/64")


def test_ordinary_host() -> None:
    mirror = reflect(
        LINKS,
        [address(LO, "127.0.0.1/8", scope=254), HOME4, HOME6, address(ETH, "fe80::2/64", scope=253)],
        [[DEFAULT4, route(ETH, "192.0.2.0/24")], [route(ETH, "2001:db8::/64"), route(ETH, "fe80::/64"), DEFAULT6]],
    )
    assert mirror == HostNetwork(
        HostFamily("eth", ETH, 1500, ((HOME4.address, 24),), pack("192.0.2.254")),
        HostFamily("eth", ETH, 1500, ((HOME6.address, 64),), pack("fe80::1"), (), pack("fe80::2")),
    )
    assert mirror.mtu == 1500
    assert mirror.gateways == (pack("192.0.2.254"), pack("fe80::1"))


def test_nothing_at_all() -> None:
    assert reflect(LINKS, [address(LO, "127.0.0.1/8", scope=254)], [[], []]) == NOTHING


def test_route_without_address_is_no_family() -> None:
    assert reflect(LINKS, [HOME4], [[DEFAULT4], [DEFAULT6]]).gateways == (pack("192.0.2.254"),)


def test_first_default_route_names_the_interface() -> None:
    others = [route(WLAN, "10.0.0.0/8", "10.9.9.9"), DEFAULT4, route(WLAN, "0.0.0.0/0", "10.1.1.1")]
    mirror = reflect(LINKS, [address(WLAN, "10.2.2.2/8"), HOME4], [others, []])
    assert mirror.addresses == ((HOME4.address, 24),)
    assert mirror.gateways == (pack("192.0.2.254"),)
    assert mirror.routes == ()


def test_without_a_default_route_the_first_route_does() -> None:
    mirror = reflect(LINKS, [HOME4], [[route(ETH, "169.254.0.0/16"), route(ETH, "198.51.100.0/24", "192.0.2.9")], []])
    assert mirror.ipv4 == HostFamily(
        "eth", ETH, 1500, ((HOME4.address, 24),), None, (Route(pack("198.51.100.0"), 24, pack("192.0.2.9")),)
    )


def test_addresses_longest_prefix_first_without_link_local_and_deprecated() -> None:
    mirror = reflect(
        LINKS,
        [
            HOME4,
            address(ETH, "192.0.2.7/32"),
            address(ETH, "169.254.3.3/16", scope=253),
            address(ETH, "192.0.2.8/24", deprecated=True),
        ],
        [[DEFAULT4], []],
    )
    assert mirror.addresses == ((pack("192.0.2.7"), 32), (HOME4.address, 24))


def test_on_link_default_route_stays_a_route() -> None:
    mirror = reflect(LINKS, [HOME4], [[route(ETH, "0.0.0.0/0")], []])
    assert mirror.gateways == ()
    assert mirror.routes == (Route(bytes(4), 0),)


def test_routes_that_lead_to_the_gateway_are_kept() -> None:
    lone = address(ETH, "198.51.100.7/32")
    table = [route(ETH, "0.0.0.0/0", "203.0.113.1"), route(ETH, "203.0.113.1/32")]
    assert reflect(LINKS, [lone], [table, []]).routes == (Route(pack("203.0.113.1"), 32),)


def test_families_on_different_interfaces_take_the_smaller_mtu() -> None:
    mirror = reflect(LINKS, [HOME4, address(WLAN, "2001:db8::1/64")], [[DEFAULT4], [route(WLAN, "::/0", "fe80::1")]])
    assert mirror.mtu == 1400


def test_a_named_interface_is_the_template() -> None:
    table = [DEFAULT4, route(WLAN, "10.0.0.0/8", "10.9.9.9")]
    mirror = reflect(LINKS, [address(WLAN, "10.2.2.2/8"), HOME4], [table, []], ("wlan", None))
    assert (mirror.ipv4.interface, mirror.ipv4.gateway) == ("wlan", None)
    assert mirror.routes == (Route(pack("10.0.0.0"), 8, pack("10.9.9.9")),)


def test_this_host_can_be_read() -> None:
    mirror = read_host()
    assert all(len(gateway) in (4, 16) for gateway in mirror.gateways)
    assert bool(mirror.addresses) == (mirror.mtu > 0)
