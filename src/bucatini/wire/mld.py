"""Multicast Listener Discovery: what a guest says about the IPv6 groups it listens to, and the query that asks it
(RFC 2710, RFC 3810).

MLD is IGMP in ICMPv6: version 1 is IGMPv2, version 2 is IGMPv3, and reports come down to the same records (see
`wire.igmp`).

    version 1    131 report or 132 done, 0, checksum, 0 (4 bytes), group           24 bytes, more are ignored
    version 2    143, 0, checksum, 0, count, then records of                      20 + 16 n + auxiliary bytes

Does not verify or fill in checksums (see `wire.checksum` and `wire.icmp.complete_v6`), and does not check that hop
limit and source are those of the link, which needs the IP header.
"""

from __future__ import annotations

from bucatini.wire.igmp import (
    CHANGE_TO_INCLUDE,
    MODE_IS_EXCLUDE,
    GroupRecord,
    MembershipReport,
    encode_time,
    read_records,
)
from bucatini.wire.octets import load_bytes

__all__ = ["DONE", "QUERY", "REPORT_V1", "REPORT_V2", "emit_mld_query", "encode_response", "parse_mld"]

QUERY = 130
REPORT_V1 = 131
DONE = 132
REPORT_V2 = 143


def parse_mld(buf: memoryview, at: int, end: int) -> MembershipReport | None:
    """The report or done at `at..end`, an ICMPv6 message. None when it is malformed or something else."""
    if end - at < 8:
        return None
    kind = buf[at]
    if kind == REPORT_V2:
        count = buf[at + 6] << 8 | buf[at + 7]
        records = read_records(buf, at + 8, end, count, 16)
        return None if records is None else MembershipReport(2, records)
    if kind not in (REPORT_V1, DONE) or end - at < 24:
        return None
    group = load_bytes(buf, at + 8, 16)
    return MembershipReport(1, (GroupRecord(MODE_IS_EXCLUDE if kind == REPORT_V1 else CHANGE_TO_INCLUDE, group),))


def encode_response(milliseconds: int) -> int:
    """A 16-bit time code: the number itself below 32768, else a 12-bit mantissa and 3-bit exponent, rounded down (RFC
    3810 section 5.1.3). At most 8387584.
    """
    if milliseconds < 32768:
        return max(milliseconds, 0)
    exponent = min(milliseconds.bit_length() - 16, 7)
    return 0x8000 | exponent << 12 | min(milliseconds >> exponent + 3, 0x1FFF) & 0x0FFF


def emit_mld_query(
    version: int, group: bytes = bytes(16), *, response_time: int = 10_000, robustness: int = 2, interval: int = 125
) -> bytes:
    """A query, general or for one `group`, its checksum field 0. `version` is 1 or 2.

    `response_time` is in milliseconds, at most 65535 in version 1; `interval` is in seconds, version 2 only.
    """
    if version == 1:
        return bytes((QUERY, 0, 0, 0)) + min(response_time, 0xFFFF).to_bytes(2, "big") + bytes(2) + group
    head = bytes((QUERY, 0, 0, 0)) + encode_response(response_time).to_bytes(2, "big") + bytes(2)
    return head + group + bytes((robustness & 7, encode_time(interval), 0, 0))
