"""From options and what the host looks like to the network a guest gets: the one place where defaults meet.

Theory of operation. Two plans exist. By *slot*, a number gives private addresses (`config.addressing`). By *host*, the
guest is a mirror of the host: addresses, gateway, routes, MTU, name servers (pasta's way); a host without a network
gives the *local* plan, link-local addresses that reach this machine only. Options then replace parts of either. The
result is a `Network`: what the namespace is configured with, what services announce, how addresses are translated
(`config.services` makes the stack's settings of it).

Pure: the host's state is handed in, so a change of the host is one more call and a comparison.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from bucatini.base.address import link_local_of
from bucatini.config.addressing import INTERFACE, IPV4_PREFIX, IPV6_PREFIX, Addressing
from bucatini.config.guest import DEFAULT_MTU
from bucatini.config.network import NetworkOptions
from bucatini.forward.translate import Translation
from bucatini.host.mirror import HostFamily, HostNetwork
from bucatini.host.resolvers import ResolverConfig
from bucatini.host.settings import Route
from bucatini.host.sockets import Outbound

__all__ = ["LOCAL", "Family", "Network", "Plan", "complete", "host_plan", "slot_plan"]

SLAAC_PREFIX = 64
MAX_REMEMBERED = 4
LINK_LOCAL_V6 = bytes.fromhex("fe80000000000000")
LOCAL_GATEWAY_V6 = LINK_LOCAL_V6 + bytes(7) + b"\x01"
LOCAL_ADDRESS_V4, LOCAL_GATEWAY_V4, LOCAL_PREFIX_V4 = bytes((169, 254, 2, 1)), bytes((169, 254, 2, 2)), 16


class Family(NamedTuple):
    """One address family of the guest."""

    addresses: tuple[tuple[bytes, int], ...] = ()
    """(packed, prefix length), the primary one first."""
    gateway: bytes | None = None
    routes: tuple[Route, ...] = ()


class Plan(NamedTuple):
    """Addresses before options. A family is None where the guest has none of it at all."""

    ipv4: Family | None
    ipv6: Family | None
    mtu: int
    link_local: bytes
    """Ours on the guest's link."""
    interface: str
    scope: int = 0
    """Index of the host's interface that link-local destinations are on; 0: none."""
    invented: bool = False
    """Whether gateway and link-local address exist on the guest's link alone, and nowhere on the host's network."""


class Network(NamedTuple):
    """The guest's network as decided; see the module."""

    ipv4: Family | None
    ipv6: Family | None
    mtu: int
    announced_mtu: int | None
    """What services say; None: nothing."""
    interface: str
    link_local: bytes
    translation: Translation
    resolvers: tuple[bytes, ...]
    """Addresses at whose port 53 our own name service answers."""
    upstream: tuple[bytes, ...]
    """Which resolvers it asks; empty: the host's."""
    dns: tuple[bytes, ...]
    """Name servers the guest is told, both families."""
    search: tuple[str, ...]
    outbound: Outbound
    own: tuple[bytes, ...] = ()
    """Addresses that exist on the guest's link alone: what is not translated there is nowhere."""

    def after(self, before: Network) -> Network:
        """This network, and what the guest may still have in its files of the one before: addresses of name servers
        and of the host go on to mean what they meant, the latest `MAX_REMEMBERED` of them.
        """
        old, new = before.translation, self.translation
        answered = dict(old.dns[:MAX_REMEMBERED]) | dict(new.dns)
        translation = replace(
            new, host_loopback=_joined(new.host_loopback, old.host_loopback), dns=tuple(answered.items())
        )
        resolvers = _joined(self.resolvers, before.resolvers)
        return self._replace(translation=translation, resolvers=resolvers, own=_joined(self.own, before.own))

    @property
    def hosts(self) -> tuple[bytes, ...]:
        """Addresses of the virtual network that lead to this machine: what policy calls `host`."""
        shown = (visible for visible, _ in self.translation.guest_addresses)
        return tuple(dict.fromkeys((*self.translation.host_loopback, *self.resolvers, *shown)))

    @property
    def families(self) -> tuple[Family, ...]:
        """Those that exist."""
        return tuple(family for family in (self.ipv4, self.ipv6) if family is not None)

    @property
    def addresses(self) -> tuple[tuple[bytes, int], ...]:
        """All, each family's primary one first."""
        return tuple(address for family in self.families for address in family.addresses)

    @property
    def gateways(self) -> tuple[bytes, ...]:
        """At most one per family."""
        return tuple(family.gateway for family in self.families if family.gateway is not None)

    @property
    def routes(self) -> tuple[Route, ...]:
        """All but the default routes through the gateways."""
        return tuple(route for family in self.families for route in family.routes)


