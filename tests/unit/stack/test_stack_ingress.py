"""stack.ingress with an `out` that records: who is let in, what is said to who is not, and what becomes of a frame."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Advertise, DHCP6_Solicit, DHCP6OptClientId, DHCP6OptIA_NA
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet import fragment as fragment4
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether

from bucatini.base.address import Endpoint, pack
from bucatini.base.events import Refusal
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS, INGRESS, Request, Verdict
from bucatini.flows.tcp import accepted
from bucatini.flows.tcp_flow import TcpFlow
from bucatini.flows.tcp_states import CONNECTING, SYN_SENT
from bucatini.forward.translate import Translation
from bucatini.services.dhcp import DhcpSettings
from bucatini.services.dhcpv6 import Dhcp6Settings
from bucatini.services.router import RouterSettings
from bucatini.wire.dhcpv6 import duid_llt
from bucatini.wire.ndp import Prefix
from support.frames import (
    GATEWAY4,
    GATEWAY6,
    GATEWAY_MAC,
    GUEST4,
    GUEST6,
    GUEST_MAC,
    PEER4,
    PEER6,
    Bench,
    ether,
    ip,
    mac,
    vnet,
)

MAC = mac(GATEWAY_MAC)

VERSIONS = pytest.mark.parametrize("version", [4, 6])
GUEST = {4: GUEST4, 6: GUEST6}
PEER = {4: PEER4, 6: PEER6}
GATEWAY = {4: GATEWAY4, 6: GATEWAY6}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}


def deny(request: Request) -> Verdict:
    return Verdict(False, "no")


def syn(version: int = 4, port: int = 1000, **fields: Any) -> bytes:
    return ether(
        ip(version, **fields) / TCP(sport=port, dport=80, flags="S", seq=7, options=[("MSS", 1000), ("WScale", 7)])
    )


def reason(bench: Bench, frame: bytes, **rest: Any) -> DropReason:
    return DropReason(bench.feed(frame, **rest))


# -- TCP


@VERSIONS
def test_a_syn_opens_a_flow(version: int) -> None:
    bench = Bench()
    assert bench.feed(syn(version), now=5.0) == 0
    assert bench.asked == [Request(EGRESS, 6, pack(PEER[version]), 80)]
    (flow,) = bench.table.all()
    assert bench.out.calls == [("opened", flow), ("connect", flow)]
    assert bench.out.frames == []
    assert (flow.guest, flow.peer) == (Endpoint(pack(GUEST[version]), 1000), Endpoint(pack(PEER[version]), 80))
    assert (flow.rule, flow.host, flow.direction, flow.state, flow.opened_at) == ("test", None, EGRESS, CONNECTING, 5.0)
    assert (flow.mss, flow.rcv_nxt, flow.iss, flow.snd_scale) == (1000, 8, 1000, 7)
    assert bench.table.tcp == {bench.packet.key(): flow}
    assert flow.superframe > 60000


@pytest.mark.parametrize("flags", ["S", "SEC", "SPU"])
def test_flags_that_do_not_matter_open_too(flags: str) -> None:
    bench = Bench()
    assert bench.feed(ether(ip(4) / TCP(flags=flags))) == 0
    assert len(bench.table) == 1


def test_a_second_syn_is_of_the_same_flow() -> None:
    bench = Bench()
    for _ in range(3):
        assert bench.feed(syn()) == 0
    assert len(bench.table) == 1
    assert len(bench.asked) == 1
    assert len(bench.out.named("connect")) == 1


def test_without_segmentation_a_superframe_is_a_segment() -> None:
    bench = Bench(tso4=False)
    bench.feed(syn())
    (flow,) = bench.table.all()
    assert flow.superframe == flow.mss == 1000


@VERSIONS
def test_the_gateway_is_the_hosts_loopback(version: int) -> None:
    bench = Bench()
    bench.feed(syn(version, dst=GATEWAY[version]))
    (flow,) = bench.table.all()
    assert flow.host == Endpoint(pack(LOOPBACK[version]), 80)
    assert bench.asked[0].address == pack(GATEWAY[version])


@VERSIONS
def test_denied_tcp_is_reset_at_once(version: int) -> None:
    bench = Bench(deny)
    assert reason(bench, syn(version)) is DropReason.POLICY_DENIED
    assert len(bench.table) == 0
    assert bench.out.calls == []
    (event,) = bench.out.refusals
    assert (event.protocol, event.rule, event.reason) == ("tcp", "no", Refusal.POLICY)
    (answer,) = bench.answers
    assert str(answer[TCP].flags) == "RA"
    assert answer[TCP].ack == 8


@pytest.mark.parametrize("ports", [(0, 80), (1000, 0)])
def test_port_zero(ports: tuple[int, int]) -> None:
    bench = Bench()
    for layer in (TCP(sport=ports[0], dport=ports[1], flags="S"), UDP(sport=ports[0], dport=ports[1])):
        assert reason(bench, ether(ip(4) / layer)) is DropReason.PORT_ZERO
    assert (bench.asked, bench.out.calls, bench.out.frames) == ([], [], [])


@pytest.mark.parametrize("where", ["224.0.0.1", "255.255.255.255", GUEST4, "ff02::1", GUEST6])
def test_tcp_to_a_group_or_to_itself_is_dropped_without_a_word(where: str) -> None:
    """RFC 9293 3.9.2.3 (MUST-57): a SYN to a multicast or broadcast address is silently discarded."""
    bench = Bench()
    version = 6 if ":" in where else 4
    assert reason(bench, syn(version, dst=where)) is DropReason.DESTINATION_UNUSABLE
    assert (bench.asked, bench.out.frames) == ([], [])


@pytest.mark.parametrize("where", ["224.0.0.1", "255.255.255.255", "ff02::1"])
def test_no_segment_to_a_group_is_answered_with_a_reset(where: str) -> None:
    """The reset would come from the group's address."""
    bench = Bench()
    bench.feed(ether(ip(6 if ":" in where else 4, dst=where) / TCP(flags="A")))
    assert bench.out.frames == []


