"""UDP headers and their length field."""

from __future__ import annotations

import pytest

from bucatini.wire.udp import UdpView, emit_udp


def test_emit_writes_the_header_of_the_book() -> None:
    data = bytearray(10)
    emit_udp(memoryview(data), 1, 0x1234, 53, 0x0102, 0xFFFF)
    assert data.hex() == "00123400350102ffff00"


def test_every_field_is_found() -> None:
    data = bytearray(2) + bytearray.fromhex("1234 0035 000b beef") + b"abc" + b"trailer"
    view = UdpView()
    assert view.parse(memoryview(data), 2, len(data))
    assert (view.source_port, view.destination_port, view.length, view.checksum) == (0x1234, 53, 11, 0xBEEF)
    assert (view.payload_at, view.end) == (10, 13)


@pytest.mark.parametrize(
    ("available", "length", "fine"),
    [(8, 8, True), (7, 8, False), (8, 7, False), (8, 0, False), (20, 0, False), (20, 21, False), (20, 20, True)],
)
def test_the_length_is_from_eight_to_what_is_there(available: int, length: int, fine: bool) -> None:
    data = bytearray(available)
    data[4:6] = length.to_bytes(2, "big")
    assert UdpView().parse(memoryview(data), 0, available) is fine
