"""Neighbour Discovery messages: RFC 4861 section 4, prefix information of 4.6.2, DNS options of RFC 8106.

Parsing holds to what section 6.1 and 7.1 ask of the message itself: code 0, options of non-zero length that end exactly
with the message, no multicast target. The rest of those sections (hop limit 255, checksum, addresses) needs the IP
header and is the caller's. Options that a message type has no use for are ignored, those of a router advertisement are
kept.

The options of a router advertisement go out in the order of its fields. Functions that make single options are for who
needs another order, and for the options that have no field.

Does not know redirects. Does not fill in checksums: see `icmp.complete_v6`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bucatini.wire.domain_names import encode_names

__all__ = [
    "ADVERTISEMENT",
    "DNSSL",
    "INFINITE",
    "RDNSS",
    "ROUTER_ADVERTISEMENT",
    "ROUTER_SOLICITATION",
    "SOLICITATION",
    "NdpMessage",
    "NdpOption",
    "NeighborAdvertisement",
    "NeighborSolicitation",
    "Prefix",
    "RouterAdvertisement",
    "RouterSolicitation",
    "emit_ndp",
    "mtu_option",
    "option_size",
    "parse_ndp",
    "rdnss_option",
    "search_option",
    "solicited_node",
    "source_mac_option",
]

ROUTER_SOLICITATION = 133
ROUTER_ADVERTISEMENT = 134
SOLICITATION = 135
ADVERTISEMENT = 136

RDNSS = 25
"""Option: recursive DNS servers, RFC 8106 section 5.1."""
DNSSL = 31
"""Option: DNS search list, RFC 8106 section 5.2."""
INFINITE = 0xFFFFFFFF
"""A lifetime that never ends, RFC 4861 4.6.2, RFC 8106 section 5."""

_SOURCE_MAC = 1
_TARGET_MAC = 2
_PREFIX = 3
_MTU = 5

_MAXIMUM_OPTIONS = 64
"""A message with more is malformed. A full frame of 1280 bytes could hold 153; Linux itself sends fewer than ten."""


class NdpOption(NamedTuple):
    """An option not interpreted here; `body` is what follows type and length, 8 * n - 2 bytes."""

    kind: int
    body: bytes


class Prefix(NamedTuple):
    """Prefix information; lifetimes in seconds, 0xffffffff is for ever."""

    prefix: bytes
    length: int
    on_link: bool
    autonomous: bool
    valid: int
    preferred: int


class NeighborSolicitation(NamedTuple):
    """Who has `target`? `source_mac` is absent in duplicate address detection."""

    target: bytes
    source_mac: bytes | None = None


class NeighborAdvertisement(NamedTuple):
    """`target` is at `target_mac`."""

    target: bytes
    router: bool
    solicited: bool
    override: bool
    target_mac: bytes | None = None


class RouterSolicitation(NamedTuple):
    """Is there a router?"""

    source_mac: bytes | None = None


class RouterAdvertisement(NamedTuple):
    """`router_lifetime` is in seconds, `reachable_time` and `retransmit_timer` in milliseconds; 0: unspecified."""

    hop_limit: int
    managed: bool
    other_config: bool
    router_lifetime: int
    reachable_time: int = 0
    retransmit_timer: int = 0
    source_mac: bytes | None = None
    mtu: int | None = None
    prefixes: tuple[Prefix, ...] = ()
    others: tuple[NdpOption, ...] = ()
    """RDNSS, DNSSL (RFC 8106) and whatever else, in order."""


NdpMessage = NeighborSolicitation | NeighborAdvertisement | RouterSolicitation | RouterAdvertisement


def solicited_node(address: bytes) -> bytes:
    """The solicited-node multicast address of an address: ff02::1:ff00:0/104 and its last 24 bits (RFC 4291 2.7.1)."""
    return bytes.fromhex("ff02 0000 0000 0000 0000 0001 ff") + address[13:]


def source_mac_option(mac: bytes) -> NdpOption:
    """The sender's Ethernet address (RFC 4861 4.6.1)."""
    return NdpOption(_SOURCE_MAC, mac)


def mtu_option(mtu: int) -> NdpOption:
    """The MTU of the link, bytes (RFC 4861 4.6.4)."""
    return NdpOption(_MTU, bytes(2) + mtu.to_bytes(4, "big"))


def rdnss_option(servers: Iterable[bytes], lifetime: int = INFINITE) -> NdpOption:
    """Recursive DNS servers, packed IPv6, one at least and at most 127; `lifetime` in seconds (RFC 8106 5.1)."""
    return NdpOption(RDNSS, bytes(2) + lifetime.to_bytes(4, "big") + b"".join(servers))


def search_option(names: Iterable[str], lifetime: int = INFINITE, limit: int = 2032) -> NdpOption | None:
    """The DNS search list (RFC 8106 5.2), at most `limit` bytes of names, padded to a multiple of 8.

    Names that are none, or no longer fit, are left out; None when none is left.
    """
    data = encode_names(names, limit=min(limit, 2032) & ~7)
    padding = bytes(-len(data) % 8)
    return NdpOption(DNSSL, bytes(2) + lifetime.to_bytes(4, "big") + data + padding) if data else None


def option_size(option: NdpOption) -> int:
    """Bytes of the option in a message."""
    return len(option.body) + 2


