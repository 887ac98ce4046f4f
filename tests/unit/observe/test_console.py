"""Sentences for people, and the hint at the end."""

from __future__ import annotations

import os
import pty

import pytest

from bucatini.base.address import Endpoint, pack
from bucatini.base.events import ICMP, TCP, Ending, Event, FlowClosed, FlowOpened, FlowRefused, FrameDropped, Refusal
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.observe.console import Console, RefusalHint, sentence

GUEST = Endpoint(pack("172.16.0.2"), 40000)
PEER = Endpoint(pack("192.0.2.1"), 443)
REFUSED = FlowRefused(TCP, EGRESS, GUEST, PEER, "private", Refusal.POLICY)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            FlowOpened(1, TCP, EGRESS, GUEST, PEER, None, "policy public"),
            "tcp 172.16.0.2:40000 -> 192.0.2.1:443 allowed (policy public)",
        ),
        (
            FlowOpened(1, TCP, EGRESS, GUEST, PEER, Endpoint(pack("::1"), 8000), "allow host"),
            "tcp 172.16.0.2:40000 -> 192.0.2.1:443 allowed (allow host), at [::1]:8000 of the host",
        ),
        (
            FlowOpened(1, TCP, INGRESS, GUEST, PEER, None, "--publish"),
            "tcp 192.0.2.1:443 -> 172.16.0.2:40000 allowed (--publish)",
        ),
        (REFUSED, "tcp 172.16.0.2:40000 -> 192.0.2.1:443 refused by policy (private)"),
        (
            FlowRefused(ICMP, EGRESS, GUEST, Endpoint(PEER.address, 0), "", Refusal.TABLE_FULL),
            "icmp 172.16.0.2:40000 -> 192.0.2.1 refused: flow table full",
        ),
        (
            FlowClosed(1, TCP, EGRESS, GUEST, PEER, None, "r", 512, 1536, 1.25, Ending.PEER_RESET),
            "tcp 172.16.0.2:40000 -> 192.0.2.1:443 reset by peer after 1.2 s: 512 B sent, 1.5 KiB received",
        ),
        (
            FrameDropped(DropReason.ARP_SPOOF, 3, bytes(5) + b"\x07", pack("10.0.0.1"), pack("10.0.0.9")),
            "3 frames from 00:00:00:00:00:07 (10.0.0.1 -> 10.0.0.9) dropped: arp-spoof: "
            "ARP in which the guest claims a MAC or IPv4 address that is not its own",
        ),
        (
            FrameDropped(DropReason.TRUNCATED, 1, None, None, None),
            "1 frame dropped: truncated: shorter than its own headers or length fields say",
        ),
    ],
)
def test_sentences(event: Event, text: str) -> None:
    assert sentence(event) == text


def test_lines_carry_the_name_of_the_program() -> None:
    reader, writer = os.pipe()
    console = Console(writer)
    console.on_event(REFUSED, 0.0)
    console.flush()
    assert os.read(reader, 1000) == b"bucatini: " + sentence(REFUSED).encode() + b"\n"
    console.close()
    os.close(writer)  # still ours to close
    os.close(reader)


def test_a_terminal_in_raw_mode_gets_carriage_returns() -> None:
    leader, follower = pty.openpty()
    Console(follower).close()
    console = Console(follower)
    console.say("hello")
    console.flush()
    assert os.read(leader, 100).endswith(b"hello\r\r\n")  # the terminal, not being raw, added one
    os.close(follower)
    os.close(leader)


def test_a_reader_who_is_too_slow_is_told_what_was_lost() -> None:
    reader, writer = os.pipe()
    console = Console(writer)
    for _ in range(4000):
        console.on_event(REFUSED, 0.0)
    text = b""
    while not text.endswith(b"too slow\n"):
        text += os.read(reader, 65536)
        console.close() if text.count(b"\n") > 1500 else console.flush()
    lines = text.splitlines()
    lost = int(lines[-1].split()[1])
    assert lost + len(lines) - 1 == 4000
    os.close(writer)
    os.close(reader)


def test_hint_counts_only_refusals() -> None:
    hint = RefusalHint()
    assert hint.line() is None
    hint.on_event(FlowOpened(1, TCP, EGRESS, GUEST, PEER, None, "r"), 0.0)
    assert hint.line() is None
    hint.on_event(REFUSED, 0.0)
    assert hint.line() == "1 connection refused by policy; --summary or -v shows them"
    hint.on_event(REFUSED, 0.0)
    hint.on_event(FlowRefused(TCP, EGRESS, GUEST, PEER, "", Refusal.TABLE_FULL), 0.0)
    assert hint.line() == (
        "1 connection refused (flow table full), 2 connections refused by policy; --summary or -v shows them"
    )


def test_who_sees_packets_counts_each() -> None:
    hint = RefusalHint("packet")
    hint.on_event(REFUSED._replace(times=7), 0.0)
    assert hint.line() == "7 packets refused by policy; --summary or -v shows them"
    assert sentence(REFUSED._replace(times=7)).endswith(" refused by policy (private), 7 times")
