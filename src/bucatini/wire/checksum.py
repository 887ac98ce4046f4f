"""The Internet checksum (RFC 1071) and the pseudo-headers of TCP, UDP and ICMPv6 (RFC 9293 3.1, RFC 768, RFC 8200 8.1).

Ones'-complement addition of 16-bit words is addition modulo 65535, so one big-integer remainder sums any length at C
speed. Zero has two forms there, 0x0000 and 0xffff. A true ones'-complement sum is 0x0000 only when every word is zero,
and `partial` keeps to that, so what is emitted is bit for bit what other stacks emit. Whoever compares sums must treat
both as zero.

Does not update checksums incrementally (RFC 1624): nothing here rewrites a packet in place.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["finish", "finish_udp", "internet", "partial", "pseudo_header", "transport_ok"]

Octets = bytes | bytearray | memoryview

SumOf = Callable[[memoryview], int]
"""Folded ones'-complement sum of a slice, as `partial`."""

ICMP = 1
UDP = 17


def partial(data: Octets, initial: int = 0) -> int:
    """Ones'-complement sum of `data` and `initial`, folded to 16 bits, not inverted.

    An odd last byte is padded on the right with zero, so only the last of several chained pieces may have an odd
    length.
    """
    total = int.from_bytes(data, "big")
    if len(data) & 1:
        total <<= 8
    total += initial
    return total % 0xFFFF or (0xFFFF if total else 0)


def finish(folded: int) -> int:
    """The checksum field for a folded sum: its 16-bit inverse."""
    return ~folded & 0xFFFF


def finish_udp(folded: int) -> int:
    """As `finish`, but never 0: in UDP that says "no checksum", and 0xffff is the same number (RFC 768)."""
    return ~folded & 0xFFFF or 0xFFFF


def internet(data: Octets) -> int:
    """Checksum of `data` whose checksum field is zero; 0 (or, if all bytes are zero, 0xffff) when the field is filled
    in.
    """
    return finish(partial(data))


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """Folded partial sum of the pseudo-header; `length` is of transport header and payload, in bytes.

    The same for both families: the fields differ in width and order, the sum does not.
    """
    return partial(source + destination, protocol + (length >> 16) + (length & 0xFFFF))


def transport_ok(
    buf: memoryview,
    source_at: int,
    destination_at: int,
    address_length: int,
    protocol: int,
    at: int,
    end: int,
    sum_of: SumOf = partial,
) -> bool:
    """Whether the checksum of the TCP, UDP, ICMP or ICMPv6 packet at `at..end` is right.

    The addresses are where the IP header holds them; `end` is where the transport packet ends (of UDP: by its length
    field). A UDP checksum of zero is right over IPv4 (RFC 768) and wrong over IPv6 (RFC 8200 8.1; the tunnels of RFC
    6935 are not ours).
    """
    if protocol == UDP and buf[at + 6] == 0 and buf[at + 7] == 0:
        return address_length == 4
    total = sum_of(buf[at:end])
    if not (protocol == ICMP and address_length == 4):  # RFC 792 has no pseudo-header
        total += sum_of(buf[source_at : source_at + address_length])
        total += sum_of(buf[destination_at : destination_at + address_length])
        total += protocol + (end - at >> 16) + (end - at & 0xFFFF)
    return total % 0xFFFF == 0
