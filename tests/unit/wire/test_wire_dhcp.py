"""DHCP messages: the fixed part, options long, repeated and overloaded, and what is malformed."""

from __future__ import annotations

import pytest

from bucatini.wire.dhcp import (
    BOOTREPLY,
    BOOTREQUEST,
    DhcpMessage,
    emit_classless_routes,
    emit_dhcp,
    option_size,
    parse_dhcp,
)

COOKIE = bytes.fromhex("63825363")
MESSAGE = DhcpMessage(
    BOOTREPLY, 0x01020304, 1, 6, 2, 513, 0x8000,
    bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), bytes((10, 0, 0, 3)), bytes((10, 0, 0, 4)),
    bytes.fromhex("020000000001").ljust(16, b"\0"),
    {53: b"\x02", 54: b"\x0a\x00\x00\x01", 80: b""},
)  # fmt: skip
WIRE = bytes.fromhex(
    "02010602 01020304 0201 8000 0a000001 0a000002 0a000003 0a000004 020000000001 00000000000000000000"
) + bytes(192) + COOKIE + bytes.fromhex("350102 36040a000001 5000 ff")  # fmt: skip


def message(options: bytes, *, sname: bytes = b"", file: bytes = b"") -> DhcpMessage | None:
    fixed = WIRE[:44] + sname.ljust(64, b"\0") + file.ljust(128, b"\0")
    return parse_dhcp(fixed + COOKIE + options)


def options_of(options: bytes, **fields: bytes) -> dict[int, bytes] | None:
    found = message(options, **fields)
    return None if found is None else dict(found.options)


def test_both_ways() -> None:
    assert emit_dhcp(MESSAGE) == WIRE.ljust(300, b"\0")
    assert parse_dhcp(WIRE) == MESSAGE
    assert parse_dhcp(emit_dhcp(MESSAGE)) == MESSAGE


def test_every_message_has_300_bytes_at_least() -> None:
    assert len(emit_dhcp(DhcpMessage(BOOTREQUEST, 0))) == 300
    assert len(emit_dhcp(DhcpMessage(BOOTREQUEST, 0, options={60: bytes(200)}))) == 236 + 4 + 202 + 1


@pytest.mark.parametrize("length", [0, 1, 2, 3, 254, 255, 256, 510, 511, 1000])
def test_long_options_are_split(length: int) -> None:
    data = bytes(i & 0xFF for i in range(length))
    sent = DhcpMessage(BOOTREQUEST, 0, options={119: data, 12: b"x"})
    wire = emit_dhcp(sent)
    assert parse_dhcp(wire) == sent
    assert len(wire) == max(300, 240 + option_size(data) + option_size(b"x") + 1)


def test_repeated_options_belong_together() -> None:
    assert options_of(bytes.fromhex("7701aa 350101 7702bbcc ff")) == {119: b"\xaa\xbb\xcc", 53: b"\x01"}


def test_pads_and_what_is_behind_the_end_are_skipped() -> None:
    assert options_of(bytes.fromhex("0000 350101 00 0c0161 ff 3701")) == {53: b"\x01", 12: b"a"}


def test_a_missing_end_is_forgiven() -> None:
    assert options_of(bytes.fromhex("350101")) == {53: b"\x01"}


@pytest.mark.parametrize(
    ("overload", "expected"),
    [
        (0, {12: b"a"}),
        (1, {12: b"af"}),
        (2, {12: b"as"}),
        (3, {12: b"afs"}),
    ],
)
def test_overload(overload: int, expected: dict[int, bytes]) -> None:
    """In the order of RFC 3396 section 5: options, file, sname."""
    found = options_of(bytes((52, 1, overload)) + b"\x0c\x01a\xff", file=b"\x0c\x01f\xff", sname=b"\x00\x0c\x01s\xff")
    assert found == expected


def test_overload_inside_an_overloaded_field_does_nothing_more() -> None:
    assert options_of(b"\x34\x01\x01\xff", file=b"\x34\x01\x02\xff", sname=b"\x0c\x01s\xff") == {52: b"\x02"}


def test_the_fields_end_where_they_do() -> None:
    assert options_of(b"\x34\x01\x03\xff", file=b"\0" * 125 + b"\x0c\x01f", sname=b"\0" * 61 + b"\x0c\x01s") == {
        12: b"fs"
    }


def test_an_empty_overload_is_none() -> None:
    assert options_of(b"\x34\x00\x0c\x01a\xff", file=b"\x0c\x01f\xff") == {12: b"a"}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(b"\x35", id="no length"),
        pytest.param(b"\x35\x01", id="no data"),
        pytest.param(b"\x35\x01\x01\x0c\x05abc", id="data cut"),
    ],
)
def test_an_option_that_runs_out_is_malformed(options: bytes) -> None:
    assert message(options) is None
    assert message(b"\x34\x01\x02\xff", sname=bytes(64 - len(options)) + options) is None


def test_a_message_cut_in_the_fixed_part_is_malformed() -> None:
    for length in range(236):
        assert parse_dhcp(WIRE[:length]) is None
    assert parse_dhcp(WIRE[:236]) is not None


def test_without_the_cookie_there_are_no_options() -> None:
    bare = parse_dhcp(WIRE[:236] + bytes(64))
    assert bare is not None
    assert bare.options == {}
    assert bare._replace(options=MESSAGE.options) == MESSAGE


def test_a_hardware_address_longer_than_its_field_is_malformed() -> None:
    assert parse_dhcp(WIRE[:2] + b"\x11" + WIRE[3:]) is None


@pytest.mark.parametrize(
    ("destination", "length", "wire"),
    [
        # The table of RFC 3442.
        ((0, 0, 0, 0), 0, "00"),
        ((10, 0, 0, 0), 8, "080a"),
        ((10, 0, 0, 0), 24, "180a0000"),
        ((10, 17, 0, 0), 16, "100a11"),
        ((10, 27, 129, 0), 24, "180a1b81"),
        ((10, 229, 0, 128), 25, "190ae50080"),
        ((10, 198, 122, 47), 32, "200ac67a2f"),
        # Bits behind the prefix.
        ((10, 255, 255, 255), 9, "090a80"),
        ((255, 255, 255, 255), 0, "00"),
    ],
)
def test_classless_routes(destination: tuple[int, ...], length: int, wire: str) -> None:
    gateway = bytes((192, 0, 2, 1))
    assert emit_classless_routes(((bytes(destination), length, gateway),)) == bytes.fromhex(wire) + gateway
    assert emit_classless_routes(((bytes(destination), length, None),)) == bytes.fromhex(wire) + bytes(4)


def test_classless_routes_stand_one_behind_the_other() -> None:
    routes = ((bytes(4), 0, b"\x01\x02\x03\x04"), (b"\x0a\0\0\0", 8, None))
    assert emit_classless_routes(routes).hex() == "0001020304080a00000000"
