"""Ethernet II headers and MAC addresses. IEEE 802.3; multicast mapping of RFC 2464 section 7.

A MAC address is 6 bytes. Does not strip VLAN tags (EtherType 0x8100 is named so that it can be counted) and knows no
trailer: padding to 60 bytes and frame check sequence are the link's.
"""

from __future__ import annotations

from bucatini.wire.octets import store_bytes

__all__ = [
    "BROADCAST",
    "ETHERTYPE_ARP",
    "ETHERTYPE_IPV4",
    "ETHERTYPE_IPV6",
    "ETHERTYPE_QINQ",
    "ETHERTYPE_VLAN",
    "HEADER_LENGTH",
    "emit_ethernet",
    "ipv6_multicast_mac",
    "mac_text",
    "parse_mac",
]

HEADER_LENGTH = 14

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_VLAN = 0x8100
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_QINQ = 0x88A8

BROADCAST = b"\xff" * 6


def emit_ethernet(buf: memoryview, at: int, destination: bytes, source: bytes, ethertype: int) -> None:
    """Writes the 14 bytes of header at `at`."""
    store_bytes(buf, at, destination)
    store_bytes(buf, at + 6, source)
    buf[at + 12] = ethertype >> 8 & 0xFF
    buf[at + 13] = ethertype & 0xFF


def ipv6_multicast_mac(address: bytes) -> bytes:
    """33:33 and the last four bytes of the packed IPv6 multicast address."""
    return b"\x33\x33" + address[12:]


def mac_text(mac: bytes) -> str:
    """Six pairs of lower-case hexadecimal digits joined by colons."""
    return mac.hex(":")


def parse_mac(text: str) -> bytes:
    """The 6 bytes of `aa:bb:cc:dd:ee:ff` (or with hyphens; one digit may stand for two). Raises ValueError."""
    parts = text.replace("-", ":").split(":")
    if len(parts) != 6 or not all(1 <= len(part) <= 2 and part.isascii() and part.isalnum() for part in parts):
        raise ValueError(f"not a MAC address: {text!r}")
    try:
        return bytes(int(part, 16) for part in parts)
    except ValueError:
        raise ValueError(f"not a MAC address: {text!r}") from None
