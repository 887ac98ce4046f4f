"""ARP packets: the one hardware and protocol we speak."""

from __future__ import annotations

import pytest

from bucatini.wire.arp import REQUEST, ArpRepr, emit_arp, parse_arp

REQUEST_BYTES = bytes.fromhex("0001 0800 06 04 0001 020000000001 0a000001 000000000000 0a000002")
MESSAGE = ArpRepr(REQUEST, bytes.fromhex("020000000001"), bytes([10, 0, 0, 1]), bytes(6), bytes([10, 0, 0, 2]))


def test_both_ways() -> None:
    assert emit_arp(MESSAGE) == REQUEST_BYTES
    assert parse_arp(memoryview(bytearray(b"zz" + REQUEST_BYTES)), 2, 30) == MESSAGE


def test_padding_is_tolerated() -> None:
    assert parse_arp(memoryview(bytearray(REQUEST_BYTES + bytes(18))), 0, 46) == MESSAGE


@pytest.mark.parametrize("at", range(6))
def test_other_hardware_and_protocols_are_not_ours(at: int) -> None:
    data = bytearray(REQUEST_BYTES)
    data[at] ^= 0x10
    assert parse_arp(memoryview(data), 0, 28) is None


def test_a_cut_packet_is_none() -> None:
    assert parse_arp(memoryview(bytearray(REQUEST_BYTES)), 0, 27) is None
