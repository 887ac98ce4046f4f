"""Neighbour Discovery: bytes of real messages, and what RFC 4861 6.1 and 7.1 ask of the message itself."""

from __future__ import annotations

import pytest

from bucatini.wire.ndp import (
    DNSSL,
    RDNSS,
    NdpOption,
    NeighborAdvertisement,
    NeighborSolicitation,
    Prefix,
    RouterAdvertisement,
    RouterSolicitation,
    emit_ndp,
    mtu_option,
    option_size,
    parse_ndp,
    rdnss_option,
    search_option,
    solicited_node,
    source_mac_option,
)

MAC = bytes.fromhex("020000000001")
TARGET = bytes.fromhex("fe80000000000000fc54beb6be600001")


def parse(data: bytes) -> object:
    return parse_ndp(memoryview(bytearray(b"zz" + data)), 2, 2 + len(data))


CASES = [
    (NeighborSolicitation(TARGET), "87000000 00000000" + TARGET.hex()),
    (NeighborSolicitation(TARGET, MAC), "87000000 00000000" + TARGET.hex() + "0101" + MAC.hex()),
    (NeighborAdvertisement(TARGET, True, True, True, MAC), "88000000 e0000000" + TARGET.hex() + "0201" + MAC.hex()),
    (NeighborAdvertisement(TARGET, False, False, True), "88000000 20000000" + TARGET.hex()),
    (RouterSolicitation(), "85000000 00000000"),
    (RouterSolicitation(MAC), "85000000 00000000 0101" + MAC.hex()),
    (RouterAdvertisement(255, True, False, 65535), "86000000 ff80ffff 00000000 00000000"),
    (
        RouterAdvertisement(
            64, False, True, 1800, 1000, 2000, MAC, 1500, (Prefix(TARGET, 64, True, True, 0xFFFFFFFF, 14400),),
            (NdpOption(25, b"\0\0" + b"\xff" * 4 + TARGET),),
        ),
        "86000000 40400708 000003e8 000007d0 0101" + MAC.hex() + "05010000000005dc"
        "030440c0ffffffff0000384000000000" + TARGET.hex() + "19030000ffffffff" + TARGET.hex(),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("message", "text"), CASES)
def test_both_ways(message: NeighborSolicitation, text: str) -> None:
    assert emit_ndp(message) == bytes.fromhex(text)
    assert parse(bytes.fromhex(text)) == message


@pytest.mark.parametrize(("message", "text"), CASES)
def test_a_message_cut_anywhere_but_between_options_is_malformed(message: NeighborSolicitation, text: str) -> None:
    data = bytes.fromhex(text)
    fixed = {0x87: 24, 0x88: 24, 0x85: 8, 0x86: 16}[data[0]]
    for length in range(len(data)):
        if length < fixed or (length - fixed) % 8:
            assert parse(data[:length]) is None, length


def test_the_code_must_be_zero() -> None:
    assert parse(b"\x87\x01" + emit_ndp(NeighborSolicitation(TARGET))[2:]) is None


def test_a_multicast_target_is_malformed() -> None:
    assert parse(emit_ndp(NeighborSolicitation(b"\xff" + TARGET[1:]))) is None


def test_an_option_of_length_zero_is_malformed() -> None:
    assert parse(emit_ndp(NeighborSolicitation(TARGET)) + bytes((1, 0)) + MAC) is None


def test_options_without_a_use_are_ignored() -> None:
    nonce = bytes((14, 1)) + bytes(6)
    assert parse(emit_ndp(NeighborSolicitation(TARGET)) + nonce) == NeighborSolicitation(TARGET)


def test_a_link_layer_address_that_is_not_ethernet_is_ignored() -> None:
    long = bytes((1, 2)) + bytes(14)
    assert parse(emit_ndp(NeighborSolicitation(TARGET)) + long) == NeighborSolicitation(TARGET)


def test_the_number_of_options_is_bounded() -> None:
    option = bytes((14, 1)) + bytes(6)
    assert parse(emit_ndp(RouterSolicitation()) + option * 64) == RouterSolicitation()
    assert parse(emit_ndp(RouterSolicitation()) + option * 65) is None


def test_other_icmpv6_is_none() -> None:
    assert parse(bytes((128, 0)) + bytes(30)) is None


def test_the_solicited_node_address() -> None:
    assert solicited_node(TARGET).hex() == "ff0200000000000000000001ff600001"


def test_single_options_are_those_of_the_fields() -> None:
    by_fields = RouterAdvertisement(64, False, False, 1800, 0, 0, MAC, 1500)
    by_options = RouterAdvertisement(64, False, False, 1800, others=(source_mac_option(MAC), mtu_option(1500)))
    assert emit_ndp(by_fields) == emit_ndp(by_options)
    assert parse(emit_ndp(by_options)) == by_fields


def test_options_of_rfc_8106() -> None:
    servers = rdnss_option((TARGET, TARGET), 0x01020304)
    assert servers == NdpOption(RDNSS, bytes.fromhex("0000 01020304") + TARGET * 2)
    search = search_option(("example.com", "a"))
    assert search == NdpOption(
        DNSSL, bytes.fromhex("0000 ffffffff") + b"\x07example\x03com\x00\x01a\x00".ljust(16, b"\0")
    )
    advertisement = RouterAdvertisement(64, False, False, 1800, others=(servers, search))
    assert parse(emit_ndp(advertisement)) == advertisement
    assert len(emit_ndp(advertisement)) == 16 + option_size(servers) + option_size(search)


def test_a_search_list_that_fits_exactly_has_no_padding() -> None:
    option = search_option(("abcdef",))
    assert option is not None
    assert option_size(option) == 16


def test_an_empty_search_list_is_no_option() -> None:
    assert search_option(()) is None
    assert search_option((".", "a..b")) is None
    assert search_option(("example.com",), limit=12) is None


def test_the_longest_search_list_fits_the_length_byte() -> None:
    option = search_option([f"label-{i:03}.example" for i in range(200)])
    assert option is not None
    assert option_size(option) <= 255 * 8
    assert parse(emit_ndp(RouterAdvertisement(64, False, False, 0, others=(option,)))) is not None
