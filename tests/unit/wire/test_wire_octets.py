"""Loads and stores are big-endian, masked, and bounded by the buffer."""

from __future__ import annotations

import pytest

from bucatini.wire.octets import load16, load32, load_bytes, store16, store32, store_bytes


def test_loads_are_big_endian() -> None:
    buf = memoryview(bytearray.fromhex("00 8001 ff fe fd fc"))
    assert load16(buf, 1) == 0x8001
    assert load32(buf, 3) == 0xFFFEFDFC
    assert load_bytes(buf, 2, 3) == b"\x01\xff\xfe"
    assert load_bytes(buf, 7, 0) == b""


def test_stores_write_only_their_width() -> None:
    data = bytearray(b"\xaa" * 10)
    buf = memoryview(data)
    store16(buf, 1, 0x1234)
    store32(buf, 4, 0xFFFEFDFC)
    assert data.hex() == "aa1234aafffefdfcaaaa"
    store_bytes(buf, 8, b"\x01\x02")
    assert data.hex() == "aa1234aafffefdfc0102"


def test_stores_mask_to_their_width() -> None:
    data = bytearray(8)
    store16(memoryview(data), 0, 0x123456)
    store32(memoryview(data), 4, 0x1_0000_0001)
    assert data.hex() == "3456000000000001"


@pytest.mark.parametrize("load", [lambda buf: load16(buf, 3), lambda buf: load32(buf, 1)])
def test_a_load_past_the_end_is_an_error(load: object) -> None:
    with pytest.raises(IndexError):
        load(memoryview(bytearray(4)))  # type: ignore[operator]


@pytest.mark.parametrize(
    "store",
    [
        lambda buf: store16(buf, 3, 1),
        lambda buf: store32(buf, 1, 1),
        lambda buf: store_bytes(buf, 2, b"abc"),
    ],
)
def test_a_store_past_the_end_is_an_error(store: object) -> None:
    with pytest.raises(IndexError):
        store(memoryview(bytearray(4)))  # type: ignore[operator]
