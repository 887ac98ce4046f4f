"""IPv4 headers: RFC 791, with the fields of RFC 2474 and RFC 6864.

The header checksum is always verified and always written: it costs twenty bytes, and no offload leaves it undone.
Options are skipped; the two source routes are reported because a packet that chooses its own path must not be followed.
Does not reassemble: see `stack.reassembly`.
"""

from __future__ import annotations

from bucatini.wire.ip_fields import BAD_CHECKSUM, BAD_HEADER, BAD_LENGTH, BAD_VERSION, TRUNCATED, IpFields
from bucatini.wire.octets import store16, store_bytes

__all__ = [
    "DONT_FRAGMENT",
    "HEADER_LENGTH",
    "MORE_FRAGMENTS",
    "PROTOCOL_ICMP",
    "PROTOCOL_TCP",
    "PROTOCOL_UDP",
    "emit_ipv4",
    "header_sum",
    "parse_ipv4",
]

HEADER_LENGTH = 20
"""Without options."""

PROTOCOL_ICMP = 1
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17

DONT_FRAGMENT = 0x4000
"""Of the 16-bit field that also holds the fragment offset in units of 8 bytes."""
MORE_FRAGMENTS = 0x2000


def parse_ipv4(fields: IpFields, buf: memoryview, at: int, end: int) -> int:
    """Fills `fields` from the packet at `at`; `end` is where the frame ends. Returns 0, or the reason why it is
    malformed.
    """
    if end - at < 20:
        return TRUNCATED
    if buf[at] >> 4 != 4:
        return BAD_VERSION
    header = (buf[at] & 0x0F) << 2
    total = buf[at + 2] << 8 | buf[at + 3]
    if header < 20:
        return BAD_HEADER
    if total < header:
        return BAD_LENGTH
    if total > end - at:
        return TRUNCATED
    if header_sum(buf, at, header) != 0xFFFF:
        return BAD_CHECKSUM
    fields.source_route = False
    if header > 20 and not _options_ok(fields, buf, at + 20, at + header):
        return BAD_HEADER
    _fill(fields, buf, at, header, total)
    return 0


def _fill(fields: IpFields, buf: memoryview, at: int, header: int, total: int) -> None:
    word = buf[at + 6] << 8 | buf[at + 7]
    fields.version = 4
    fields.header_at = at
    fields.payload_at = at + header
    fields.end = at + total
    fields.source_at = at + 12
    fields.destination_at = at + 16
    fields.address_length = 4
    fields.protocol = buf[at + 9]
    fields.hop_limit = buf[at + 8]
    fields.traffic_class = buf[at + 1]
    fields.identification = buf[at + 4] << 8 | buf[at + 5]
    fields.dont_fragment = word & 0x4000 != 0
    fields.more_fragments = word & 0x2000 != 0
    fields.fragment_offset = (word & 0x1FFF) << 3
    fields.fragment = word & 0x3FFF != 0
    fields.extension_at = -1
    fields.fragment_header_at = -1


def _options_ok(fields: IpFields, buf: memoryview, at: int, end: int) -> bool:
    """Walks the options at `at..end` (RFC 791 3.1); each step moves on by at least one byte."""
    while at < end:
        kind = buf[at]
        if kind == 0:  # end of list
            return True
        if kind == 1:  # no operation
            at += 1
            continue
        if at + 1 >= end:
            return False
        length = buf[at + 1]
        if length < 2 or at + length > end:
            return False
        if kind == 131 or kind == 137:  # loose, strict source route
            fields.source_route = True
        at += length
    return True


def header_sum(buf: memoryview, at: int, length: int) -> int:
    """Folded ones'-complement sum of the header at `at`: 0xffff when its checksum is right. `length` is 20 to 60 bytes.

    The first twenty bytes are written out because that is nearly always all there is.
    """
    high = (
        buf[at]
        + buf[at + 2]
        + buf[at + 4]
        + buf[at + 6]
        + buf[at + 8]
        + buf[at + 10]
        + buf[at + 12]
        + buf[at + 14]
        + buf[at + 16]
        + buf[at + 18]
    )
    low = (
        buf[at + 1]
        + buf[at + 3]
        + buf[at + 5]
        + buf[at + 7]
        + buf[at + 9]
        + buf[at + 11]
        + buf[at + 13]
        + buf[at + 15]
        + buf[at + 17]
        + buf[at + 19]
    )
    total = (high << 8) + low
    for i in range(20, length, 2):
        total += buf[at + i] << 8 | buf[at + i + 1]
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def emit_ipv4(
    buf: memoryview,
    at: int,
    total_length: int,
    protocol: int,
    source: bytes,
    destination: bytes,
    hop_limit: int = 64,
    identification: int = 0,
    fragment_field: int = 0,
    traffic_class: int = 0,
) -> None:
    """Writes a header of 20 bytes with its checksum at `at`. `total_length` counts it and the payload.

    `fragment_field` is DONT_FRAGMENT, MORE_FRAGMENTS and the offset in units of 8 bytes. RFC 6864 lets the
    identification be anything where the datagram is not, and will not be, a fragment.
    """
    buf[at] = 0x45
    buf[at + 1] = traffic_class & 0xFF
    store16(buf, at + 2, total_length)
    store16(buf, at + 4, identification)
    store16(buf, at + 6, fragment_field)
    buf[at + 8] = hop_limit & 0xFF
    buf[at + 9] = protocol & 0xFF
    buf[at + 10] = 0
    buf[at + 11] = 0
    store_bytes(buf, at + 12, source)
    store_bytes(buf, at + 16, destination)
    store16(buf, at + 10, header_sum(buf, at, 20) ^ 0xFFFF)
