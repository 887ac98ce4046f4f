"""guard.flow_states: who may begin, who may answer, for how long, and what a change of the rules does to it."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6PacketTooBig, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet as Layer
from scapy.packet import Raw

from bucatini.base.address import pack
from bucatini.base.reasons import DropReason
from bucatini.guard.binding import Binding
from bucatini.guard.flow_states import ECHO_TTL, MAX_FLOWS, SYN_TTL, TCP_TTL, UDP_TTL, FlowStates
from bucatini.guard.frame import Frame
from bucatini.guard.rule_grammar import parse_rule
from bucatini.guard.rules import RuleTable

R = DropReason
PASS = DropReason.NONE
MAC, HOST_MAC = "02:00:00:00:00:01", "02:00:00:00:00:fe"
OWN, GATEWAY, RESOLVER = "192.168.0.2", "192.168.0.1", "10.9.9.9"
OWN6, GATEWAY6 = "2001:db8::2", "fe80::1"
FAR, FAR6, NEAR = "1.1.1.1", "2606:4700::1", "10.0.0.5"
"""Public, and not."""


def table(allow: str = "", block: str = "") -> RuleTable:
    """Rules in one text each, with commas between."""
    rules = [[parse_rule(each) for each in text.split(",") if each] for text in (allow, block)]
    return RuleTable(*rules, hosts=[pack(GATEWAY), pack(GATEWAY6)])


class Flows:
    """A guest with its table, and a clock that stands."""

    def __init__(self, allow: str = "", block: str = "", limit: int = MAX_FLOWS) -> None:
        self.binding = Binding(bytes.fromhex(MAC.replace(":", "")), [pack(GATEWAY), pack(GATEWAY6)])
        self.binding.lease(pack(OWN), 1e9, 0.0, [pack(RESOLVER)])
        self.binding.bind(pack(OWN6))
        self.states = FlowStates(self.binding, table(allow, block), limit)
        self.now = 100.0

    def out(self, *layers: Layer, to: str = FAR, **fields: Any) -> DropReason:
        """What becomes of a packet of the guest's."""
        frame = Ether(src=MAC, dst=HOST_MAC) / packet(to, {"dst": to, **fields}, True)
        return self._ask(self.states.admit, frame, layers)

    def inwards(self, *layers: Layer, source: str = FAR, **fields: Any) -> DropReason:
        """What becomes of a packet to the guest."""
        frame = Ether(src=HOST_MAC, dst=MAC) / packet(source, {"src": source, **fields}, False)
        return self._ask(self.states.admit_to_guest, frame, layers)

    def _ask(self, question: Any, frame: Layer, layers: tuple[Layer, ...]) -> DropReason:
        for layer in layers:
            frame = frame / layer
        octets = bytes(frame)
        view = Frame(memoryview(bytearray(octets)))
        view.parse(0, len(octets))
        assert not view.bad, DropReason(view.bad)
        return DropReason(question(view, self.now))

    def replace(self, allow: str = "", block: str = "") -> None:
        self.states.replace(table(allow, block))


def packet(peer: str, fields: dict[str, Any], outward: bool) -> Layer:
    own = "src" if outward else "dst"
    if ":" in peer:
        return IPv6(**{own: OWN6, **fields})
    return IP(**{own: OWN, **fields})


def tcp(flags: str, port: int = 443, own: int = 5000) -> Layer:
    """As the guest sends it."""
    return TCP(sport=own, dport=port, flags=flags)


def from_tcp(flags: str, port: int = 443, own: int = 5000) -> Layer:
    return TCP(sport=port, dport=own, flags=flags)


def udp(port: int = 443, own: int = 5000) -> Layer:
    return UDP(sport=own, dport=port)


def from_udp(port: int = 443, own: int = 5000) -> Layer:
    return UDP(sport=port, dport=own)


STATEFUL = "in 203.0.113.0/24"
"""A rule about nobody here, which has flows followed and bare rules go both ways."""


