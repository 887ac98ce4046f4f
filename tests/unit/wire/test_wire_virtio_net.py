"""The virtio-net header: little-endian, twelve bytes, nothing else."""

from __future__ import annotations

from bucatini.wire.virtio_net import GSO_TCPV4, HEADER_LENGTH, NEEDS_CSUM, VirtioNetHeader

FIELDS = ("flags", "gso_type", "hdr_len", "gso_size", "csum_start", "csum_offset")


def values(header: VirtioNetHeader) -> tuple[int, ...]:
    return tuple(getattr(header, name) for name in FIELDS)


def test_both_ways() -> None:
    header = VirtioNetHeader()
    for name, value in zip(FIELDS, (NEEDS_CSUM, GSO_TCPV4, 0x0136, 1448, 34, 16), strict=True):
        setattr(header, name, value)
    data = bytearray(b"\xaa" * 14)
    header.emit(memoryview(data), 1)
    assert data.hex() == "aa" + "01013601a805220010000000" + "aa"
    assert HEADER_LENGTH == 12
    found = VirtioNetHeader()
    found.parse(memoryview(data), 1)
    assert values(found) == values(header)


def test_clear_makes_an_ordinary_frame() -> None:
    header = VirtioNetHeader()
    header.parse(memoryview(bytearray(b"\xff" * 12)), 0)
    assert values(header) == (0xFF, 0xFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF)
    header.clear()
    data = bytearray(b"\xff" * 12)
    header.emit(memoryview(data), 0)
    assert data == bytes(12)