@pytest.mark.parametrize("version", [4, 6])
def test_tcp_from_nowhere(version: int) -> None:
    bench = Bench()
    nowhere = "0.0.0.0" if version == 4 else "::"
    assert bench.feed(syn(version, src=nowhere)) != 0
    bench.feed(ether(ip(version, src=nowhere) / TCP(flags="A")))
    assert len(bench.table) == 0
    assert bench.out.frames == []


@pytest.mark.parametrize(
    ("flags", "answered"), [("A", True), ("SA", True), ("FA", True), ("", True), ("R", False), ("RA", False)]
)
def test_a_segment_of_no_flow(flags: str, answered: bool) -> None:
    bench = Bench()
    assert reason(bench, ether(ip(4) / TCP(flags=flags))) is DropReason.NO_FLOW
    assert [str(answer[TCP].flags)[0] for answer in bench.answers] == ["R"] * answered


def test_a_new_syn_takes_over_from_time_wait() -> None:
    bench = Bench()
    bench.feed(syn())
    (old,) = bench.table.all()
    old.state = 9
    bench.table.waiting[old.id] = old
    assert bench.feed(syn()) == 0
    (new,) = bench.table.all()
    assert new is not old
    assert bench.out.named("close") == [("close", old, "closed")]


def test_the_table_is_bounded() -> None:
    bench = Bench(limit=3)
    for port in (1, 2, 3):
        assert bench.feed(syn(port=port)) == 0
    assert reason(bench, syn(port=4)) is DropReason.FLOW_TABLE_FULL
    assert reason(bench, ether(ip(4) / UDP(sport=4))) is DropReason.FLOW_TABLE_FULL
    assert reason(bench, ether(ip(4) / ICMP(id=4))) is DropReason.FLOW_TABLE_FULL
    assert len(bench.table) == 3
    assert bench.table.refused == 3
    assert [event.reason for event in bench.out.refusals] == [Refusal.TABLE_FULL] * 3
    assert [TCP in answer for answer in bench.answers] == [True, False, False]


