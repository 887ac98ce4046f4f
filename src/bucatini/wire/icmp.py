"""ICMP and ICMPv6 headers and the numbers of the messages used here: RFC 792, RFC 1812, RFC 4443.

The two protocols share the shape of the first eight bytes, so one view serves both; names with V6 are of ICMPv6. What
lies behind depends on the type: see `wire.ndp` and `services.icmp_error`.
"""

from __future__ import annotations

from bucatini.wire.checksum import finish, partial, pseudo_header
from bucatini.wire.octets import store16

__all__ = [
    "ECHO_REPLY",
    "ECHO_REQUEST",
    "FRAGMENTATION_NEEDED",
    "HEADER_LENGTH",
    "PARAMETER_PROBLEM",
    "REDIRECT",
    "SOURCE_QUENCH",
    "TIME_EXCEEDED",
    "UNREACHABLE",
    "UNREACHABLE_HOST",
    "UNREACHABLE_NET",
    "UNREACHABLE_PORT",
    "UNREACHABLE_PROHIBITED",
    "UNREACHABLE_PROTOCOL",
    "V6_ECHO_REPLY",
    "V6_ECHO_REQUEST",
    "V6_PACKET_TOO_BIG",
    "V6_PARAMETER_PROBLEM",
    "V6_TIME_EXCEEDED",
    "V6_UNREACHABLE",
    "V6_UNREACHABLE_ADDRESS",
    "V6_UNREACHABLE_NO_ROUTE",
    "V6_UNREACHABLE_PORT",
    "V6_UNREACHABLE_PROHIBITED",
    "IcmpView",
    "complete_v4",
    "complete_v6",
    "emit_icmp",
    "is_error",
]

HEADER_LENGTH = 8

ECHO_REPLY = 0
UNREACHABLE = 3
SOURCE_QUENCH = 4
REDIRECT = 5
ECHO_REQUEST = 8
TIME_EXCEEDED = 11
PARAMETER_PROBLEM = 12

UNREACHABLE_NET = 0
UNREACHABLE_HOST = 1
UNREACHABLE_PROTOCOL = 2
UNREACHABLE_PORT = 3
FRAGMENTATION_NEEDED = 4
UNREACHABLE_PROHIBITED = 13
"""RFC 1812 5.2.7.1: communication administratively prohibited."""

V6_UNREACHABLE = 1
V6_PACKET_TOO_BIG = 2
V6_TIME_EXCEEDED = 3
V6_PARAMETER_PROBLEM = 4
V6_ECHO_REQUEST = 128
V6_ECHO_REPLY = 129

V6_UNREACHABLE_NO_ROUTE = 0
V6_UNREACHABLE_PROHIBITED = 1
V6_UNREACHABLE_ADDRESS = 3
V6_UNREACHABLE_PORT = 4

_PROTOCOL_ICMPV6 = 58
_V4_ERRORS = frozenset((UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER_PROBLEM))


class IcmpView:
    """First eight bytes of one message. Meaningful only after `parse` returned true."""

    __slots__ = ("checksum", "code", "end", "identifier", "payload_at", "sequence", "type")

    type: int
    code: int
    checksum: int
    identifier: int
    """Bytes 4 and 5: of an echo the identifier."""
    sequence: int
    """Bytes 6 and 7: of an echo the sequence number, of FRAGMENTATION_NEEDED the MTU."""
    payload_at: int
    end: int

    def __init__(self) -> None:
        self.type = 0
        self.code = 0
        self.checksum = 0
        self.identifier = 0
        self.sequence = 0
        self.payload_at = 0
        self.end = 0

    def parse(self, buf: memoryview, at: int, end: int) -> bool:
        """Reads the message at `at..end`. False when it is shorter than 8 bytes: no message of either RFC is."""
        if end - at < 8:
            return False
        self.type = buf[at]
        self.code = buf[at + 1]
        self.checksum = buf[at + 2] << 8 | buf[at + 3]
        self.identifier = buf[at + 4] << 8 | buf[at + 5]
        self.sequence = buf[at + 6] << 8 | buf[at + 7]
        self.payload_at = at + 8
        self.end = end
        return True


def emit_icmp(
    buf: memoryview, at: int, kind: int, code: int, identifier: int, sequence: int, checksum: int = 0
) -> None:
    """Writes the 8 bytes of header at `at`."""
    buf[at] = kind & 0xFF
    buf[at + 1] = code & 0xFF
    store16(buf, at + 2, checksum)
    store16(buf, at + 4, identifier)
    store16(buf, at + 6, sequence)


def is_error(version: int, kind: int) -> bool:
    """Whether a message of this kind (`version` 4 or 6 of IP) reports an error, so that none may be sent about it."""
    return kind < 128 if version == 6 else kind in _V4_ERRORS


def complete_v4(message: bytes | bytearray) -> bytes:
    """The whole ICMP message, its checksum field computed anew."""
    total = partial(bytes(message[:2]) + bytes(message[4:]))
    return bytes(message[:2]) + finish(total).to_bytes(2, "big") + bytes(message[4:])


def complete_v6(message: bytes | bytearray, source: bytes, destination: bytes) -> bytes:
    """The whole ICMPv6 message between two packed addresses, its checksum field computed anew (RFC 4443 2.3)."""
    initial = pseudo_header(source, destination, _PROTOCOL_ICMPV6, len(message))
    total = partial(bytes(message[:2]) + bytes(message[4:]), initial)
    return bytes(message[:2]) + finish(total).to_bytes(2, "big") + bytes(message[4:])
