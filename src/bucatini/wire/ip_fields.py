"""What one IP packet says, whatever its family, and the reasons for which it is malformed.

Parsed by `wire.ipv4` and `wire.ipv6`, used through `wire.ip.IpView`. Does not hold the buffer.
"""

from __future__ import annotations

__all__ = [
    "BAD_CHECKSUM",
    "BAD_EXTENSION",
    "BAD_HEADER",
    "BAD_LENGTH",
    "BAD_VERSION",
    "REASONS",
    "TRUNCATED",
    "IpFields",
]

TRUNCATED = 1
"""Fewer bytes than the header, or than the header promises."""
BAD_VERSION = 2
"""The first four bits do not say the version expected."""
BAD_HEADER = 3
"""IPv4 header length below 20 bytes, or an option that runs out of the header."""
BAD_CHECKSUM = 4
"""IPv4 header checksum."""
BAD_LENGTH = 5
"""IPv4 total length below the header length, or an IPv6 jumbogram (RFC 2675)."""
BAD_EXTENSION = 6
"""IPv6 extension headers: cut off, out of place, or more than eight."""

REASONS = {
    TRUNCATED: "truncated",
    BAD_VERSION: "bad version",
    BAD_HEADER: "bad header",
    BAD_CHECKSUM: "bad header checksum",
    BAD_LENGTH: "bad length",
    BAD_EXTENSION: "bad extension headers",
}
"""Words for the reasons, for events and captures."""


class IpFields:
    """Numbers are in host order, offsets and lengths in bytes. Meaningful only after a parse that returned 0."""

    __slots__ = (
        "address_length",
        "destination_at",
        "dont_fragment",
        "end",
        "extension_at",
        "fragment",
        "fragment_header_at",
        "fragment_offset",
        "header_at",
        "hop_limit",
        "identification",
        "more_fragments",
        "payload_at",
        "protocol",
        "source_at",
        "source_route",
        "traffic_class",
        "version",
    )

    version: int
    header_at: int
    payload_at: int
    """After IPv4 options or IPv6 extension headers."""
    end: int
    """Where the packet ends by its own length field: Ethernet padding lies beyond."""
    source_at: int
    destination_at: int
    address_length: int
    """4 or 16."""
    protocol: int
    """Of the upper layer, after IPv6 extension headers; of a later IPv6 fragment, what its Fragment header names."""
    hop_limit: int
    traffic_class: int
    fragment: bool
    """More fragments follow or the offset is not 0. An IPv6 atomic fragment (RFC 6946) is none."""
    fragment_offset: int
    """Bytes."""
    more_fragments: bool
    identification: int
    dont_fragment: bool
    """Always true of IPv6, whose routers never fragment."""
    extension_at: int
    """Where the byte is that named the upper protocol in IPv6; -1 in IPv4."""
    fragment_header_at: int
    """Where the IPv6 Fragment header is; -1 if none."""
    source_route: bool
    """IPv4 loose or strict source route (RFC 7126 4.3: drop), IPv6 routing header type 0 (RFC 5095: drop)."""

    def __init__(self) -> None:
        self.version = 0
        self.header_at = 0
        self.payload_at = 0
        self.end = 0
        self.source_at = 0
        self.destination_at = 0
        self.address_length = 0
        self.protocol = 0
        self.hop_limit = 0
        self.traffic_class = 0
        self.fragment = False
        self.fragment_offset = 0
        self.more_fragments = False
        self.identification = 0
        self.dont_fragment = False
        self.extension_at = -1
        self.fragment_header_at = -1
        self.source_route = False