def test_who_only_waits_gives_way() -> None:
    bench = Bench(limit=3)
    for port in (1, 2, 3):
        bench.feed(syn(port=port))
    waiting = bench.table.all()[1]
    waiting.state = 9
    bench.table.waiting[waiting.id] = waiting
    assert bench.feed(syn(port=4)) == 0
    assert len(bench.table) == 3
    assert waiting not in bench.table.all()


# -- UDP


@VERSIONS
def test_a_datagram_opens_a_flow_and_goes_out(version: int) -> None:
    bench = Bench()
    frame = ether(ip(version) / UDP(sport=1000, dport=443) / b"hello")
    assert bench.feed(frame, now=1.0) == 0
    assert bench.feed(frame, now=2.0) == 0
    (flow,) = bench.table.all()
    assert bench.asked == [Request(EGRESS, 17, pack(PEER[version]), 443)]
    assert [call[0] for call in bench.out.calls] == ["open_datagram", "opened", "send_datagram", "send_datagram"]
    assert bench.out.calls[-1] == ("send_datagram", flow, b"hello", 0)
    assert flow.last_active == 2.0


def test_a_train_of_the_guest_is_passed_on_with_its_cut() -> None:
    bench = Bench()
    frame = ether(ip(4) / UDP(sport=1, dport=2) / bytes(300))
    assert bench.feed(frame, header=vnet(1, 5, 42, 100, 34, 6)) == 0
    assert bench.out.calls[-1][2:] == (bytes(300), 100)
    assert bench.feed(frame, header=vnet(1, 1, 42, 100, 34, 6)) == 0
    assert bench.out.calls[-1][2:] == (bytes(300), 0)


@VERSIONS
def test_denied_udp_is_prohibited_by_icmp(version: int) -> None:
    bench = Bench(deny)
    assert reason(bench, ether(ip(version) / UDP(sport=1, dport=2))) is DropReason.POLICY_DENIED
    (answer,) = bench.answers
    assert (
        (answer[ICMP].code, answer[IP].src) == (13, GATEWAY4) if version == 4 else answer[ICMPv6DestUnreach].code == 1
    )
    assert bench.out.calls == []


def test_udp_from_nowhere_and_to_itself() -> None:
    bench = Bench()
    for nowhere in ("0.0.0.0", "::"):
        frame = ether(ip(6 if nowhere == "::" else 4, src=nowhere) / UDP(sport=68, dport=69))
        assert reason(bench, frame) is DropReason.SOURCE_UNSPECIFIED
    assert reason(bench, ether(ip(4, dst=GUEST4) / UDP(sport=1, dport=2))) is DropReason.DESTINATION_UNUSABLE
    assert bench.out.calls == []


def test_no_socket_for_a_datagram() -> None:
    bench = Bench()
    bench.out.open_error = 101  # ENETUNREACH
    assert reason(bench, ether(ip(4) / UDP(sport=1, dport=2))) is DropReason.SOCKETS_EXHAUSTED
    assert len(bench.table) == 0
    assert [answer[ICMP].code for answer in bench.answers] == [0]


# -- DNS


@VERSIONS
def test_questions_to_the_gateway_are_no_flow(version: int) -> None:
    bench = Bench()
    question = bytes(DNS(qd=DNSQR(qname="example.com")))
    frame = ether(ip(version, dst=GATEWAY[version]) / UDP(sport=5555, dport=53) / question)
    assert bench.feed(frame) == 0
    assert len(bench.table) == 0
    guest, gateway = Endpoint(pack(GUEST[version]), 5555), Endpoint(pack(GATEWAY[version]), 53)
    assert bench.out.calls == [("resolve", question, guest, gateway)]
    assert bench.asked == [Request(EGRESS, 17, pack(GATEWAY[version]), 53)]


