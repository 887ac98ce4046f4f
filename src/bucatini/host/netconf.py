"""The guest's side of its network: lo, the interface's MAC, MTU, queue, addresses and routes, and a few sysctls.

Runs inside the guest's network namespace, before the command. IPv6 is made usable at once: no duplicate address
detection (RFC 4862 section 5.4: nobody else is on this link), no router solicitation, no router advertisement accepted;
what a router would tell is already set. (The other way to spare the kernel's link-local address the detection, an
interface that comes up without ARP, leaves it tentative for up to a second on Linux 6.18.)

In a network namespace that is not ours (`attach`) only the interface and `lo` are touched, no setting for all. Where
net.ipv6.conf.all.accept_dad is set there, the link-local address takes its second or two.

`reconfigure` replaces what `configure` set, in an order that leaves alone what stays: the kernel takes routes along
with the last address of a family, and the secondary addresses of an IPv4 subnet with its first one, so both are added
again. What somebody else set on the interface stays.

Does not: invent addresses; `NetSettings` has them all.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from functools import partial

from bucatini.base.address import text
from bucatini.base.errors import HostError
from bucatini.host.netlink import Netlink
from bucatini.host.settings import NetSettings, Route

__all__ = ["configure", "reconfigure", "routes_of"]

_Step = Callable[[], list[str] | None]
"""Returns lines for what it could not do, or raises HostError."""

_LINK_LOCAL_V6 = b"\xfe\x80"
_DEPENDS_ON_ANOTHER = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL)
"""What the kernel says of a gateway that no route reaches yet; IPv6 says EINVAL or EHOSTUNREACH by version."""
_GONE = (errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENOENT)


def configure(settings: NetSettings, ping_groups: str = "") -> list[str]:
    """Set up the interface that already exists; returns one line for each nicety that could not be had.

    `ping_groups` is what the sysctl net.ipv4.ping_group_range gets; empty: the namespace is not ours. Raises HostError
    naming the setting the kernel refused.
    """
    notes = _set_sysctls(settings, ping_groups)
    with Netlink() as netlink:
        index = socket.if_nametoindex(settings.interface)
        netlink.set_link(socket.if_nametoindex("lo"), up=True)
        _set_link(netlink, index, settings)
        if settings.configure:
            netlink.set_link(index, up=True)
            for address, prefix_length in settings.addresses:
                if _wanted(settings, address):
                    _add_address(netlink, index, settings.interface, address, prefix_length)
            notes += _add_routes(netlink, index, settings.interface, routes_of(settings))
    return notes


def reconfigure(old: NetSettings, new: NetSettings) -> list[str]:
    """Replace addresses, gateways and routes of the interface; returns one line for what could not be done.

    `old` and `new` differ in nothing else. Nothing happens unless `configure` is set.
    """
    if not new.configure:
        return []
    try:
        index = socket.if_nametoindex(new.interface)
    except OSError:
        return [f"cannot change {new.interface}: there is no interface of this name any more"]
    try:
        with Netlink() as netlink:
            return _replace(netlink, index, old, new)
    except OSError as error:
        return [f"cannot change {new.interface}: {error.strerror}"]


def _replace(netlink: Netlink, index: int, old: NetSettings, new: NetSettings) -> list[str]:
    name = new.interface
    addresses = [item for item in new.addresses if _wanted(new, item[0])]
    routes = routes_of(new)
    stale_addresses = [item for item in old.addresses if item not in addresses]
    stale_routes = [item for item in reversed(routes_of(old)) if item not in routes]
    add: list[_Step] = [partial(_add_address, netlink, index, name, *item) for item in addresses]
    delete: list[_Step] = [partial(_delete, netlink.delete_address, index, *item) for item in stale_addresses]
    delete += [partial(_delete, netlink.delete_route, index, *item) for item in stale_routes]
    notes: list[str] = []
    # The new addresses come first, so that the family never is without one; then again, see above.
    steps: list[_Step] = [*add, *delete, *add, partial(_add_routes, netlink, index, name, routes)]
    for step in steps:
        try:
            notes += step() or []
        except HostError as error:
            notes.append(str(error))
    return list(dict.fromkeys(notes))


def _delete(delete: Callable[..., None], index: int, first: bytes, prefix_length: int, *gateway: bytes | None) -> None:
    """Delete an address or a route, unless it is gone already."""
    try:
        delete(index, first, prefix_length, *gateway)
    except OSError as error:
        if error.errno not in _GONE:
            raise HostError(f"cannot take away {text(first)}/{prefix_length}: {error.strerror}") from None


def routes_of(settings: NetSettings) -> list[Route]:
    """Every route to set, those others depend on first: on-link gateways, default routes, then the rest."""
    first, then = [], []
    for gateway in settings.gateways:
        if not _wanted(settings, gateway):
            continue
        if not _reachable(settings, gateway):
            first.append(Route(gateway, 8 * len(gateway)))
        then.append(Route(bytes(len(gateway)), 0, gateway))
    return first + then + [route for route in settings.routes if _wanted(settings, route.destination)]


def _wanted(settings: NetSettings, address: bytes) -> bool:
    return settings.ipv4 if len(address) == 4 else settings.ipv6


def _reachable(settings: NetSettings, gateway: bytes) -> bool:
    """Whether the prefix routes that come with the addresses lead to `gateway`."""
    if len(gateway) == 16 and gateway.startswith(_LINK_LOCAL_V6):
        return True
    number = int.from_bytes(gateway, "big")
    for address, prefix_length in settings.addresses:
        shift = 8 * len(address) - prefix_length
        if len(address) == len(gateway) and number >> shift == int.from_bytes(address, "big") >> shift:
            return True
    return False


def _set_link(netlink: Netlink, index: int, settings: NetSettings) -> None:
    mtu = settings.mtu if settings.configure else 0
    try:
        netlink.set_link(index, mac=settings.mac or b"", mtu=mtu, transmit_queue=settings.transmit_queue)
    except OSError as error:
        wanted = ([f"MAC {settings.mac.hex(':')}"] if settings.mac else []) + ([f"MTU {mtu}"] if mtu else [])
        raise HostError(f"cannot set {settings.interface} to {', '.join(wanted)}: {error.strerror}") from None


def _add_address(netlink: Netlink, index: int, name: str, address: bytes, prefix_length: int) -> None:
    try:
        netlink.add_address(index, address, prefix_length)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise HostError(f"cannot give {name} {text(address)}/{prefix_length}: {error.strerror}") from None


def _add_routes(netlink: Netlink, index: int, name: str, routes: list[Route]) -> list[str]:
    """Add them in rounds, because a gateway may be reachable only through a route that comes later in the list.

    Returns a line for each whose gateway nothing reaches: on the host it may have been reached by what is not copied.
    """
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
                    raise HostError(_route_refused(name, route, error)) from None
                refused.append((route, error))
        if len(refused) == len(waiting):
            return [_route_refused(name, *each) for each in refused]
        waiting = [route for route, _ in refused]
    return []


def _route_refused(name: str, route: Route, error: OSError) -> str:
    via = f" via {text(route.gateway)}" if route.gateway is not None else ""
    return f"cannot set the route {text(route.destination)}/{route.prefix_length}{via} on {name}: {error.strerror}"


def _set_sysctls(settings: NetSettings, ping_groups: str) -> list[str]:
    """Write what can be written: /proc/sys may be read-only in a container, and an old kernel may lack an entry."""
    values = {"ipv4/ping_group_range": ping_groups} if ping_groups else {}
    if settings.configure:
        values |= _ipv6_sysctls(settings, ours=bool(ping_groups))
    notes = []
    for name, value in values.items():
        try:
            with open(f"/proc/sys/net/{name}", "w") as entry:
                entry.write(value)
        except OSError as error:
            if not (error.errno == errno.ENOENT and not settings.ipv6):
                notes.append(f"net.{name.replace('/', '.')} stays as it is: {error.strerror}")
    return notes


def _ipv6_sysctls(settings: NetSettings, ours: bool) -> dict[str, str]:
    interface = f"ipv6/conf/{settings.interface}"
    if not settings.ipv6:
        return {f"{interface}/disable_ipv6": "1"}
    if not os.path.exists("/proc/sys/net/ipv6"):
        return {}
    # The detection is off only where both are 0; that of all is unless somebody changed it.
    values = {"ipv6/conf/all/accept_dad": "0"} if ours else {}
    values |= {f"{interface}/disable_ipv6": "0", f"{interface}/accept_dad": "0"}
    if not settings.accept_ra:
        values |= {f"{interface}/router_solicitations": "0", f"{interface}/accept_ra": "0"}
    return values
