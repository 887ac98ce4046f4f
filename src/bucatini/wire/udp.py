"""UDP headers: RFC 768.

A zero length field (RFC 2675 jumbograms) is rejected. Bytes between the end by the length field and the end of the IP
packet (RFC 9868 options) are ignored. Checksums are neither verified nor computed here.
"""

from __future__ import annotations

from bucatini.wire.octets import store16

__all__ = ["HEADER_LENGTH", "UdpView", "emit_udp"]

HEADER_LENGTH = 8


class UdpView:
    """Header of one datagram; numbers in host order. Meaningful only after `parse` returned true."""

    __slots__ = ("checksum", "destination_port", "end", "length", "payload_at", "source_port")

    source_port: int
    destination_port: int
    length: int
    """Header and payload, bytes."""
    checksum: int
    """0 means none over IPv4 and is illegal over IPv6."""
    payload_at: int
    end: int
    """By the length field."""

    def __init__(self) -> None:
        self.source_port = 0
        self.destination_port = 0
        self.length = 0
        self.checksum = 0
        self.payload_at = 0
        self.end = 0

    def parse(self, buf: memoryview, at: int, end: int) -> bool:
        """Reads the datagram at `at..end`. False when there are fewer bytes than 8 or than its length says."""
        if end - at < 8:
            return False
        length = buf[at + 4] << 8 | buf[at + 5]
        if length < 8 or length > end - at:
            return False
        self.source_port = buf[at] << 8 | buf[at + 1]
        self.destination_port = buf[at + 2] << 8 | buf[at + 3]
        self.length = length
        self.checksum = buf[at + 6] << 8 | buf[at + 7]
        self.payload_at = at + 8
        self.end = at + length
        return True


def emit_udp(buf: memoryview, at: int, source_port: int, destination_port: int, length: int, checksum: int) -> None:
    """Writes the 8 bytes of header at `at`; `length` counts header and payload."""
    store16(buf, at, source_port)
    store16(buf, at + 2, destination_port)
    store16(buf, at + 4, length)
    store16(buf, at + 6, checksum)
