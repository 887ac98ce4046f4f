"""BOOTP and DHCP messages: RFC 951, RFC 2131 section 2, options of RFC 2132, long and overloaded ones of RFC 3396.

The fields bear the names of RFC 2131 figure 1. Options are a mapping from code to data, in the order of their first
appearance: the parts of an option that comes more than once belong together (RFC 3396 section 5), and `file` and
`sname` are read as options where option 52 says so, and not kept otherwise. A message without the magic cookie is
BOOTP without vendor extensions and has no options.

Does not interpret options, and does not overload `file` and `sname` when it writes: what does not fit is the caller's
to leave out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = [
    "ACK",
    "BOOTREPLY",
    "BOOTREQUEST",
    "BROADCAST_FLAG",
    "CLIENT_PORT",
    "DECLINE",
    "DISCOVER",
    "FIXED_LENGTH",
    "INFORM",
    "MINIMUM_LENGTH",
    "NAK",
    "OFFER",
    "RELEASE",
    "REQUEST",
    "SERVER_PORT",
    "DhcpMessage",
    "DhcpOption",
    "emit_classless_routes",
    "emit_dhcp",
    "option_size",
    "parse_dhcp",
]

SERVER_PORT = 67
CLIENT_PORT = 68

BOOTREQUEST = 1
BOOTREPLY = 2

DISCOVER = 1
OFFER = 2
REQUEST = 3
DECLINE = 4
ACK = 5
NAK = 6
RELEASE = 7
INFORM = 8

BROADCAST_FLAG = 0x8000
"""RFC 2131 section 2, figure 2: the client cannot yet receive unicast."""

FIXED_LENGTH = 236
"""Bytes before the magic cookie."""
MINIMUM_LENGTH = 300
"""RFC 1542 section 2.1: shorter messages were never legal BOOTP, and some clients and relays drop them."""

_COOKIE = bytes((99, 130, 83, 99))
_PAD = 0
_END = 255
_OVERLOAD = 52
_SNAME = slice(44, 108)
_FILE = slice(108, 236)


class DhcpOption:
    """Codes of the options used here, RFC 2132 unless said otherwise."""

    SUBNET_MASK = 1
    ROUTER = 3
    DNS = 6
    HOST_NAME = 12
    MTU = 26
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    MESSAGE_TYPE = 53
    SERVER_IDENTIFIER = 54
    PARAMETER_LIST = 55
    MESSAGE = 56
    MAXIMUM_SIZE = 57
    RENEWAL_TIME = 58
    REBINDING_TIME = 59
    CLIENT_IDENTIFIER = 61
    RAPID_COMMIT = 80
    """RFC 4039."""
    DOMAIN_SEARCH = 119
    """RFC 3397."""
    CLASSLESS_ROUTES = 121
    """RFC 3442."""


class DhcpMessage(NamedTuple):
    """One message; addresses are packed, numbers in host order. `options` holds at least what RFC 2131 wants there."""

    op: int
    xid: int
    htype: int = 1
    hlen: int = 6
    hops: int = 0
    secs: int = 0
    flags: int = 0
    ciaddr: bytes = bytes(4)
    yiaddr: bytes = bytes(4)
    siaddr: bytes = bytes(4)
    giaddr: bytes = bytes(4)
    chaddr: bytes = bytes(16)
    """The whole field, of which `hlen` bytes count."""
    options: Mapping[int, bytes] = {}


def parse_dhcp(data: bytes) -> DhcpMessage | None:
    """The message in a UDP payload. None when it is shorter than the fixed part, or an option runs out of its field."""
    if len(data) < FIXED_LENGTH or data[2] > 16:
        return None
    options: dict[int, bytes] = {}
    if data[FIXED_LENGTH : FIXED_LENGTH + 4] == _COOKIE:
        if not _read_options(data[FIXED_LENGTH + 4 :], options):
            return None
        overload = options.pop(_OVERLOAD, b"\0")[-1:]
        fields = [field for bit, field in ((1, _FILE), (2, _SNAME)) if overload and overload[0] & bit]
        if not all(_read_options(data[field], options) for field in fields):
            return None
    return DhcpMessage(
        op=data[0],
        htype=data[1],
        hlen=data[2],
        hops=data[3],
        xid=int.from_bytes(data[4:8], "big"),
        secs=int.from_bytes(data[8:10], "big"),
        flags=int.from_bytes(data[10:12], "big"),
        ciaddr=data[12:16],
        yiaddr=data[16:20],
        siaddr=data[20:24],
        giaddr=data[24:28],
        chaddr=data[28:44],
        options=options,
    )


def emit_dhcp(message: DhcpMessage) -> bytes:
    """The message with cookie and end option, padded to `MINIMUM_LENGTH`. Data longer than 255 bytes is split."""
    parts = [
        bytes((message.op, message.htype, message.hlen, message.hops)),
        message.xid.to_bytes(4, "big"),
        message.secs.to_bytes(2, "big"),
        message.flags.to_bytes(2, "big"),
        message.ciaddr + message.yiaddr + message.siaddr + message.giaddr,
        message.chaddr,
        bytes(FIXED_LENGTH - 44),
        _COOKIE,
    ]
    parts.extend(_emit_option(code, data) for code, data in message.options.items())
    parts.append(bytes((_END,)))
    return b"".join(parts).ljust(MINIMUM_LENGTH, b"\0")


def option_size(data: bytes) -> int:
    """Bytes that an option with this data takes in a message."""
    return len(data) + 2 * max(1, -(-len(data) // 255))


def emit_classless_routes(routes: tuple[tuple[bytes, int, bytes | None], ...]) -> bytes:
    """Data of option 121 (RFC 3442): for each route packed destination, prefix length, packed gateway.

    No gateway says that the destination is on the link. Bits behind the prefix are cleared, as the RFC demands.
    """
    parts: list[bytes] = []
    for destination, length, gateway in routes:
        mask = (0xFFFFFFFF << 32 - length & 0xFFFFFFFF).to_bytes(4, "big")
        network = bytes(octet & kept for octet, kept in zip(destination, mask, strict=True))
        parts.append(bytes((length,)) + network[: (length + 7) >> 3] + (gateway or bytes(4)))
    return b"".join(parts)


def _read_options(field: bytes, options: dict[int, bytes]) -> bool:
    """Adds the options of a field to those known. False when one runs out of it; a missing end is forgiven."""
    at = 0
    while at < len(field) and field[at] != _END:
        if field[at] == _PAD:
            at += 1
            continue
        end = at + 2 + field[at + 1] if at + 1 < len(field) else len(field) + 1
        if end > len(field):
            return False
        options[field[at]] = options.get(field[at], b"") + field[at + 2 : end]
        at = end
    return True


def _emit_option(code: int, data: bytes) -> bytes:
    pieces = [data[i : i + 255] for i in range(0, len(data), 255)] or [b""]
    return b"".join(bytes((code, len(piece))) + piece for piece in pieces)
