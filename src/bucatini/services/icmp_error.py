"""ICMP errors to the guest about packets it sent: RFC 792, RFC 1122 3.2.2, RFC 1812 4.3.2, RFC 4443.

A refusal that is silent looks like a hang, so what is refused or fails gets the error a router or the far host would
send. Errors of a router come from the gateway, errors of a host (port, protocol) from the address the guest talked to.
The guest's packet is quoted as far as the reply fits 576 bytes (IPv4) or 1280 bytes (IPv6). A checksum that the guest
left to the link is quoted as it is: nobody verifies quoted packets, and many arrive cut.

Nothing is sent about an ICMP error, a later fragment, a packet to a group or broadcast, or one whose source is no
single host (RFC 1122 3.2.2, RFC 4443 2.4 e). Does not limit the rate: an error goes only to the guest that caused it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bucatini.wire import icmp
from bucatini.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, HEADER_LENGTH
from bucatini.wire.ip import IpView
from bucatini.wire.ipv4 import PROTOCOL_ICMP, emit_ipv4
from bucatini.wire.ipv6 import MINIMUM_MTU, PROTOCOL_ICMPV6, emit_ipv6
from bucatini.wire.octets import load_bytes

__all__ = ["ErrorKind", "IcmpErrorSettings", "icmp_error", "icmp_error_packet"]

_V4_LIMIT = 576
"""Bytes of the whole error packet, RFC 1812 4.3.2.3."""
_V6_LIMIT = MINIMUM_MTU
"""RFC 4443 2.4 c."""
_V6_REDIRECT = 137


class ErrorKind(Enum):
    """What to say; each has its type and code in both families."""

    NETWORK = "network unreachable"
    HOST = "host unreachable"
    PROTOCOL = "protocol unreachable"
    PORT = "port unreachable"
    PROHIBITED = "administratively prohibited"
    TOO_BIG = "fragmentation needed, packet too big"
    HOP_LIMIT = "time to live, hop limit exceeded in transit"


_V4 = {
    ErrorKind.NETWORK: (icmp.UNREACHABLE, icmp.UNREACHABLE_NET),
    ErrorKind.HOST: (icmp.UNREACHABLE, icmp.UNREACHABLE_HOST),
    ErrorKind.PROTOCOL: (icmp.UNREACHABLE, icmp.UNREACHABLE_PROTOCOL),
    ErrorKind.PORT: (icmp.UNREACHABLE, icmp.UNREACHABLE_PORT),
    ErrorKind.PROHIBITED: (icmp.UNREACHABLE, icmp.UNREACHABLE_PROHIBITED),
    ErrorKind.TOO_BIG: (icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED),
    ErrorKind.HOP_LIMIT: (icmp.TIME_EXCEEDED, 0),
}

_V6 = {
    ErrorKind.NETWORK: (icmp.V6_UNREACHABLE, icmp.V6_UNREACHABLE_NO_ROUTE),
    ErrorKind.HOST: (icmp.V6_UNREACHABLE, icmp.V6_UNREACHABLE_ADDRESS),
    ErrorKind.PROTOCOL: (icmp.V6_PARAMETER_PROBLEM, 1),
    ErrorKind.PORT: (icmp.V6_UNREACHABLE, icmp.V6_UNREACHABLE_PORT),
    ErrorKind.PROHIBITED: (icmp.V6_UNREACHABLE, icmp.V6_UNREACHABLE_PROHIBITED),
    ErrorKind.TOO_BIG: (icmp.V6_PACKET_TOO_BIG, 0),
    ErrorKind.HOP_LIMIT: (icmp.V6_TIME_EXCEEDED, 0),
}

_FROM_THE_FAR_HOST = frozenset((ErrorKind.PORT, ErrorKind.PROTOCOL))


@dataclass(frozen=True, slots=True)
class IcmpErrorSettings:
    """Our MAC, and the gateway's packed address in each family."""

    mac: bytes
    gateway_v4: bytes
    gateway_v6: bytes


