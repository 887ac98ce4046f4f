"""The virtio-net header that goes before each frame on a TAP device with IFF_VNET_HDR. Virtio 1.2 section 5.1.6; tun(4)
sources.

We set a header of 12 bytes (TUNSETVNETHDRSZ), the size that vhost-user and virtio 1.0 use, and little-endian fields
(TUNSETVNETLE). Of the 12 bytes TUN itself reads and writes the first 10; the last two, `num_buffers`, it ignores, and
we write 0.

`NEEDS_CSUM` says: the 16-bit field at `csum_start + csum_offset` holds the folded, not inverted sum of the
pseudo-header, and whoever delivers the frame adds the rest from `csum_start` on. Offsets count from the start of the
Ethernet frame. Does not judge whether the offsets make sense for the frame: whoever uses them does.
"""

from __future__ import annotations

__all__ = [
    "DATA_VALID",
    "GSO_ECN",
    "GSO_NONE",
    "GSO_TCPV4",
    "GSO_TCPV6",
    "GSO_UDP",
    "GSO_UDP_L4",
    "HEADER_LENGTH",
    "NEEDS_CSUM",
    "VirtioNetHeader",
]

HEADER_LENGTH = 12

NEEDS_CSUM = 1
"""The checksum is to be completed by the receiver."""
DATA_VALID = 2
"""The checksum has been verified, or the frame never left this machine."""

GSO_NONE = 0
GSO_TCPV4 = 1
GSO_UDP = 3
"""Fragmentation of UDP (UFO): no longer offered by Linux."""
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
"""Segmentation of UDP (USO): several datagrams of one flow in one frame."""
GSO_ECN = 0x80
"""Flag beside the type: the first segment has CWR set."""


class VirtioNetHeader:
    """The fields, in host order; lengths and offsets in bytes."""

    __slots__ = ("csum_offset", "csum_start", "flags", "gso_size", "gso_type", "hdr_len")

    flags: int
    gso_type: int
    hdr_len: int
    """Length of all headers up to the payload; a hint."""
    gso_size: int
    """Payload bytes of each segment."""
    csum_start: int
    csum_offset: int
    """From `csum_start` to the checksum field."""

    def __init__(self) -> None:
        self.flags = 0
        self.gso_type = 0
        self.hdr_len = 0
        self.gso_size = 0
        self.csum_start = 0
        self.csum_offset = 0

    def clear(self) -> None:
        """The header of a complete, ordinary frame: all zero."""
        self.flags = 0
        self.gso_type = 0
        self.hdr_len = 0
        self.gso_size = 0
        self.csum_start = 0
        self.csum_offset = 0

    def parse(self, buf: memoryview, at: int) -> None:
        """Reads the header at `at`, where at least 12 bytes are."""
        self.flags = buf[at]
        self.gso_type = buf[at + 1]
        self.hdr_len = buf[at + 2] | buf[at + 3] << 8
        self.gso_size = buf[at + 4] | buf[at + 5] << 8
        self.csum_start = buf[at + 6] | buf[at + 7] << 8
        self.csum_offset = buf[at + 8] | buf[at + 9] << 8

    def emit(self, buf: memoryview, at: int) -> None:
        """Writes 12 bytes at `at`."""
        buf[at] = self.flags & 0xFF
        buf[at + 1] = self.gso_type & 0xFF
        buf[at + 2] = self.hdr_len & 0xFF
        buf[at + 3] = self.hdr_len >> 8 & 0xFF
        buf[at + 4] = self.gso_size & 0xFF
        buf[at + 5] = self.gso_size >> 8 & 0xFF
        buf[at + 6] = self.csum_start & 0xFF
        buf[at + 7] = self.csum_start >> 8 & 0xFF
        buf[at + 8] = self.csum_offset & 0xFF
        buf[at + 9] = self.csum_offset >> 8 & 0xFF
        buf[at + 10] = 0
        buf[at + 11] = 0
