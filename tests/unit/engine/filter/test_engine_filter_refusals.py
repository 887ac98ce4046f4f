"""engine.filter.refusals: who is told, how often, and what is left to others."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from bucatini.base.events import FlowRefused, Refusal
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS
from bucatini.engine.drop_events import QUIET
from bucatini.engine.filter.refusals import DESTINATIONS, NOT_OPEN, Refusals
from bucatini.guard.frame import Frame
from bucatini.guard.rule_grammar import parse_rule
from bucatini.guard.rules import RuleTable
from bucatini.observe.console import sentence

GUEST, GUEST6 = "10.0.0.7", "fd00::7"
DENIED = int(DropReason.POLICY_DENIED)


class Bench:
    def __init__(self, *block: str) -> None:
        self.events: list[FlowRefused] = []
        self.refusals = Refusals(lambda event, now: self.events.append(event))
        self.rules = RuleTable((), [parse_rule(each, "--block") for each in block])

    def send(self, packet: Packet, now: float = 1.0, reason: int = DENIED) -> bool:
        buffer = bytes(Ether() / packet)
        frame = Frame(memoryview(bytearray(buffer)))
        frame.parse(0, len(buffer))
        return self.refusals.refused(reason, EGRESS, frame, self.rules, now)


def to(port: int, address: str = "10.1.0.1") -> Packet:
    return IP(src=GUEST, dst=address) / TCP(sport=4000, dport=port, flags="S")


@pytest.mark.parametrize(
    ("packet", "said"),
    [
        (to(22), f"tcp 10.0.0.7:4000 -> 10.1.0.1:22 refused by policy ({NOT_OPEN})"),
        (to(22, "8.8.8.8"), "tcp 10.0.0.7:4000 -> 8.8.8.8:22 refused by policy (--block 8.8.8.0/24)"),
        (
            IP(src=GUEST, dst="10.1.0.1") / UDP(sport=5, dport=53),
            f"udp 10.0.0.7:5 -> 10.1.0.1:53 refused by policy ({NOT_OPEN})",
        ),
        (IP(src=GUEST, dst="10.1.0.1") / ICMP(), f"icmp 10.0.0.7 -> 10.1.0.1 refused by policy ({NOT_OPEN})"),
        (
            IPv6(src=GUEST6, dst="fd00::9") / ICMPv6EchoRequest(),
            f"icmp fd00::7 -> fd00::9 refused by policy ({NOT_OPEN})",
        ),
        (
            IPv6(src=GUEST6, dst="64:ff9b::808:808") / TCP(sport=4000, dport=80, flags="S"),
            "tcp [fd00::7]:4000 -> [64:ff9b::808:808]:80 refused by policy (--block 8.8.8.0/24)",
        ),
    ],
)
def test_who_and_what(packet: Packet, said: str) -> None:
    bench = Bench("8.8.8.0/24")
    assert bench.send(packet)
    assert [sentence(each) for each in bench.events] == [said]


@pytest.mark.parametrize(
    "packet", [IP(src=GUEST, dst="10.1.0.1", proto=47), IP(src=GUEST, dst="10.1.0.1") / ICMP(type=3), ARP()]
)
def test_what_is_no_flow_is_left_to_others(packet: Packet) -> None:
    bench = Bench()
    assert not bench.send(packet)
    assert not bench.send(to(22), reason=int(DropReason.SOURCE_NOT_GUEST))
    assert not bench.events


def test_a_full_table_has_no_rule() -> None:
    bench = Bench()
    assert bench.send(to(22), reason=int(DropReason.FLOW_TABLE_FULL))
    assert [(each.rule, each.reason) for each in bench.events] == [("", Refusal.TABLE_FULL)]


def test_each_destination_has_its_own_quiet_and_the_count_is_complete() -> None:
    bench = Bench()
    for step in range(1000):
        assert bench.send(to(22), now=5.0 + step * QUIET / 1000)
    bench.send(to(23), now=6.0)
    assert [(each.peer.port, each.times) for each in bench.events] == [(22, 1), (23, 1)]
    bench.send(to(22), now=5.0 + QUIET)
    assert bench.events[-1].times == 1000
    bench.send(to(22), now=6.0 + QUIET)
    bench.refusals.finish(7.0 + QUIET)
    bench.refusals.finish(8.0 + QUIET)
    assert [(each.peer.port, each.times) for each in bench.events[3:]] == [(22, 1)]
    assert ", 1000 times" in sentence(bench.events[2])


def test_a_scan_is_told_of_as_far_as_there_is_room() -> None:
    bench = Bench()
    told = [bench.send(to(port)) for port in range(1, 2000)]
    assert told == [True] * DESTINATIONS + [False] * (1999 - DESTINATIONS)
    assert len(bench.events) == DESTINATIONS
    assert bench.send(to(1), now=2.0)
    assert bench.send(to(5000), now=1.0 + QUIET), "the oldest makes room, and its count is told"
    assert [(each.peer.port, each.times) for each in bench.events[DESTINATIONS:]] == [(1, 1), (5000, 1)]
