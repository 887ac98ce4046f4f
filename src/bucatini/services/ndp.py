"""Neighbour Discovery for the guest's link: every IPv6 address but the guest's own is at our MAC. RFC 4861, RFC 4862.

A solicitation from `::` is duplicate address detection and stays unanswered whatever its target, or the guest could not
take any address. One for the guest's own address stays unanswered too. The rest gets an advertisement with the router,
solicited and override flags. The validity rules of RFC 4861 section 7.1.1 are all kept, the hop limit of 255 above all.

`ask_ndp` is the other way round, for a guest whose MAC address is not known yet. Does not answer router solicitations:
`services.router` does. Does not learn neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

from bucatini.wire.checksum import transport_ok
from bucatini.wire.ethernet import ETHERTYPE_IPV6, HEADER_LENGTH
from bucatini.wire.icmp import complete_v6
from bucatini.wire.ip import IpView
from bucatini.wire.ipv6 import PROTOCOL_ICMPV6, emit_ipv6
from bucatini.wire.ndp import NeighborAdvertisement, NeighborSolicitation, emit_ndp, parse_ndp, solicited_node
from bucatini.wire.octets import load_bytes

__all__ = ["NdpSettings", "answer_ndp", "ask_ndp"]

_UNSPECIFIED = bytes(16)
_HOP_LIMIT = 255
"""RFC 4861 7.1: proof that no router stood between."""


@dataclass(frozen=True, slots=True)
class NdpSettings:
    """Our MAC, and the guest's own packed IPv6 addresses, link-local ones included as far as they are known."""

    mac: bytes
    guest_addresses: frozenset[bytes]
    router: bool = True
    """Whether who has that MAC is one."""


def answer_ndp(frame: bytes | bytearray | memoryview, settings: NdpSettings) -> bytes | None:
    """The Ethernet frame with the advertisement for the solicitation in `frame`; None when it gets none. Any bytes are
    fine.
    """
    buf = memoryview(bytearray(frame))
    view = IpView()
    if view.parse(buf, HEADER_LENGTH, len(buf)) or view.version != 6 or view.protocol != PROTOCOL_ICMPV6:
        return None
    if view.hop_limit != _HOP_LIMIT or view.fragment_header_at >= 0:  # RFC 6980 2: never in fragments
        return None
    message = parse_ndp(buf, view.payload_at, view.end)
    if not isinstance(message, NeighborSolicitation) or message.target in settings.guest_addresses:
        return None
    source = load_bytes(buf, view.source_at, 16)
    if source == _UNSPECIFIED or source[0] == 0xFF or message.target == source or message.target == _UNSPECIFIED:
        return None
    if not transport_ok(buf, view.source_at, view.destination_at, 16, PROTOCOL_ICMPV6, view.payload_at, view.end):
        return None
    guest_mac = message.source_mac or load_bytes(buf, 6, 6)
    if guest_mac[0] & 1:
        return None
    return _advertise(message.target, source, guest_mac, settings)


def ask_ndp(mac: bytes, source: bytes, target: bytes) -> bytes:
    """The Ethernet frame that asks who has `target`, from `source` at `mac`, to its solicited-node group (RFC 4861
    section 7.2.2); packed IPv6 addresses.
    """
    group = solicited_node(target)
    message = complete_v6(emit_ndp(NeighborSolicitation(target, mac)), source, group)
    packet = bytearray(40)
    emit_ipv6(memoryview(packet), 0, len(message), PROTOCOL_ICMPV6, source, group, _HOP_LIMIT)
    return b"\x33\x33" + group[12:] + mac + ETHERTYPE_IPV6.to_bytes(2, "big") + packet + message


def _advertise(target: bytes, destination: bytes, guest_mac: bytes, settings: NdpSettings) -> bytes:
    """The frame that says `target` is at `mac`; its source is the target: any address of a node may be."""
    said = NeighborAdvertisement(target, settings.router, True, True, settings.mac)
    message = complete_v6(emit_ndp(said), target, destination)
    packet = bytearray(40)
    emit_ipv6(memoryview(packet), 0, len(message), PROTOCOL_ICMPV6, target, destination, _HOP_LIMIT)
    return guest_mac + settings.mac + ETHERTYPE_IPV6.to_bytes(2, "big") + packet + message
