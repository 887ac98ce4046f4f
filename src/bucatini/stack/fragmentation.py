"""Cuts an IP packet of our own making into fragments that fit an MTU. RFC 791 section 2.3, RFC 8200 section 4.5.

Needed for datagrams from host sockets that are larger than the guest's link, and for replies of the gateway. The caller
hands in the identification, and must not hand in the same one again for the same pair of addresses while fragments may
be alive.

Does not cut what it did not make: packets have no IPv4 options and no IPv6 extension headers. Does not look at Don't
Fragment.
"""

from __future__ import annotations

from bucatini.base.errors import BugError
from bucatini.wire.ipv4 import MORE_FRAGMENTS, emit_ipv4
from bucatini.wire.ipv6 import FRAGMENT_HEADER_LENGTH, NEXT_FRAGMENT, emit_fragment_header, emit_ipv6

__all__ = ["fragment"]


def fragment(packet: bytes, mtu: int, identification: int) -> list[bytes]:
    """The fragments of `packet` in order, each of at most `mtu` bytes; the packet itself alone when it fits.

    `identification` is of 16 bits (IPv4) or 32 (IPv6). Raises BugError when the packet is not as `emit_ipv4` and
    `emit_ipv6` begin it, or the MTU leaves no room for eight bytes of payload.
    """
    if len(packet) <= mtu:
        return [packet]
    if packet[0] == 0x45:
        return _fragment_v4(packet, _room(mtu, 20), identification)
    if packet[0] >> 4 == 6:
        return _fragment_v6(packet, _room(mtu, 40 + FRAGMENT_HEADER_LENGTH), identification)
    raise BugError(f"cannot fragment a packet that begins with {packet[0]:#04x}")


def _room(mtu: int, headers: int) -> int:
    """Payload bytes per fragment: all but the last are cut at multiples of 8."""
    room = (mtu - headers) & ~7
    if room < 8:
        raise BugError(f"an MTU of {mtu} bytes leaves no room behind {headers} bytes of headers")
    return room


def _fragment_v4(packet: bytes, room: int, identification: int) -> list[bytes]:
    payload = packet[20:]
    fragments: list[bytes] = []
    for offset in range(0, len(payload), room):
        piece = payload[offset : offset + room]
        more = MORE_FRAGMENTS if offset + room < len(payload) else 0
        head = bytearray(20)
        emit_ipv4(
            memoryview(head),
            0,
            20 + len(piece),
            packet[9],
            packet[12:16],
            packet[16:20],
            hop_limit=packet[8],
            identification=identification,
            fragment_field=more | offset >> 3,
            traffic_class=packet[1],
        )
        fragments.append(bytes(head) + piece)
    return fragments


def _fragment_v6(packet: bytes, room: int, identification: int) -> list[bytes]:
    payload = packet[40:]
    first_word = int.from_bytes(packet[:4], "big")
    fragments: list[bytes] = []
    for offset in range(0, len(payload), room):
        piece = payload[offset : offset + room]
        head = bytearray(48)
        buf = memoryview(head)
        emit_ipv6(
            buf,
            0,
            FRAGMENT_HEADER_LENGTH + len(piece),
            NEXT_FRAGMENT,
            packet[8:24],
            packet[24:40],
            hop_limit=packet[7],
            traffic_class=first_word >> 20 & 0xFF,
            flow_label=first_word & 0xFFFFF,
        )
        emit_fragment_header(buf, 40, packet[6], offset, offset + room < len(payload), identification)
        fragments.append(bytes(head) + piece)
    return fragments
