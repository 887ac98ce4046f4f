"""What one guest has begun with others, with the clock handed in."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether

from bucatini.base.address import pack
from bucatini.engine.conversations import BRIEF, IDLE, Conversations, Said, read
from support.frames import GATEWAY_MAC, GUEST_MAC, Bench

A4, B4, A6, B6 = "192.0.2.2", "192.0.2.3", "fd00::2", "fd00::3"
SYN, ACK, FIN, RST = "S", "A", "FA", "R"
OTHER = "b"


def said(packet: Any) -> Said | None:
    bench = Bench()
    assert bench.parse(bytes(Ether(src=GUEST_MAC, dst=GATEWAY_MAC) / packet)) == 0
    return read(bench.packet)


def tcp(flags: str, back: bool = False) -> Said:
    packet = IP(src=B4, dst=A4) / TCP(sport=80, dport=4000, flags=flags)
    if not back:
        packet = IP(src=A4, dst=B4) / TCP(sport=4000, dport=80, flags=flags)
    found = said(packet)
    assert found is not None
    return found


def udp(port: int) -> Said:
    found = said(IP(src=A4, dst=B4) / UDP(sport=port, dport=53))
    assert found is not None
    return found


def test_both_ends_mean_the_same_conversation() -> None:
    assert tcp(SYN).key == tcp("SA", back=True).back == ("tcp", pack(A4), 4000, pack(B4), 80)
    assert tcp(SYN).back == tcp("SA", back=True).key
    assert (tcp(SYN).protocol, tcp(SYN).port) == ("tcp", 80)


@pytest.mark.parametrize(
    ("flags", "begins", "is_syn", "ends"),
    [(SYN, True, True, False), ("SA", True, False, False), (ACK, True, False, False), (FIN, True, False, True),
     (RST, False, False, True), ("SF", True, False, True)],
)  # fmt: skip
def test_what_a_segment_means(flags: str, begins: bool, is_syn: bool, ends: bool) -> None:
    found = tcp(flags)
    assert (found.begins, found.is_syn, found.ends) == (begins, is_syn, ends)


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (IP(src=A4, dst=B4) / ICMP(type=8, id=7), IP(src=B4, dst=A4) / ICMP(type=0, id=7)),
        (IPv6(src=A6, dst=B6) / ICMPv6EchoRequest(id=7), IPv6(src=B6, dst=A6) / ICMPv6EchoReply(id=7)),
    ],
)
def test_an_echo_and_its_reply(ask: Any, answer: Any) -> None:
    request, reply = said(ask), said(answer)
    assert request is not None
    assert reply is not None
    assert request.begins
    assert not reply.begins
    assert reply.back == request.key


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (IP(src=B4, dst=A4) / ICMP(type=3, code=3) / IP(src=A4, dst=B4) / UDP(sport=7, dport=8),
         ("udp", pack(A4), 7, pack(B4), 8)),
        (IP(src=B4, dst=A4) / ICMP(type=11) / IP(src=A4, dst=B4) / TCP(sport=7, dport=8),
         ("tcp", pack(A4), 7, pack(B4), 8)),
        (IP(src=B4, dst=A4) / ICMP(type=3) / IP(src=A4, dst=B4) / ICMP(type=8, id=9),
         ("icmp", pack(A4), 9, pack(B4), 0)),
        (IPv6(src=B6, dst=A6) / ICMPv6DestUnreach() / IPv6(src=A6, dst=B6) / UDP(sport=7, dport=8),
         ("udp", pack(A6), 7, pack(B6), 8)),
        (IPv6(src=B6, dst=A6) / ICMPv6PacketTooBig() / IPv6(src=A6, dst=B6) / TCP(sport=7, dport=8),
         ("tcp", pack(A6), 7, pack(B6), 8)),
    ],
)  # fmt: skip
def test_an_error_names_what_its_receiver_sent(error: Any, sent: Any) -> None:
    found = said(error)
    assert found is not None
    assert found.quoted == sent
    assert not found.begins


@pytest.mark.parametrize(
    "packet",
    [
        IP(src=B4, dst=A4) / ICMP(type=3) / IP(src="203.0.113.1", dst=B4) / UDP(),  # not to whom it quotes
        IP(src=B4, dst=A4) / ICMP(type=3) / IP(src=A4, dst=B4, proto=47) / bytes(8),
        IP(src=B4, dst=A4) / ICMP(type=3) / bytes(4),
        IP(src=B4, dst=A4) / ICMP(type=3) / (b"\x4f" + bytes(30)),
        IP(src=B4, dst=A4) / ICMP(type=5) / IP(src=A4, dst=B4) / UDP(),
        IP(src=B4, dst=A4) / ICMP(type=13),
    ],
)
def test_what_belongs_to_nothing(packet: Any) -> None:
    assert said(packet) is None


def test_life_of_a_stream() -> None:
    held = Conversations()
    assert held.go_on(tcp(SYN), OTHER, 0.0)
    assert held.has(tcp(SYN).key, BRIEF - 1)
    assert not held.has(tcp(SYN).key, BRIEF), "half open"
    held.go_on(tcp(SYN), OTHER, 100.0)
    held.answered(tcp("SA", back=True), 100.1)
    held.go_on(tcp(ACK), OTHER, 100.2)
    assert held.has(tcp(ACK).key, 100.0 + IDLE)
    held.answered(tcp(ACK, back=True), 200.0)
    assert not held.has(tcp(ACK).key, 100.2 + IDLE), "an answer renews nothing"


@pytest.mark.parametrize("flags", [FIN, RST])
@pytest.mark.parametrize("who", ["beginner", "other"])
def test_after_the_end_it_goes_soon(flags: str, who: str) -> None:
    held = Conversations()
    held.go_on(tcp(ACK), OTHER, 0.0)
    if who == "beginner":
        held.go_on(tcp(flags), OTHER, 10.0)
    else:
        held.answered(tcp(flags, back=True), 10.0)
    held.go_on(tcp(ACK), OTHER, 20.0)
    assert held.has(tcp(ACK).key, 20.0 + BRIEF - 1), "the last acknowledgements pass"
    assert not held.has(tcp(ACK).key, 20.0 + BRIEF)
    held.go_on(tcp(SYN), OTHER, 30.0)
    held.go_on(tcp(ACK), OTHER, 31.0)
    assert held.has(tcp(ACK).key, 30.0 + IDLE), "the ports are used again"


def test_what_may_not_be_begun_any_more_ends() -> None:
    held = Conversations()
    held.go_on(tcp(SYN), "b", 0.0)
    held.go_on(udp(1), "b", 0.0)
    held.go_on(udp(2), "c", 0.0)
    held.go_on(udp(2), "b", 1.0)
    asked = []
    held.keep(lambda *what: bool(asked.append(what)) or what[1] == "udp")
    assert sorted(asked) == [("b", "tcp", 80), ("b", "udp", 53), ("b", "udp", 53)], "with whom it was said last"
    assert not held.has(tcp(SYN).key, 1.0)
    assert held.has(udp(1).key, 1.0)


def test_the_bound() -> None:
    held = Conversations(limit=2)
    assert held.go_on(udp(1), OTHER, 0.0)
    assert held.go_on(udp(2), OTHER, 1.0)
    assert not held.go_on(udp(3), OTHER, 2.0)
    assert held.go_on(udp(1), OTHER, 2.0), "who is there goes on"
    assert len(held) == 2
    assert held.go_on(udp(3), OTHER, 1.0 + BRIEF), "there is room when one is over"
    assert not held.has(udp(2).key, 1.0 + BRIEF)
    held.forget()
    assert len(held) == 0
