"""The host's own network as plain values, for a guest that is to look like it (`--mirror-host`; pasta's default).

Per family: the template interface is the one of the first default route of the main table, else of the first route at
all, link-local destinations aside. Its addresses are taken except link-local and deprecated ones, longest prefix first;
its gateway is the default route's; its other routes follow, without preferred source, metric or next-hop id. A family
without address or route is absent. The MTU is the smaller one when the families use different interfaces.

Does not: watch for changes, or copy rules, other tables and lifetimes.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

from bucatini.base.errors import HostError
from bucatini.host.netlink import Address, Netlink, RouteEntry
from bucatini.host.settings import Route

__all__ = ["Mirror", "read_host", "reflect"]

_SCOPE_GLOBAL = 0
_SCOPE_SITE = 200
_LOOPBACK = 1
"""The index of `lo` in every network namespace."""


class Mirror(NamedTuple):
    """What `GuestSettings` wants, as the host has it. Empty tuples: the host has no network of that kind."""

    mtu: int
    """Bytes; 0 when no interface was found."""
    addresses: tuple[tuple[bytes, int], ...]
    """(packed, prefix length), per family the longest prefix first: that is the guest's primary address."""
    gateways: tuple[bytes, ...]
    """At most one of each family; an IPv6 one is often link-local."""
    routes: tuple[Route, ...]
    """The others, without those the kernel makes of the addresses; a default route without gateway is among them."""


def read_host() -> Mirror:
    """Read it from the network namespace the caller is in. Raises HostError."""
    try:
        with Netlink() as netlink:
            mtus = {link.interface: link.mtu for link in netlink.links()}
            addresses = netlink.addresses()
            routes = [netlink.routes(family) for family in (socket.AF_INET, socket.AF_INET6)]
    except OSError as error:
        raise HostError(f"cannot read the host's addresses and routes: {error.strerror}") from None
    return reflect(mtus, addresses, routes)


def reflect(mtus: dict[int, int], addresses: list[Address], routes: list[list[RouteEntry]]) -> Mirror:
    """Choose from the host's state; `routes` holds one list per family, in the kernel's order."""
    found = [_family(addresses, [route for route in table if not _link_local(route.destination)]) for table in routes]
    indices = [index for index, mirror in found if mirror.addresses]
    mirrors = [mirror for _, mirror in found if mirror.addresses]
    return Mirror(
        min((mtus[index] for index in indices if index in mtus), default=0),
        tuple(address for mirror in mirrors for address in mirror.addresses),
        tuple(gateway for mirror in mirrors for gateway in mirror.gateways),
        tuple(route for mirror in mirrors for route in mirror.routes),
    )


def _family(addresses: list[Address], routes: list[RouteEntry]) -> tuple[int, Mirror]:
    usable = [route for route in routes if route.interface > _LOOPBACK]
    if not usable:
        return 0, Mirror(0, (), (), ())
    template = next((route for route in usable if route.prefix_length == 0), usable[0])
    index, size = template.interface, len(template.destination)
    chosen = [
        (each.address, each.prefix_length)
        for each in sorted(addresses, key=lambda each: -each.prefix_length)
        if each.interface == index
        and len(each.address) == size
        and each.scope in (_SCOPE_GLOBAL, _SCOPE_SITE)
        and not each.deprecated
        and not _link_local(each.address)
    ]
    gateway = template.gateway if template.prefix_length == 0 else None
    if gateway is not None and len(gateway) != size:
        gateway = None  # IPv4 by way of an IPv6 router (RFC 8950): the guest sees an on-link default route
    others = tuple(
        Route(route.destination, route.prefix_length, _same_family(route.gateway, size))
        for route in usable
        if route.interface == index
        and not (route.prefix_length == 0 and gateway is not None)
        and not _comes_with_address(route, chosen)
    )
    return index, Mirror(0, tuple(chosen), (gateway,) if gateway is not None else (), others)


def _comes_with_address(route: RouteEntry, addresses: list[tuple[bytes, int]]) -> bool:
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
