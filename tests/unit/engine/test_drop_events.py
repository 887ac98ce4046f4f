"""Dropped frames are told at once, then rarely, and none is left out of the count."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from bucatini.base.address import text
from bucatini.base.events import FrameDropped
from bucatini.base.reasons import DropReason
from bucatini.engine.drop_events import QUIET, DropEvents

AT = 100
MAC = "02:00:00:00:00:07"
SPOOF = int(DropReason.ARP_SPOOF)


class Told:
    """Drop events about frames in a memory of its own."""

    def __init__(self) -> None:
        self.memory = b""
        self.events: list[FrameDropped] = []
        self.drops = DropEvents(self.events.append, lambda at, length: self.memory[at : at + length])

    def drop(self, frame: bytes, reason: int = SPOOF, now: float = 1.0) -> None:
        self.memory = bytes(AT) + frame
        self.drops.dropped(reason, AT, AT + len(frame), now)


@pytest.mark.parametrize(
    ("frame", "source", "destination"),
    [
        (Ether(src=MAC) / IP(src="10.0.0.5", dst="192.0.2.1") / UDP(), "10.0.0.5", "192.0.2.1"),
        (Ether(src=MAC) / IPv6(src="fd00::5", dst="2001:db8::1") / UDP(), "fd00::5", "2001:db8::1"),
        (Ether(src=MAC) / ARP(psrc="10.0.0.1", pdst="10.0.0.9"), "10.0.0.1", "10.0.0.9"),
        (Ether(src=MAC, type=0x88CC) / b"lldp", None, None),
    ],
)
def test_who_and_where(frame: Ether, source: str | None, destination: str | None) -> None:
    told = Told()
    told.drop(bytes(frame))
    (event,) = told.events
    assert (event.reason, event.times, event.mac) == (SPOOF, 1, bytes.fromhex(MAC.replace(":", "")))
    assert [each and text(each) for each in (event.source, event.destination)] == [source, destination]


@pytest.mark.parametrize("length", range(60))
def test_a_frame_cut_anywhere_is_told(length: int) -> None:
    told = Told()
    told.drop(bytes(Ether(src=MAC) / IPv6() / UDP() / bytes(20))[:length])
    assert (told.events[0].mac is None) == (length < 14)
    assert (told.events[0].destination is None) == (length < 54)


def test_each_reason_has_its_own_quiet_and_the_count_is_complete() -> None:
    told = Told()
    frame = bytes(Ether(src=MAC) / ARP())
    for step in range(1000):
        told.drop(frame, now=5.0 + step * QUIET / 1000)
    told.drop(frame, int(DropReason.VLAN), now=6.0)
    assert [(event.reason, event.times) for event in told.events] == [(SPOOF, 1), (DropReason.VLAN, 1)]
    told.drop(frame, now=5.0 + QUIET)
    assert told.events[-1][:2] == (SPOOF, 1000)


@pytest.mark.parametrize("reason", [DropReason.ARP_NOT_OURS, DropReason.NDP_NOT_OURS, DropReason.SERVICE_OFF])
def test_questions_that_nobody_answers_are_no_attack(reason: DropReason) -> None:
    told = Told()
    told.drop(bytes(Ether(src=MAC) / ARP()), int(reason))
    assert not told.events


def test_refused_flows_are_told_elsewhere() -> None:
    told = Told()
    told.drop(b"", int(DropReason.POLICY_DENIED))
    assert not told.events
