"""ICMP headers, which types are errors, and complete checksums."""

from __future__ import annotations

import pytest

from bucatini.wire.checksum import internet, transport_ok
from bucatini.wire.icmp import (
    ECHO_REPLY,
    ECHO_REQUEST,
    UNREACHABLE,
    V6_ECHO_REQUEST,
    V6_PACKET_TOO_BIG,
    IcmpView,
    complete_v4,
    complete_v6,
    emit_icmp,
    is_error,
)


def test_emit_writes_the_header_of_the_book() -> None:
    data = bytearray(10)
    emit_icmp(memoryview(data), 1, ECHO_REQUEST, 0, 0x1234, 0x0102, 0xBEEF)
    assert data.hex() == "000800beef1234010200"


def test_every_field_is_found() -> None:
    data = bytearray.fromhex("00 0301beef12340102") + b"abc"
    view = IcmpView()
    assert view.parse(memoryview(data), 1, len(data))
    assert (view.type, view.code, view.checksum, view.identifier, view.sequence) == (3, 1, 0xBEEF, 0x1234, 0x0102)
    assert (view.payload_at, view.end) == (9, 12)


def test_fewer_than_eight_bytes_are_no_message() -> None:
    assert not IcmpView().parse(memoryview(bytearray(7)), 0, 7)
    assert IcmpView().parse(memoryview(bytearray(8)), 0, 8)


@pytest.mark.parametrize(
    ("version", "kind", "error"),
    [
        (4, UNREACHABLE, True),
        (4, 4, True),
        (4, 5, True),
        (4, 11, True),
        (4, 12, True),
        (4, ECHO_REQUEST, False),
        (4, ECHO_REPLY, False),
        (4, 13, False),
        (6, V6_PACKET_TOO_BIG, True),
        (6, 127, True),
        (6, V6_ECHO_REQUEST, False),
        (6, 135, False),
    ],
)
def test_which_types_are_errors(version: int, kind: int, error: bool) -> None:
    assert is_error(version, kind) is error


@pytest.mark.parametrize("payload", [b"", b"x", b"ping" * 9])
def test_completed_messages_verify_whatever_their_field_held(payload: bytes) -> None:
    message = bytes.fromhex("0800ffff12340001") + payload
    four = complete_v4(message)
    assert internet(four) == 0
    assert four[:2] + four[4:] == message[:2] + message[4:]
    addresses = bytes(range(32))
    six = complete_v6(bytearray(message), addresses[:16], addresses[16:])
    buf = memoryview(bytearray(addresses + six))
    assert transport_ok(buf, 0, 16, 16, 58, 32, len(buf))
