"""stack.egress: what it builds is what scapy would have built, with and without offloads."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from bucatini.base.address import Endpoint, pack
from bucatini.base.verdict import EGRESS
from bucatini.flows.datagram_flow import DatagramFlow
from bucatini.flows.tcp_flow import MAX_PAYLOAD, TcpFlow
from bucatini.native import Arena, checksum
from bucatini.stack.egress import TCP_PAYLOAD_V4, TCP_PAYLOAD_V6, UDP_PAYLOAD_V4, UDP_PAYLOAD_V6, Egress
from support.frames import GATEWAY_MAC, GUEST4, GUEST6, GUEST_MAC, PEER4, PEER6, check_to_guest, mac, payload_of

ADDRESSES = {4: (GUEST4, PEER4), 6: (GUEST6, PEER6)}
TCP_AT = {4: TCP_PAYLOAD_V4, 6: TCP_PAYLOAD_V6}
UDP_AT = {4: UDP_PAYLOAD_V4, 6: UDP_PAYLOAD_V6}
VERSIONS = pytest.mark.parametrize("version", [4, 6])
OFFLOADS = pytest.mark.parametrize("offload", [False, True])
BODY = random.Random(3).randbytes(1 << 16)


class Desk:
    """An egress with one arena and one flow."""

    def __init__(self, version: int, offload: bool, protocol: int) -> None:
        self.arena = Arena(1 << 17)
        self.arena.view[:] = b"\xaa" * (1 << 17)
        self.egress = Egress(self.arena.view, mac(GUEST_MAC), mac(GATEWAY_MAC), offload, checksum)
        guest, peer = (Endpoint(pack(text), port) for text, port in zip(ADDRESSES[version], (40000, 443), strict=True))
        self.flow: Any = (
            TcpFlow(guest, peer, EGRESS, 0.0) if protocol == 6 else DatagramFlow(protocol, guest, peer, EGRESS, 0.0)
        )
        self.egress.prepare(self.flow, guest, peer, protocol)

    def put(self, at: int, body: bytes) -> None:
        self.arena.view[at : at + len(body)] = body

    def frame(self, at: int, length: int) -> bytes:
        frame = bytes(self.arena.view[at : at + length])
        assert bytes(self.arena.view[at + length :]) == b"\xaa" * (len(self.arena.view) - at - length)
        assert bytes(self.arena.view[:at]) == b"\xaa" * at
        return frame


def scapy_frame(version: int, transport: Any, fragment_flags: str = "") -> bytes:
    """The same frame, checksums complete, by scapy."""
    guest, peer = ADDRESSES[version]
    network = (
        IP(src=peer, dst=guest, ttl=64, id=0, flags=fragment_flags)
        if version == 4
        else IPv6(src=peer, dst=guest, hlim=64)
    )
    return bytes(Ether(src=GATEWAY_MAC, dst=GUEST_MAC) / network / transport)


@VERSIONS
@pytest.mark.parametrize("length", [0, 1, 7, 100, 1459, 1460])
def test_segment_is_that_of_scapy(version: int, length: int) -> None:
    desk = Desk(version, False, 6)
    flow = desk.flow
    flow.rcv_nxt, flow.rcv_edge, flow.rcv_scale, flow.mss = 0xFFFFFFF0, 0x0000FF00, 0, 1460
    body = BODY[:length]
    desk.put(64 + TCP_AT[version], body)
    frame = desk.frame(64, desk.egress.segment(flow, 64, 0x18, 0x12345678, length))
    expected = TCP(sport=443, dport=40000, seq=0x12345678, ack=0xFFFFFFF0, flags="PA", window=0xFF10) / body
    assert frame == bytes(12) + scapy_frame(version, expected, "DF")


@VERSIONS
@OFFLOADS
@given(
    seq=st.integers(0, 2**32 - 1),
    ack=st.integers(0, 2**32 - 1),
    window=st.integers(-5, 1 << 24),
    scale=st.integers(0, 14),
    flags=st.sampled_from([0x10, 0x18, 0x11, 0x14, 0x04]),
    length=st.one_of(st.integers(0, 2000), st.integers(2000, MAX_PAYLOAD)),
    mss=st.integers(88, 9000),
    at=st.integers(0, 64),
)
def test_any_segment(
    version: int, offload: bool, seq: int, ack: int, window: int, scale: int, flags: int, length: int, mss: int, at: int
) -> None:
    if not offload:
        length = min(length, mss)
    desk = Desk(version, offload, 6)
    flow = desk.flow
    flow.rcv_nxt, flow.rcv_edge, flow.rcv_scale, flow.mss = ack, (ack + window) & 0xFFFFFFFF, scale, mss
    desk.put(at + TCP_AT[version], BODY[:length])
    frame = desk.frame(at, desk.egress.segment(flow, at, flags, seq, length))
    parsed = check_to_guest(frame)
    segment = parsed[TCP]
    assert (segment.sport, segment.dport, segment.seq, int(segment.flags)) == (443, 40000, seq, flags)
    assert segment.ack == (ack if flags & 0x10 else 0)
    assert segment.window == min(max(window, 0) >> scale, 65535)
    assert payload_of(parsed) == BODY[:length]
    assert frame[0] == (1 if offload else 0)
    assert frame[1] == ((1 if version == 4 else 4) if length > mss else 0)
    if length > mss:
        assert int.from_bytes(frame[4:6], "little") == mss


@VERSIONS
@OFFLOADS
@pytest.mark.parametrize("scale", [0, 8])
@pytest.mark.parametrize("flags", [0x02, 0x12])
def test_syn(version: int, offload: bool, scale: int, flags: int) -> None:
    desk = Desk(version, offload, 6)
    flow = desk.flow
    flow.iss, flow.irs, flow.rcv_nxt, flow.rcv_edge, flow.rcv_scale = 77, 10, 11, 11 + 65535, scale
    parsed = check_to_guest(desk.frame(0, desk.egress.syn(flow, 0, flags, 1440)))
    segment = parsed[TCP]
    assert (segment.seq, segment.ack, int(segment.flags)) == (77, 11 if flags & 0x10 else 0, flags)
    assert segment.window == 65535
    options = [("MSS", 1440)] + ([("NOP", None), ("WScale", 8)] if scale else [])
    sack = [("NOP", None), ("NOP", None), ("SAckOK", b"")]
    # Our own SYN offers selective acknowledgements; a SYN,ACK answers an offer.
    assert segment.options == options + ([] if flags & 0x10 else sack)
    assert payload_of(parsed) == b""
    if flags & 0x10:
        flow.sack = True
        assert check_to_guest(desk.frame(0, desk.egress.syn(flow, 0, flags, 1440)))[TCP].options == options + sack


@VERSIONS
@OFFLOADS
def test_an_acknowledgement_tells_what_is_kept(version: int, offload: bool) -> None:
    desk = Desk(version, offload, 6)
    desk.flow.rcv_nxt = desk.flow.rcv_edge = 1000
    blocks = [(5000 + 2000 * number, 6000 + 2000 * number) for number in range(5)]
    for count in range(1, 6):
        parsed = check_to_guest(desk.frame(0, desk.egress.acknowledgement(desk.flow, 0, 77, blocks[:count])))
        told = tuple(edge for block in blocks[: min(count, 4)] for edge in block)
        assert parsed[TCP].options == [("NOP", None), ("NOP", None), ("SAck", told)]
        assert (parsed[TCP].seq, parsed[TCP].ack, payload_of(parsed)) == (77, 1000, b"")


def test_the_window_of_a_syn_is_not_scaled() -> None:
    desk = Desk(4, True, 6)
    flow = desk.flow
    flow.rcv_nxt, flow.rcv_edge, flow.rcv_scale = 0, 1 << 20, 8
    assert check_to_guest(desk.frame(0, desk.egress.syn(flow, 0, 0x12, 1460)))[TCP].window == 65535
    desk = Desk(4, True, 6)
    flow = desk.flow
    flow.rcv_nxt, flow.rcv_edge, flow.rcv_scale = 0, 1 << 20, 8
    assert check_to_guest(desk.frame(0, desk.egress.segment(flow, 0, 0x10, 0, 0)))[TCP].window == 1 << 12


@VERSIONS
@pytest.mark.parametrize("length", [0, 1, 1472, 9001])
def test_datagram_is_that_of_scapy(version: int, length: int) -> None:
    desk = Desk(version, False, 17)
    desk.put(UDP_AT[version], BODY[:length])
    frame = desk.frame(0, desk.egress.datagram(desk.flow, 0, length, 0))
    assert frame == bytes(12) + scapy_frame(version, UDP(sport=443, dport=40000) / BODY[:length])


@VERSIONS
@OFFLOADS
@given(length=st.integers(0, 65507), cut=st.integers(0, 2000), at=st.integers(0, 64))
def test_any_datagram(version: int, offload: bool, length: int, cut: int, at: int) -> None:
    if not offload:
        cut = 0
    desk = Desk(version, offload, 17)
    desk.put(at + UDP_AT[version], BODY[:length])
    frame = desk.frame(at, desk.egress.datagram(desk.flow, at, length, cut))
    parsed = check_to_guest(frame)
    assert (parsed[UDP].sport, parsed[UDP].dport, parsed[UDP].len) == (443, 40000, 8 + length)
    assert payload_of(parsed) == BODY[:length]
    assert frame[1] == (5 if 0 < cut < length else 0)
    assert int.from_bytes(frame[4:6], "little") == (cut if 0 < cut < length else 0)


@VERSIONS
def test_a_udp_checksum_of_zero_is_sent_as_its_other_form(version: int) -> None:
    desk = Desk(version, False, 17)
    at = 14 + (20 if version == 4 else 40) + 6
    # The checksum over a body of zero, put into the body, makes the sum come out at zero.
    body = scapy_frame(version, UDP(sport=443, dport=40000) / bytes(2))[at : at + 2]
    desk.put(UDP_AT[version], body)
    frame = desk.frame(0, desk.egress.datagram(desk.flow, 0, 2, 0))
    assert frame[12 + at : 12 + at + 2] == b"\xff\xff"
    check_to_guest(frame)


def test_plain_frames_ask_for_nothing() -> None:
    desk = Desk(4, True, 17)
    body = scapy_frame(4, UDP() / b"x")
    assert desk.frame(7, desk.egress.plain(7, body)) == bytes(12) + body


@VERSIONS
def test_one_flow_is_reused(version: int) -> None:
    """Nothing of the last frame stays: a long one, then a short one, at the same place."""
    desk = Desk(version, True, 6)
    desk.flow.mss = 100
    desk.flow.rcv_nxt = desk.flow.rcv_edge = 5
    desk.put(TCP_AT[version], BODY[:5000])
    desk.egress.segment(desk.flow, 0, 0x18, 1, 5000)
    again = bytes(desk.arena.view[: desk.egress.segment(desk.flow, 0, 0x10, 2, 50)])
    parsed = check_to_guest(again)
    assert (parsed[TCP].seq, again[1], payload_of(parsed)) == (2, 0, BODY[:50])
