"""Whom a guest may reach: what rules answer, and what is open to every guest where no rule does.

Open are the public addresses of both families, the gateways, and the lease's resolvers, over UDP and TCP. Public is
what one host of the Internet may have. For IPv4 that is Softnet's "globally routable" (ip_network 0.4.1), written down
because `ipaddress.is_global` changed between patch releases, without the groups that Softnet counts in. For IPv6 it is
what the IANA special-purpose registry calls globally reachable (RFC 6890, RFC 8190; read 2026-11), inside 2000::/3,
from which IANA assigns unicast, and NAT64's 64:ff9b::/96.

An IPv6 address that carries an IPv4 address has to be allowed as both: a caller asks about each of its `readings`. So
64:ff9b::10.0.0.1 is public, and not open, because 10.0.0.1 is not.

Does not: hold rules (`rules` does), or look at packets.
"""

from __future__ import annotations

from typing import Protocol

from bucatini.base.address import MAPPED_PREFIX
from bucatini.base.prefix import PrefixTable, parse_prefix
from bucatini.guard.binding import Binding

__all__ = ["ALLOW", "BLOCK", "NO_RULE", "Rules", "is_global_ipv4", "is_open", "is_public", "readings"]

NO_RULE = 0
ALLOW = 1
BLOCK = 2

DNS_PORT = 53
NAT64 = bytes.fromhex("0064ff9b0000000000000000")
"""64:ff9b::/96, RFC 6052 section 2.1."""

_ASSIGNED = PrefixTable(
    [
        (parse_prefix(prefix), True)
        for prefix in (
            "2001:1::1",  # PCP anycast, RFC 7723
            "2001:1::2",  # TURN anycast, RFC 8155
            "2001:1::3",  # DNS-SD registration anycast, RFC 9665
            "2001:3::/32",  # AMT, RFC 7450
            "2001:4:112::/48",  # AS112, RFC 7535
            "2001:20::/28",  # ORCHIDv2, RFC 7343
            "2001:30::/28",  # drone identifiers, RFC 9374
        )
    ],
    False,
)
"""What is public of 2001::/23, the protocol assignments (RFC 2928)."""


class Rules(Protocol):
    """Whom a guest may talk to."""

    def decide(self, direction: str, address: bytes, port: int) -> int:
        """NO_RULE, ALLOW or BLOCK for the packed address of the peer and its port, 0 where there is none."""


def is_open(address: bytes, port: int, binding: Binding) -> bool:
    """Whether the guest reaches this one reading of an address where no rule decides."""
    if is_public(address) or address in binding.gateways:
        return True
    # RFC 7766: an answer that is too long for UDP is asked for again over TCP.
    return port == DNS_PORT and address in binding.dns


def is_public(address: bytes) -> bool:
    """Whether one host of the Internet may have this packed address."""
    if len(address) == 4:
        return address[0] >> 4 != 0xE and is_global_ipv4(int.from_bytes(address, "big"))
    high = int.from_bytes(address[:4], "big")
    if high >> 29 != 1:
        return address[:12] == NAT64
    if high >> 9 == 0x20010000 >> 9:
        return _ASSIGNED.find(address)
    # Documentation (RFC 3849, RFC 9637); 6to4, whose relays RFC 7526 ended.
    return high != 0x20010DB8 and high >> 12 != 0x3FFF0 and high >> 16 != 0x2002


def is_global_ipv4(address: int) -> bool:
    """The list of Softnet 0.19.0, which counts groups and 192.88.99.0/24 as global."""
    high = address >> 24
    if high == 0 or high == 10 or high == 127 or high >= 240:
        return False
    high = address >> 16
    if high == 0xA9FE or high == 0xC0A8 or high >> 1 == 0xC612 >> 1 or high >> 4 == 0xAC1 or high >> 6 == 0x6440 >> 6:
        return False
    high = address >> 8
    if high == 0xC00002 or high == 0xC63364 or high == 0xCB0071:
        return False
    return high != 0xC00000 or address == 0xC0000009 or address == 0xC000000A


def readings(address: bytes) -> tuple[bytes, ...]:
    """The address, and the IPv4 address that a translator or tunnel would make of it (RFC 6052, RFC 4291, RFC 3056)."""
    if len(address) == 4:
        return (address,)
    if address[:2] == b"\x20\x02":
        return address, address[2:6]
    if address[:12] == NAT64 or address[:12] == MAPPED_PREFIX:
        return address, address[12:]
    return (address,)
