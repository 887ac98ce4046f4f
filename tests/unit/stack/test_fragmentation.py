"""Cutting packets: sizes, offsets, headers; what scapy reassembles from them is the packet."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP, defragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, defragment6

from bucatini.base.errors import BugError
from bucatini.stack.fragmentation import fragment
from bucatini.wire.ip import IpView


def four(size: int) -> bytes:
    body = bytes(i * 7 & 0xFF for i in range(size))
    return bytes(IP(src="10.0.0.1", dst="10.0.0.2", ttl=9, tos=0x48, id=0) / UDP(sport=1, dport=2) / body)


def six(size: int) -> bytes:
    body = bytes(i * 7 & 0xFF for i in range(size))
    return bytes(IPv6(src="fe80::1", dst="fe80::2", hlim=9, tc=0x48, fl=0xABCDE) / UDP(sport=1, dport=2) / body)


@pytest.mark.parametrize("make", [four, six])
def test_what_fits_is_left_alone(make: type[bytes]) -> None:
    packet = make(1000)
    assert fragment(packet, len(packet), 1) == [packet]


@pytest.mark.parametrize("size", [1500, 2953, 9000, 65507])
@pytest.mark.parametrize("mtu", [576, 1280, 1500])
def test_ipv4_fragments_make_the_packet(size: int, mtu: int) -> None:
    packet = four(size)
    pieces = fragment(packet, mtu, 0xBEEF)
    for piece in pieces:
        view = IpView()
        assert view.parse(memoryview(bytearray(piece)), 0, len(piece)) == 0
        assert len(piece) <= mtu
        assert (view.identification, view.hop_limit, view.traffic_class, view.protocol) == (0xBEEF, 9, 0x48, 17)
        assert view.fragment
    assert len(pieces) == -(-(size + 8) // ((mtu - 20) // 8 * 8))
    whole = bytes(defragment([IP(piece) for piece in pieces])[0])
    assert whole[20:] == packet[20:]
    assert whole[12:20] == packet[12:20]


@pytest.mark.parametrize("size", [1500, 2953, 9000, 65507])
@pytest.mark.parametrize("mtu", [1280, 1500])
def test_ipv6_fragments_make_the_packet(size: int, mtu: int) -> None:
    packet = six(size)
    pieces = fragment(packet, mtu, 0xDEADBEEF)
    for piece in pieces:
        view = IpView()
        assert view.parse(memoryview(bytearray(piece)), 0, len(piece)) == 0
        assert len(piece) <= mtu
        assert (view.identification, view.hop_limit, view.traffic_class, view.protocol) == (0xDEADBEEF, 9, 0x48, 17)
        assert IPv6(piece).fl == 0xABCDE
        assert view.fragment
    assert len(pieces) == -(-(size + 8) // ((mtu - 48) // 8 * 8))
    last = IPv6(pieces[-1])[IPv6ExtHdrFragment]
    assert (last.m, last.nh) == (0, 17)
    assert bytes(defragment6([IPv6(piece) for piece in pieces])) == packet


@pytest.mark.parametrize(("packet", "least"), [(four(100), 28), (six(100), 56)])
def test_an_mtu_without_room_is_a_bug(packet: bytes, least: int) -> None:
    assert len(fragment(packet, least, 1)) == 14
    with pytest.raises(BugError):
        fragment(packet, least - 1, 1)


def test_a_packet_of_another_make_is_a_bug() -> None:
    with pytest.raises(BugError):
        fragment(b"\x46" + bytes(100), 60, 1)
