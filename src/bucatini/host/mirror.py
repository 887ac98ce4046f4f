"""The host's own network as plain values, for a guest that is to look like it (`--mirror-host`; pasta's default).

Per family: the template interface is the one of the first default route of the main table, else of the first route at
all, link-local destinations aside. Its addresses are taken except link-local and deprecated ones, longest prefix first;
its gateway is the default route's; its other routes follow, without preferred source, metric or next-hop id. A family
without address or route is absent. The MTU is the smaller one when the families use different interfaces.

Does not: watch for changes (`watch.py`), or copy rules, other tables and lifetimes.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

from bucatini.base.errors import HostError
from bucatini.host.netlink import Address, Link, Netlink, RouteEntry
from bucatini.host.settings import Route

__all__ = ["HostFamily", "HostNetwork", "read_host", "reflect"]

_SCOPE_GLOBAL = 0
_SCOPE_SITE = 200
_LOOPBACK = 1
"""The index of `lo` in every network namespace."""


class HostFamily(NamedTuple):
    """One family of the host, as its template interface has it. All empty: the host has no such network."""

    interface: str = ""
    interface_index: int = 0
    mtu: int = 0
    """Bytes."""
    addresses: tuple[tuple[bytes, int], ...] = ()
    """(packed, prefix length), the longest prefix first: that is the guest's primary address."""
    gateway: bytes | None = None
    """Of the default route; an IPv6 one is often link-local."""
    routes: tuple[Route, ...] = ()
    """The others, without those the kernel makes of the addresses; a default route without gateway is among them."""
    link_local: bytes | None = None
    """The interface's own fe80::/10 address, IPv6 only."""


class HostNetwork(NamedTuple):
    """Both families of the host."""

    ipv4: HostFamily = HostFamily()
    ipv6: HostFamily = HostFamily()

    @property
    def mtu(self) -> int:
        """Bytes; 0 when no interface was found."""
        return min((family.mtu for family in self if family.mtu), default=0)

    @property
    def addresses(self) -> tuple[tuple[bytes, int], ...]:
        """Of both families."""
        return self.ipv4.addresses + self.ipv6.addresses

    @property
    def gateways(self) -> tuple[bytes, ...]:
        """At most one of each family."""
        return tuple(family.gateway for family in self if family.gateway is not None)

    @property
    def routes(self) -> tuple[Route, ...]:
        """Of both families."""
        return self.ipv4.routes + self.ipv6.routes


def read_host(interface4: str | None = None, interface6: str | None = None) -> HostNetwork:
    """Read it from the network namespace the caller is in; a name makes that interface the family's template.

    Raises HostError, also when a named interface does not exist.
    """
    try:
        with Netlink() as netlink:
            links = netlink.links()
            addresses = netlink.addresses()
            routes = [netlink.routes(family) for family in (socket.AF_INET, socket.AF_INET6)]
    except OSError as error:
        raise HostError(f"cannot read the host's addresses and routes: {error.strerror}") from None
    for name in (interface4, interface6):
        if name is not None and all(link.name != name for link in links):
            raise HostError(f"no interface {name!r} on this host; it has: {', '.join(link.name for link in links)}")
    return reflect(links, addresses, routes, (interface4, interface6))


def reflect(
    links: list[Link],
    addresses: list[Address],
    routes: list[list[RouteEntry]],
    templates: tuple[str | None, str | None] = (None, None),
) -> HostNetwork:
    """Choose from the host's state; `routes` holds one list per family, in the kernel's order."""
    families = []
    for table, size, template in zip(routes, (4, 16), templates, strict=True):
        usable = [route for route in table if not _link_local(route.destination)]
        families.append(_family(links, addresses, usable, size, template))
    return HostNetwork(*families)


def _family(
    links: list[Link], addresses: list[Address], routes: list[RouteEntry], size: int, template: str | None
) -> HostFamily:
    if template is None:
        usable = [route for route in routes if route.interface > _LOOPBACK]
    else:
        wanted = next((link.interface for link in links if link.name == template), 0)
        usable = [route for route in routes if route.interface == wanted]
    if not usable:
        return HostFamily()
    first = next((route for route in usable if route.prefix_length == 0), usable[0])
    link = next((each for each in links if each.interface == first.interface), Link(first.interface, "", 0))
    own = [each for each in addresses if each.interface == link.interface and len(each.address) == size]
    chosen = tuple(
        (each.address, each.prefix_length)
        for each in sorted(own, key=lambda each: -each.prefix_length)
        if each.scope in (_SCOPE_GLOBAL, _SCOPE_SITE) and not each.deprecated and not _link_local(each.address)
    )
    if not chosen:
        return HostFamily()
    gateway = first.gateway if first.prefix_length == 0 else None
    if gateway is not None and len(gateway) != size:
        gateway = None  # IPv4 by way of an IPv6 router (RFC 8950): the guest sees an on-link default route
    others = tuple(
        Route(route.destination, route.prefix_length, _same_family(route.gateway, size))
        for route in usable
        if route.interface == link.interface
        and not (route.prefix_length == 0 and gateway is not None)
        and not _comes_with_address(route, chosen)
    )
    link_local = next((each.address for each in own if size == 16 and _link_local(each.address)), None)
    return HostFamily(link.name, link.interface, link.mtu, chosen, gateway, others, link_local)


def _comes_with_address(route: RouteEntry, addresses: tuple[tuple[bytes, int], ...]) -> bool:
    """Whether the kernel makes this route by itself when one of the addresses is set."""
    shift = 8 * len(route.destination) - route.prefix_length
    network = int.from_bytes(route.destination, "big") >> shift
    return route.gateway is None and any(
        prefix_length == route.prefix_length and int.from_bytes(address, "big") >> shift == network
        for address, prefix_length in addresses
    )


def _same_family(gateway: bytes | None, size: int) -> bytes | None:
    return gateway if gateway is not None and len(gateway) == size else None


def _link_local(address: bytes) -> bool:
    """169.254.0.0/16 (RFC 3927), fe80::/10 (RFC 4291)."""
    if len(address) == 4:
        return address.startswith(b"\xa9\xfe")
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80
