"""bucatini.flows.datagram_flow: a new record and how long it is kept in silence (RFC 4787 REQ-5)."""

from __future__ import annotations

import pytest

from bucatini.base.address import Endpoint
from bucatini.flows.datagram_flow import ICMP_TIMEOUT, NEVER, UDP_TIMEOUT, DatagramFlow
from bucatini.stack.deadlines import Deadlines

GUEST = Endpoint(bytes((172, 16, 0, 2)), 5353)
PEER = Endpoint(bytes((192, 0, 2, 1)), 53)


def test_a_new_flow_holds_nothing() -> None:
    flow = DatagramFlow(17, GUEST, PEER, "egress", 3.5)
    assert (flow.guest, flow.peer, flow.host, flow.direction) == (GUEST, PEER, None, "egress")
    assert (flow.last_active, flow.opened_at) == (3.5, 3.5)
    assert (flow.sent, flow.received, flow.pieces, flow.fd, flow.mate) == (0, 0, [], -1, None)
    assert flow.deadline == flow.armed_at == NEVER


@pytest.mark.parametrize(("protocol", "seconds"), [(17, UDP_TIMEOUT), (1, ICMP_TIMEOUT), (58, ICMP_TIMEOUT)])
def test_silence(protocol: int, seconds: float) -> None:
    assert DatagramFlow(protocol, GUEST, PEER, "egress", 0.0).timeout == seconds


def test_udp_is_kept_as_long_as_the_rfc_asks() -> None:
    assert UDP_TIMEOUT >= 120


def test_flows_do_not_share_their_pieces() -> None:
    first, second = (DatagramFlow(17, GUEST, PEER, "egress", 0.0) for _ in range(2))
    first.pieces.append(1)
    assert second.pieces == []


def test_it_can_be_filed_under_a_deadline() -> None:
    flow, deadlines = DatagramFlow(17, GUEST, PEER, "egress", 0.0), Deadlines()
    deadlines.arm(flow, 180.0)
    assert (deadlines.due(179.0), deadlines.due(180.0), deadlines.due(999.0)) == (None, flow, None)


def test_its_text_names_both_ends() -> None:
    flow = DatagramFlow(17, GUEST, PEER, "egress", 0.0)
    flow.id = 3
    assert repr(flow) == "<DatagramFlow 3 17 172.16.0.2:5353 -> 192.0.2.1:53>"