class TestDefaults:
    def test_what_is_open_without_rules(self) -> None:
        flows = Flows()
        for to in (FAR, GATEWAY, FAR6, GATEWAY6):
            assert flows.out(tcp("S"), to=to) == flows.out(udp(), to=to) == PASS
        assert flows.out(udp(53), to=RESOLVER) == flows.out(tcp("S", 53), to=RESOLVER) == PASS
        for to in (NEAR, RESOLVER, "169.254.169.254", "224.0.0.251", "fd00::1", "64:ff9b::a00:5", "::ffff:1.1.1.1"):
            assert flows.out(udp(), to=to) == R.POLICY_DENIED

    def test_everything_comes_in(self) -> None:
        flows = Flows()
        for source in (FAR, NEAR, FAR6, "fd00::1"):
            assert flows.inwards(from_tcp("S"), source=source) == flows.inwards(from_udp(), source=source) == PASS

    @pytest.mark.parametrize("layer", [tcp("A"), ICMP(type=3, code=4) / Raw(bytes(28)), ICMP(type=0, id=3)])
    def test_what_belongs_to_no_flow_passes_where_no_rule_decides(self, layer: Layer) -> None:
        flows = Flows(block=STATEFUL)
        assert flows.out(layer) == flows.inwards(layer) == PASS
        assert flows.out(layer, to=NEAR) == R.POLICY_DENIED

    def test_identity_comes_first(self) -> None:
        flows = Flows("0.0.0.0/0")
        assert flows.out(udp(), src="192.168.0.3") == R.SOURCE_NOT_GUEST
        flows.now = 2e9
        assert flows.out(udp()) == R.LEASE_EXPIRED

    def test_topics_of_the_link_are_no_flows(self) -> None:
        flows = Flows(block="0.0.0.0/0")
        ask = Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=MAC, psrc=OWN, pdst=GATEWAY)
        assert flows._ask(flows.states.admit, ask, ()) == PASS
        request = BOOTP(chaddr=bytes.fromhex(MAC.replace(":", ""))) / DHCP(options=[("message-type", 1), "end"])
        assert flows.out(UDP(sport=68, dport=67), request, src="0.0.0.0", to="255.255.255.255") == PASS
        assert len(flows.states) == 0


class TestAnswers:
    def test_to_whom_the_guest_called(self) -> None:
        """Though nobody may call the guest."""
        flows = Flows(block="in 0.0.0.0/0,in ::/0")
        assert flows.inwards(from_tcp("SA")) == R.POLICY_DENIED
        assert flows.out(tcp("S")) == PASS
        assert flows.inwards(from_tcp("SA")) == flows.out(tcp("A")) == flows.inwards(from_tcp("FA")) == PASS
        for other in (from_tcp("SA", own=5001), from_tcp("SA", port=444)):
            assert flows.inwards(other) == R.POLICY_DENIED
        assert flows.inwards(from_tcp("SA"), source="1.1.1.2") == flows.inwards(from_udp()) == R.POLICY_DENIED
        assert flows.out(udp(), to=FAR6) == flows.inwards(from_udp(), source=FAR6) == PASS

    @pytest.mark.parametrize("block", ["", "0.0.0.0/0", NEAR])
    def test_to_a_published_port_need_no_rule(self, block: str) -> None:
        """Bare rules are about what the guest begins."""
        flows = Flows(block=block)
        assert flows.out(tcp("SA", 5000, 22), to=NEAR) == R.POLICY_DENIED
        assert flows.inwards(from_tcp("S", 5000, 22), source=NEAR) == PASS
        assert flows.out(tcp("SA", 5000, 22), to=NEAR) == flows.out(tcp("PA", 5000, 22), to=NEAR) == PASS
        assert flows.out(tcp("S", 22), to=NEAR) == R.POLICY_DENIED

    def test_who_may_not_come_in_begins_nothing(self) -> None:
        flows = Flows(block=f"in {NEAR}")
        assert flows.inwards(from_tcp("S", 5000, 22), source=NEAR) == R.POLICY_DENIED
        assert flows.out(tcp("SA", 5000, 22), to=NEAR) == R.POLICY_DENIED

    def test_a_datagram_that_came_in_by_default_shows_nothing(self) -> None:
        """Else a peer that goes on sending keeps open what a rule has closed."""
        flows = Flows()
        assert flows.out(udp()) == PASS
        flows.replace(block=FAR)
        assert flows.out(udp()) == R.POLICY_DENIED
        assert flows.inwards(from_udp()) == flows.inwards(ICMP(type=8, id=1)) == PASS
        assert flows.out(udp()) == flows.out(ICMP(type=0, id=1)) == R.POLICY_DENIED
        assert len(flows.states) == 0

    def test_one_that_a_rule_let_in_is_answered(self) -> None:
        flows = Flows(f"in {NEAR}")
        assert flows.inwards(from_udp(), source=NEAR) == flows.out(udp(), to=NEAR) == PASS
        assert flows.inwards(ICMP(type=8, id=1), source=NEAR) == flows.out(ICMP(type=0, id=1), to=NEAR) == PASS
        flows.replace()
        assert flows.inwards(from_udp(), source=NEAR) == PASS
        assert flows.out(udp(), to=NEAR) == flows.out(ICMP(type=0, id=1), to=NEAR) == R.POLICY_DENIED

    def test_a_bare_syn_is_no_answer(self) -> None:
        flows = Flows(block="in 0.0.0.0/0")
        assert flows.out(tcp("S")) == flows.inwards(from_tcp("SA")) == PASS
        assert flows.inwards(from_tcp("S")) == flows.inwards(from_tcp("SP")) == R.POLICY_DENIED
        assert flows.inwards(from_tcp("A")) == PASS, "and ends no flow"

    def test_a_bare_syn_that_may_be_takes_no_flow_over(self) -> None:
        """Who knows a tuple could otherwise make it its own, and have it end when it stops sending."""
        flows = Flows("1.1.1.1:443,in 9.0.0.0/8")
        assert flows.out(tcp("S")) == flows.inwards(from_tcp("SA")) == flows.out(tcp("A")) == PASS
        flows.now += SYN_TTL
        assert flows.inwards(from_tcp("S")) == PASS
        flows.now += SYN_TTL
        assert flows.out(tcp("A")) == PASS
        flows.now += TCP_TTL - 1
        assert flows.inwards(from_tcp("A")) == PASS

    def test_of_echo_by_identifier_and_direction(self) -> None:
        flows = Flows(block="in 0.0.0.0/0,in ::/0")
        assert flows.out(ICMP(type=8, id=7)) == flows.inwards(ICMP(type=0, id=7)) == PASS
        for other in (ICMP(type=0, id=8), ICMP(type=8, id=7), ICMP(type=0, id=7, code=1), ICMP(type=11)):
            assert flows.inwards(other) == R.POLICY_DENIED
        assert flows.out(ICMPv6EchoRequest(id=7), to=FAR6) == PASS
        assert flows.inwards(ICMPv6EchoReply(id=7), source=FAR6) == PASS
        assert flows.inwards(ICMPv6EchoRequest(id=7), source=FAR6) == R.POLICY_DENIED
        assert flows.out(ICMP(type=0, id=7)) == PASS, "untracked, and open by default"

    def test_two_who_ping_each_other_have_two_flows(self) -> None:
        flows = Flows(f"in {FAR}")
        assert flows.out(ICMP(type=8, id=7)) == flows.inwards(ICMP(type=8, id=7)) == PASS
        assert len(flows.states) == 2