def test_dns_elsewhere_is_a_flow() -> None:
    bench = Bench()
    assert bench.feed(ether(ip(4) / UDP(sport=5555, dport=53) / b"question")) == 0
    assert len(bench.table) == 1
    assert bench.feed(ether(ip(4, dst=GATEWAY4) / UDP(sport=5555, dport=54) / b"other")) == 0
    assert len(bench.table) == 2


def test_denied_dns() -> None:
    bench = Bench(deny)
    assert reason(bench, ether(ip(4, dst=GATEWAY4) / UDP(sport=5, dport=53) / b"q")) is DropReason.POLICY_DENIED
    assert [answer[ICMP].code for answer in bench.answers] == [13]
    assert bench.out.calls == []


def test_dns_by_tcp_is_a_flow() -> None:
    bench = Bench()
    assert bench.feed(ether(ip(4, dst=GATEWAY4) / TCP(sport=5, dport=53, flags="S"))) == 0
    assert len(bench.table.tcp) == 1


# -- control


def test_arp_and_neighbours_are_answered() -> None:
    bench = Bench()
    assert bench.feed(ether(ARP(psrc=GUEST4, pdst=GATEWAY4))) == 0
    assert bench.feed(ether(ip(6, dst=GATEWAY6, hlim=255) / ICMPv6ND_NS(tgt=GATEWAY6))) == 0
    assert len(bench.answers) == 2
    assert reason(bench, ether(ARP(psrc=GUEST4, pdst=GUEST4))) is DropReason.ARP_NOT_OURS
    assert reason(bench, ether(ip(6, dst="ff02::2", hlim=255) / ICMPv6ND_RS())) is DropReason.NDP_NOT_OURS


@VERSIONS
def test_echo_to_the_gateway_is_answered_and_elsewhere_a_flow(version: int) -> None:
    bench = Bench()
    request: Any = ICMP(id=9, seq=3) if version == 4 else ICMPv6EchoRequest(id=9, seq=3)
    assert bench.feed(ether(ip(version, dst=GATEWAY[version]) / request / b"ping")) == 0
    assert (len(bench.answers), len(bench.table)) == (1, 0)
    assert bench.feed(ether(ip(version) / request / b"ping")) == 0
    (flow,) = bench.table.all()
    assert (flow.protocol, flow.guest.port, flow.peer.port) == (1 if version == 4 else 58, 9, 0)
    assert bench.asked == [Request(EGRESS, flow.protocol, pack(PEER[version]), 0)]
    assert bench.out.calls[-1] == ("send_echo", flow, 3, b"ping")


def test_echo_to_a_group_and_other_messages() -> None:
    bench = Bench()
    assert reason(bench, ether(ip(4, dst="224.0.0.1") / ICMP())) is DropReason.DESTINATION_UNUSABLE
    assert reason(bench, ether(ip(6, dst="ff02::1") / ICMPv6EchoRequest())) is DropReason.DESTINATION_UNUSABLE
    for kind in (0, 5, 13, 17, 42):
        assert reason(bench, ether(ip(4) / ICMP(type=kind))) is DropReason.ICMP_TYPE
    assert reason(bench, ether(ip(4) / ICMP(type=8, code=1))) is DropReason.ICMP_TYPE
    assert bench.out.frames == []


def test_denied_echo() -> None:
    bench = Bench(deny)
    assert reason(bench, ether(ip(4) / ICMP(id=1))) is DropReason.POLICY_DENIED
    assert [answer[ICMP].code for answer in bench.answers] == [13]


@VERSIONS
def test_the_guest_cannot_reach_its_own_published_port(version: int) -> None:
    """An ICMP error about our SYN ends a flow to a published port; about anything else it is of no use."""
    bench = Bench()
    flow = TcpFlow(Endpoint(pack(GUEST[version]), 80), Endpoint(pack(PEER[version]), 555), INGRESS, 0.0)
    flow.key = pack(GUEST[version]) + pack(PEER[version]) + b"\0\x50\x02\x2b"
    bench.table.add(flow)
    accepted(flow, 1, 0.0, bench.out)
    assert flow.state == SYN_SENT
    error: Any = ICMP(type=3, code=1) if version == 4 else ICMPv6DestUnreach(code=3)
    quote = (IP if version == 4 else IPv6)(src=PEER[version], dst=GUEST[version]) / TCP(sport=555, dport=80)
    other = (IP if version == 4 else IPv6)(src=PEER[version], dst=GUEST[version]) / TCP(sport=556, dport=80)
    assert reason(bench, ether(ip(version) / error / other)) is DropReason.ICMP_TYPE
    assert bench.out.named("abort") == []
    assert bench.feed(ether(ip(version) / error / quote)) == 0
    assert bench.out.named("abort") == [("abort", flow, "unreachable")]


