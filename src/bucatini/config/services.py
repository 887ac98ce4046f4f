"""From a decided `Network` and a link that came up to the stack's settings, services included.

Apart from `config.derive`, because it is needed only when the guest's processes are forked already: until then every
module less is time won.
"""

from __future__ import annotations

from bucatini.config.derive import SLAAC_PREFIX, Family, Network
from bucatini.config.network import NetworkOptions
from bucatini.services.dhcp import DhcpSettings
from bucatini.services.dhcpv6 import Dhcp6Settings
from bucatini.services.router import RouterSettings
from bucatini.stack.settings import StackSettings
from bucatini.wire.ndp import Prefix

__all__ = ["stack_settings"]

FOREVER = 0xFFFFFFFF
MAX_SERVERS = 3
"""Name servers told to a guest, per family (glibc MAXNS)."""


def stack_settings(
    options: NetworkOptions,
    network: Network,
    *,
    guest_mac: bytes,
    gateway_mac: bytes,
    tso4: bool,
    tso6: bool,
    duid: bytes,
) -> StackSettings:
    """What the stack has to know: `network`, the link that came up, and the services."""
    ipv4, ipv6 = network.ipv4 or Family(), network.ipv6 or Family()
    guest4 = ipv4.addresses[0][0] if ipv4.addresses else None
    guest6 = ipv6.addresses[0][0] if ipv6.addresses else None
    guests = tuple(address for address, _ in network.addresses)
    gateway6 = network.link_local if ipv6.gateway is None and network.ipv6 is not None else ipv6.gateway
    return StackSettings(
        guest_mac,
        gateway_mac,
        guest4,
        guest6,
        ipv4.gateway,
        gateway6,
        network.mtu,
        tso4,
        tso6,
        ipv4=network.ipv4 is not None,
        ipv6=network.ipv6 is not None,
        translation=network.translation,
        resolvers=network.resolvers,
        given=guests,
        own=network.own,
        echoes=tuple(each for each in (*network.translation.host_loopback, *network.own) if each not in guests),
        tcp=options.tcp,
        udp=options.udp,
        icmp=options.icmp,
        ndp=options.ndp,
        dhcp=_dhcp(options, network, gateway_mac),
        dhcpv6=_dhcpv6(options, network, gateway_mac, duid),
        router=_router(options, network, gateway_mac),
    )


def _dhcp(options: NetworkOptions, network: Network, mac: bytes) -> DhcpSettings | None:
    family = network.ipv4
    if not options.dhcp or family is None or family.gateway is None or not family.addresses:
        return None
    address, prefix_length = family.addresses[0]
    return DhcpSettings(
        mac=mac,
        server=family.gateway,
        address=address,
        prefix_length=prefix_length,
        router=family.gateway,
        mtu=network.announced_mtu,
        dns=_servers(options, network, 4),
        search=network.search if options.dhcp_search else (),
        lease=options.lease,
    )


def _dhcpv6(options: NetworkOptions, network: Network, mac: bytes, duid: bytes) -> Dhcp6Settings | None:
    family = network.ipv6
    if not options.dhcpv6 or family is None:
        return None
    return Dhcp6Settings(
        mac=mac,
        duid=duid,
        link_local=network.link_local,
        address=family.addresses[0][0] if family.addresses else None,
        dns=_servers(options, network, 16),
        search=network.search if options.dhcp_search else (),
        preferred=options.lease,
        valid=min(2 * options.lease, FOREVER),
    )


def _router(options: NetworkOptions, network: Network, mac: bytes) -> RouterSettings | None:
    family = network.ipv6
    if not options.router_advertisements or not options.ndp or family is None:
        return None
    prefixes = tuple(
        Prefix(address[:8] + bytes(8), SLAAC_PREFIX, True, True, FOREVER, FOREVER)
        for address, _ in family.addresses[:1]
    )
    return RouterSettings(
        mac=mac,
        link_local=network.link_local,
        prefixes=prefixes,
        mtu=network.announced_mtu,
        dns=_servers(options, network, 16),
        search=network.search if options.dhcp_search else (),
    )


def _servers(options: NetworkOptions, network: Network, length: int) -> tuple[bytes, ...]:
    return tuple(each for each in network.dns if len(each) == length)[:MAX_SERVERS] if options.dhcp_dns else ()
