"""ARP for IPv4 over Ethernet: RFC 826, RFC 5227 for probes and announcements.

One value for both directions. Other hardware and protocol types parse as None. Does not look at the Ethernet header
before it.
"""

from __future__ import annotations

from typing import NamedTuple

from bucatini.wire.octets import load16

__all__ = ["LENGTH", "REPLY", "REQUEST", "ArpRepr", "emit_arp", "parse_arp"]

LENGTH = 28

REQUEST = 1
REPLY = 2

_ETHERNET_IPV4 = bytes.fromhex("0001 0800 06 04")


class ArpRepr(NamedTuple):
    """MAC addresses are 6 bytes, IPv4 addresses packed."""

    operation: int
    """REQUEST, REPLY or any other 16-bit number."""
    sender_mac: bytes
    sender_address: bytes
    target_mac: bytes
    target_address: bytes


def parse_arp(buf: memoryview, at: int, end: int) -> ArpRepr | None:
    """The packet at `at..end`, which may be longer (Ethernet padding). None when it is cut off or not Ethernet and
    IPv4.
    """
    if end - at < LENGTH or bytes(buf[at : at + 6]) != _ETHERNET_IPV4:
        return None
    body = bytes(buf[at + 8 : at + LENGTH])
    return ArpRepr(load16(buf, at + 6), body[:6], body[6:10], body[10:16], body[16:])


def emit_arp(arp: ArpRepr) -> bytes:
    """The 28 bytes of the packet."""
    operation = arp.operation.to_bytes(2, "big")
    return b"".join((_ETHERNET_IPV4, operation, arp.sender_mac, arp.sender_address, arp.target_mac, arp.target_address))