# -- fragments


def test_fragments_take_the_same_path_when_whole() -> None:
    bench = Bench()
    pieces = fragment4(IP(bytes(ip(4) / UDP(sport=1, dport=2) / (b"0123456789" * 400))), 1400)
    assert len(pieces) == 3
    assert [bench.feed(ether(piece)) for piece in pieces] == [0, 0, 0]
    assert bench.out.named("send_datagram")[0][2] == b"0123456789" * 400
    assert bench.out.calls[-1] == ("flush_datagrams",)


def test_a_fragmented_syn_is_judged_too() -> None:
    bench = Bench(deny)
    pieces = fragment4(IP(bytes(ip(4) / TCP(flags="S", options=[("MSS", 1000)]) / bytes(40))), 16)
    results = [reason(bench, ether(piece)) for piece in pieces]
    assert results[-1] is DropReason.POLICY_DENIED
    assert set(results[:-1]) == {DropReason.NONE}


def test_malformed_fragments_are_counted() -> None:
    bench = Bench()
    assert reason(bench, ether(ip(4, flags="MF", proto=17) / bytes(13))) is DropReason.FRAGMENT_MALFORMED


# -- services of the link, and what is translated


def services() -> dict[str, Any]:
    """Settings with every service, for the example network."""
    ours = pack("fe80::1")
    return {
        "dhcp": DhcpSettings(MAC, pack(GATEWAY4), pack(GUEST4), 30, pack(GATEWAY4), 1500),
        "dhcpv6": Dhcp6Settings(MAC, duid_llt(MAC, 1), ours, pack(GUEST6)),
        "router": RouterSettings(MAC, ours, (Prefix(pack("fd00::"), 64, True, True, 600, 600),), 1500),
    }


def ask_for_a_lease(version: int) -> bytes:
    if version == 4:
        options = DHCP(options=[("message-type", "discover"), "end"])
        return ether(
            IP(src="0.0.0.0", dst="255.255.255.255")
            / UDP(sport=68, dport=67)
            / BOOTP(chaddr=bytes.fromhex(GUEST_MAC.replace(":", "")), xid=9)
            / options,
            dst="ff:ff:ff:ff:ff:ff",
        )
    return ether(
        IPv6(src="fe80::2", dst="ff02::1:2")
        / UDP(sport=546, dport=547)
        / DHCP6_Solicit(trid=9)
        / DHCP6OptClientId(duid=b"\0\3\0\1abcdef")
        / DHCP6OptIA_NA(iaid=1),
        dst="33:33:00:01:00:02",
    )


@VERSIONS
def test_leases_come_from_the_gateway_before_any_policy(version: int) -> None:
    bench = Bench(allow=deny, **services())
    assert bench.feed(ask_for_a_lease(version)) == 0
    (frame,) = bench.out.frames
    answer = Ether(frame)
    if version == 4:
        assert (answer[BOOTP].yiaddr, answer[BOOTP].xid) == (GUEST4, 9)
    else:
        assert answer[DHCP6_Advertise].trid == 9
    assert bench.asked == []
    assert len(bench.table) == 0


@VERSIONS
def test_requests_to_a_service_that_is_off_go_nowhere(version: int) -> None:
    bench = Bench()
    assert reason(bench, ask_for_a_lease(version)) is DropReason.SERVICE_OFF
    assert bench.asked == []
    assert bench.out.calls == []


