"""Sums against the example of RFC 1071, the two forms of zero, and transport checksums of captured packets."""

from __future__ import annotations

import pytest

from bucatini.wire.checksum import finish, finish_udp, internet, partial, pseudo_header, transport_ok

RFC1071 = bytes.fromhex("0001 f203 f4f5 f6f7")


def test_the_example_of_rfc_1071() -> None:
    assert partial(RFC1071) == 0xDDF2
    assert internet(RFC1071) == 0x220D


def test_an_odd_byte_is_padded_on_the_right() -> None:
    assert partial(b"\x01\x02\x03") == partial(b"\x01\x02\x03\x00") == 0x0402


def test_pieces_chain_through_initial() -> None:
    assert partial(RFC1071[4:], partial(RFC1071[:4])) == partial(RFC1071)


def test_zero_only_if_every_word_is_zero() -> None:
    assert partial(b"") == 0
    assert partial(bytes(7)) == 0
    assert partial(b"\xff\xff") == 0xFFFF
    assert partial(b"\xff\xfe\x00\x01") == 0xFFFF
    assert partial(bytes(2), 0xFFFF) == 0xFFFF


def test_udp_never_says_none() -> None:
    assert finish(0xFFFF) == 0
    assert finish_udp(0xFFFF) == 0xFFFF
    assert finish_udp(0x1234) == finish(0x1234) == 0xEDCB


def test_a_packet_with_its_checksum_sums_to_zero() -> None:
    data = bytearray(b"hello, world")
    data[2:4] = bytes(2)
    data[2:4] = internet(data).to_bytes(2, "big")
    assert internet(data) == 0


def test_the_pseudo_header_takes_both_families_and_long_lengths() -> None:
    assert pseudo_header(bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), 17, 8) == 0x0A00 + 1 + 0x0A00 + 2 + 17 + 8
    six = bytes(14) + b"\x00\x01"
    assert pseudo_header(six, six, 58, 0x12345) == 1 + 1 + 58 + 1 + 0x2345


# Source and destination address, then a UDP datagram "hi" from 127.0.0.1:50000 to 127.0.0.1:53 without its checksum.
UDP4 = bytes.fromhex("7f000001 7f000001 c350 0035 000a")


def udp4(checksum: int) -> memoryview:
    return memoryview(bytearray(UDP4 + checksum.to_bytes(2, "big") + b"hi"))


def right_udp4() -> int:
    body = UDP4[8:] + bytes(2) + b"hi"
    return finish_udp(partial(body, pseudo_header(UDP4[:4], UDP4[4:8], 17, len(body))))


def test_a_right_udp_checksum_passes_and_a_wrong_one_fails() -> None:
    right = right_udp4()
    assert right == 0xD5E8
    assert transport_ok(udp4(right), 0, 4, 4, 17, 8, 18)
    assert not transport_ok(udp4(right ^ 1), 0, 4, 4, 17, 8, 18)


def test_udp_checksum_zero_is_none_over_ipv4_and_wrong_over_ipv6() -> None:
    assert transport_ok(udp4(0), 0, 4, 4, 17, 8, 18)
    six = memoryview(bytearray(32) + bytearray(UDP4[8:]) + bytearray(2) + bytearray(b"hi"))
    assert not transport_ok(six, 0, 16, 16, 17, 32, 42)


def test_icmp_has_no_pseudo_header_and_icmpv6_has() -> None:
    message = bytearray.fromhex("0800 0000 1234 0001") + b"ping"
    message[2:4] = internet(message).to_bytes(2, "big")
    buf = memoryview(bytearray([10, 0, 0, 1, 10, 0, 0, 2]) + message)
    assert transport_ok(buf, 0, 4, 4, 1, 8, len(buf))
    six = memoryview(bytearray(b"\x20" * 32) + message)
    assert not transport_ok(six, 0, 16, 16, 58, 32, len(six))


def test_the_sum_is_handed_in() -> None:
    lengths: list[int] = []

    def counting(piece: memoryview) -> int:
        lengths.append(len(piece))
        return partial(piece)

    assert transport_ok(udp4(right_udp4()), 0, 4, 4, 17, 8, 18, counting)
    assert lengths == [10, 4, 4]


@pytest.mark.parametrize("protocol", [6, 17, 58])
def test_the_protocol_number_counts(protocol: int) -> None:
    body = bytearray(b"\x01\x02\x03\x04\x05\x06\x00\x00" + b"payload.." * 3)
    at = 16 if protocol == 6 else 6 if protocol == 17 else 2
    body[at : at + 2] = bytes(2)
    addresses = bytes(range(32))
    total = partial(body, pseudo_header(addresses[:16], addresses[16:], protocol, len(body)))
    body[at : at + 2] = finish_udp(total).to_bytes(2, "big")
    buf = memoryview(bytearray(addresses) + body)
    assert transport_ok(buf, 0, 16, 16, protocol, 32, len(buf))
    assert not transport_ok(buf, 0, 16, 16, protocol + 1, 32, len(buf))
