"""DHCPv6 messages: options and associations as RFC 8415 writes them, and what is malformed."""

from __future__ import annotations

import pytest

from bucatini.wire.dhcpv6 import (
    Association,
    Dhcp6Message,
    duid_llt,
    emit_association,
    emit_dhcpv6,
    emit_ia_address,
    emit_status,
    parse_association,
    parse_dhcpv6,
    parse_options,
)

ADDRESS = bytes.fromhex("20010db8000000000000000000000002")
WIRE = bytes.fromhex("01 abcdef 0001 0003 000301 0008 0002 0000 000e 0000")
MESSAGE = Dhcp6Message(1, 0xABCDEF, ((1, b"\0\x03\x01"), (8, b"\0\0"), (14, b"")))


def test_both_ways() -> None:
    assert emit_dhcpv6(MESSAGE) == WIRE
    assert parse_dhcpv6(WIRE) == MESSAGE


def test_the_first_option_of_a_code() -> None:
    message = Dhcp6Message(1, 0, ((3, b"a"), (3, b"b")))
    assert (message.first(3), message.first(1)) == (b"a", None)


def test_a_message_cut_anywhere_but_between_options_is_malformed() -> None:
    for length in range(len(WIRE)):
        assert (parse_dhcpv6(WIRE[:length]) is not None) == (length in (4, 11, 17)), length


@pytest.mark.parametrize("kind", [0, 12, 13, 14, 255])
def test_other_messages_are_none(kind: int) -> None:
    assert parse_dhcpv6(bytes((kind,)) + WIRE[1:]) is None


def test_the_number_of_options_is_bounded() -> None:
    assert parse_options(bytes(4) * 64) == ((0, b""),) * 64
    assert parse_options(bytes(4) * 65) is None


def test_the_length_is_bounded() -> None:
    option = bytes.fromhex("0010 0ff8") + bytes(0xFF8)
    assert parse_dhcpv6(WIRE[:4] + option[: 4 + 0xFF8]) is not None
    assert parse_dhcpv6(WIRE[:4] + bytes.fromhex("0010 0ff9") + bytes(0xFF9)) is None


@pytest.mark.parametrize(
    ("association", "code", "wire"),
    [
        (Association(3, b"abcd", 100, 200), 3, "61626364 00000064 000000c8"),
        (
            Association(3, b"abcd", 0, 0xFFFFFFFF, (emit_ia_address(ADDRESS, 1, 2),)),
            3,
            "61626364 00000000 ffffffff 0005 0018" + ADDRESS.hex() + "00000001 00000002",
        ),
        (Association(4, b"abcd", 0, 0, (emit_status(2, "no"),)), 4, "61626364 000d 0004 0002 6e6f"),
        (Association(25, b"abcd", 1, 2, (emit_status(6, ""),)), 25, "61626364 00000001 00000002 000d 0002 0006"),
    ],
)
def test_associations(association: Association, code: int, wire: str) -> None:
    assert emit_association(association) == (code, bytes.fromhex(wire))
    assert parse_association(code, bytes.fromhex(wire)) == association


@pytest.mark.parametrize(
    ("code", "data"),
    [
        (3, bytes(11)),
        (3, bytes(13)),
        (3, bytes(12) + b"\0\x05\0\x18" + bytes(23)),
        (4, bytes(3)),
        (25, bytes(11)),
        (5, bytes(24)),
    ],
)
def test_malformed_associations(code: int, data: bytes) -> None:
    assert parse_association(code, data) is None


def test_addresses_of_an_association() -> None:
    options = (emit_ia_address(ADDRESS, 1, 2), (5, bytes(23)), emit_status(0, ""), emit_ia_address(bytes(16), 0, 0))
    assert Association(3, b"abcd", 0, 0, options).addresses() == (ADDRESS, bytes(16))


def test_an_address_with_options_of_its_own() -> None:
    code, data = emit_ia_address(ADDRESS, 1, 2)
    assert Association(3, b"abcd", 0, 0, ((code, data + b"\0\x0d\0\x02\0\0"),)).addresses() == (ADDRESS,)


def test_duid() -> None:
    assert duid_llt(b"abcdef", 0x12345678).hex() == "0001000112345678" + b"abcdef".hex()
    assert duid_llt(b"abcdef", (1 << 32) + 5) == duid_llt(b"abcdef", 5)
