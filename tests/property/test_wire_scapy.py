"""An independent implementation agrees: scapy reads what we write and we read what scapy writes, checksums included."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Ether

from bucatini.base.address import pack, text
from bucatini.wire.arp import ArpRepr, emit_arp, parse_arp
from bucatini.wire.checksum import finish, finish_udp, partial, pseudo_header, transport_ok
from bucatini.wire.ethernet import emit_ethernet, mac_text
from bucatini.wire.icmp import IcmpView, complete_v4, complete_v6, emit_icmp
from bucatini.wire.ip import IpView
from bucatini.wire.ipv4 import emit_ipv4
from bucatini.wire.ipv6 import emit_fragment_header, emit_ipv6
from bucatini.wire.ndp import (
    NeighborAdvertisement,
    NeighborSolicitation,
    Prefix,
    RouterAdvertisement,
    RouterSolicitation,
    emit_ndp,
    parse_ndp,
)
from bucatini.wire.octets import load_bytes
from bucatini.wire.tcp import TcpOptions, TcpView, emit_tcp, syn_options
from bucatini.wire.udp import UdpView, emit_udp

BYTE = st.integers(0, 0xFF)
WORD = st.integers(0, 0xFFFF)
LONG = st.integers(0, 0xFFFFFFFF)
MAC = st.binary(min_size=6, max_size=6)
FOUR = st.binary(min_size=4, max_size=4)
SIX = st.binary(min_size=16, max_size=16)
PAYLOAD = st.binary(max_size=64)
MANY = settings(max_examples=60)


def opened(packet: object) -> tuple[memoryview, IpView]:
    """The bytes of a scapy IP packet and our view of them."""
    buf = memoryview(bytearray(bytes(packet)))  # type: ignore[call-overload]
    view = IpView()
    assert view.parse(buf, 0, len(buf)) == 0
    return buf, view


@MANY
@given(MAC, MAC, WORD)
def test_ethernet(destination: bytes, source: bytes, ethertype: int) -> None:
    buf = bytearray(14)
    emit_ethernet(memoryview(buf), 0, destination, source, ethertype)
    theirs = Ether(dst=mac_text(destination), src=mac_text(source), type=ethertype)
    assert bytes(theirs) == buf


@MANY
@given(st.sampled_from([1, 2]), MAC, FOUR, MAC, FOUR)
def test_arp(operation: int, sender_mac: bytes, sender: bytes, target_mac: bytes, target: bytes) -> None:
    theirs = bytes(
        ARP(op=operation, hwsrc=mac_text(sender_mac), psrc=text(sender), hwdst=mac_text(target_mac), pdst=text(target))
    )
    ours = ArpRepr(operation, sender_mac, sender, target_mac, target)
    assert emit_arp(ours) == theirs
    assert parse_arp(memoryview(bytearray(theirs)), 0, 28) == ours


@MANY
@given(FOUR, FOUR, BYTE, BYTE, WORD, st.integers(0, 0x7FFF), BYTE, PAYLOAD)
def test_ipv4(
    source: bytes, destination: bytes, protocol: int, ttl: int, ident: int, field: int, tos: int, payload: bytes
) -> None:
    theirs = bytes(
        IP(
            src=text(source), dst=text(destination), proto=protocol, ttl=ttl, id=ident, flags=field >> 13,
            frag=field & 0x1FFF, tos=tos,
        )
        / payload
    )  # fmt: skip
    ours = bytearray(20)
    emit_ipv4(memoryview(ours), 0, 20 + len(payload), protocol, source, destination, ttl, ident, field, tos)
    assert ours + payload == theirs
    buf, view = opened(theirs)
    assert (view.protocol, view.hop_limit, view.identification, view.traffic_class) == (protocol, ttl, ident, tos)
    assert load_bytes(buf, view.payload_at, view.end - view.payload_at) == payload


@MANY
@given(SIX, SIX, BYTE, BYTE, st.integers(0, 0xFFFFF), PAYLOAD)
def test_ipv6(source: bytes, destination: bytes, hops: int, traffic: int, label: int, payload: bytes) -> None:
    theirs = bytes(IPv6(src=text(source), dst=text(destination), hlim=hops, tc=traffic, fl=label, nh=253) / payload)
    ours = bytearray(40)
    emit_ipv6(memoryview(ours), 0, len(payload), 253, source, destination, hops, traffic, label)
    assert ours + payload == theirs
    _, view = opened(theirs)
    assert (view.protocol, view.hop_limit, view.traffic_class) == (253, hops, traffic)


EXTENSIONS = st.lists(
    st.sampled_from([IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(type=2, addresses=["2001:db8::1"])]), max_size=4
)


@MANY
@given(st.booleans(), EXTENSIONS, PAYLOAD)
def test_ipv6_extension_headers(hop_by_hop: bool, extensions: list[object], payload: bytes) -> None:
    packet = IPv6(src="2001:db8::1", dst="2001:db8::2")
    if hop_by_hop:
        packet = packet / IPv6ExtHdrHopByHop()
    for extension in extensions:
        packet = packet / extension.copy()  # type: ignore[attr-defined]
    udp = bytes(UDP(sport=1, dport=2, chksum=1) / payload)
    packet = packet / UDP(sport=1, dport=2, chksum=1) / payload
    buf, view = opened(packet)
    assert (view.protocol, buf[view.extension_at], view.source_route) == (17, 17, False)
    assert load_bytes(buf, view.payload_at, view.end - view.payload_at) == udp


@MANY
@given(st.integers(0, 8191), st.booleans(), LONG)
def test_ipv6_fragment_header(units: int, more: bool, identification: int) -> None:
    theirs = bytes(IPv6ExtHdrFragment(nh=17, offset=units, m=int(more), id=identification))
    ours = bytearray(8)
    emit_fragment_header(memoryview(ours), 0, 17, units * 8, more, identification)
    assert ours == theirs


OPTIONS = st.lists(
    st.sampled_from([("MSS", 1460), ("WScale", 9), ("SAckOK", b""), ("Timestamp", (1, 2)), ("NOP", None)]),
    unique_by=lambda option: option[0],
    max_size=5,
)


@MANY
@given(WORD, WORD, LONG, LONG, BYTE, WORD, OPTIONS, PAYLOAD, st.booleans())
def test_tcp(
    source: int, destination: int, seq: int, ack: int, flags: int, window: int,
    options: list[tuple[str, object]], payload: bytes, six: bool,
) -> None:  # fmt: skip
    ip = IPv6(src="2001:db8::1", dst="2001:db8::2") if six else IP(src="192.0.2.1", dst="192.0.2.2")
    tcp = TCP(sport=source, dport=destination, seq=seq, ack=ack, flags=flags, window=window, options=options)
    buf, view = opened(ip / tcp / payload)
    found = TcpView()
    assert found.parse(buf, view.payload_at, view.end)
    assert (found.source_port, found.destination_port, found.seq, found.ack) == (source, destination, seq, ack)
    assert (found.flags, found.window) == (flags, window)
    assert load_bytes(buf, found.payload_at, found.end - found.payload_at) == payload
    said = TcpOptions()
    said.parse(buf, found.options_at, found.payload_at)
    names = {name for name, _ in options}
    assert (said.mss, said.window_scale) == (1460 if "MSS" in names else 0, 9 if "WScale" in names else -1)
    assert (said.sack_permitted, said.timestamps) == ("SAckOK" in names, "Timestamp" in names)
    assert transport_ok(buf, view.source_at, view.destination_at, view.address_length, 6, view.payload_at, view.end)

    raw = load_bytes(buf, found.options_at, found.payload_at - found.options_at)
    ours = bytearray(20 + len(raw))
    emit_tcp(memoryview(ours), 0, source, destination, seq, ack, flags, window, raw)
    total = pseudo_header(pack(ip.src), pack(ip.dst), 6, len(ours) + len(payload))
    ours[16:18] = finish(partial(bytes(ours) + payload, total)).to_bytes(2, "big")
    assert ours + payload == bytes(buf[view.payload_at :])


@MANY
@given(st.integers(1, 0xFFFF), st.integers(-1, 14))
def test_syn_options(mss: int, scale: int) -> None:
    data = bytearray(20 + len(syn_options(mss, scale)))
    emit_tcp(memoryview(data), 0, 1, 2, 0, 0, 2, 0, syn_options(mss, scale))
    expected = [("MSS", mss)] + ([("NOP", None), ("WScale", scale)] if scale >= 0 else [])
    assert TCP(bytes(data)).options == expected


@MANY
@given(WORD, WORD, PAYLOAD, st.booleans())
def test_udp(source: int, destination: int, payload: bytes, six: bool) -> None:
    ip = IPv6(src="2001:db8::1", dst="2001:db8::2") if six else IP(src="192.0.2.1", dst="192.0.2.2")
    buf, view = opened(ip / UDP(sport=source, dport=destination) / payload)
    found = UdpView()
    assert found.parse(buf, view.payload_at, view.end)
    assert (found.source_port, found.destination_port, found.length) == (source, destination, 8 + len(payload))
    assert transport_ok(buf, view.source_at, view.destination_at, view.address_length, 17, view.payload_at, view.end)

    ours = bytearray(8)
    emit_udp(memoryview(ours), 0, source, destination, 8 + len(payload), 0)
    total = partial(bytes(ours) + payload, pseudo_header(pack(ip.src), pack(ip.dst), 17, 8 + len(payload)))
    emit_udp(memoryview(ours), 0, source, destination, 8 + len(payload), finish_udp(total))
    assert ours + payload == bytes(buf[view.payload_at :])


@MANY
@given(WORD, WORD, PAYLOAD)
def test_icmp_echo_of_both_families(identifier: int, sequence: int, payload: bytes) -> None:
    four = bytes(ICMP(type=8, id=identifier, seq=sequence) / payload)
    ours = bytearray(8)
    emit_icmp(memoryview(ours), 0, 8, 0, identifier, sequence)
    assert complete_v4(ours + payload) == four
    buf, view = opened(
        IPv6(src="fe80::1", dst="fe80::2") / ICMPv6EchoRequest(id=identifier, seq=sequence, data=payload)
    )
    found = IcmpView()
    assert found.parse(buf, view.payload_at, view.end)
    assert (found.type, found.code, found.identifier, found.sequence) == (128, 0, identifier, sequence)
    emit_icmp(memoryview(ours), 0, 128, 0, identifier, sequence)
    assert complete_v6(ours + payload, pack("fe80::1"), pack("fe80::2")) == bytes(buf[40:])


TARGET = "fe80::fc54:beb6:be60:1"
SOURCE_MAC = "02:00:00:00:00:01"
RAW_MAC = bytes.fromhex("020000000001")
NDP = [
    (NeighborSolicitation(pack(TARGET)), ICMPv6ND_NS(tgt=TARGET)),
    (NeighborSolicitation(pack(TARGET), RAW_MAC), ICMPv6ND_NS(tgt=TARGET) / ICMPv6NDOptSrcLLAddr(lladdr=SOURCE_MAC)),
    (
        NeighborAdvertisement(pack(TARGET), True, True, False, RAW_MAC),
        ICMPv6ND_NA(R=1, S=1, O=0, tgt=TARGET) / ICMPv6NDOptDstLLAddr(lladdr=SOURCE_MAC),
    ),
    (RouterSolicitation(RAW_MAC), ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=SOURCE_MAC)),
    (
        RouterAdvertisement(
            64, True, False, 1800, 5, 6, RAW_MAC, 1400, (Prefix(pack("2001:db8::"), 64, True, False, 7200, 3600),)
        ),
        ICMPv6ND_RA(chlim=64, M=1, O=0, prf=0, routerlifetime=1800, reachabletime=5, retranstimer=6)
        / ICMPv6NDOptSrcLLAddr(lladdr=SOURCE_MAC)
        / ICMPv6NDOptMTU(mtu=1400)
        / ICMPv6NDOptPrefixInfo(
            prefix="2001:db8::", prefixlen=64, L=1, A=0, validlifetime=7200, preferredlifetime=3600
        ),
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), NDP)
def test_ndp(ours: NeighborSolicitation, theirs: object) -> None:
    packet = IPv6(src="fe80::1", dst="fe80::2", hlim=255) / theirs
    buf, view = opened(packet)
    assert parse_ndp(buf, view.payload_at, view.end) == ours
    assert complete_v6(emit_ndp(ours), pack("fe80::1"), pack("fe80::2")) == bytes(buf[view.payload_at : view.end])
