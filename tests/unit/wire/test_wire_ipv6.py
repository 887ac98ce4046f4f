"""IPv6 headers and the walk along extension headers."""

from __future__ import annotations

import pytest

from bucatini.wire.ip import BAD_EXTENSION, BAD_LENGTH, BAD_VERSION, TRUNCATED, IpView
from bucatini.wire.ip_fields import IpFields
from bucatini.wire.ipv6 import emit_fragment_header, emit_ipv6, parse_ipv6

SOURCE = bytes.fromhex("20010db8000000000000000000000001")
DESTINATION = bytes.fromhex("20010db800000000000000000000000f")
UDP = b"\x00\x35\x00\x35\x00\x08\x00\x00"


def packet(first: int, *parts: bytes) -> bytearray:
    body = b"".join(parts)
    data = bytearray(40 + len(body))
    emit_ipv6(memoryview(data), 0, len(body), first, SOURCE, DESTINATION)
    data[40:] = body
    return data


def options(following: int, length: int = 8) -> bytes:
    """Hop-by-hop or destination options, or routing of a type that is not 0: next header, length, filled with 1s."""
    return bytes((following, length // 8 - 1)) + b"\x01" * (length - 2)


def fragment(following: int, offset: int, more: bool, identification: int = 9) -> bytes:
    data = bytearray(8)
    emit_fragment_header(memoryview(data), 0, following, offset, more, identification)
    return bytes(data)


def parse(data: bytearray, at: int = 0) -> tuple[int, IpView]:
    view = IpView()
    return view.parse(memoryview(data), at, len(data)), view


def test_emit_writes_the_header_of_the_book() -> None:
    data = bytearray(42)
    emit_ipv6(memoryview(data), 1, 0x0123, 6, SOURCE, DESTINATION, 7, traffic_class=0x2E, flow_label=0xABCDE)
    assert data.hex() == "00" + "62eabcde01230607" + SOURCE.hex() + DESTINATION.hex() + "00"


def test_every_field_is_found_behind_an_ethernet_header() -> None:
    data = bytearray(14 + 40 + 30)
    emit_ipv6(memoryview(data), 14, 10, 17, SOURCE, DESTINATION, 3, traffic_class=0xB9, flow_label=0xFFFFF)
    reason, view = parse(data, 14)
    assert reason == 0
    assert (view.version, view.header_at, view.payload_at, view.end) == (6, 14, 54, 64)
    assert (view.source_at, view.destination_at, view.address_length) == (22, 38, 16)
    assert (view.protocol, view.hop_limit, view.traffic_class) == (17, 3, 0xB9)
    assert (view.fragment, view.more_fragments, view.fragment_offset, view.dont_fragment) == (False, False, 0, True)
    assert (view.extension_at, view.fragment_header_at, view.source_route) == (20, -1, False)


def test_padding_is_cut_off() -> None:
    reason, view = parse(packet(17, UDP) + bytes(6))
    assert (reason, view.end) == (0, 48)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (packet(17)[:39], TRUNCATED),
        (packet(17, UDP)[:-1], TRUNCATED),
        (packet(0), BAD_LENGTH),
        (packet(17), 0),
        (bytearray(b"\x70") + packet(17)[1:], BAD_VERSION),
    ],
)
def test_malformed_headers_have_their_reason(data: bytearray, reason: int) -> None:
    assert parse(data)[0] == reason


def test_parse_ipv6_wants_version_6() -> None:
    assert parse_ipv6(IpFields(), memoryview(bytearray(b"\x40") + packet(17)[1:]), 0, 40) == BAD_VERSION


def test_the_walk_passes_every_kind_of_extension_header() -> None:
    chain = [0, 60, 43, 51, 135, 139, 140]
    parts = [
        options(60),
        options(43, 16),
        options(51),
        bytes((135, 1)) + bytes(10),
        options(139),
        options(140),
        options(17),
    ]
    reason, view = parse(packet(chain[0], *parts, UDP))
    total = sum(map(len, parts))
    assert reason == 0
    assert (view.protocol, view.payload_at, view.extension_at) == (17, 40 + total, 40 + total - 8)
    assert not view.source_route


@pytest.mark.parametrize("protocol", [50, 59, 6, 58, 255, 253])
def test_the_walk_stops_at_any_other_number(protocol: int) -> None:
    reason, view = parse(packet(60, options(protocol), b"\xff" * 8))
    assert (reason, view.protocol, view.payload_at) == (0, protocol, 48)


def test_eight_extension_headers_pass_and_nine_do_not() -> None:
    assert parse(packet(60, *[options(60)] * 7, options(17), UDP))[0] == 0
    assert parse(packet(60, *[options(60)] * 8, options(17), UDP))[0] == BAD_EXTENSION


def test_hop_by_hop_options_come_first_or_not_at_all() -> None:
    assert parse(packet(60, options(0), options(17), UDP))[0] == BAD_EXTENSION


@pytest.mark.parametrize("body", [b"", b"\x11", options(17)[:7], options(17, 16)[:15], bytes((17, 255)) + bytes(30)])
def test_an_extension_header_that_runs_out_is_malformed(body: bytes) -> None:
    assert parse(packet(60, body))[0] == BAD_EXTENSION


def test_an_authentication_header_counts_in_four_bytes() -> None:
    reason, view = parse(packet(51, bytes((17, 4)) + bytes(22), UDP))
    assert (reason, view.protocol, view.payload_at) == (0, 17, 64)


def test_routing_type_0_is_reported_and_others_are_not() -> None:
    zero = bytes((17, 2, 0, 1)) + bytes(20)
    two = bytes((17, 2, 2, 1)) + bytes(20)
    assert parse(packet(43, zero, UDP))[1].source_route
    assert not parse(packet(43, two, UDP))[1].source_route


def test_a_first_fragment_is_walked_through() -> None:
    reason, view = parse(packet(0, options(44), fragment(60, 0, True), options(17), UDP))
    assert reason == 0
    assert (view.fragment, view.more_fragments, view.fragment_offset, view.identification) == (True, True, 0, 9)
    assert (view.fragment_header_at, view.protocol, view.payload_at) == (48, 17, 64)


def test_a_later_fragment_is_not_walked_into() -> None:
    reason, view = parse(packet(44, fragment(60, 1448, False, 0xFFFFFFFF), b"\xff" * 24))
    assert reason == 0
    assert (view.fragment, view.more_fragments, view.fragment_offset) == (True, False, 1448)
    assert (view.identification, view.protocol, view.payload_at) == (0xFFFFFFFF, 60, 48)


def test_an_atomic_fragment_is_no_fragment() -> None:
    reason, view = parse(packet(44, fragment(17, 0, False), UDP))
    assert reason == 0
    assert (view.fragment, view.fragment_header_at, view.protocol, view.payload_at) == (False, 40, 17, 48)


def test_a_first_fragment_must_hold_the_chain() -> None:
    assert parse(packet(44, fragment(60, 0, True)))[0] == BAD_EXTENSION


def test_two_fragment_headers_are_malformed() -> None:
    assert parse(packet(44, fragment(44, 0, True), fragment(17, 0, True), UDP))[0] == BAD_EXTENSION


def test_the_view_forgets_the_packet_before() -> None:
    view = IpView()
    first = packet(44, fragment(17, 0, True), UDP)
    assert view.parse(memoryview(first), 0, len(first)) == 0
    assert view.fragment
    assert view.parse(memoryview(packet(17, UDP)), 0, 48) == 0
    assert (view.fragment, view.more_fragments, view.fragment_header_at, view.identification) == (False, False, -1, 0)
