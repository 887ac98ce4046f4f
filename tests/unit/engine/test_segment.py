"""Who reaches whom on a segment, frame by frame."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether

from bucatini.base.address import pack
from bucatini.base.events import FlowRefused
from bucatini.base.reasons import DropReason
from bucatini.engine.link_rules import LinkRule
from bucatini.engine.segment import MemberNames
from support.frames import GATEWAY_MAC, mac
from support.segment_bench import GATEWAY4, MACS, A, B, Bench, C, address4, address6, link_local

BROADCAST = "ff:ff:ff:ff:ff:ff"
NOBODY = "192.0.2.200"
PORT = 80


def ip(version: int, source: int, target: int) -> Any:
    if version == 4:
        return IP(src=address4(source), dst=address4(target))
    return IPv6(src=address6(source), dst=address6(target))


def direct(version: int, source: int, target: int, transport: Any) -> Any:
    return Ether(src=MACS[source], dst=MACS[target]) / ip(version, source, target) / transport


def routed(version: int, source: int, target: int, transport: Any) -> Any:
    return Ether(src=MACS[source], dst=GATEWAY_MAC) / ip(version, source, target) / transport


def arp(source: int, target: str, to: str = BROADCAST, **fields: Any) -> Any:
    values = {"op": 1, "hwsrc": MACS[source], "psrc": address4(source), "pdst": target, **fields}
    return Ether(src=MACS[source], dst=to) / ARP(**values)


def solicitation(source: int, target: str, own: str | None = None, to: str = "33:33:ff:00:00:02") -> Any:
    group = "ff02::1:ff00:2" if to.startswith("33:33") else target
    return (
        Ether(src=MACS[source], dst=to)
        / IPv6(src=own or address6(source), dst=group, hlim=255)
        / ICMPv6ND_NS(tgt=target)
        / ICMPv6NDOptSrcLLAddr(lladdr=MACS[source])
    )


SYN = TCP(sport=4000, dport=PORT, flags="S")


# -- who may begin what


@pytest.mark.parametrize("make", [direct, routed])
@pytest.mark.parametrize("version", [4, 6])
def test_nobody_without_a_rule(make: Any, version: int) -> None:
    echo = ICMP() if version == 4 else ICMPv6EchoRequest()
    with Bench() as bench:
        for transport in (SYN, UDP(sport=1, dport=2), echo):
            bench.send(A, make(version, A, B, transport))
        assert bench.heard(B) == bench.heard(C) == []
        assert set(bench.drops(A)) == {"policy-denied"}


@pytest.mark.parametrize("make", [direct, routed])
@pytest.mark.parametrize("version", [4, 6])
def test_a_rule_leads_one_way_and_back(make: Any, version: int) -> None:
    with Bench() as bench:
        bench.allow("a", "b", "tcp", [(PORT, PORT)])
        back = TCP(sport=PORT, dport=4000, flags="SA")
        bench.send(B, make(version, B, A, back))
        assert bench.heard(A) == [], "nothing was begun yet"
        bench.send(A, make(version, A, B, SYN))
        (heard,) = bench.heard(B)
        assert heard[TCP].flags == "S"
        bench.send(B, make(version, B, A, back))
        assert len(bench.heard(A)) == 1
        for wrong in (TCP(sport=PORT, dport=4001, flags="SA"), TCP(sport=81, dport=4000, flags="SA"),
                      TCP(sport=PORT, dport=4000, flags="S")):  # fmt: skip
            bench.send(B, make(version, B, A, wrong))
        assert [each for each in bench.heard(A) if each.src == MACS[B]] == []


@pytest.mark.parametrize(
    ("protocol", "ports", "passes"),
    [
        ("any", (), {"tcp80", "tcp81", "udp80", "echo"}),
        ("tcp", (), {"tcp80", "tcp81"}),
        ("tcp", ((79, 80), (90, 90)), {"tcp80"}),
        ("udp", ((80, 80),), {"udp80"}),
        ("icmp", (), {"echo"}),
    ],
)
def test_protocols_and_ports(protocol: str, ports: Any, passes: set[str]) -> None:
    tried = {
        "tcp80": SYN,
        "tcp81": TCP(sport=4000, dport=81, flags="S"),
        "udp80": UDP(sport=4000, dport=80),
        "echo": ICMP(),
    }
    with Bench() as bench:
        bench.allow("a", "b", protocol, ports)
        for name, transport in tried.items():
            bench.send(A, direct(4, A, B, transport))
            assert bool(bench.heard(B)) is (name in passes), name


def test_a_refusal_between_two_that_are_joined_is_told() -> None:
    with Bench() as bench:
        bench.allow("a", "b", "icmp")
        bench.send(A, direct(4, A, B, SYN))
        (answer,) = bench.heard(A)
        assert answer[TCP].flags == "RA"
        bench.send(B, direct(4, B, A, UDP(sport=1, dport=2)))
        (answer,) = bench.heard(B)
        assert answer[ICMP].code == 13
        bench.send(A, direct(4, A, C, SYN))
        assert bench.heard(A) == [], "who is a stranger learns nothing"


def test_two_rules_add_up() -> None:
    with Bench() as bench:
        bench.allow("a", "b", "tcp", [(PORT, PORT)])
        bench.allow("a", "b", "icmp")
        bench.allow("a", "c", "udp")
        bench.send(A, direct(4, A, B, SYN), direct(4, A, B, ICMP()), direct(4, A, C, SYN))
        assert (len(bench.heard(B)), len(bench.heard(C))) == (2, 0)


def test_a_stream_goes_on_after_a_restart_of_ours() -> None:
    with Bench() as bench:
        bench.allow("a", "b", "tcp")
        bench.send(A, direct(4, A, B, TCP(sport=4000, dport=PORT, flags="A")))
        bench.send(B, direct(4, B, A, TCP(sport=PORT, dport=4000, flags="A")))
        assert (len(bench.heard(B)), len(bench.heard(A))) == (1, 1)
        bench.send(A, direct(4, A, B, TCP(sport=4001, dport=PORT, flags="R")))
        assert bench.heard(B) == [], "a reset begins nothing"
        assert bench.drops(A) == {"no-flow": 1}


def test_errors_of_what_was_begun() -> None:
    with Bench() as bench:
        bench.allow("a", "b", "udp")
        error = ICMP(type=3, code=3) / ip(4, A, B) / UDP(sport=1, dport=2)
        bench.send(B, direct(4, B, A, error))
        assert bench.heard(A) == []
        bench.send(A, direct(4, A, B, UDP(sport=1, dport=2)))
        bench.send(B, direct(4, B, A, error))
        assert len(bench.heard(A)) == 1
        back = ICMP(type=3, code=3) / ip(4, B, A) / UDP(sport=2, dport=1)
        bench.heard(B)
        bench.send(A, direct(4, A, B, back))
        assert len(bench.heard(B)) == 1, "about an answer"


def test_fragments_need_a_rule_for_everything() -> None:
    piece = Ether(src=MACS[A], dst=MACS[B]) / IP(src=address4(A), dst=address4(B), frag=8) / b"rest"
    with Bench() as bench:
        bench.allow("a", "b", "udp")
        bench.send(A, piece)
        assert bench.heard(B) == []
        assert bench.drops(A) == {"fragment-refused": 1}
        bench.allow("a", "b")
        bench.send(A, piece)
        assert len(bench.heard(B)) == 1


def test_the_table_is_the_beginners() -> None:
    with Bench() as bench:
        bench.allow("a", "c", "udp")
        bench.allow("b", "c", "udp")
        bench.members[A].begun._limit = 1
        bench.send(A, *(direct(4, A, C, UDP(sport=port, dport=2)) for port in (1, 2)))
        bench.send(B, direct(4, B, C, UDP(sport=1, dport=2)))
        assert len(bench.heard(C)) == 2
        assert bench.drops(A) == {"flow-table-full": 1}


# -- rules change

BACK = TCP(sport=PORT, dport=4000, flags="SA")
DATA = TCP(sport=4000, dport=PORT, flags="A")


@pytest.mark.parametrize("make", [direct, routed])
@pytest.mark.parametrize("version", [4, 6])
def test_with_its_rule_a_conversation_ends_both_ways(make: Any, version: int) -> None:
    with Bench() as bench:
        bench.allow("b", "a", "icmp")
        bench.allow("a", "b", "tcp", [(PORT, PORT)])
        bench.send(A, make(version, A, B, SYN))
        bench.send(B, make(version, B, A, BACK))
        assert (len(bench.heard(B)), len(bench.heard(A))) == (1, 1)
        bench.segment.change(bench.segment.rules[:1])
        bench.send(B, make(version, B, A, BACK))
        bench.send(A, make(version, A, B, DATA), make(version, A, B, SYN))
        told, (ended, refused) = bench.heard(B), bench.heard(A)
        assert [frame[TCP].flags for frame in (*told, ended, refused)] == ["R", "R", "RA"], "each, and only by us"
        assert len(bench.members[A].begun) == 0


def test_what_another_rule_permits_goes_on() -> None:
    with Bench() as bench:
        bench.allow("a", "b", "tcp")
        bench.allow("a", "b", "tcp", [(PORT, PORT + 1)])
        others = UDP(sport=1, dport=2), TCP(sport=4000, dport=PORT + 2, flags="S")
        bench.allow("a", "b", "udp")
        bench.send(A, direct(4, A, B, SYN), *(direct(4, A, B, each) for each in others))
        bench.segment.change(bench.segment.rules[1:])
        bench.heard(B)
        bench.send(B, direct(4, B, A, BACK), direct(4, B, A, UDP(sport=2, dport=1)))
        bench.send(B, direct(4, B, A, TCP(sport=PORT + 2, dport=4000, flags="SA")))
        assert [frame.sprintf("%IP.proto%") for frame in bench.heard(A)] == ["tcp", "udp"]


def test_an_ended_conversation_stays_ended() -> None:
    """Until its beginner goes on with it."""
    with Bench() as bench:
        bench.allow("a", "b", "udp")
        bench.send(A, direct(4, A, B, UDP(sport=1, dport=2)))
        error = ICMP(type=3, code=3) / ip(4, A, B) / UDP(sport=1, dport=2)
        rules = bench.segment.rules
        bench.segment.change(())
        bench.segment.change(rules)
        bench.send(B, direct(4, B, A, UDP(sport=2, dport=1)), direct(4, B, A, error))
        assert [frame for frame in bench.heard(A) if frame.src == MACS[B]] == []
        bench.send(A, direct(4, A, B, UDP(sport=1, dport=2)))
        bench.send(B, direct(4, B, A, UDP(sport=2, dport=1)))
        assert len(bench.heard(A)) == 1


def test_an_answer_to_what_we_forgot_is_not_reset() -> None:
    """We may have been restarted: who began it will go on, and revive it."""
    with Bench() as bench:
        bench.allow("a", "b", "tcp", [(PORT, PORT)])
        bench.send(B, direct(4, B, A, BACK))
        assert bench.heard(B) == []
        assert bench.drops(B) == {"no-flow": 1}


def test_names_and_neighbours_follow() -> None:
    with Bench() as bench:
        names = bench.translators[A].forwarder.names
        request, solicit = arp(A, address4(B)), solicitation(A, address6(B))
        for joined in (False, True, False):
            bench.segment.change([LinkRule("a", "b", "icmp")] if joined else [])
            assert (names.match((b"b", b"internal")) is not None) is joined
            bench.send(A, request, solicit)
            assert len(bench.heard(A)) == 2 * joined
            bench.send(A, direct(4, A, B, ICMP()))
            assert len(bench.heard(B)) == joined


def test_a_rule_twice_is_one() -> None:
    with Bench() as bench:
        bench.segment.change([LinkRule("a", "b")] * 2)
        assert bench.segment.rules == (LinkRule("a", "b"),)


# -- refusals


def test_a_refusal_does_not_tell_whether_somebody_is_there() -> None:
    with Bench() as bench:
        for target in (address4(B), NOBODY):
            bench.send(A, Ether(src=MACS[A], dst=GATEWAY_MAC) / IP(src=address4(A), dst=target) / SYN)
        one, other = bench.heard(A)
        assert (one[TCP].flags, other[TCP].flags) == ("RA", "RA")
        assert one.src == other.src == GATEWAY_MAC
        bench.send(A, Ether(src=MACS[A], dst=GATEWAY_MAC) / IP(src=address4(A), dst=NOBODY) / UDP(dport=7))
        (error,) = bench.heard(A)
        assert (error[ICMP].type, error[ICMP].code) == (3, 13)
        told = [event for event in bench.events if isinstance(event, FlowRefused)]
        assert [event.rule for event in told] == ["segment"] * 3


@pytest.mark.parametrize(
    "frame",
    [
        Ether(src=MACS[A], dst=MACS[B]) / IP(src=address4(A), dst="198.51.100.7") / UDP(dport=7),
        Ether(src=MACS[A], dst=MACS[B]) / IP(src=address4(A), dst=address4(C)) / UDP(dport=7),
        Ether(src=MACS[A], dst=MACS[B]) / IP(src=address4(A), dst="255.255.255.255") / UDP(dport=7),
        Ether(src=MACS[A], dst="02:00:00:00:00:99") / IP(src=address4(A), dst=address4(B)) / UDP(dport=7),
        Ether(src=MACS[A], dst=MACS[B]) / IPv6(src=address6(A), dst="fe80::99") / UDP(dport=7),
        Ether(src=MACS[A], dst=BROADCAST) / IP(src=address4(A), dst=address4(B)) / UDP(dport=7),
        Ether(src=MACS[A], dst=BROADCAST) / IP(src=address4(A), dst="192.0.2.255") / UDP(dport=7),
        Ether(src=MACS[A], dst=MACS[B]) / ARP(op=2, hwsrc=MACS[A], psrc=address4(A), hwdst=MACS[B], pdst=address4(B)),
    ],
)
def test_what_no_rule_delivers(frame: Any) -> None:
    with Bench() as bench:
        bench.allow("a", "b")
        bench.send(A, frame)
        assert bench.heard(A) == bench.heard(B) == bench.heard(C) == []
        assert sum(bench.drops(A).values()) == 1


def test_link_local_addresses_of_a_neighbour() -> None:
    with Bench() as bench:
        bench.allow("a", "b")
        frame = Ether(src=MACS[A], dst=MACS[B]) / IPv6(src=link_local(A), dst=link_local(B)) / ICMPv6EchoRequest()
        bench.send(A, frame)
        assert len(bench.heard(B)) == 1


def test_an_address_goes_with_its_lease() -> None:
    with Bench() as bench:
        bench.allow("a", "b")
        assert bench.keeper is not None
        bench.keeper.pool.release(mac(MACS[B]), pack(address4(B)), bench.now, "b")
        assert bench.members[B].tenant is not None
        bench.members[B].tenant.take_back()
        bench.send(A, direct(4, A, B, ICMP()), routed(4, A, B, ICMP()))
        assert bench.heard(B) == []


# -- who is where


@pytest.mark.parametrize("source", [A, B])
def test_arp_where_a_rule_joins(source: int) -> None:
    """Whoever of the two may begin."""
    target = B if source == A else A
    with Bench() as bench:
        bench.allow("a", "b", "tcp", [(PORT, PORT)])
        for to in (BROADCAST, MACS[target]):
            bench.send(source, arp(source, address4(target), to))
            (answer,) = bench.heard(source)
            assert (answer.src, answer[ARP].hwsrc, answer[ARP].psrc) == (MACS[target], MACS[target], address4(target))
        assert bench.heard(target) == []


@pytest.mark.parametrize("target", [address4(C), NOBODY])
def test_arp_is_silent_elsewhere(target: str) -> None:
    with Bench() as bench:
        bench.allow("a", "b")
        bench.send(A, arp(A, target), arp(A, target, MACS[C]))
        assert bench.heard(A) == bench.heard(C) == []
        assert bench.drops(A) == {"arp-not-ours": 2}


@pytest.mark.parametrize("target", [GATEWAY4, "198.51.100.7"])
def test_arp_for_ours_is_answered_as_ever(target: str) -> None:
    with Bench() as bench:
        bench.send(A, arp(A, target))
        (answer,) = bench.heard(A)
        assert answer[ARP].hwsrc == GATEWAY_MAC


def test_a_probe_for_its_own_address_is_not_answered() -> None:
    with Bench() as bench:
        bench.allow("a", "b")
        bench.send(A, arp(A, address4(A), psrc="0.0.0.0"))
        assert bench.heard(A) == []


@pytest.mark.parametrize("target", [address6(B), address6(B, "7777"), link_local(B)])
def test_solicitations_where_a_rule_joins(target: str) -> None:
    with Bench() as bench:
        bench.allow("b", "a", "tcp")
        for to in ("33:33:ff:00:00:02", MACS[B]):
            bench.send(A, solicitation(A, target, to=to))
            (answer,) = bench.heard(A)
            assert (answer.src, answer[ICMPv6NDOptDstLLAddr].lladdr, answer[ICMPv6ND_NA].R) == (MACS[B], MACS[B], 0)
        assert bench.heard(B) == []


@pytest.mark.parametrize("target", [address6(C), link_local(C)])
def test_solicitations_are_silent_elsewhere(target: str) -> None:
    with Bench() as bench:
        bench.allow("a", "b")
        bench.send(A, solicitation(A, target))
        assert bench.heard(A) == bench.heard(C) == []
        assert bench.drops(A) == {"ndp-not-ours": 1}


@pytest.mark.parametrize("target", ["fd00:0::1", "fe80::1", "2001:db8::1"])
def test_solicitations_for_ours_are_answered_as_ever(target: str) -> None:
    with Bench() as bench:
        bench.send(A, solicitation(A, target))
        (answer,) = bench.heard(A)
        assert answer[ICMPv6NDOptDstLLAddr].lladdr == GATEWAY_MAC


def test_a_link_local_address_that_two_were_seen_with_is_nobodys() -> None:
    odd = "fe80::77"
    with Bench() as bench:
        bench.allow("a", "b")
        bench.allow("a", "c")
        bench.translators[B].addresses.learn(pack(odd))
        assert bench.segment.owner(pack(odd)) is bench.members[B]
        bench.translators[C].addresses.learn(pack(odd))
        assert bench.segment.owner(pack(odd)) is None
        bench.translators[C].addresses.learn(pack(link_local(B)))
        assert bench.segment.owner(pack(link_local(B))) is bench.members[B], "by its MAC address"


@pytest.mark.parametrize("taken", [link_local(B), "fe80::77"])
def test_nobody_takes_anothers_link_local_address(taken: str) -> None:
    with Bench() as bench:
        bench.allow("a", "c")
        bench.allow("a", "b")
        bench.send(B, solicitation(B, "fe80::1", own=taken))
        (answer,) = bench.heard(B)
        assert answer[ICMPv6ND_NA].tgt == "fe80::1"
        assert bench.segment.owner(pack(taken)) is bench.members[B]
        bench.send(A, Ether(src=MACS[A], dst=MACS[C]) / IPv6(src=taken, dst=address6(C)) / UDP(dport=7))
        bench.send(A, solicitation(A, "fe80::1", own=taken))
        probe = solicitation(A, taken, own="::")
        del probe[ICMPv6NDOptSrcLLAddr]
        bench.send(A, probe)
        assert bench.heard(A) == bench.heard(B) == bench.heard(C) == []
        assert bench.drops(A) == {"source-not-guest": 2, "ndp-not-ours": 1}
        assert bench.segment.owner(pack(taken)) is bench.members[B]


# -- MAC addresses


def show(number: int, source: str) -> Any:
    """A frame that shows a MAC address, and needs no other."""
    return Ether(src=source, dst=BROADCAST) / ARP(op=1, hwsrc=source, psrc="0.0.0.0", pdst="198.51.100.7")


def test_the_first_mac_that_a_guest_shows_is_its_own() -> None:
    with Bench(learns=(A,)) as bench:
        assert bench.members[A].mac is None
        bench.send(A, show(A, "02:00:00:00:00:77"))
        assert bench.members[A].mac == mac("02:00:00:00:00:77")
        bench.send(A, show(A, "02:00:00:00:00:78"))
        assert bench.members[A].mac == mac("02:00:00:00:00:77")
        assert bench.drops(A)["foreign-source-mac"] == 1
        bench.translators[A].link_joined()
        assert bench.members[A].mac is None
        bench.send(A, show(A, "02:00:00:00:00:78"))
        assert bench.members[A].mac == mac("02:00:00:00:00:78")


@pytest.mark.parametrize("learns", [(A,), (A, B)])
def test_nobody_takes_anothers_mac(learns: tuple[int, ...]) -> None:
    """Neither one that was given nor one that was shown."""
    with Bench(learns=learns) as bench:
        bench.send(B, show(B, MACS[B]))
        bench.send(A, *[show(A, MACS[B])] * 3)
        assert bench.members[A].mac is None
        assert bench.segment.stolen == 3
        assert bench.said == [f"a: MAC address {MACS[B]} is another guest's; its frames are dropped"]
        assert bench.drops(A)["foreign-source-mac"] == 3
        bench.send(A, show(A, MACS[A]))
        assert bench.members[A].mac == mac(MACS[A])


@pytest.mark.parametrize("source", [GATEWAY_MAC, "00:00:00:00:00:00", "01:00:5e:00:00:01"])
def test_macs_that_nobody_has(source: str) -> None:
    with Bench(learns=(A,)) as bench:
        bench.send(A, show(A, source))
        assert bench.members[A].mac is None


def test_another_guest_has_begun_nothing() -> None:
    with Bench(learns=(A,)) as bench:
        bench.allow("a", "b", "udp")
        bench.send(A, show(A, MACS[A]))
        bench.lease(A)
        bench.send(A, direct(4, A, B, UDP(sport=1, dport=2)))
        assert len(bench.members[A].begun) == 1
        bench.translators[A].link_joined()
        bench.send(A, show(A, MACS[A]))
        assert len(bench.members[A].begun) == 1, "it is the same one"
        bench.translators[A].link_joined()
        bench.send(A, show(A, "02:00:00:00:00:77"))
        assert len(bench.members[A].begun) == 0


def test_who_is_gone_has_nothing() -> None:
    with Bench() as bench:
        bench.allow("a", "b")
        bench.links[B].end()
        bench.shared.reactor.turn(0)
        bench.send(A, routed(4, A, B, ICMP()))
        assert bench.segment.owner(pack(address4(B))) is None


def test_a_segment_without_ipv4_leases() -> None:
    with Bench(keeps=False) as bench:
        bench.allow("a", "b")
        bench.send(A, direct(6, A, B, ICMPv6EchoRequest()))
        assert len(bench.heard(B)) == 1
        bench.translators[A].link_ended()


# -- names


def test_names_of_those_it_may_reach() -> None:
    with Bench() as bench:
        bench.allow("a", "b")
        names = bench.translators[A].forwarder.names
        assert isinstance(names, MemberNames)
        found = names.match((b"b", b"internal"))
        assert found is not None
        assert names.addresses(found) == ((pack(address4(B)),), ())
        bench.translators[B].addresses.learn(pack(address6(B, "77")))
        assert names.addresses(found)[1] == (pack(address6(B, "77")),)
        for other in ((b"c", b"internal"), (b"a", b"internal"), (b"x", b"b", b"internal"), (b"b",)):
            assert names.match(other) is None
            assert names.lacks(other) is (len(other) > 1)
        for other in ((b"nobody", b"internal"), (b"x", b"c", b"internal")):
            assert names.lacks(other)
        for other in ((b"metadata", b"google", b"internal"), (b"internal",), (b"c", b"example"), ()):
            assert not names.lacks(other)
        host = names.match((b"host", b"bucatini", b"internal"))
        assert host is not None
        assert pack(GATEWAY4) in names.addresses(host)[0]
        assert bench.translators[B].forwarder.names.match((b"a", b"internal")) is None


def test_borrowing_is_off() -> None:
    with Bench() as bench:
        link = bench.translators[A].link
        link.borrow = True  # type: ignore[attr-defined]
        bench.segment.join(bench.translators[A], "again")
        assert link.borrow is False


def test_nothing_here_is_a_bug() -> None:
    with Bench() as bench:
        bench.allow("a", "b")
        base = bytes(direct(4, A, B, SYN))
        for cut in range(14, len(base)):
            bench.send(A, base[:cut])
        assert bench.drops(A).get(DropReason.BUG.label) is None
