"""MLD: bytes of real messages, scapy's of every other shape, and what makes a message malformed."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6MLDMultAddrRec,
    ICMPv6MLDone,
    ICMPv6MLQuery,
    ICMPv6MLQuery2,
    ICMPv6MLReport,
    ICMPv6MLReport2,
)

from bucatini.base.address import pack
from bucatini.wire.igmp import (
    ALLOW_NEW_SOURCES,
    CHANGE_TO_EXCLUDE,
    CHANGE_TO_INCLUDE,
    MAXIMUM_RECORDS,
    MODE_IS_EXCLUDE,
    GroupRecord,
    MembershipReport,
)
from bucatini.wire.mld import emit_mld_query, encode_response, parse_mld

MDNS = pack("ff02::fb")


def parse(data: bytes) -> MembershipReport | None:
    return parse_mld(memoryview(bytearray(b"zz" + data + b"tail")), 2, 2 + len(data))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (ICMPv6MLReport(mladdr="ff02::fb"), MembershipReport(1, (GroupRecord(MODE_IS_EXCLUDE, MDNS),))),
        (ICMPv6MLDone(mladdr="ff02::fb"), MembershipReport(1, (GroupRecord(CHANGE_TO_INCLUDE, MDNS),))),
        (
            ICMPv6MLReport2(records=[ICMPv6MLDMultAddrRec(rtype=4, dst="ff02::fb")], records_number=1),
            MembershipReport(2, (GroupRecord(CHANGE_TO_EXCLUDE, MDNS),)),
        ),
        (ICMPv6MLReport2(records=[], records_number=0), MembershipReport(2, ())),
    ],
)
def test_messages(message: object, expected: MembershipReport) -> None:
    assert parse(bytes(message)) == expected  # type: ignore[call-overload]


def test_a_report_as_linux_sends_it() -> None:
    data = bytes.fromhex("8f00 0000 0000 0001 04000000 ff0200000000000000000000000000fb")
    assert parse(data) == MembershipReport(2, (GroupRecord(CHANGE_TO_EXCLUDE, MDNS),))


def test_sources_and_auxiliary_data_are_skipped_and_unknown_types_left_out() -> None:
    data = (
        bytes.fromhex("8f00 0000 0000 0003")
        + bytes.fromhex("09000000")
        + MDNS
        + bytes.fromhex("05020002")
        + MDNS
        + bytes(32)
        + bytes(8)
        + bytes.fromhex("04000000")
        + pack("ff05::c")
    )
    assert parse(data) == MembershipReport(
        2, (GroupRecord(ALLOW_NEW_SOURCES, MDNS, 2), GroupRecord(CHANGE_TO_EXCLUDE, pack("ff05::c")))
    )
    assert parse(data + b"more") == parse(data)
    for length in range(len(data)):
        assert parse(data[:length]) is None, length


@pytest.mark.parametrize("kind", [131, 132])
def test_version_1_cut_anywhere_is_malformed_and_more_is_ignored(kind: int) -> None:
    data = bytes((kind, 0, 0, 0, 0, 0, 0, 0)) + MDNS
    assert parse(data) is not None
    assert parse(data + b"more") == parse(data)
    for length in range(len(data)):
        assert parse(data[:length]) is None, length


@pytest.mark.parametrize("kind", [130, 133, 135, 1, 128])
def test_other_messages_are_none(kind: int) -> None:
    assert parse(bytes((kind, 0)) + bytes(40)) is None


def test_the_number_of_records_is_bounded() -> None:
    def report(count: int) -> bytes:
        return bytes((143, 0, 0, 0, 0, 0)) + count.to_bytes(2, "big") + (bytes((4, 0, 0, 0)) + MDNS) * count

    many = parse(report(MAXIMUM_RECORDS))
    assert many is not None
    assert len(many.records) == MAXIMUM_RECORDS
    assert parse(report(MAXIMUM_RECORDS + 1)) is None


addresses = st.binary(min_size=16, max_size=16)
records = st.tuples(st.integers(1, 6), addresses, st.lists(addresses, max_size=3))


@given(st.lists(records, max_size=6))
def test_reports_that_scapy_makes(written: list[tuple[int, bytes, list[bytes]]]) -> None:
    made = [
        ICMPv6MLDMultAddrRec(
            rtype=kind,
            dst=str(ipaddress.IPv6Address(group)),
            sources_number=len(sources),
            sources=[str(ipaddress.IPv6Address(source)) for source in sources],
        )
        for kind, group, sources in written
    ]
    message = bytes(ICMPv6MLReport2(records=made, records_number=len(made)))
    expected = tuple(GroupRecord(kind, group, len(sources)) for kind, group, sources in written)
    assert parse(message) == MembershipReport(2, expected)


@given(st.binary(max_size=96), st.sampled_from([131, 132, 143]))
def test_any_bytes_are_fine(data: bytes, kind: int) -> None:
    found = parse(bytes((kind,)) + data)
    assert found is None or all(len(record.group) == 16 for record in found.records)


# -- queries


def test_a_general_query_of_version_1_is_what_scapy_reads() -> None:
    message = emit_mld_query(1)
    assert len(message) == 24
    read = ICMPv6MLQuery(message)
    assert (read.type, read.mrd, read.mladdr) == (130, 10_000, "::")


def test_a_query_of_version_2_is_what_scapy_reads() -> None:
    message = emit_mld_query(2, MDNS, response_time=1000, interval=20)
    assert len(message) == 28
    read = ICMPv6MLQuery2(message)
    assert (read.type, read.mrd, read.mladdr) == (130, 1000, "ff02::fb")
    assert (read.S, read.QRV, read.QQIC, read.sources_number) == (0, 2, 20, 0)


def test_what_does_not_fit_the_time_of_version_1_is_the_longest() -> None:
    assert emit_mld_query(1, response_time=100_000)[4:6] == b"\xff\xff"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        *((-1, 0), (0, 0), (32767, 32767), (32768, 0x8000), (32775, 0x8000), (32776, 0x8001)),
        *((8387584, 0xFFFF), (9_000_000, 0xFFFF)),
    ],
)
def test_time_codes(value: int, code: int) -> None:
    assert encode_response(value) == code


@given(st.integers(0, 8387584))
def test_a_time_code_is_the_greatest_that_is_not_more(value: int) -> None:
    def decode(code: int) -> int:
        return code if code < 32768 else (code & 0x0FFF | 0x1000) << ((code >> 12 & 7) + 3)

    code = encode_response(value)
    assert decode(code) <= value
    assert code == 0xFFFF or decode(code + 1) > value
