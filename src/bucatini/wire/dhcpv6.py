"""DHCPv6 messages between clients and servers: RFC 8415 sections 8 and 21, option numbers of RFC 3646.

A message is a type, a transaction identifier of 24 bits and options; an identity association is an option whose data
ends in options again. Options are pairs of code and data, in order, since some come more than once.

Does not know the messages of relays (RFC 8415 section 9), whose shape differs: they are malformed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = [
    "ADVERTISE",
    "ALL_RELAYS_AND_SERVERS",
    "CLIENT_PORT",
    "CONFIRM",
    "DECLINE",
    "INFINITE",
    "INFORMATION_REQUEST",
    "MAXIMUM_DUID",
    "MAXIMUM_MESSAGE",
    "REBIND",
    "RELEASE",
    "RENEW",
    "REPLY",
    "REQUEST",
    "SERVER_PORT",
    "SOLICIT",
    "Association",
    "Dhcp6Message",
    "Dhcp6Option",
    "Dhcp6Status",
    "Option",
    "duid_llt",
    "emit_association",
    "emit_dhcpv6",
    "emit_ia_address",
    "emit_status",
    "parse_association",
    "parse_dhcpv6",
    "parse_options",
]

CLIENT_PORT = 546
SERVER_PORT = 547

ALL_RELAYS_AND_SERVERS = bytes.fromhex("ff02 0000 0000 0000 0000 0000 0001 0002")
"""ff02::1:2, RFC 8415 section 7.1."""

SOLICIT = 1
ADVERTISE = 2
REQUEST = 3
CONFIRM = 4
RENEW = 5
REBIND = 6
REPLY = 7
RELEASE = 8
DECLINE = 9
INFORMATION_REQUEST = 11

INFINITE = 0xFFFFFFFF
"""A time that never ends, RFC 8415 section 7.7."""

MAXIMUM_DUID = 130
"""Bytes: a type of 2 and up to 128 (RFC 8415 section 11.1)."""
MAXIMUM_MESSAGE = 4096
"""Bytes. A longer one is malformed: clients fill a few hundred, and a reply is about as long as its request."""

_LARGEST_TYPE = 11
"""Behind it are relays, and what no client sends."""
_MAXIMUM_OPTIONS = 64
"""On one level of one message; dhcpcd, the most talkative, sends about ten."""


class Dhcp6Option:
    """Codes of the options used here, RFC 8415 unless said otherwise."""

    CLIENT_IDENTIFIER = 1
    SERVER_IDENTIFIER = 2
    IA_NA = 3
    IA_TA = 4
    IA_ADDRESS = 5
    REQUESTED = 6
    """The "Option Request" option."""
    PREFERENCE = 7
    STATUS = 13
    RAPID_COMMIT = 14
    DNS = 23
    """RFC 3646."""
    DOMAIN_SEARCH = 24
    """RFC 3646."""
    IA_PD = 25
    IA_PREFIX = 26


class Dhcp6Status:
    """Status codes, RFC 8415 section 21.13."""

    SUCCESS = 0
    NO_ADDRESSES = 2
    NO_BINDING = 3
    NOT_ON_LINK = 4
    USE_MULTICAST = 5
    NO_PREFIX = 6


Option = tuple[int, bytes]


class Dhcp6Message(NamedTuple):
    """One message; `transaction` has 24 bits."""

    kind: int
    transaction: int
    options: tuple[Option, ...] = ()

    def first(self, code: int) -> bytes | None:
        """Data of the first option of the code."""
        return next((data for found, data in self.options if found == code), None)


class Association(NamedTuple):
    """IA_NA, IA_TA or IA_PD (RFC 8415 21.4, 21.5, 21.21); times in seconds, 0 in an IA_TA, which has none."""

    code: int
    iaid: bytes
    t1: int
    t2: int
    options: tuple[Option, ...] = ()

    def addresses(self) -> tuple[bytes, ...]:
        """The packed addresses listed, in order; those of IA_PD are prefixes and not among them."""
        return tuple(data[:16] for code, data in self.options if code == Dhcp6Option.IA_ADDRESS and len(data) >= 24)


def parse_dhcpv6(data: bytes) -> Dhcp6Message | None:
    """The message in a UDP payload. None when it is of a relay, over-long, or its options do not end with it."""
    if not 4 <= len(data) <= MAXIMUM_MESSAGE or not 1 <= data[0] <= _LARGEST_TYPE:
        return None
    options = parse_options(data[4:])
    return None if options is None else Dhcp6Message(data[0], int.from_bytes(data[1:4], "big"), options)


def parse_options(data: bytes) -> tuple[Option, ...] | None:
    """The options that fill `data` exactly. None when one runs out of it, or there are more than 64."""
    options: list[Option] = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at + 2 : at + 4], "big")
        if at + 4 > len(data) or end > len(data) or len(options) == _MAXIMUM_OPTIONS:
            return None
        options.append((int.from_bytes(data[at : at + 2], "big"), data[at + 4 : end]))
        at = end
    return tuple(options)


def parse_association(code: int, data: bytes) -> Association | None:
    """The identity association in the data of an option of that code; None when it is malformed or another option."""
    if code not in (Dhcp6Option.IA_NA, Dhcp6Option.IA_TA, Dhcp6Option.IA_PD):
        return None
    head = 4 if code == Dhcp6Option.IA_TA else 12
    options = parse_options(data[head:])
    if len(data) < head or options is None:
        return None
    t1, t2 = int.from_bytes(data[4:8], "big"), int.from_bytes(data[8:12], "big")
    return Association(code, data[:4], t1, t2, options) if head == 12 else Association(code, data[:4], 0, 0, options)


def emit_dhcpv6(message: Dhcp6Message) -> bytes:
    """The message as it goes into a UDP payload."""
    return bytes((message.kind,)) + message.transaction.to_bytes(3, "big") + _emit_options(message.options)


def emit_association(association: Association) -> Option:
    """The option that holds the association."""
    times = association.t1.to_bytes(4, "big") + association.t2.to_bytes(4, "big")
    head = association.iaid + (b"" if association.code == Dhcp6Option.IA_TA else times)
    return association.code, head + _emit_options(association.options)


def emit_ia_address(address: bytes, preferred: int, valid: int) -> Option:
    """An address for an association, lifetimes in seconds (RFC 8415 21.6)."""
    return Dhcp6Option.IA_ADDRESS, address + preferred.to_bytes(4, "big") + valid.to_bytes(4, "big")


def emit_status(code: int, message: str) -> Option:
    """A status with its text for people (RFC 8415 21.13)."""
    return Dhcp6Option.STATUS, code.to_bytes(2, "big") + message.encode("utf-8")


def duid_llt(mac: bytes, seconds_since_2000: int) -> bytes:
    """A DUID of an Ethernet address and a time, counted from 2000-01-01 UTC modulo 2^32 (RFC 8415 11.2)."""
    return bytes((0, 1, 0, 1)) + (seconds_since_2000 & 0xFFFFFFFF).to_bytes(4, "big") + mac


def _emit_options(options: Iterable[Option]) -> bytes:
    return b"".join(code.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data for code, data in options)