class TestStatefulRules:
    """What shows not who began does not satisfy them."""

    @pytest.mark.parametrize(
        "layer",
        [*map(tcp, ("A", "SA", "R", "SF")), ICMP(type=0, id=7), ICMP(type=3, code=4) / Raw(bytes(28)), Raw(b"x")],
    )
    def test_untracked(self, layer: Layer) -> None:
        flows = Flows("in 203.0.113.0/24,1.0.0.0/8")
        fields = {"proto": 47} if isinstance(layer, Raw) else {}
        assert flows.out(layer, **fields) == flows.inwards(layer, **fields) == R.NO_FLOW
        flows.replace("1.0.0.0/8")
        assert flows.out(layer, **fields) == flows.inwards(layer, **fields) == PASS

    def test_fragments(self) -> None:
        flows = Flows("in 203.0.113.0/24,1.1.1.1:443,2606:4700::1")
        assert flows.out(udp(), Raw(bytes(8)), flags="MF") == R.NO_FLOW
        assert flows.out(Raw(bytes(8)), proto=17, frag=9) == PASS, "no port, no rule about it, and open"
        first = IPv6ExtHdrFragment(m=1, nh=17)
        assert flows.out(first, udp(), Raw(bytes(8)), to=FAR6) == R.NO_FLOW

    def test_packet_too_big(self) -> None:
        flows = Flows("in 203.0.113.0/24", "in ::/0")
        assert flows.inwards(ICMPv6PacketTooBig() / Raw(bytes(40)), source=FAR6) == R.POLICY_DENIED

    def test_ports_of_dhcp_lead_not_past_them(self) -> None:
        flows = Flows(block="in 0.0.0.0/0,in ::/0")
        assert flows.inwards(from_udp(1000, 67)) == flows.inwards(from_udp(1000, 547), source=FAR6) == R.POLICY_DENIED
        for layer in (from_udp(547), from_udp(1000, 546), from_udp(547, 546)):
            assert flows.inwards(layer, source=FAR6) == R.POLICY_DENIED
            assert flows.inwards(layer, source="fe80::9") == PASS, "a server of the link"


def test_ports_are_the_peers() -> None:
    flows = Flows("10.0.0.0/8:443", "in 0.0.0.0/0:5000")
    assert flows.out(tcp("S", 443), to=NEAR) == PASS
    assert flows.out(tcp("S", 444, 443), to=NEAR) == R.POLICY_DENIED
    assert flows.inwards(from_tcp("S", 5000, 22), source=NEAR) == R.POLICY_DENIED
    assert flows.inwards(from_tcp("S", 22, 5000), source=NEAR) == PASS


@pytest.mark.parametrize("port", [(0, 443), (443, 0), (0, 0)])
@pytest.mark.parametrize("made", [tcp, udp])
def test_port_zero_is_refused(port: tuple[int, int], made: Any) -> None:
    flows = Flows("0.0.0.0/0")
    layer = made("S", *port) if made is tcp else made(*port)
    assert flows.out(layer) == flows.inwards(layer) == R.PORT_ZERO


