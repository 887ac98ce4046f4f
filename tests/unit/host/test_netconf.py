"""host.netconf: the order of routes, and refusals in one line; the whole is in tests/interop/test_guest_process.py."""

from __future__ import annotations

import os

import pytest

from bucatini.base.address import pack
from bucatini.base.errors import HostError
from bucatini.host.netconf import configure, routes_of
from bucatini.host.netlink import Netlink
from bucatini.host.settings import GuestSettings, Route
from bucatini.host.tap import Offloads, open_tap
from support.forked import in_new_network

SETTINGS = GuestSettings(
    command=("true",),
    guest_mac=bytes.fromhex("026d73000002"),
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
    def configured(settings: GuestSettings) -> tuple[str, list[tuple[bytes, int, bytes | None]]]:
        """What it raised, and the IPv4 routes then there."""

        def try_it() -> tuple[str, list[tuple[bytes, int, bytes | None]]]:
            tap = open_tap("eth0", Offloads())
            said = ""
            try:
                configure(settings, own_user_namespace=False)
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

    def test_route_to_nowhere(self) -> None:
        nowhere = SETTINGS._replace(routes=(Route(pack("203.0.113.0"), 24, pack("198.51.100.1")),))
        said, _ = self.configured(nowhere)
        assert said == "cannot set the route 203.0.113.0/24 via 198.51.100.1 on eth0: Network is unreachable"

    def test_prefix_length_that_is_none(self) -> None:
        said, _ = self.configured(SETTINGS._replace(addresses=((pack("192.0.2.1"), 33),), gateways=()))
        assert said == "cannot give eth0 192.0.2.1/33: Invalid argument"