LOCAL = Plan(
    Family(((LOCAL_ADDRESS_V4, LOCAL_PREFIX_V4),), LOCAL_GATEWAY_V4),
    Family((), LOCAL_GATEWAY_V6),
    0,
    LOCAL_GATEWAY_V6,
    "tap0",
)
"""For a host without any network: passt's local mode."""


def slot_plan(own: Addressing) -> Plan:
    """The plan of a slot's addresses."""
    ipv4 = ipv6 = None
    if own.guest_ipv4 is not None:
        ipv4 = Family(((own.guest_ipv4, IPV4_PREFIX),), own.gateway_ipv4)
    if own.guest_ipv6 is not None:
        ipv6 = Family(((own.guest_ipv6, IPV6_PREFIX),), own.gateway_ipv6)
    return Plan(ipv4, ipv6, DEFAULT_MTU, link_local_of(own.gateway_mac), INTERFACE, invented=True)


def host_plan(host: HostNetwork) -> Plan:
    """The plan that mirrors `host`; `LOCAL` when it has no network."""
    if not host.addresses:
        return LOCAL
    ipv4, ipv6 = (_mirrored(family) if family.addresses else None for family in host)
    gateway = host.ipv6.gateway
    link_local = gateway if gateway is not None and _is_link_local(gateway) else host.ipv6.link_local
    interface = host.ipv4.interface or host.ipv6.interface
    scope = host.ipv6.interface_index or host.ipv4.interface_index
    return Plan(ipv4, ipv6, host.mtu, link_local or LOCAL_GATEWAY_V6, interface, scope)


def complete(
    options: NetworkOptions, plan: Plan, resolvers: ResolverConfig, *, default_mtu: int | None, own_dns: bool
) -> Network:
    """The network that `plan` and `options` make.

    `default_mtu` in bytes, None: the plan's. `own_dns`: our name service answers at the gateway (or at
    `--dns-forward`) and is what the guest is told; else the guest is told the host's servers and port 53 is translated.
    """
    ipv4 = _overridden(options, plan.ipv4, 4) if options.ipv4 else None
    ipv6 = _overridden(options, plan.ipv6, 16) if options.ipv6 else None
    link_local = plan.link_local
    if ipv6 is not None and ipv6.gateway is not None and _is_link_local(ipv6.gateway):
        link_local = ipv6.gateway
    families = [family for family in (ipv4, ipv6) if family is not None]
    gateways = tuple(family.gateway for family in families if family.gateway is not None)
    loopback = _loopback(options, gateways)
    upstream = tuple(each.endpoint.address for each in resolvers.resolvers)
    translation = Translation(
        host_loopback=tuple(loopback),
        guest_addresses=_guest_rows(options, families),
        dns=() if own_dns else _dns_rows(options, loopback, upstream),
        ours=gateways if ipv6 is None or ipv6.gateway is not None else (*gateways, link_local),
    )
    if own_dns:
        named = options.dns_forward or gateways
        dns = named if options.dns is None else options.dns
    else:
        named = ()
        dns = _told(loopback, upstream) if options.dns is None else options.dns
    mtu = options.mtu or default_mtu or plan.mtu or DEFAULT_MTU
    return Network(
        ipv4,
        ipv6,
        mtu,
        None if options.mtu == 0 else mtu,
        options.guest_interface or plan.interface,
        link_local,
        translation,
        named,
        options.dns_host,
        dns,
        resolvers.search if options.search is None else options.search,
        Outbound(options.outbound, options.outbound_interface4, options.outbound_interface6, plan.scope),
        _invented(families, (*named, *gateways, link_local)) if plan.invented else named,
    )


