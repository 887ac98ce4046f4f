"""One view for both families of IP packets, so that no code above needs two branches.

Does not decide anything: whether a source route, a fragment or an address is acceptable is the stack's business.
"""

from __future__ import annotations

from bucatini.wire.ip_fields import (
    BAD_CHECKSUM,
    BAD_EXTENSION,
    BAD_HEADER,
    BAD_LENGTH,
    BAD_VERSION,
    REASONS,
    TRUNCATED,
    IpFields,
)
from bucatini.wire.ipv4 import parse_ipv4
from bucatini.wire.ipv6 import parse_ipv6

__all__ = [
    "BAD_CHECKSUM",
    "BAD_EXTENSION",
    "BAD_HEADER",
    "BAD_LENGTH",
    "BAD_VERSION",
    "REASONS",
    "TRUNCATED",
    "IpView",
]


class IpView(IpFields):
    """Where things are in one IP packet. Make one, reuse it for every packet; see `IpFields` for what it holds."""

    __slots__ = ()

    def parse(self, buf: memoryview, at: int, end: int) -> int:
        """Reads the packet at `at` in a frame that ends at `end`. Returns 0, or the reason (`REASONS`) why it is
        malformed.

        The version is taken from the packet, not from the EtherType: a frame whose two disagree is for the caller to
        drop. Bytes behind the packet's own length are Ethernet padding, tolerated for both families.
        """
        if end <= at:
            return TRUNCATED
        if buf[at] >> 4 == 4:
            return parse_ipv4(self, buf, at, end)
        if buf[at] >> 4 == 6:
            return parse_ipv6(self, buf, at, end)
        return BAD_VERSION
