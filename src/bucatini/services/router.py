"""The router of the guest's link: router advertisements, asked for and not. RFC 4861 section 6.2, RFC 4862, RFC 8106.

One function answers a solicitation, one makes the advertisement that goes to all nodes; when that is due is for who has
a clock. A solicitation from `::` comes from a host without any address, so its answer goes to all nodes too.

The advertisement is cut to fit 1280 bytes, the MTU every IPv6 link has: prefixes first, then DNS servers, then as many
search domains as there is room for. An MTU below 1280 is not announced: hosts refuse it (RFC 4861 6.3.4).

Does not withdraw prefixes, redirect, or wait before it answers (RFC 4861 6.2.6 wants that of links with many routers).
"""

from __future__ import annotations

from dataclasses import dataclass

from bucatini.wire.checksum import transport_ok
from bucatini.wire.ethernet import ETHERTYPE_IPV6, HEADER_LENGTH, ipv6_multicast_mac
from bucatini.wire.icmp import complete_v6
from bucatini.wire.ip import IpView
from bucatini.wire.ipv6 import MINIMUM_MTU, PROTOCOL_ICMPV6, emit_ipv6
from bucatini.wire.ndp import (
    NdpOption,
    Prefix,
    RouterAdvertisement,
    RouterSolicitation,
    emit_ndp,
    mtu_option,
    option_size,
    parse_ndp,
    rdnss_option,
    search_option,
    source_mac_option,
)
from bucatini.wire.octets import load_bytes

__all__ = ["RouterSettings", "advertisement", "answer_solicitation"]

_UNSPECIFIED = bytes(16)
_ALL_NODES = bytes.fromhex("ff02 0000 0000 0000 0000 0000 0000 0001")
_HOP_LIMIT = 255
"""Of the packet because RFC 4861 6.1 demands it; for packets of the guest because it costs nothing."""
_PREFIX_SIZE = 32
_FIXED = 16
_MAXIMUM_PREFIXES = 16
_MAXIMUM_SERVERS = 16
_SEARCH_HEAD = 8


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """What is announced; addresses are packed, `mtu` is in bytes, `lifetime` in seconds.

    `mac` and `link_local` are ours. `lifetime` is how long we are a default router, 0 for not at all; `managed` and
    `other` say that addresses, or other things only, come by DHCPv6.
    """

    mac: bytes
    link_local: bytes
    prefixes: tuple[Prefix, ...]
    mtu: int | None
    dns: tuple[bytes, ...] = ()
    search: tuple[str, ...] = ()
    lifetime: int = 65535
    managed: bool = True
    other: bool = False


def answer_solicitation(frame: bytes | bytearray | memoryview, settings: RouterSettings) -> bytes | None:
    """The Ethernet frame with the advertisement for the router solicitation in `frame`; None when it gets none. Any
    bytes are fine.
    """
    buf = memoryview(bytearray(frame))
    view = IpView()
    if view.parse(buf, HEADER_LENGTH, len(buf)) or view.version != 6 or view.protocol != PROTOCOL_ICMPV6:
        return None
    if view.hop_limit != _HOP_LIMIT or view.fragment_header_at >= 0:  # RFC 4861 6.1.1, RFC 6980 2
        return None
    message = parse_ndp(buf, view.payload_at, view.end)
    source = load_bytes(buf, view.source_at, 16)
    if not isinstance(message, RouterSolicitation) or source[0] == 0xFF or source == settings.link_local:
        return None
    if source == _UNSPECIFIED and message.source_mac is not None:  # RFC 4861 6.1.1
        return None
    if not transport_ok(buf, view.source_at, view.destination_at, 16, PROTOCOL_ICMPV6, view.payload_at, view.end):
        return None
    if source == _UNSPECIFIED:
        return advertisement(settings)
    guest_mac = message.source_mac or load_bytes(buf, 6, 6)
    return None if guest_mac[0] & 1 else _frame(settings, source, guest_mac)


def advertisement(settings: RouterSettings) -> bytes:
    """The Ethernet frame with an unsolicited advertisement to all nodes."""
    return _frame(settings, _ALL_NODES, ipv6_multicast_mac(_ALL_NODES))


def _frame(settings: RouterSettings, destination: bytes, mac: bytes) -> bytes:
    message = complete_v6(emit_ndp(_message(settings)), settings.link_local, destination)
    packet = bytearray(40)
    emit_ipv6(
        memoryview(packet), 0, len(message), PROTOCOL_ICMPV6, settings.link_local, destination, hop_limit=_HOP_LIMIT
    )
    return mac + settings.mac + ETHERTYPE_IPV6.to_bytes(2, "big") + packet + message


def _message(settings: RouterSettings) -> RouterAdvertisement:
    prefixes = tuple(map(_cleared, settings.prefixes[:_MAXIMUM_PREFIXES]))
    # Among `others` also what has a field of its own, since that goes out before the prefixes. RFC 4861 does not care
    # for the order, but this is the one that guests of other engines have been tested with.
    options = [source_mac_option(settings.mac)]
    if settings.mtu is not None and settings.mtu >= MINIMUM_MTU:
        options.append(mtu_option(settings.mtu))
    servers = [address for address in settings.dns if len(address) == 16][:_MAXIMUM_SERVERS]
    if servers:
        options.append(rdnss_option(servers))
    search = search_option(settings.search, limit=_room(len(prefixes), options))
    if search is not None:
        options.append(search)
    return RouterAdvertisement(
        hop_limit=_HOP_LIMIT,
        managed=settings.managed,
        other_config=settings.other,
        router_lifetime=min(settings.lifetime, 0xFFFF),
        prefixes=prefixes,
        others=tuple(options),
    )


def _room(prefixes: int, options: list[NdpOption]) -> int:
    """Bytes left for the names of the search list."""
    return MINIMUM_MTU - 40 - _FIXED - _PREFIX_SIZE * prefixes - sum(map(option_size, options)) - _SEARCH_HEAD


def _cleared(prefix: Prefix) -> Prefix:
    """The bits behind the prefix are zero in what a router sends (RFC 4861 4.6.2)."""
    mask = (1 << 128) - (1 << 128 - prefix.length)
    return prefix._replace(prefix=(int.from_bytes(prefix.prefix, "big") & mask).to_bytes(16, "big"))