def test_that_nobody_answers_a_probe_is_what_it_is_for() -> None:
    """RFC 4862 section 5.4: silence says that the address is free. No drop."""
    probe = IPv6(src="::", dst="ff02::1:ff00:2", hlim=255) / ICMPv6ND_NS(tgt="fe80::2")
    bench = Bench()
    assert bench.feed(ether(probe, dst="33:33:ff:00:00:02")) == 0
    assert bench.out.frames == []


def test_a_router_solicitation() -> None:
    asked = ether(IPv6(src="fe80::2", dst="ff02::2", hlim=255) / ICMPv6ND_RS(), dst="33:33:00:00:00:02")
    bench = Bench(**services())
    assert bench.feed(asked) == 0
    assert Ether(bench.out.frames[0])[ICMPv6ND_RA].routerlifetime == 65535
    assert reason(Bench(), asked) is DropReason.NDP_NOT_OURS


@VERSIONS
@pytest.mark.parametrize(("name", "transport"), [("tcp", TCP(flags="S")), ("udp", UDP(dport=99))])
def test_a_protocol_that_is_off(version: int, name: str, transport: Any) -> None:
    bench = Bench(**{name: False})
    assert reason(bench, ether(ip(version) / transport)) is DropReason.PROTOCOL
    assert (bench.asked, len(bench.table)) == ([], 0)


def test_echo_that_is_off() -> None:
    bench = Bench(icmp=False)
    assert reason(bench, ether(IP(src=GUEST4, dst=PEER4) / ICMP())) is DropReason.PROTOCOL
    assert bench.feed(ether(IP(src=GUEST4, dst=GATEWAY4) / ICMP())) == 0, "the gateway's own echo is no flow"


@VERSIONS
def test_an_address_of_ours_that_leads_nowhere(version: int) -> None:
    """Not out to whoever has it on the host's network."""
    nowhere = {4: "172.16.0.1", 6: "fd00::1"}[version]
    bench = Bench(translation=Translation(), resolvers=(), own=(pack(nowhere),))
    assert reason(bench, syn(version, dst=nowhere)) is DropReason.DESTINATION_UNUSABLE
    assert reason(bench, ether(ip(version, dst=nowhere) / UDP(dport=99) / b"x")) is DropReason.DESTINATION_UNUSABLE
    assert len(bench.out.frames) == 2, "a reset and an ICMP error"
    assert len(bench.table) == 0


@VERSIONS
def test_a_datagram_to_a_group(version: int) -> None:
    group = {4: "224.0.0.251", 6: "ff02::fb"}[version]
    frame = ether(ip(version, dst=group) / UDP(sport=5353, dport=5353) / b"who?", dst="01:00:5e:00:00:fb")
    bench = Bench()
    assert bench.feed(frame) == 0
    sent = ("send_to_group", Endpoint(pack(GUEST[version]), 5353), Endpoint(pack(group), 5353), b"who?", 64)
    assert bench.out.named("send_to_group") == [sent]
    refused = Bench(allow=deny)
    assert reason(refused, frame) is DropReason.POLICY_DENIED
    assert refused.out.named("send_to_group") == []


def test_reports_of_groups_reach_the_querier() -> None:
    bench = Bench()
    igmp = ether(IP(src=GUEST4, dst="224.0.0.22", proto=2) / b"\x22\0\0\0\0\0\0\0", dst="01:00:5e:00:00:16")
    mld = ether(
        IPv6(src="::", dst="ff02::16", hlim=1) / ICMPv6MLReport2(records=[]), dst="33:33:00:00:00:16"
    )  # fmt: skip
    for frame in (igmp, mld):
        assert bench.feed(frame) == 0
    assert [frame for _, frame in bench.out.named("membership")] == [igmp, mld]


@VERSIONS
def test_the_guest_is_known_by_what_it_opens(version: int) -> None:
    other = {4: "192.0.2.9", 6: "2001:db8::9"}[version]
    bench = Bench()
    bench.feed(syn(version, src=other))
    assert bench.addresses.of(4 if version == 4 else 16) == pack(other)