def test_what_an_address_carries_is_judged_too() -> None:
    flows = Flows("64:ff9b::/96", "in 10.0.0.0/8")
    assert flows.out(udp(), to="64:ff9b::a00:5") == R.POLICY_DENIED
    assert flows.inwards(from_udp(), source="64:ff9b::a00:5") == R.POLICY_DENIED
    assert flows.out(udp(), to="64:ff9b::101:101") == PASS


class TestTime:
    @pytest.mark.parametrize(
        ("layers", "answer", "seconds"),
        [
            ([tcp("S")], from_tcp("A"), SYN_TTL),
            ([tcp("S"), tcp("A")], from_tcp("A"), TCP_TTL),
            ([udp()], from_udp(), UDP_TTL),
            ([ICMP(type=8, id=1)], ICMP(type=0, id=1), ECHO_TTL),
        ],
    )
    def test_how_long_a_flow_lives(self, layers: list[Layer], answer: Layer, seconds: float) -> None:
        """Who answers does not renew it."""
        flows = Flows(block="in 0.0.0.0/0")
        for layer in layers:
            assert flows.out(layer) == PASS
        flows.now += seconds - 0.01
        assert flows.inwards(answer) == PASS
        flows.now += 0.01
        assert flows.inwards(answer) == R.POLICY_DENIED
        assert (len(flows.states), flows.states.expired) == (0, 1)

    def test_who_began_renews_it(self) -> None:
        flows = Flows(block="in 0.0.0.0/0")
        for _ in range(5):
            assert flows.out(udp()) == flows.inwards(from_udp()) == PASS
            flows.now += UDP_TTL - 1

    def test_the_sweep(self) -> None:
        flows = Flows()
        for port in range(1, 11):
            flows.out(udp(port))
        flows.now += UDP_TTL
        assert len(flows.states) == 10
        flows.out(udp(99))
        assert (len(flows.states), flows.states.expired) == (1, 10)


class TestBounds:
    def test_a_full_table_refuses_and_evicts_nothing(self) -> None:
        flows = Flows(limit=3)
        assert [flows.out(udp(port)) for port in (1, 2, 3, 4, 1)] == [PASS, PASS, PASS, R.FLOW_TABLE_FULL, PASS]
        assert flows.inwards(from_tcp("S"), source=NEAR) == R.FLOW_TABLE_FULL
        assert flows.inwards(from_udp(3)) == flows.out(tcp("A")) == PASS
        assert (len(flows.states), flows.states.refused) == (3, 2)
        flows.now += UDP_TTL
        assert flows.out(udp(4)) == PASS

    def test_how_many(self) -> None:
        assert MAX_FLOWS == 32768


class TestChange:
    def test_counts_from_the_next_packet_on(self) -> None:
        flows = Flows()
        assert flows.out(tcp("S")) == flows.out(tcp("A")) == PASS
        flows.replace(block=FAR)
        assert flows.out(tcp("A")) == R.POLICY_DENIED
        assert len(flows.states) == 0

    def test_of_the_next_answer_too(self) -> None:
        flows = Flows(block="in 0.0.0.0/0")
        assert flows.out(udp()) == flows.inwards(from_udp()) == PASS
        flows.replace(block=f"in 0.0.0.0/0,out {FAR}")
        assert flows.inwards(from_udp()) == R.POLICY_DENIED

    def test_what_is_allowed_still_goes_on(self) -> None:
        """Also under rules by which it could not be begun by what comes next."""
        flows = Flows(f"out {NEAR}", "in 0.0.0.0/0")
        assert flows.out(tcp("S"), to=NEAR) == flows.out(tcp("A"), to=NEAR) == PASS
        flows.replace(f"out {NEAR},out {FAR}", "in 0.0.0.0/0")
        assert flows.inwards(from_tcp("A"), source=NEAR) == flows.out(tcp("A"), to=NEAR) == PASS
        assert flows.states.rules.stateful

    def test_a_flow_that_a_peer_began_is_asked_about_its_own_direction(self) -> None:
        flows = Flows()
        assert flows.inwards(from_tcp("S"), source=NEAR) == flows.out(tcp("SA"), to=NEAR) == PASS
        flows.replace(block=f"out {NEAR}")
        assert flows.out(tcp("A"), to=NEAR) == PASS
        flows.replace(block=f"in {NEAR}")
        assert flows.out(tcp("A"), to=NEAR) == R.POLICY_DENIED

    def test_the_lease_brought_other_resolvers(self) -> None:
        flows = Flows()
        assert flows.out(udp(53), to=RESOLVER) == PASS
        flows.binding.lease(pack(OWN), 600, flows.now, [])
        assert flows.out(udp(53), to=RESOLVER) == R.POLICY_DENIED
