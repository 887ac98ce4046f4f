"""stack.classify: a frame for every reason `parse` can give, and random bytes that never get further than they may."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q
from scapy.packet import Packet as Layer
from scapy.packet import Raw

from bucatini.base.address import pack
from bucatini.base.reasons import DropReason
from bucatini.stack import classify
from support.frames import (
    DATA_VALID,
    GUEST4,
    GUEST6,
    NEEDS_CSUM,
    PEER4,
    PEER6,
    Bench,
    ether,
    ip,
    vnet,
)

GOOD: dict[str, tuple[Layer, int]] = {
    "arp": (ARP(pdst="172.16.0.1"), classify.ARP),
    "tcp4": (ip(4) / TCP(flags="S", options=[("MSS", 1400), ("WScale", 5)]), classify.TCP),
    "tcp6": (ip(6) / TCP(flags="S", options=[("MSS", 1400), ("WScale", 5)]), classify.TCP),
    "udp4": (ip(4) / UDP(sport=7, dport=8) / b"hello", classify.UDP),
    "udp6": (ip(6) / UDP(sport=7, dport=8) / b"hello", classify.UDP),
    "udp4 without checksum": (ip(4) / UDP(sport=7, dport=8, chksum=0) / b"hello", classify.UDP),
    "udp6 behind an extension": (ip(6) / IPv6ExtHdrHopByHop() / UDP(sport=7, dport=8) / b"hello", classify.UDP),
    "udp4 behind options": (ip(4, options=[b"\x94\x04\0\0"]) / UDP(sport=7, dport=8) / b"hello", classify.UDP),
    "icmp4": (ip(4) / ICMP(id=9) / b"ping", classify.ICMP),
    "icmp6": (ip(6) / ICMPv6EchoRequest(id=9) / b"ping", classify.ICMP),
    "first fragment": (ip(4, flags="MF", proto=17) / Raw(bytes(16)), classify.FRAGMENT),
    "later fragment": (ip(4, frag=3, proto=6) / Raw(bytes(5)), classify.FRAGMENT),
    "fragment6": (ip(6) / IPv6ExtHdrFragment(nh=17, m=1) / Raw(bytes(16)), classify.FRAGMENT),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("at", [0, 1, 5000])
def test_good_frames(name: str, at: int) -> None:
    bench = Bench()
    layer, kind = GOOD[name]
    frame = ether(layer)
    assert bench.parse(frame, at=at) == 0
    assert bench.packet.kind == kind
    assert bench.packet.ethernet_at == at + 12


@pytest.mark.parametrize("padding", [0, 1, 46])
def test_padding_of_ethernet_is_not_part_of_the_packet(padding: int) -> None:
    bench = Bench()
    assert bench.parse(ether(GOOD["udp4"][0]) + bytes(padding)) == 0
    assert bench.packet.udp.end == bench.packet.end == 12 + 14 + 20 + 8 + 5
    assert bytes(bench.arena.view[bench.packet.udp.payload_at : bench.packet.udp.end]) == b"hello"


def test_what_a_packet_says() -> None:
    bench = Bench()
    for version, source, destination in ((4, GUEST4, PEER4), (6, GUEST6, PEER6)):
        assert bench.parse(ether(ip(version) / TCP(sport=258, dport=772, flags="S", options=[("MSS", 1234)]))) == 0
        packet = bench.packet
        assert packet.source() == pack(source)
        assert packet.destination() == pack(destination)
        assert packet.key() == pack(source) + pack(destination) + b"\x01\x02\x03\x04"
        assert (packet.options.mss, packet.options.window_scale) == (1234, -1)
        assert bench.parse(ether(ip(version) / TCP(flags="S", options=[("WScale", 3)]))) == 0
        assert (packet.options.mss, packet.options.window_scale) == (0, 3)
    assert bench.parse(ether(ip(4) / ICMP(id=0x1234, seq=7))) == 0
    assert bench.packet.key() == pack(GUEST4) + pack(PEER4) + b"\x12\x34"
    assert bench.parse(ether(ip(6) / ICMPv6EchoRequest(id=0x1234, seq=7))) == 0
    assert bench.packet.key() == pack(GUEST6) + pack(PEER6) + b"\x12\x34"


def raw(layer: Layer, at: int, value: bytes) -> bytes:
    """The frame of `layer` with `value` written at `at`, counted from the IP header; checksums are as they were."""
    frame = bytearray(ether(layer))
    frame[14 + at : 14 + at + len(value)] = value
    return bytes(frame)


UDP4, UDP6, TCP4 = GOOD["udp4"][0], GOOD["udp6"][0], GOOD["tcp4"][0]
BAD: list[tuple[DropReason, bytes]] = [
    (DropReason.TRUNCATED, b""),
    (DropReason.TRUNCATED, ether(UDP4)[:13]),
    (DropReason.FOREIGN_MAC, ether(UDP4, dst="02:00:00:00:00:03")),
    (DropReason.VLAN, ether(Dot1Q(vlan=5) / UDP4)),
    (DropReason.VLAN, ether(Raw(bytes(40)), type=0x88A8)),
    (DropReason.ETHERTYPE, ether(Raw(bytes(40)), type=0x88CC)),
    (DropReason.ETHERTYPE, ether(Raw(bytes(40)), type=0x0007)),
    (DropReason.IP_HEADER, ether(UDP6, type=0x0800)),
    (DropReason.IP_HEADER, ether(UDP4, type=0x86DD)),
    (DropReason.IP_HEADER, raw(UDP4, 0, b"\x55")),
    (DropReason.IP_HEADER, raw(UDP4, 0, b"\x44")),
    (DropReason.IP_HEADER, ether(ip(4, options=[b"\x94\x09\0\0"]) / UDP())),
    (DropReason.IP_LENGTH, ether(UDP4)[:14]),
    (DropReason.IP_LENGTH, ether(UDP4)[:-1]),
    (DropReason.IP_LENGTH, ether(UDP6)[:-1]),
    (DropReason.IP_LENGTH, ether(ip(4, len=19) / UDP())),
    (DropReason.IP_LENGTH, ether(ip(6, plen=0, nh=0) / Raw(bytes(8)))),
    (DropReason.IP_CHECKSUM, raw(UDP4, 10, b"\x12\x34")),
    (DropReason.IP_OPTION, ether(ip(6, nh=60) / Raw(b"\x11\x09" + bytes(6)))),
    (DropReason.IP_OPTION, ether(ip(6) / IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop() / UDP())),
    (DropReason.IP_OPTION, ether(ip(6, nh=60) / Raw((b"\x3c\0" + bytes(6)) * 9) / UDP())),
    (DropReason.SOURCE_ROUTE, ether(ip(4, options=[b"\x83\x07\x04\x01\x02\x03\x04\0"]) / UDP())),
    (DropReason.SOURCE_ROUTE, ether(ip(6) / IPv6ExtHdrRouting(type=0, addresses=["::5"]) / UDP())),
    (DropReason.HOP_LIMIT, ether(ip(4, ttl=0) / UDP())),
    (DropReason.HOP_LIMIT, ether(ip(6, hlim=0) / UDP())),
    (DropReason.SOURCE_LOOPBACK, ether(ip(4, src="127.0.0.1") / UDP())),
    (DropReason.SOURCE_LOOPBACK, ether(ip(6, src="::1") / UDP())),
    (DropReason.SOURCE_MULTICAST, ether(ip(4, src="224.0.0.1") / UDP())),
    (DropReason.SOURCE_MULTICAST, ether(ip(4, src="255.255.255.255") / UDP())),
    (DropReason.SOURCE_MULTICAST, ether(ip(6, src="ff02::1") / UDP())),
    (DropReason.DESTINATION_UNUSABLE, ether(ip(4, dst="127.0.0.1") / UDP())),
    (DropReason.DESTINATION_UNUSABLE, ether(ip(4, dst="0.0.0.0") / UDP())),
    (DropReason.DESTINATION_UNUSABLE, ether(ip(6, dst="::1") / UDP(), dst="02:00:00:00:00:01")),
    (DropReason.DESTINATION_UNUSABLE, ether(ip(6, dst="::") / UDP(), dst="02:00:00:00:00:01")),
    (DropReason.PROTOCOL, ether(ip(4, proto=132) / Raw(bytes(20)))),
    (DropReason.PROTOCOL, ether(ip(4, proto=58) / Raw(bytes(20)))),
    (DropReason.PROTOCOL, ether(ip(6, nh=1) / Raw(bytes(20)))),
    (DropReason.PROTOCOL, ether(ip(6, nh=59))),
    (DropReason.L4_CHECKSUM, raw(UDP4, 26, b"\x12\x34")),
    (DropReason.L4_CHECKSUM, raw(UDP6, 46, b"\0\0")),
    (DropReason.L4_CHECKSUM, raw(TCP4, 36, b"\x12\x34")),
    (DropReason.L4_CHECKSUM, raw(GOOD["icmp4"][0], 22, b"\x12\x34")),
    (DropReason.L4_CHECKSUM, raw(GOOD["icmp6"][0], 42, b"\x12\x34")),
    (DropReason.TCP_HEADER, ether(ip(4, proto=6) / Raw(bytes(19)))),
    (DropReason.TCP_HEADER, ether(ip(4) / TCP(dataofs=4))),
    (DropReason.TCP_HEADER, ether(ip(6) / TCP(dataofs=6))),
    (DropReason.UDP_HEADER, ether(ip(4, proto=17) / Raw(bytes(7)))),
    (DropReason.UDP_HEADER, ether(ip(4) / UDP(len=7))),
    (DropReason.UDP_HEADER, ether(ip(6) / UDP(len=9))),
    (DropReason.ICMP_HEADER, ether(ip(4, proto=1) / Raw(bytes(7)))),
    (DropReason.ICMP_HEADER, ether(ip(6, nh=58) / Raw(bytes(7)))),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_frames(number: int) -> None:
    reason, frame = BAD[number]
    bench = Bench()
    assert DropReason(bench.parse(frame)) is reason


def test_families_that_are_off() -> None:
    for off, frame in (("ipv4", ether(UDP4)), ("ipv4", ether(GOOD["arp"][0])), ("ipv6", ether(UDP6))):
        bench = Bench(**{f"guest_{off}": None, f"gateway_{off}": None})
        assert DropReason(bench.parse(frame)) is DropReason.FAMILY_OFF
    bench = Bench(guest_ipv4=None, gateway_ipv4=None)
    assert bench.parse(ether(UDP6)) == 0


def test_every_group_is_heard() -> None:
    bench = Bench()
    for address in ("ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01", "01:00:5e:00:00:fb"):
        assert bench.parse(ether(UDP4, dst=address)) == 0


@pytest.mark.parametrize("flags", [NEEDS_CSUM, DATA_VALID, NEEDS_CSUM | DATA_VALID])
@pytest.mark.parametrize("name", ["tcp4", "tcp6", "udp4", "udp6"])
def test_checksums_that_are_not_made_yet_are_not_verified(flags: int, name: str) -> None:
    layer, kind = GOOD[name]
    frame = bytearray(ether(layer))
    at = 14 + (20 if name[-1] == "4" else 40) + (16 if name[:3] == "tcp" else 6)
    frame[at : at + 2] = b"\x55\x55"
    bench = Bench()
    assert DropReason(bench.parse(bytes(frame))) is DropReason.L4_CHECKSUM
    assert bench.parse(bytes(frame), vnet(flags, start=34, offset=16)) == 0
    assert bench.packet.kind == kind


def assert_inside(bench: Bench, at: int, length: int) -> None:
    """After a 0 every offset lies inside the frame."""
    packet = bench.packet
    end = at + length
    assert packet.kind in (1, 2, 3, 4, 5)
    assert packet.ethernet_at == at + 12
    assert packet.end <= end
    if packet.kind == classify.ARP:
        return
    view = packet.ip
    assert at + 26 == view.header_at
    assert view.header_at < view.source_at < view.destination_at < view.payload_at <= view.end == packet.end
    part = {classify.TCP: packet.tcp, classify.UDP: packet.udp, classify.ICMP: packet.icmp}.get(packet.kind)
    if part is not None:
        assert view.payload_at < part.payload_at <= part.end <= view.end
        assert len(packet.key()) == 2 * view.address_length + (2 if packet.kind == classify.ICMP else 4)
    assert len(packet.source()) == len(packet.destination()) == view.address_length


FRAMES = [ether(layer) for layer, _ in GOOD.values()] + [frame for _, frame in BAD]


@given(
    st.one_of(st.binary(max_size=120), st.sampled_from(FRAMES)),
    st.lists(st.tuples(st.integers(0, 119), st.integers(0, 255)), max_size=4),
    st.integers(0, 5),
    st.integers(0, 20),
    st.sampled_from([0, 1, 2, 255]),
)
@example(b"", [], 0, 0, 0)
def test_any_bytes(body: bytes, changes: list[tuple[int, int]], cut: int, at: int, flags: int) -> None:
    bench = Bench()
    frame = bytearray(body)
    for position, value in changes:
        if position < len(frame):
            frame[position] = value
    frame = frame[: len(frame) - cut]
    bench.arena.view[:] = random.Random(len(frame)).randbytes(bench.arena.size)
    place = bench.place(bytes(frame), vnet(flags), at)
    reason = bench.packet.parse(*place)
    assert 0 <= reason < len(DropReason)
    if not reason:
        assert_inside(bench, *place)


@given(st.integers(0, 26), st.binary(min_size=26, max_size=26))
def test_short_frames(length: int, body: bytes) -> None:
    bench = Bench()
    at, _ = bench.place(b"", body)
    assert DropReason(bench.packet.parse(at, length)) is not DropReason.NONE