def parse_ndp(buf: memoryview, at: int, end: int) -> NdpMessage | None:
    """The ICMPv6 message at `at..end`. None when it is malformed or not one of the four."""
    if end - at < 8 or buf[at + 1] != 0:
        return None
    message = bytes(buf[at:end])
    kind = message[0]
    if kind == ROUTER_SOLICITATION:
        return _parse_router_solicitation(message)
    if kind == ROUTER_ADVERTISEMENT:
        return _parse_router_advertisement(message)
    if kind in (SOLICITATION, ADVERTISEMENT):
        return _parse_neighbor(message)
    return None


def emit_ndp(message: NdpMessage) -> bytes:
    """The ICMPv6 message, its checksum field 0."""
    if isinstance(message, NeighborSolicitation):
        return bytes((SOLICITATION, 0, 0, 0, 0, 0, 0, 0)) + message.target + _emit_mac(_SOURCE_MAC, message.source_mac)
    if isinstance(message, NeighborAdvertisement):
        flags = message.router << 7 | message.solicited << 6 | message.override << 5
        head = bytes((ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0))
        return head + message.target + _emit_mac(_TARGET_MAC, message.target_mac)
    if isinstance(message, RouterSolicitation):
        return bytes((ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0)) + _emit_mac(_SOURCE_MAC, message.source_mac)
    return _emit_router_advertisement(message)


def _parse_options(message: bytes, at: int) -> list[NdpOption] | None:
    """The options from `at` to the end of the message; None when one has length 0 or runs out (RFC 4861 4.6)."""
    options: list[NdpOption] = []
    while at < len(message):
        length = message[at + 1] << 3 if at + 1 < len(message) else 0
        if length == 0 or at + length > len(message) or len(options) == _MAXIMUM_OPTIONS:
            return None
        options.append(NdpOption(message[at], message[at + 2 : at + length]))
        at += length
    return options


def _mac_of(options: list[NdpOption], kind: int) -> bytes | None:
    """The Ethernet address in the first option of the kind."""
    return next((option.body for option in options if option.kind == kind and len(option.body) == 6), None)


def _parse_router_solicitation(message: bytes) -> RouterSolicitation | None:
    options = _parse_options(message, 8)
    return None if options is None else RouterSolicitation(_mac_of(options, _SOURCE_MAC))


def _parse_neighbor(message: bytes) -> NeighborSolicitation | NeighborAdvertisement | None:
    if len(message) < 24 or message[8] == 0xFF:
        return None
    options = _parse_options(message, 24)
    if options is None:
        return None
    target = message[8:24]
    if message[0] == SOLICITATION:
        return NeighborSolicitation(target, _mac_of(options, _SOURCE_MAC))
    flags = message[4]
    return NeighborAdvertisement(
        target, flags & 0x80 != 0, flags & 0x40 != 0, flags & 0x20 != 0, _mac_of(options, _TARGET_MAC)
    )


def _parse_router_advertisement(message: bytes) -> RouterAdvertisement | None:
    options = _parse_options(message, 16) if len(message) >= 16 else None
    if options is None:
        return None
    mtu: int | None = None
    prefixes: list[Prefix] = []
    others: list[NdpOption] = []
    for option in options:
        if option.kind == _MTU and len(option.body) == 6:
            mtu = int.from_bytes(option.body[2:], "big")
        elif option.kind == _PREFIX and len(option.body) == 30:
            prefixes.append(_parse_prefix(option.body))
        elif option.kind not in (_SOURCE_MAC, _MTU, _PREFIX):
            others.append(option)
    return RouterAdvertisement(
        hop_limit=message[4],
        managed=message[5] & 0x80 != 0,
        other_config=message[5] & 0x40 != 0,
        router_lifetime=int.from_bytes(message[6:8], "big"),
        reachable_time=int.from_bytes(message[8:12], "big"),
        retransmit_timer=int.from_bytes(message[12:16], "big"),
        source_mac=_mac_of(options, _SOURCE_MAC),
        mtu=mtu,
        prefixes=tuple(prefixes),
        others=tuple(others),
    )


def _parse_prefix(body: bytes) -> Prefix:
    return Prefix(
        prefix=body[14:30],
        length=body[0],
        on_link=body[1] & 0x80 != 0,
        autonomous=body[1] & 0x40 != 0,
        valid=int.from_bytes(body[2:6], "big"),
        preferred=int.from_bytes(body[6:10], "big"),
    )


def _emit_mac(kind: int, mac: bytes | None) -> bytes:
    return b"" if mac is None else bytes((kind, 1)) + mac


def _emit_prefix(prefix: Prefix) -> bytes:
    flags = prefix.on_link << 7 | prefix.autonomous << 6
    times = prefix.valid.to_bytes(4, "big") + prefix.preferred.to_bytes(4, "big")
    return bytes((_PREFIX, 4, prefix.length, flags)) + times + bytes(4) + prefix.prefix


def _emit_router_advertisement(message: RouterAdvertisement) -> bytes:
    flags = message.managed << 7 | message.other_config << 6
    parts = [
        bytes((ROUTER_ADVERTISEMENT, 0, 0, 0, message.hop_limit, flags)),
        message.router_lifetime.to_bytes(2, "big"),
        message.reachable_time.to_bytes(4, "big"),
        message.retransmit_timer.to_bytes(4, "big"),
        _emit_mac(_SOURCE_MAC, message.source_mac),
    ]
    if message.mtu is not None:
        parts.append(bytes((_MTU, 1, 0, 0)) + message.mtu.to_bytes(4, "big"))
    parts.extend(_emit_prefix(prefix) for prefix in message.prefixes)
    parts.extend(bytes((option.kind, (len(option.body) + 2) >> 3)) + option.body for option in message.others)
    return b"".join(parts)
