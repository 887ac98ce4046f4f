"""The guest's side of its network: lo, the interface's MAC, MTU, queue, addresses and routes, and a few sysctls.

Runs inside the guest's network namespace, before the command. IPv6 is made usable at once: no duplicate address
detection (RFC 4862 section 5.4: nobody else is on this link), no router solicitation, no router advertisement accepted;
what a router would tell is already set.

Does not: invent addresses; `GuestSettings` has them all.
"""

from __future__ import annotations

import errno
import os
import socket

from bucatini.base.address import text
from bucatini.base.errors import HostError
from bucatini.host.netlink import Netlink
from bucatini.host.settings import GuestSettings, Route

__all__ = ["configure", "routes_of"]

_LINK_LOCAL_V6 = b"\xfe\x80"
_DEPENDS_ON_ANOTHER = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL)
"""What the kernel says of a gateway that no route reaches yet; IPv6 says EINVAL or EHOSTUNREACH by version."""


def configure(settings: GuestSettings, own_user_namespace: bool) -> list[str]:
    """Set up the interface that already exists; returns one line for each nicety that could not be had.

    Raises HostError naming the setting the kernel refused.
    """
    notes = _set_sysctls(settings, own_user_namespace)
    name = settings.interface
    with Netlink() as netlink:
        index = socket.if_nametoindex(name)
        netlink.set_link(socket.if_nametoindex("lo"), up=True)
        try:
            netlink.set_link(index, mac=settings.guest_mac, mtu=settings.mtu, transmit_queue=settings.transmit_queue)
        except OSError as error:
            mac = settings.guest_mac.hex(":")
            raise HostError(f"cannot set {name} to MAC {mac}, MTU {settings.mtu}: {error.strerror}") from None
        netlink.set_link(index, up=True)
        for address, prefix_length in settings.addresses:
            if _wanted(settings, address):
                _add_address(netlink, index, name, address, prefix_length)
        _add_routes(netlink, index, name, routes_of(settings))
    return notes


def routes_of(settings: GuestSettings) -> list[Route]:
    """Every route to set, those others depend on first: on-link gateways, default routes, then the rest."""
    first, then = [], []
    for gateway in settings.gateways:
        if not _wanted(settings, gateway):
            continue
        if not _reachable(settings, gateway):
            first.append(Route(gateway, 8 * len(gateway)))
        then.append(Route(bytes(len(gateway)), 0, gateway))
    return first + then + [route for route in settings.routes if _wanted(settings, route.destination)]


def _wanted(settings: GuestSettings, address: bytes) -> bool:
    return settings.ipv4 if len(address) == 4 else settings.ipv6


def _reachable(settings: GuestSettings, gateway: bytes) -> bool:
    """Whether the prefix routes that come with the addresses lead to `gateway`."""
    if len(gateway) == 16 and gateway.startswith(_LINK_LOCAL_V6):
        return True
    number = int.from_bytes(gateway, "big")
    for address, prefix_length in settings.addresses:
        shift = 8 * len(address) - prefix_length
        if len(address) == len(gateway) and number >> shift == int.from_bytes(address, "big") >> shift:
            return True
    return False


def _add_address(netlink: Netlink, index: int, name: str, address: bytes, prefix_length: int) -> None:
    try:
        netlink.add_address(index, address, prefix_length)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise HostError(f"cannot give {name} {text(address)}/{prefix_length}: {error.strerror}") from None


def _add_routes(netlink: Netlink, index: int, name: str, routes: list[Route]) -> None:
    """Add them in rounds, because a gateway may be reachable only through a route that comes later in the list."""
    waiting = routes
    while waiting:
        refused: list[tuple[Route, OSError]] = []
        for route in waiting:
            try:
                netlink.add_route(index, *route)
            except OSError as error:
                if error.errno == errno.EEXIST:
                    continue
                if error.errno not in _DEPENDS_ON_ANOTHER:
                    raise _route_refused(name, route, error) from None
                refused.append((route, error))
        if len(refused) == len(waiting):
            raise _route_refused(name, *refused[0])
        waiting = [route for route, _ in refused]


def _route_refused(name: str, route: Route, error: OSError) -> HostError:
    via = f" via {text(route.gateway)}" if route.gateway is not None else ""
    return HostError(
        f"cannot set the route {text(route.destination)}/{route.prefix_length}{via} on {name}: {error.strerror}"
    )


def _set_sysctls(settings: GuestSettings, own_user_namespace: bool) -> list[str]:
    """Write what can be written: /proc/sys may be read-only in a container, and an old kernel may lack an entry."""
    # In a user namespace with one identity mapped, 0 is the only group that exists.
    values = {"ipv4/ping_group_range": "0 0" if own_user_namespace else "0 2147483647"}
    interface = f"ipv6/conf/{settings.interface}"
    if not settings.ipv6:
        values[f"{interface}/disable_ipv6"] = "1"
    elif os.path.exists("/proc/sys/net/ipv6"):
        values |= {
            f"{interface}/disable_ipv6": "0",
            "ipv6/conf/all/accept_dad": "0",
            f"{interface}/accept_dad": "0",
            f"{interface}/router_solicitations": "0",
            f"{interface}/accept_ra": "0",
        }
    notes = []
    for name, value in values.items():
        try:
            with open(f"/proc/sys/net/{name}", "w") as entry:
                entry.write(value)
        except OSError as error:
            if not (error.errno == errno.ENOENT and not settings.ipv6):
                notes.append(f"net.{name.replace('/', '.')} stays as it is: {error.strerror}")
    return notes
