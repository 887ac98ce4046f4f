"""Network addresses as packed bytes in network order: 4 for IPv4, 16 for IPv6 (RFC 791, RFC 4291).

Packed bytes are what frames and sockets hold, compare and hash fast, and carry their family in their length. Text
appears only at the edges (options, events). An IPv4-mapped IPv6 address is never used to carry IPv4 inside the
program: what arrives so is unwrapped at the edge with `unmap`.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

__all__ = ["LINK_LOCAL_PREFIX", "MAPPED_PREFIX", "Endpoint", "family_of", "link_local_of", "pack", "text", "unmap"]

LINK_LOCAL_PREFIX = bytes.fromhex("fe80000000000000")
"""fe80::/64, RFC 4291 section 2.5.6."""
MAPPED_PREFIX = bytes(10) + b"\xff\xff"
"""::ffff:0:0/96, RFC 4291 section 2.5.5.2."""


class Endpoint(NamedTuple):
    """One end of a transport conversation: packed address and port in host order (0 where the protocol has none)."""

    address: bytes
    port: int

    def __str__(self) -> str:
        if len(self.address) == 4:
            return f"{text(self.address)}:{self.port}"
        return f"[{text(self.address)}]:{self.port}"


def pack(address: str) -> bytes:
    """Packed form of a textual address without zone or prefix length. Raises ValueError when it is not one."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.inet_pton(family, address)
    except OSError:
        raise ValueError(f"not an IP address: {address!r}") from None


def text(address: bytes) -> str:
    """Canonical text (RFC 5952 for IPv6) of a packed address of 4 or 16 bytes."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def family_of(address: bytes) -> int:
    """`socket.AF_INET` or `socket.AF_INET6`, by length."""
    return socket.AF_INET if len(address) == 4 else socket.AF_INET6


def unmap(address: bytes) -> bytes:
    """The IPv4 address inside an IPv4-mapped one; any other address unchanged."""
    if len(address) == 16 and address.startswith(MAPPED_PREFIX):
        return address[12:]
    return address


def link_local_of(mac: bytes) -> bytes:
    """The link-local address with the modified EUI-64 identifier of a MAC (RFC 4291 section 2.5.1, appendix A)."""
    return LINK_LOCAL_PREFIX + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]
