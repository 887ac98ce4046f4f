"""The table at the end: sums, bounds, plain and coloured forms."""

from __future__ import annotations

import io
import os
import pty
import re

import pytest

from bucatini.base.address import Endpoint, pack
from bucatini.base.events import ICMP, TCP, UDP, Ending, FlowClosed, FlowOpened, FlowRefused, Refusal
from bucatini.base.reasons import Counters, DropReason
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.observe.summary import Summary

GUEST = Endpoint(pack("172.16.0.2"), 40000)
WEB = Endpoint(pack("2001:db8::1"), 443)


def one_flow(summary: Summary, peer: Endpoint, sent: int = 0, received: int = 0, how: Ending = Ending.CLOSED) -> None:
    summary.on_event(FlowOpened(1, TCP, EGRESS, GUEST, peer, None, "policy public"), 0.0)
    summary.on_event(FlowClosed(1, TCP, EGRESS, GUEST, peer, None, "policy public", sent, received, 0.5, how), 0.5)


def sample() -> Summary:
    summary = Summary()
    one_flow(summary, WEB, 1000, 2048)
    one_flow(summary, WEB, 24, 0, Ending.PEER_REFUSED)
    for _ in range(3):
        private = Endpoint(pack("10.0.0.1"), 22)
        summary.on_event(FlowRefused(TCP, EGRESS, GUEST, private, "private", Refusal.POLICY), 0.0)
    summary.on_event(FlowRefused(UDP, EGRESS, GUEST, WEB, "", Refusal.SOCKETS), 0.0)
    inside, client = Endpoint(GUEST.address, 80), Endpoint(pack("192.0.2.9"), 50000)
    summary.on_event(FlowOpened(2, TCP, INGRESS, inside, client, None, "--publish"), 0.0)
    summary.on_event(FlowOpened(3, ICMP, EGRESS, GUEST, Endpoint(pack("192.0.2.1"), 0), None, "policy public"), 0.0)
    return summary


def test_who_sees_packets_only_says_nothing_of_flows() -> None:
    summary = Summary(sees_flows=False)
    for times in (1, 4):
        summary.on_event(FlowRefused(TCP, EGRESS, GUEST, WEB, "--block ::/0", Refusal.POLICY, times), 0.0)
    stream = io.StringIO()
    summary.write(stream)
    _, row, total = stream.getvalue().splitlines()
    assert row.split() == ["refused", "tcp", "[2001:db8::1]:443", "5", "--block", "::/0"]
    assert total == "5 packets refused"


PLAIN = """\
verdict                  proto     destination                      flows      sent  received    time  rule
allowed                  tcp       [2001:db8::1]:443         2 (1 failed)   1.0 KiB   2.0 KiB   1.0 s  policy public
allowed                  icmp      192.0.2.1                            1       0 B       0 B    0 ms  policy public
allowed                  tcp       port 80 from 192.0.2.9               1       0 B       0 B    0 ms  --publish
refused                  tcp       10.0.0.1:22                          3                              private
refused: no host socket  udp       [2001:db8::1]:443                    1
4 flows allowed, 4 refused; 1.0 KiB sent, 2.0 KiB received
"""


def test_plain_table_is_aligned() -> None:
    stream = io.StringIO()
    sample().write(stream)
    assert [line.split() for line in stream.getvalue().splitlines()] == [line.split() for line in PLAIN.splitlines()]
    header, *rows, _ = stream.getvalue().splitlines()
    for row in rows:
        assert row[header.index("proto") :].startswith(("tcp ", "udp ", "icmp "))
        assert row[header.index("destination") - 1] == " "
        assert row[: header.index("flows") + 5].rstrip().endswith((")", "1", "3"))


def test_drops_are_listed_most_frequent_first() -> None:
    counters = Counters()
    counters.drop(DropReason.VLAN)
    counters.drop(DropReason.NO_FLOW, 12)
    stream = io.StringIO()
    Summary().write(stream, counters)
    assert stream.getvalue().splitlines() == [
        "0 flows allowed, 0 refused; 0 B sent, 0 B received",
        "dropped:",
        "        12  no-flow: belongs to no flow and cannot start one",
        "         1  vlan: tagged for a VLAN (802.1Q); the link has none",
    ]


def test_rows_are_bounded_and_the_rest_is_added_up() -> None:
    summary = Summary(limit=10)
    for number in range(100):
        one_flow(summary, Endpoint(pack("192.0.2.1"), 1000 + number), 1, 2)
    cells = summary.cells()
    assert len(cells) == 11
    assert cells[-1] == ("", "", "everything else", "90", "90 B", "180 B", "45.0 s", "")
    assert summary.totals() == [
        "10 flows allowed, 0 refused, 90 in neither count because the table was full; 100 B sent, 200 B received"
    ]


@pytest.mark.parametrize("width", [40, 80, 160])
def test_on_a_terminal_it_is_a_rich_table_with_ipv6_intact(width: int) -> None:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream:
        sample().write(stream, width=width)
        shown = ""
        while " received\r\n" not in shown:
            shown += os.read(leader, 65536).decode()
    os.close(leader)
    assert "\x1b[" in shown
    assert "\x1b[31m" in shown
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    for word in ("verdict", "received", "refused", "10.0.0.1:22", "private", "policy", "2 (1 failed)"):
        assert word in text
    assert ("1.0 s" in text) == (width == 160)
    if width == 160:
        assert "[2001:db8::1]:443" in text
    assert "4 flows allowed, 4 refused" in shown


def test_a_reader_that_went_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    sample().write(stream)
    with pytest.raises(BrokenPipeError):
        stream.close()
