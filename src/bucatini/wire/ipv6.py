"""IPv6 headers and their chain of extension headers: RFC 8200.

The walk goes through hop-by-hop options, routing, fragment, authentication, destination options, mobility, HIP and
shim6, at most eight of them, and stops at the first other number: TCP, UDP, ICMPv6, ESP (whose inside is secret) or 59,
"no next header". It also stops behind the Fragment header of a later fragment, since what follows there is the middle
of something. A first fragment must hold the whole chain (RFC 7112). Options inside the headers are not looked at:
nothing here depends on them.

Does not accept jumbograms (RFC 2675): no link of ours carries more than 65535 bytes.
"""

from __future__ import annotations

from bucatini.wire.ip_fields import BAD_EXTENSION, BAD_LENGTH, BAD_VERSION, TRUNCATED, IpFields
from bucatini.wire.octets import load32, store16, store32, store_bytes

__all__ = [
    "FRAGMENT_HEADER_LENGTH",
    "HEADER_LENGTH",
    "MINIMUM_MTU",
    "NEXT_FRAGMENT",
    "NO_NEXT_HEADER",
    "PROTOCOL_ICMPV6",
    "emit_fragment_header",
    "emit_ipv6",
    "parse_ipv6",
]

HEADER_LENGTH = 40
FRAGMENT_HEADER_LENGTH = 8
MINIMUM_MTU = 1280

PROTOCOL_ICMPV6 = 58
NEXT_FRAGMENT = 44
NO_NEXT_HEADER = 59


def parse_ipv6(fields: IpFields, buf: memoryview, at: int, end: int) -> int:
    """Fills `fields` from the packet at `at`; `end` is where the frame ends. Returns 0, or the reason why it is
    malformed.
    """
    if end - at < 40:
        return TRUNCATED
    if buf[at] >> 4 != 6:
        return BAD_VERSION
    payload = buf[at + 4] << 8 | buf[at + 5]
    if payload == 0 and buf[at + 6] == 0:
        return BAD_LENGTH
    if payload > end - at - 40:
        return TRUNCATED
    fields.version = 6
    fields.header_at = at
    fields.end = at + 40 + payload
    fields.source_at = at + 8
    fields.destination_at = at + 24
    fields.address_length = 16
    fields.hop_limit = buf[at + 7]
    fields.traffic_class = (buf[at] << 4 | buf[at + 1] >> 4) & 0xFF
    fields.dont_fragment = True
    fields.fragment = False
    fields.fragment_offset = 0
    fields.more_fragments = False
    fields.identification = 0
    fields.fragment_header_at = -1
    fields.source_route = False
    return _walk(fields, buf, at)


def _walk(fields: IpFields, buf: memoryview, at: int) -> int:
    """Follows the extension headers of the packet at `at`; returns 0 or BAD_EXTENSION."""
    named_at = at + 6
    next_at = at + 40
    seen = 0
    while True:
        kind = buf[named_at]
        if not (kind == 0 or kind == 43 or kind == 44 or kind == 51 or kind == 60 or _is_rare(kind)):
            break
        seen += 1
        if seen > 8 or next_at + 8 > fields.end:
            return BAD_EXTENSION
        if kind == 0 and seen > 1:  # RFC 8200 4.1: hop-by-hop options only right behind the IPv6 header
            return BAD_EXTENSION
        if kind == 44:
            if fields.fragment_header_at >= 0:
                return BAD_EXTENSION
            _read_fragment(fields, buf, next_at)
            length = 8
        elif kind == 51:
            length = (buf[next_at + 1] + 2) << 2  # RFC 4302 2.2 counts in 4 bytes, less two
        else:
            length = (buf[next_at + 1] + 1) << 3
        if kind == 43 and buf[next_at + 2] == 0:
            fields.source_route = True
        if next_at + length > fields.end:
            return BAD_EXTENSION
        named_at = next_at
        next_at += length
        if fields.fragment_offset != 0:
            break
    fields.protocol = buf[named_at]
    fields.extension_at = named_at
    fields.payload_at = next_at
    return 0


def _is_rare(kind: int) -> bool:
    """Mobility (RFC 6275), HIP (RFC 7401), shim6 (RFC 5533)."""
    return kind == 135 or kind == 139 or kind == 140


def _read_fragment(fields: IpFields, buf: memoryview, at: int) -> None:
    word = buf[at + 2] << 8 | buf[at + 3]
    fields.fragment_header_at = at
    fields.fragment_offset = word & 0xFFF8
    fields.more_fragments = word & 1 != 0
    fields.fragment = word & 0xFFF9 != 0
    fields.identification = load32(buf, at + 4)


def emit_ipv6(
    buf: memoryview,
    at: int,
    payload_length: int,
    next_header: int,
    source: bytes,
    destination: bytes,
    hop_limit: int = 64,
    traffic_class: int = 0,
    flow_label: int = 0,
) -> None:
    """Writes the 40 bytes of header at `at`. `payload_length` counts everything behind it."""
    store32(buf, at, 0x60000000 | (traffic_class & 0xFF) << 20 | flow_label & 0xFFFFF)
    store16(buf, at + 4, payload_length)
    buf[at + 6] = next_header & 0xFF
    buf[at + 7] = hop_limit & 0xFF
    store_bytes(buf, at + 8, source)
    store_bytes(buf, at + 24, destination)


def emit_fragment_header(
    buf: memoryview, at: int, next_header: int, offset: int, more_fragments: bool, identification: int
) -> None:
    """Writes the 8 bytes of Fragment header (RFC 8200 4.5) at `at`; `offset` is in bytes, a multiple of 8."""
    buf[at] = next_header & 0xFF
    buf[at + 1] = 0
    store16(buf, at + 2, offset & 0xFFF8 | (1 if more_fragments else 0))
    store32(buf, at + 4, identification)
