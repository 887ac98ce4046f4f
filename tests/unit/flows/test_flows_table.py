"""bucatini.flows.table: found by key, bounded together, TIME_WAIT gives way."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bucatini.base.address import Endpoint
from bucatini.flows.datagram_flow import DatagramFlow
from bucatini.flows.table import DEFAULT_LIMIT, FlowTable
from bucatini.flows.tcp_flow import TcpFlow

GUEST = Endpoint(bytes((172, 16, 0, 2)), 40000)
PEER = Endpoint(bytes((192, 0, 2, 1)), 53)
KEYS = st.sampled_from([bytes((n,)) for n in range(6)])


class Splice:
    """A flow that never has packets."""

    protocol = 6
    key = b""
    id = 0


def tcp(key: bytes) -> TcpFlow:
    flow = TcpFlow(GUEST, PEER, "egress", 0.0)
    flow.key = key
    return flow


def datagrams(protocol: int, key: bytes) -> DatagramFlow:
    flow = DatagramFlow(protocol, GUEST, PEER, "egress", 0.0)
    flow.key = key
    return flow


def test_a_new_table_is_empty() -> None:
    table = FlowTable()
    assert (len(table), table.limit, table.refused, table.all()) == (0, DEFAULT_LIMIT, 0, [])
    assert not table.full()
    assert table.oldest_waiting() is None


def test_protocols_do_not_meet() -> None:
    table = FlowTable()
    flows = [tcp(b"k"), datagrams(17, b"k"), datagrams(1, b"k"), Splice()]
    for flow in flows[:3]:
        table.add(flow)
    table.add_spliced(flows[3])
    assert (table.tcp[b"k"], table.udp[b"k"], table.icmp[b"k"]) == tuple(flows[:3])
    assert [flow.id for flow in flows] == [1, 2, 3, 4]
    assert table.all() == flows
    for flow in flows:
        table.remove(flow)
    assert table.all() == []


def test_icmp_of_both_families_shares_a_table() -> None:
    table = FlowTable()
    table.add(datagrams(58, b"six"))
    assert list(table.icmp) == [b"six"]


def test_ids_are_never_used_twice() -> None:
    table = FlowTable()
    first, second = tcp(b"a"), tcp(b"a")
    table.add(first)
    table.remove(first)
    table.add(second)
    assert (first.id, second.id) == (1, 2)


def test_removing_twice_is_harmless() -> None:
    table = FlowTable()
    flow = tcp(b"a")
    table.add(flow)
    table.remove(flow)
    table.remove(flow)
    assert len(table) == 0


def test_removing_an_old_flow_leaves_the_one_that_took_its_key() -> None:
    table = FlowTable()
    old, new = tcp(b"a"), tcp(b"a")
    table.add(old)
    table.add(new)
    table.remove(old)
    assert table.tcp == {b"a": new}


def test_a_splice_and_a_flow_of_equal_key_do_not_meet() -> None:
    table = FlowTable()
    flow = tcp(b"")
    table.add(flow)
    splice = Splice()
    table.add_spliced(splice)
    table.remove(splice)
    assert table.all() == [flow]


def test_the_limit_counts_all_protocols() -> None:
    table = FlowTable(3)
    table.add(tcp(b"a"))
    table.add(datagrams(17, b"a"))
    assert not table.full()
    table.add_spliced(Splice())
    assert table.full()
    assert table.oldest_waiting() is None


def test_the_oldest_in_time_wait_gives_way() -> None:
    table = FlowTable(3)
    flows = [tcp(bytes((n,))) for n in range(3)]
    for flow in flows:
        table.add(flow)
    for flow in (flows[1], flows[0]):
        table.waiting[flow.id] = flow
    assert not table.full()
    assert table.oldest_waiting() is flows[1]
    table.remove(flows[1])
    assert table.oldest_waiting() is None, "there is room"
    table.add(tcp(b"new"))
    assert table.oldest_waiting() is flows[0]
    table.remove(flows[0])
    table.add(tcp(b"newer"))
    assert table.full()


def test_what_is_handed_out_is_a_copy() -> None:
    table = FlowTable()
    for n in range(3):
        table.add(tcp(bytes((n,))))
    for flow in table.all():
        table.remove(flow)
    assert len(table) == 0


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_a_full_table_stays_within_its_limit(limit: int) -> None:
    table = FlowTable(limit)
    for n in range(3 * limit):
        if table.full():
            table.refused += 1
        else:
            table.add(tcp(bytes((n,))))
    assert (len(table), table.refused) == (limit, 2 * limit)


class Tables(RuleBasedStateMachine):
    """Against a list of flows: found by key, counted, gone once removed; never above the limit."""

    def __init__(self) -> None:
        super().__init__()
        self.table = FlowTable(4)
        self.flows: list[TcpFlow] = []
        self.waiting: list[TcpFlow] = []

    @rule(key=KEYS)
    def opens(self, key: bytes) -> None:
        if key in [flow.key for flow in self.flows]:
            return
        oldest = self.table.oldest_waiting()
        if oldest is not None:
            assert oldest is self.waiting[0]
            self._remove(oldest)
        if self.table.full():
            assert not self.waiting
            return
        flow = tcp(key)
        self.table.add(flow)
        self.flows.append(flow)

    @precondition(lambda self: self.flows)
    @rule(data=st.data())
    def waits(self, data: st.DataObject) -> None:
        flow = data.draw(st.sampled_from(self.flows))
        if flow not in self.waiting:
            self.table.waiting[flow.id] = flow
            self.waiting.append(flow)

    @precondition(lambda self: self.flows)
    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        self._remove(data.draw(st.sampled_from(self.flows)))

    def _remove(self, flow: TcpFlow) -> None:
        self.table.remove(flow)
        self.flows.remove(flow)
        if flow in self.waiting:
            self.waiting.remove(flow)

    @invariant()
    def agrees(self) -> None:
        assert self.table.all() == self.flows
        assert self.table.tcp == {flow.key: flow for flow in self.flows}
        assert list(self.table.waiting.values()) == self.waiting
        assert len(self.table) == len(self.flows) <= 4


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
