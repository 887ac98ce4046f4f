"""IGMP: bytes of real messages, scapy's of every other shape, and what makes a message malformed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.igmp import IGMP
from scapy.contrib.igmpv3 import IGMPv3, IGMPv3gr, IGMPv3mq, IGMPv3mr

from bucatini.base.address import pack, text
from bucatini.wire.checksum import internet
from bucatini.wire.igmp import (
    ALLOW_NEW_SOURCES,
    BLOCK_OLD_SOURCES,
    CHANGE_TO_EXCLUDE,
    CHANGE_TO_INCLUDE,
    MAXIMUM_RECORDS,
    MODE_IS_EXCLUDE,
    MODE_IS_INCLUDE,
    GroupRecord,
    MembershipReport,
    emit_igmp_query,
    encode_time,
    parse_igmp,
)

MDNS = pack("224.0.0.251")


def parse(data: bytes) -> MembershipReport | None:
    return parse_igmp(memoryview(bytearray(b"zz" + data + b"tail")), 2, 2 + len(data))


def summed(written: str) -> bytes:
    """The message with its checksum, which stands as zeros in `written`."""
    data = bytes.fromhex(written)
    return data[:2] + internet(data).to_bytes(2, "big") + data[4:]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("12000d04 e00000fb", MembershipReport(1, (GroupRecord(MODE_IS_EXCLUDE, MDNS),))),
        ("16000904 e00000fb", MembershipReport(2, (GroupRecord(MODE_IS_EXCLUDE, MDNS),))),
        ("17000804 e00000fb", MembershipReport(2, (GroupRecord(CHANGE_TO_INCLUDE, MDNS),))),
        ("2200f902 00000001 04000000 e00000fb", MembershipReport(3, (GroupRecord(CHANGE_TO_EXCLUDE, MDNS),))),
    ],
)
def test_messages_as_linux_sends_them(written: str, expected: MembershipReport) -> None:
    assert parse(bytes.fromhex(written)) == expected


def test_records_with_sources_and_auxiliary_data() -> None:
    message = summed(
        "22000000 00000003"
        "01000002 efffff01 0a000001 0a000002"
        "02010001 efffff02 0a000003 deadbeef"
        "06000001 efffff03 0a000004"
    )
    assert parse(message) == MembershipReport(
        3,
        (
            GroupRecord(MODE_IS_INCLUDE, pack("239.255.255.1"), 2),
            GroupRecord(MODE_IS_EXCLUDE, pack("239.255.255.2"), 1),
            GroupRecord(BLOCK_OLD_SOURCES, pack("239.255.255.3"), 1),
        ),
    )


def test_records_of_unknown_types_are_left_out() -> None:
    message = summed("22000000 00000003 00000000 e00000fb 07000000 e00000fb 05000001 e00000fb 0a000001")
    assert parse(message) == MembershipReport(3, (GroupRecord(ALLOW_NEW_SOURCES, MDNS, 1),))


def test_a_report_without_records_is_one() -> None:
    assert parse(summed("22000000 00000000")) == MembershipReport(3, ())


def test_bytes_behind_the_last_record_are_covered_by_the_checksum_and_ignored() -> None:
    assert parse(summed("16000000 e00000fb 01020304")) == MembershipReport(2, (GroupRecord(MODE_IS_EXCLUDE, MDNS),))
    assert parse(bytes.fromhex("16000904 e00000fb 01020304")) is None


@pytest.mark.parametrize("kind", [0x11, 0x13, 0x30, 0x00, 0xFF])
def test_other_messages_are_none(kind: int) -> None:
    assert parse(summed(f"{kind:02x}000000 e00000fb")) is None


def test_a_wrong_checksum_is_malformed() -> None:
    good = bytearray.fromhex("16000904 e00000fb")
    for at in range(8):
        for bit in range(8):
            bad = bytearray(good)
            bad[at] ^= 1 << bit
            assert parse(bytes(bad)) is None


def test_a_message_cut_anywhere_is_malformed() -> None:
    whole = summed("22000000 00000002 01010002 efffff01 0a000001 0a000002 deadbeef 04000000 e00000fb")
    assert parse(whole) is not None
    for length in range(len(whole)):
        cut = whole[:2] + bytes(2) + whole[4:length]
        assert parse(summed(cut[:length].hex())) is None, length


def test_the_number_of_records_is_bounded() -> None:
    def report(count: int) -> bytes:
        return summed(f"22000000 0000{count:04x}" + "04000000 e00000fb" * count)

    many = parse(report(MAXIMUM_RECORDS))
    assert many is not None
    assert len(many.records) == MAXIMUM_RECORDS
    assert parse(report(MAXIMUM_RECORDS + 1)) is None


addresses = st.binary(min_size=4, max_size=4)
records = st.builds(
    lambda kind, group, sources: (kind, group, sources),
    st.integers(1, 6),
    addresses,
    st.lists(addresses, max_size=4),
)


@given(st.lists(records, max_size=10))
def test_reports_that_scapy_makes(written: list[tuple[int, bytes, list[bytes]]]) -> None:
    made = [
        IGMPv3gr(
            rtype=kind,
            maddr=text(group),
            numsrc=len(sources),
            srcaddrs=[text(source) for source in sources],
        )
        for kind, group, sources in written
    ]
    message = bytes(IGMPv3mr(numgrp=len(made), records=made))
    expected = tuple(GroupRecord(kind, group, len(sources)) for kind, group, sources in written)
    assert parse(message) == MembershipReport(3, expected)


@given(st.binary(max_size=64), st.booleans())
def test_any_bytes_are_fine(data: bytes, with_sum: bool) -> None:
    if with_sum and len(data) >= 4:
        data = summed((bytes((0x22,)) + data[1:2] + bytes(2) + data[4:]).hex())
    found = parse(data)
    assert found is None or all(len(record.group) == 4 for record in found.records)


# -- queries


def test_a_general_query_of_version_2_is_what_scapy_reads() -> None:
    message = emit_igmp_query(2)
    assert message == bytes.fromhex("1164ee9b00000000")
    read = IGMP(message)
    assert (read.type, read.mrcode, read.gaddr) == (0x11, 100, "0.0.0.0")
    assert internet(message) == 0


def test_a_query_of_version_3_is_what_scapy_reads() -> None:
    message = emit_igmp_query(3, MDNS, response_time=10, interval=20)
    assert internet(message) == 0
    assert len(message) == 12
    read = IGMPv3(message)
    assert (read.type, read.mrcode) == (0x11, 10)
    query = read[IGMPv3mq]
    assert (query.gaddr, query.s, query.qrv, query.qqic, query.numsrc) == ("224.0.0.251", 0, 2, 20, 0)


def test_what_does_not_fit_the_time_of_version_2_is_the_longest() -> None:
    assert emit_igmp_query(2, response_time=1000)[1] == 255


@pytest.mark.parametrize(
    ("value", "code"),
    [
        *((-1, 0), (0, 0), (100, 100), (127, 127), (128, 0x80), (129, 0x80), (136, 0x81), (255, 0x8F), (256, 0x90)),
        *((31743, 0xFE), (31744, 0xFF), (40000, 0xFF)),
    ],
)
def test_time_codes(value: int, code: int) -> None:
    assert encode_time(value) == code


@given(st.integers(0, 31744))
def test_a_time_code_is_the_greatest_that_is_not_more(value: int) -> None:
    def decode(code: int) -> int:
        return code if code < 128 else (code & 0x0F | 0x10) << ((code >> 4 & 7) + 3)

    code = encode_time(value)
    assert decode(code) <= value
    assert code == 255 or decode(code + 1) > value