def icmp_error(
    frame: bytes | bytearray | memoryview, kind: ErrorKind, settings: IcmpErrorSettings, mtu: int = 0
) -> bytes | None:
    """The Ethernet frame with an error about the packet in the guest's `frame`; None when there must be none.

    `mtu` is in bytes and of TOO_BIG alone. Any bytes are fine.
    """
    data = bytes(frame)
    if len(data) < HEADER_LENGTH or (data[0] & 1 and kind is not ErrorKind.TOO_BIG):
        return None
    packet = icmp_error_packet(data[HEADER_LENGTH:], kind, settings, mtu)
    if packet is None:
        return None
    ethertype = ETHERTYPE_IPV4 if packet[0] >> 4 == 4 else ETHERTYPE_IPV6
    return data[6:12] + settings.mac + ethertype.to_bytes(2, "big") + packet


def icmp_error_packet(
    packet: bytes | bytearray | memoryview, kind: ErrorKind, settings: IcmpErrorSettings, mtu: int = 0
) -> bytes | None:
    """As `icmp_error`, from IP packet to IP packet: for packets rebuilt from what a host socket's error queue tells."""
    buf = memoryview(bytearray(packet))
    view = IpView()
    if view.parse(buf, 0, len(buf)) or view.fragment_offset or not _may_answer(buf, view, kind):
        return None
    quoted = bytes(buf[: view.end])
    guest = load_bytes(buf, view.source_at, view.address_length)
    target = load_bytes(buf, view.destination_at, view.address_length)
    if view.version == 4:
        source = target if kind in _FROM_THE_FAR_HOST else settings.gateway_v4
        return _error_v4(quoted, kind, source, guest, mtu)
    source = target if kind in _FROM_THE_FAR_HOST else settings.gateway_v6
    detail = mtu if kind is ErrorKind.TOO_BIG else view.extension_at if kind is ErrorKind.PROTOCOL else 0
    return _error_v6(quoted, kind, source, guest, detail)


def _may_answer(buf: memoryview, view: IpView, kind: ErrorKind) -> bool:
    """Whether the RFCs allow an error about this packet at all."""
    first_source, first_target = buf[view.source_at], buf[view.destination_at]
    if view.version == 4:
        if not 0 < first_source < 224 or first_source == 127 or first_target >= 224:
            return False
        return not (view.protocol == PROTOCOL_ICMP and _is_error(buf, view))
    if first_source == 0xFF or not any(buf[view.source_at : view.source_at + 16]):
        return False
    if first_target == 0xFF and kind is not ErrorKind.TOO_BIG:
        return False
    return not (view.protocol == PROTOCOL_ICMPV6 and _is_error(buf, view))


def _is_error(buf: memoryview, view: IpView) -> bool:
    """Of an ICMP packet: whether it is an error, a redirect, or too short to tell."""
    if view.payload_at >= view.end:
        return True
    kind = buf[view.payload_at]
    return icmp.is_error(view.version, kind) or (view.version == 6 and kind == _V6_REDIRECT)


def _error_v4(quoted: bytes, kind: ErrorKind, source: bytes, destination: bytes, mtu: int) -> bytes:
    type_, code = _V4[kind]
    next_hop = min(mtu, 0xFFFF) if kind is ErrorKind.TOO_BIG else 0  # RFC 1191 4
    head = bytes((type_, code, 0, 0, 0, 0)) + next_hop.to_bytes(2, "big")
    message = icmp.complete_v4(head + quoted[: _V4_LIMIT - 28])
    packet = bytearray(20)
    # RFC 1812 4.3.2.5: precedence 6, internetwork control.
    emit_ipv4(memoryview(packet), 0, 20 + len(message), PROTOCOL_ICMP, source, destination, traffic_class=0xC0)
    return bytes(packet) + message


def _error_v6(quoted: bytes, kind: ErrorKind, source: bytes, destination: bytes, detail: int) -> bytes:
    type_, code = _V6[kind]
    head = bytes((type_, code, 0, 0)) + detail.to_bytes(4, "big")
    message = icmp.complete_v6(head + quoted[: _V6_LIMIT - 48], source, destination)
    packet = bytearray(40)
    emit_ipv6(memoryview(packet), 0, len(message), PROTOCOL_ICMPV6, source, destination)
    return bytes(packet) + message
