"""IGMP: what a guest says about the IPv4 groups it listens to, in every version, and the query that asks it (RFC 1112
appendix I, RFC 2236, RFC 3376).

All versions, and MLD (`wire.mld`), come down to the records of IGMPv3: a report of version 1 or 2 is a record "exclude
nothing", a leave is a record "include nothing". So one reader of records serves all.

    version 1, 2, leave     type, 0 or time, checksum, group                      8 bytes, more are ignored
    version 3               0x22, 0, checksum, 0, count, then records of          8 + 4 n + auxiliary bytes

The checksum covers the whole IP payload and has no pseudo-header; a message with a wrong one is malformed. Fields are
read as RFC 3376 4.2 says: auxiliary data is skipped, bytes behind the last record are ignored.

Does not read queries (the guest is no querier here), look at the IP header's options, or judge groups.
"""

from __future__ import annotations

from typing import NamedTuple

from bucatini.wire.checksum import internet
from bucatini.wire.octets import load_bytes

__all__ = [
    "ALLOW_NEW_SOURCES",
    "BLOCK_OLD_SOURCES",
    "CHANGE_TO_EXCLUDE",
    "CHANGE_TO_INCLUDE",
    "LEAVE",
    "MAXIMUM_RECORDS",
    "MODE_IS_EXCLUDE",
    "MODE_IS_INCLUDE",
    "PROTOCOL_IGMP",
    "QUERY",
    "REPORT_V1",
    "REPORT_V2",
    "REPORT_V3",
    "GroupRecord",
    "MembershipReport",
    "emit_igmp_query",
    "encode_time",
    "parse_igmp",
    "read_records",
]

PROTOCOL_IGMP = 2

QUERY = 0x11
REPORT_V1 = 0x12
REPORT_V2 = 0x16
LEAVE = 0x17
REPORT_V3 = 0x22

MODE_IS_INCLUDE = 1
MODE_IS_EXCLUDE = 2
CHANGE_TO_INCLUDE = 3
CHANGE_TO_EXCLUDE = 4
ALLOW_NEW_SOURCES = 5
BLOCK_OLD_SOURCES = 6
"""Types of records, RFC 3376 section 4.2.12; the same in MLDv2."""

MAXIMUM_RECORDS = 256
"""A report with more is malformed. Linux fills a packet of the link's MTU, which for 1500 bytes is 184 records."""

_HEADER = 8


class GroupRecord(NamedTuple):
    """What the guest says of one group."""

    kind: int
    """One of the six types; others are left out of reports (RFC 3376 section 4.2.12)."""
    group: bytes
    """Packed; any address, not only one of a group."""
    sources: int = 0
    """How many source addresses the record holds."""


class MembershipReport(NamedTuple):
    """One message. `version` is that of IGMP (1, 2, 3) or MLD (1, 2)."""

    version: int
    records: tuple[GroupRecord, ...]


def parse_igmp(buf: memoryview, at: int, end: int) -> MembershipReport | None:
    """The report or leave at `at..end`, an IP payload. None when it is malformed or something else."""
    if end - at < _HEADER or internet(buf[at:end]) != 0:
        return None
    kind = buf[at]
    if kind == REPORT_V3:
        count = buf[at + 6] << 8 | buf[at + 7]
        records = read_records(buf, at + _HEADER, end, count, 4)
        return None if records is None else MembershipReport(3, records)
    group = load_bytes(buf, at + 4, 4)
    if kind in (REPORT_V1, REPORT_V2):
        return MembershipReport(1 if kind == REPORT_V1 else 2, (GroupRecord(MODE_IS_EXCLUDE, group),))
    if kind == LEAVE:
        return MembershipReport(2, (GroupRecord(CHANGE_TO_INCLUDE, group),))
    return None


def read_records(buf: memoryview, at: int, end: int, count: int, size: int) -> tuple[GroupRecord, ...] | None:
    """`count` records with addresses of `size` bytes; None when they do not fit or are too many."""
    if count > MAXIMUM_RECORDS:
        return None
    records: list[GroupRecord] = []
    for _ in range(count):
        if end - at < 4 + size:
            return None
        kind, auxiliary, sources = buf[at], buf[at + 1], buf[at + 2] << 8 | buf[at + 3]
        length = 4 + size + sources * size + auxiliary * 4
        if end - at < length:
            return None
        if MODE_IS_INCLUDE <= kind <= BLOCK_OLD_SOURCES:
            records.append(GroupRecord(kind, load_bytes(buf, at + 4, size), sources))
        at += length
    return tuple(records)


def encode_time(value: int) -> int:
    """An 8-bit time code: `value` itself below 128, else a 4-bit mantissa and 3-bit exponent, rounded down (RFC 3376
    sections 4.1.1 and 4.1.7). At most 31744.
    """
    if value < 128:
        return max(value, 0)
    exponent = min(max(value.bit_length() - 8, 0), 7)
    return 0x80 | exponent << 4 | min(value >> exponent + 3, 0x1F) & 0x0F


def emit_igmp_query(
    version: int, group: bytes = bytes(4), *, response_time: int = 100, robustness: int = 2, interval: int = 125
) -> bytes:
    """A complete query, general or for one `group`. `version` is 2 or 3.

    `response_time` is in tenths of a second, at most 255 in version 2; `interval` is in seconds, version 3 only.
    """
    if version == 2:
        message = bytes((QUERY, min(response_time, 255), 0, 0)) + group
    else:
        head = bytes((QUERY, encode_time(response_time), 0, 0))
        message = head + group + bytes((robustness & 7, encode_time(interval), 0, 0))
    return message[:2] + internet(message).to_bytes(2, "big") + message[4:]
