"""IPv4 headers: every field, every way of being malformed, options."""

from __future__ import annotations

import pytest

from bucatini.wire.checksum import internet
from bucatini.wire.ip import BAD_CHECKSUM, BAD_HEADER, BAD_LENGTH, BAD_VERSION, TRUNCATED, IpView
from bucatini.wire.ip_fields import IpFields
from bucatini.wire.ipv4 import DONT_FRAGMENT, MORE_FRAGMENTS, emit_ipv4, header_sum, parse_ipv4

SOURCE = bytes([192, 0, 2, 1])
DESTINATION = bytes([198, 51, 100, 7])


def header(options: bytes = b"", payload: int = 8, **changes: int) -> bytearray:
    """A packet with UDP inside; `changes` are byte offsets as `at_N=value`, applied before the checksum."""
    data = bytearray(20 + len(options) + payload)
    emit_ipv4(memoryview(data), 0, len(data), 17, SOURCE, DESTINATION)
    data[0] = 0x40 | (20 + len(options)) // 4
    data[20 : 20 + len(options)] = options
    for name, value in changes.items():
        data[int(name.removeprefix("at_"))] = value
    head = (data[0] & 15) * 4
    data[10:12] = bytes(2)
    data[10:12] = internet(data[:head]).to_bytes(2, "big")
    return data


def parse(data: bytearray, at: int = 0, end: int | None = None) -> tuple[int, IpView]:
    view = IpView()
    return view.parse(memoryview(data), at, len(data) if end is None else end), view


def test_emit_writes_the_header_of_the_book() -> None:
    data = bytearray(22)
    emit_ipv4(
        memoryview(data), 1, 0x0123, 6, SOURCE, DESTINATION, hop_limit=7, identification=0xBEEF,
        fragment_field=DONT_FRAGMENT, traffic_class=0x2E,
    )  # fmt: skip
    assert data.hex() == "00" + "452e0123beef40000706" + data[11:13].hex() + SOURCE.hex() + DESTINATION.hex() + "00"
    assert internet(data[1:21]) == 0


def test_every_field_is_found_behind_an_ethernet_header() -> None:
    data = bytearray(14 + 20 + 30)
    emit_ipv4(
        memoryview(data), 14, 20 + 10, 17, SOURCE, DESTINATION, hop_limit=3, identification=77,
        fragment_field=MORE_FRAGMENTS | 5, traffic_class=0xB9,
    )  # fmt: skip
    reason, view = parse(data, 14)
    assert reason == 0
    assert (view.version, view.header_at, view.payload_at, view.end) == (4, 14, 34, 44)
    assert (view.source_at, view.destination_at, view.address_length) == (26, 30, 4)
    assert (view.protocol, view.hop_limit, view.traffic_class, view.identification) == (17, 3, 0xB9, 77)
    assert (view.fragment, view.more_fragments, view.fragment_offset, view.dont_fragment) == (True, True, 40, False)
    assert (view.extension_at, view.fragment_header_at, view.source_route) == (-1, -1, False)


@pytest.mark.parametrize(
    ("field", "fragment", "more", "offset", "dont"),
    [
        (0, False, False, 0, False),
        (DONT_FRAGMENT, False, False, 0, True),
        (MORE_FRAGMENTS, True, True, 0, False),
        (0x1FFF, True, False, 65528, False),
        (0x8000, False, False, 0, False),
    ],
)
def test_the_fragment_field(field: int, fragment: bool, more: bool, offset: int, dont: bool) -> None:
    data = bytearray(20)
    emit_ipv4(memoryview(data), 0, 20, 6, SOURCE, DESTINATION, fragment_field=field)
    reason, view = parse(data)
    assert reason == 0
    assert (view.fragment, view.more_fragments, view.fragment_offset, view.dont_fragment) == (
        fragment,
        more,
        offset,
        dont,
    )


def test_padding_is_cut_off() -> None:
    reason, view = parse(header() + bytes(18))
    assert (reason, view.end) == (0, 28)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytearray(), TRUNCATED),
        (header()[:19], TRUNCATED),
        (header()[:-1], TRUNCATED),
        (header(at_0=0x55), BAD_VERSION),
        (header(at_0=0x44), BAD_HEADER),
        (header(at_0=0x4F, payload=60), 0),
        (header(at_0=0x4F), BAD_LENGTH),
        (header(at_2=0, at_3=19), BAD_LENGTH),
        (header(at_2=0, at_3=20), 0),
    ],
)
def test_malformed_headers_have_their_reason(data: bytearray, reason: int) -> None:
    assert parse(data)[0] == reason


def test_every_flipped_bit_of_the_header_is_noticed() -> None:
    for bit in range(160):
        data = header()
        data[bit // 8] ^= 0x80 >> bit % 8
        assert parse(data)[0] != 0, bit


def test_the_checksum_covers_the_options() -> None:
    data = header(b"\x94\x04\x00\x00")
    assert parse(data)[0] == 0
    data[23] ^= 1
    assert parse(data)[0] == BAD_CHECKSUM


def test_options_are_skipped() -> None:
    reason, view = parse(header(b"\x01\x01\x94\x04\x00\x00\x00\x00"))
    assert (reason, view.payload_at, view.source_route) == (0, 28, False)


@pytest.mark.parametrize("kind", [131, 137])
def test_source_routes_are_reported(kind: int) -> None:
    reason, view = parse(header(bytes((1, kind, 7, 4, 10, 0, 0, 1))))
    assert (reason, view.source_route) == (0, True)


def test_a_source_route_behind_the_end_of_the_list_does_not_count() -> None:
    reason, view = parse(header(bytes((0, 131, 7, 4, 10, 0, 0, 1))))
    assert (reason, view.source_route) == (0, False)


def test_the_view_forgets_the_packet_before() -> None:
    view = IpView()
    assert view.parse(memoryview(header(bytes((1, 131, 7, 4, 10, 0, 0, 1)))), 0, 36) == 0
    assert view.source_route
    assert view.parse(memoryview(header()), 0, 28) == 0
    assert not view.source_route


@pytest.mark.parametrize(
    "options", [b"\x83\x01\x00\x00", b"\x83\x00\x00\x00", b"\x44\x05\x00\x00", b"\x01\x01\x01\x44"]
)
def test_an_option_that_runs_out_is_malformed(options: bytes) -> None:
    assert parse(header(options))[0] == BAD_HEADER


def test_parse_ipv4_wants_version_4() -> None:
    assert parse_ipv4(IpFields(), memoryview(header(at_0=0x65)), 0, 28) == BAD_VERSION


def test_header_sum_folds_twice_when_it_must() -> None:
    assert header_sum(memoryview(bytearray(b"\xff" * 60)), 0, 60) == 0xFFFF
    assert header_sum(memoryview(bytearray(b"\xff\xff" * 9 + b"\x00\x01")), 0, 20) == 1