def _mirrored(family: HostFamily) -> Family:
    return Family(family.addresses, family.gateway, family.routes)


def _overridden(options: NetworkOptions, family: Family | None, length: int) -> Family | None:
    """`family` with what the options say about it; None stays None unless an address is given."""
    given = next((address for address in options.addresses if len(address) == length), None)
    if given is not None:
        family = (family or Family())._replace(addresses=((given, _prefix_length(options, family, given)),))
    if family is None:
        return None
    if not options.copy_addresses:
        family = family._replace(addresses=family.addresses[:1])
    if given is None and length == 4 and options.prefix_length is not None and family.addresses:
        family = family._replace(addresses=((family.addresses[0][0], options.prefix_length), *family.addresses[1:]))
    gateway = next((address for address in options.gateways if len(address) == length), None)
    if gateway is not None:
        return family._replace(gateway=gateway, routes=())
    if not options.copy_routes:
        return family._replace(routes=tuple(route for route in family.routes if route.prefix_length == 0))
    return family


def _prefix_length(options: NetworkOptions, family: Family | None, address: bytes) -> int:
    """Of an address the user gave: as told, or that of an address it replaces in the same subnet, or by class."""
    if len(address) == 16:
        return SLAAC_PREFIX
    if options.prefix_length is not None:
        return options.prefix_length
    for held, length in family.addresses if family is not None else ():
        if int.from_bytes(held, "big") >> 32 - length == int.from_bytes(address, "big") >> 32 - length:
            return length
    return 8 if address[0] < 128 else 16 if address[0] < 192 else 24 if address[0] < 224 else 32


def _loopback(options: NetworkOptions, gateways: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Addresses that mean the host's loopback: those given, and the gateway of a family that none was given of."""
    if options.map_host_loopback == ():
        return ()
    given = options.map_host_loopback or ()
    lengths = {len(address) for address in given}
    return given + tuple(each for each in gateways if options.map_gateway and len(each) not in lengths)


def _invented(families: list[Family], ours: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The addresses of a slot's network, which a host elsewhere may have too."""
    return tuple(dict.fromkeys((*ours, *(address for family in families for address, _ in family.addresses))))


def _joined(new: tuple[bytes, ...], old: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys((*new, *old)))[: len(new) + MAX_REMEMBERED]


def _dns_rows(
    options: NetworkOptions, loopback: tuple[bytes, ...], upstream: tuple[bytes, ...]
) -> tuple[tuple[bytes, bytes], ...]:
    """Visible resolver and real one, per family: that of `--dns-forward`, else the loopback mapping for one that is on
    the host's loopback.
    """
    rows = []
    for length in (4, 16):
        real = next((each for each in (*options.dns_host, *upstream) if len(each) == length), None)
        shown = next((each for each in options.dns_forward if len(each) == length), None)
        if shown is None and options.dns != () and any(_is_loopback(each) for each in upstream if len(each) == length):
            shown = next((each for each in loopback if len(each) == length), None)
        if shown is not None and real is None:
            # The other family's resolver answers just as well: the guest sees only the address it asked.
            real = next(iter((*options.dns_host, *upstream)), None)
        if shown is not None and real is not None:
            rows.append((shown, real))
    return tuple(rows)


def _guest_rows(options: NetworkOptions, families: list[Family]) -> tuple[tuple[bytes, bytes], ...]:
    assigned = [family.addresses[0][0] for family in families if family.addresses]
    return tuple(
        (visible, real) for visible in options.map_guest_address for real in assigned if len(real) == len(visible)
    )


def _told(loopback: tuple[bytes, ...], upstream: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The host's name servers as the guest can reach them: one on loopback by way of the mapping, or not at all."""
    told = []
    for server in upstream:
        if _is_loopback(server):
            told += [each for each in loopback if len(each) == len(server)][:1]
        else:
            told.append(server)
    return tuple(dict.fromkeys(told))


def _is_loopback(address: bytes) -> bool:
    return address[0] == 127 if len(address) == 4 else address == bytes(15) + b"\x01"


def _is_link_local(address: bytes) -> bool:
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80
