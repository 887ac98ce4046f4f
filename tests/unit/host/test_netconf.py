"""host.netconf: the order of routes, and refusals in one line; the whole is in tests/interop/test_guest_process.py."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from bucatini.base.address import pack
from bucatini.base.errors import HostError
from bucatini.host.netconf import configure, reconfigure, routes_of
from bucatini.host.netlink import Netlink
from bucatini.host.settings import NetSettings, Route
from bucatini.host.tap import Offloads, open_tap
from support.forked import in_new_network

SETTINGS = NetSettings(
    mac=bytes.fromhex("026d73000002"),
    mtu=1500,
    addresses=((pack("172.16.0.2"), 30), (pack("fd42::2"), 64)),
    gateways=(pack("172.16.0.1"), pack("fd42::1")),
)
DEFAULT4 = Route(bytes(4), 0, pack("172.16.0.1"))
DEFAULT6 = Route(bytes(16), 0, pack("fd42::1"))


class TestRoutes:
    def test_default_ones(self) -> None:
        assert routes_of(SETTINGS) == [DEFAULT4, DEFAULT6]

    def test_of_one_family(self) -> None:
        extra = SETTINGS._replace(routes=(Route(pack("10.0.0.0"), 8), Route(pack("2001:db8::"), 32)))
        assert routes_of(extra._replace(ipv6=False)) == [DEFAULT4, Route(pack("10.0.0.0"), 8)]
        assert routes_of(extra._replace(ipv4=False)) == [DEFAULT6, Route(pack("2001:db8::"), 32)]

    def test_gateway_outside_every_subnet_is_reached_on_the_link_first(self) -> None:
        gateways = (pack("172.16.0.5"), pack("2001:db8::1"), pack("fe80::1"))
        assert routes_of(SETTINGS._replace(gateways=gateways)) == [
            Route(pack("172.16.0.5"), 32),
            Route(pack("2001:db8::1"), 128),
            Route(bytes(4), 0, gateways[0]),
            Route(bytes(16), 0, gateways[1]),
            Route(bytes(16), 0, gateways[2]),
        ]


@pytest.mark.root
@pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun")
class TestConfigure:
    @staticmethod
    def configured(settings: NetSettings) -> tuple[str, list[tuple[bytes, int, bytes | None]]]:
        """What it raised or noted, and the IPv4 routes then there."""

        def try_it() -> tuple[str, list[tuple[bytes, int, bytes | None]]]:
            tap = open_tap("eth0", Offloads())
            try:
                said = " and ".join(configure(settings, ping_groups="0 0"))
            except HostError as error:
                said = str(error)
            with Netlink() as netlink:
                routes = [(one.destination, one.prefix_length, one.gateway) for one in netlink.routes(2)]
            os.close(tap.descriptor)
            return said, routes

        return in_new_network(try_it)

    def test_routes_that_need_each_other_in_the_wrong_order(self) -> None:
        chain = (
            Route(pack("203.0.113.0"), 24, pack("198.51.100.1")),
            Route(pack("198.51.100.0"), 24, None),
        )
        said, routes = self.configured(SETTINGS._replace(routes=chain))
        assert said == ""
        assert {tuple(route) for route in chain} <= set(routes)

    def test_same_twice_is_once(self) -> None:
        twice = SETTINGS._replace(addresses=SETTINGS.addresses * 2, routes=(DEFAULT4, DEFAULT4))
        said, routes = self.configured(twice)
        assert said == ""
        assert len(routes) == 2

    def test_route_to_nowhere_is_noted_and_the_rest_set(self) -> None:
        routes = (Route(pack("203.0.113.0"), 24, pack("198.51.100.1")), Route(pack("10.0.0.0"), 8))
        said, found = self.configured(SETTINGS._replace(routes=routes))
        assert said == "cannot set the route 203.0.113.0/24 via 198.51.100.1 on eth0: Network is unreachable"
        assert (pack("10.0.0.0"), 8, None) in found

    def test_prefix_length_that_is_none(self) -> None:
        said, _ = self.configured(SETTINGS._replace(addresses=((pack("192.0.2.1"), 33),), gateways=()))
        assert said == "cannot give eth0 192.0.2.1/33: Invalid argument"


@pytest.mark.root
@pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun")
class TestReconfigure:
    @staticmethod
    def changed(
        old: NetSettings, new: NetSettings, between: Callable[[Netlink, int], None] = lambda _netlink, _index: None
    ) -> tuple[list[str], set[tuple[bytes, int]], set[tuple[bytes, int, bytes | None]]]:
        """What it noted, and the addresses and routes then there, without link-local ones."""

        def try_it() -> tuple[list[str], set[tuple[bytes, int]], set[tuple[bytes, int, bytes | None]]]:
            tap = open_tap("eth0", Offloads())
            assert configure(old) == []
            with Netlink() as netlink:
                between(netlink, 2)
                notes = reconfigure(old, new)
                addresses = {
                    (one.address, one.prefix_length)
                    for one in netlink.addresses()
                    if one.interface == 2 and one.scope == 0
                }
                routes = {
                    (one.destination, one.prefix_length, one.gateway)
                    for family in (2, 10)
                    for one in netlink.routes(family)
                    if one.gateway is not None
                }
            os.close(tap.descriptor)
            return notes, addresses, routes

        return in_new_network(try_it)

    @pytest.mark.parametrize("family", [0, 1])
    def test_first_address_of_a_subnet_makes_way_for_the_second(self, family: int) -> None:
        """The kernel deletes 192.0.2.3 with 192.0.2.2, whose secondary it is, and the default route with both."""
        new = (
            ((pack("192.0.2.3"), 24), (pack("192.0.2.4"), 24)),
            ((pack("fd42::3"), 64), (pack("fd42::4"), 64)),
        )[family]
        gateway = (pack("192.0.2.1"), pack("fd42::1"))[family]
        old = ((pack("192.0.2.2"), 24), (pack("fd42::2"), 64))[family]
        before = SETTINGS._replace(addresses=(old, new[1]), gateways=(gateway,))
        notes, addresses, routes = self.changed(before, before._replace(addresses=new))
        assert notes == []
        assert addresses == set(new)
        assert routes == {(bytes(len(gateway)), 0, gateway)}

    def test_whole_network_is_another(self) -> None:
        new = SETTINGS._replace(
            addresses=((pack("198.51.100.7"), 32), (pack("2001:db8::7"), 64)),
            gateways=(pack("203.0.113.1"), pack("fe80::1")),
            routes=(Route(pack("10.0.0.0"), 8, pack("203.0.113.1")),),
        )
        notes, addresses, routes = self.changed(SETTINGS, new)
        assert notes == []
        assert addresses == set(new.addresses)
        assert routes == {
            (bytes(4), 0, pack("203.0.113.1")),
            (pack("10.0.0.0"), 8, pack("203.0.113.1")),
            (bytes(16), 0, pack("fe80::1")),
        }

    def test_prefix_length_changes(self) -> None:
        new = ((pack("172.16.0.2"), 24), (pack("fd42::2"), 48))
        notes, addresses, _ = self.changed(SETTINGS, SETTINGS._replace(addresses=new))
        assert notes == []
        assert addresses == set(new)

    def test_nothing_is_left_of_nothing(self) -> None:
        assert self.changed(SETTINGS, SETTINGS._replace(addresses=(), gateways=())) == ([], set(), set())

    def test_what_is_gone_already_is_no_error(self) -> None:
        def take_away(netlink: Netlink, index: int) -> None:
            netlink.delete_address(index, pack("172.16.0.2"), 30)
            netlink.delete_route(index, bytes(16), 0, pack("fd42::1"))

        new = SETTINGS._replace(addresses=((pack("192.0.2.2"), 24),), gateways=(pack("192.0.2.1"),))
        notes, addresses, routes = self.changed(SETTINGS, new, take_away)
        assert notes == []
        assert addresses == {(pack("192.0.2.2"), 24)}
        assert routes == {(bytes(4), 0, pack("192.0.2.1"))}

    def test_what_somebody_else_set_stays(self) -> None:
        def add(netlink: Netlink, index: int) -> None:
            netlink.add_address(index, pack("10.1.0.1"), 16)
            netlink.add_route(index, pack("10.2.0.0"), 16, pack("10.1.0.2"))

        _, addresses, routes = self.changed(SETTINGS, SETTINGS._replace(addresses=(), gateways=()), add)
        assert addresses == {(pack("10.1.0.1"), 16)}
        assert routes == {(pack("10.2.0.0"), 16, pack("10.1.0.2"))}

    def test_family_switched_off_stays_off(self) -> None:
        off = SETTINGS._replace(ipv4=False)
        _, addresses, _ = self.changed(off, off._replace(addresses=((pack("192.0.2.2"), 24), (pack("fd42::3"), 64))))
        assert addresses == {(pack("fd42::3"), 64)}

    def test_refusal_is_a_note_and_the_rest_is_done(self) -> None:
        wrong = SETTINGS._replace(addresses=((pack("192.0.2.1"), 33), (pack("192.0.2.2"), 24)), gateways=())
        notes, addresses, _ = self.changed(SETTINGS, wrong)
        assert notes == ["cannot give eth0 192.0.2.1/33: Invalid argument"]
        assert addresses == {(pack("192.0.2.2"), 24)}
