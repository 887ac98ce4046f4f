"""Ethernet headers and the text of MAC addresses."""

from __future__ import annotations

import pytest

from bucatini.wire.ethernet import (
    BROADCAST,
    ETHERTYPE_IPV6,
    HEADER_LENGTH,
    emit_ethernet,
    ipv6_multicast_mac,
    mac_text,
    parse_mac,
)

MAC = bytes.fromhex("02 1a 00 00 00 fe")


def test_emit_fills_fourteen_bytes() -> None:
    data = bytearray(b"\xaa" * 18)
    emit_ethernet(memoryview(data), 2, BROADCAST, MAC, ETHERTYPE_IPV6)
    assert data == b"\xaa\xaa" + BROADCAST + MAC + b"\x86\xdd" + b"\xaa\xaa"
    assert HEADER_LENGTH == 14


def test_text_of_a_mac_address() -> None:
    assert mac_text(MAC) == "02:1a:00:00:00:fe"
    assert parse_mac("02:1A:00:00:00:fe") == MAC
    assert parse_mac("2-1a-0-0-0-FE") == MAC


@pytest.mark.parametrize(
    "text",
    ["", "02:1a:00:00:00", "02:1a:00:00:00:fe:00", "02:1a:00:00:00:fg", "02:1a:00:00:00:+1", "021a000000fe", "::::: "],
)
def test_what_is_not_a_mac_address(text: str) -> None:
    with pytest.raises(ValueError, match="not a MAC address"):
        parse_mac(text)


def test_ipv6_multicast_maps_its_last_four_bytes() -> None:
    address = bytes.fromhex("ff020000000000000000 0001ff28 9c5a")
    assert ipv6_multicast_mac(address).hex(":") == "33:33:ff:28:9c:5a"
