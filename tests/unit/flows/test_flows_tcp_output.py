"""bucatini.flows.tcp_output: what holds in every state.

What leaves when is played in tests/playbook.
"""

from __future__ import annotations

import errno
import socket

import pytest

from bucatini.base.address import Endpoint
from bucatini.flows.sequence import add, distance
from bucatini.flows.tcp_flow import TcpFlow
from bucatini.flows.tcp_output import DISCARD_AT, MAX_SKIP, deadline, flush, initial_window, outside, update_window
from bucatini.flows.tcp_states import CLOSED, CONNECTING, ESTABLISHED, NAMES, SYN_RECEIVED, SYN_SENT, TIME_WAIT
from bucatini.native import Arena
from support.playbook import Recorder


def flow_in(state: int, opened: bool = False) -> TcpFlow:
    flow = TcpFlow(Endpoint(bytes(4), 1), Endpoint(bytes(4), 2), "egress", 0.0)
    flow.set_link(1460, False)
    flow.set_mss(1460)
    flow.state = state
    flow.open = opened
    initial_window(flow)
    return flow


def test_initial_window_is_what_a_syn_can_say() -> None:
    flow = flow_in(CONNECTING)
    assert distance(flow.rcv_edge, flow.rcv_nxt) == 65535


def test_initial_window_wraps() -> None:
    flow = flow_in(CONNECTING)
    flow.rcv_nxt = 2**32 - 1
    initial_window(flow)
    assert flow.rcv_edge == 65534


@pytest.mark.parametrize("state", range(len(NAMES)), ids=NAMES)
def test_the_window_moves_only_while_the_guest_sends(state: int) -> None:
    flow = flow_in(state)
    update_window(flow, Recorder())
    assert distance(flow.rcv_edge, flow.rcv_nxt) == 65535
    flow.open = flow.guest_fin = True
    update_window(flow, Recorder())
    assert distance(flow.rcv_edge, flow.rcv_nxt) == 65535


def test_the_window_grows_to_what_the_scale_can_say() -> None:
    flow, out = flow_in(ESTABLISHED, True), Recorder()
    flow.rcv_scale = 2
    flow.space = -1
    update_window(flow, out)
    assert distance(flow.rcv_edge, flow.rcv_nxt) == 65535 << 2


@pytest.mark.parametrize("una", [0, 1000, 2**31 - 50, 2**32 - 50])
@pytest.mark.parametrize(
    ("sent", "window", "number"), [(0, 0, 0), (0, 500, 0), (100, 500, 100), (100, 100, 100), (100, 99, 99), (100, 0, 0)]
)
def test_a_bare_segment_has_the_number_that_comes_next(una: int, sent: int, window: int, number: int) -> None:
    """Whatever is being sent again, and never beyond the guest's window."""
    flow = flow_in(ESTABLISHED, True)
    flow.snd_una = flow.snd_nxt = una
    flow.snd_max = add(una, sent)
    flow.snd_wnd = window
    assert outside(flow) == add(una, number)


@pytest.mark.parametrize(
    "state", [CONNECTING, SYN_SENT, SYN_RECEIVED, TIME_WAIT, CLOSED], ids=lambda state: NAMES[state]
)
def test_flush_reads_nothing_before_and_after(state: int) -> None:
    """Before the guest's last word on the handshake, and when the socket is gone."""
    flow, out = flow_in(state), Recorder()
    out.socket.stream += b"early"
    flow.queued = flow.readable = True
    flush(flow, 1.0, out)
    assert out.log == []
    assert out.socket.peek_at == 0
    assert not flow.queued


@pytest.mark.parametrize("state", [CONNECTING, CLOSED], ids=lambda state: NAMES[state])
def test_deadline_comes_too_early_or_too_late(state: int) -> None:
    flow, out = flow_in(state), Recorder()
    deadline(flow, 1e9, out)
    assert out.log == []
    assert len(out.deadlines) == 0


def test_an_early_deadline_is_filed_again() -> None:
    flow, out = flow_in(ESTABLISHED, True), Recorder()
    flow.timer_at, flow.idle_at = 5.0, 7.0
    deadline(flow, 1.0, out)
    assert out.log == []
    assert out.deadlines.next() == 5.0


def test_a_peek_passes_over_all_that_may_be_in_flight() -> None:
    """Without a peek offset of the kernel's; -EMSGSIZE would end the flow."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.send(b"x")
        assert Arena(100).peek(near, 0, 100, MAX_SKIP + DISCARD_AT) == -errno.EAGAIN
