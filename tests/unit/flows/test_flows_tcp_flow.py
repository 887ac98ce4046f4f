"""bucatini.flows.tcp_flow: a new record, and the segment size it is given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.address import Endpoint
from bucatini.flows.tcp_flow import DEFAULT_MSS, MAX_PAYLOAD, NEVER, TcpFlow
from bucatini.flows.tcp_states import CLOSED, CONNECTING, SYN_RECEIVED

GUEST = Endpoint(bytes((172, 16, 0, 2)), 40000)
PEER = Endpoint(bytes((192, 0, 2, 1)), 443)


def new(link_mss: int = 1460, segmented: bool = False) -> TcpFlow:
    flow = TcpFlow(GUEST, PEER, "egress", 12.5)
    flow.set_link(link_mss, segmented)
    return flow


def test_a_new_flow_waits_for_nothing_and_holds_nothing() -> None:
    flow = new()
    assert (flow.guest, flow.peer, flow.host, flow.direction) == (GUEST, PEER, None, "egress")
    assert (flow.opened_at, flow.last_guest_at) == (12.5, 12.5)
    assert flow.state == CONNECTING
    assert {flow.timer_at, flow.idle_at, flow.deadline, flow.armed_at, flow.ack_wait} == {NEVER}
    assert (flow.sent, flow.received, flow.discard_due, flow.fd) == (0, 0, 0, -1)
    assert not any((flow.open, flow.queued, flow.readable, flow.ack_due, flow.closed))


def test_a_flow_keeps_nothing_else() -> None:
    with pytest.raises(AttributeError):
        new().payload = b""  # type: ignore[attr-defined]


def test_it_is_closed_in_the_last_state_only() -> None:
    flow = new()
    flow.move(SYN_RECEIVED)
    assert not flow.closed
    flow.move(CLOSED)
    assert flow.closed


@pytest.mark.parametrize(
    ("offered", "link", "used"),
    [
        (0, 1460, DEFAULT_MSS),
        (1, 1460, 88),
        (88, 1460, 88),
        (1460, 1460, 1460),
        (9000, 1460, 1460),
        (65535, 65535, MAX_PAYLOAD),
        (1460, 28, 28),
        (0, 28, 28),
    ],
)
def test_segment_size(offered: int, link: int, used: int) -> None:
    flow = new(link)
    flow.set_mss(offered)
    assert (flow.mss, flow.superframe) == (used, used)


@given(st.integers(0, 65535), st.integers(28, 65535), st.booleans())
def test_superframes_hold_whole_segments_and_fit_a_packet(offered: int, link: int, segmented: bool) -> None:
    flow = new(link, segmented)
    flow.set_mss(offered)
    assert flow.superframe % flow.mss == 0
    assert flow.mss <= flow.superframe <= MAX_PAYLOAD
    assert flow.mss <= link
    if segmented:
        assert flow.superframe + flow.mss > MAX_PAYLOAD
    else:
        assert flow.superframe == flow.mss


def test_its_text_names_both_ends_and_the_state() -> None:
    flow = new()
    flow.id = 7
    assert repr(flow) == "<TcpFlow 7 172.16.0.2:40000 -> 192.0.2.1:443 CONNECTING>"
