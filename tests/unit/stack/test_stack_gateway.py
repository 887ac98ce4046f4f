"""stack.gateway: answers, resets and ICMP errors as RFCs and scapy have them, and the budget of errors."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, TCPerror, UDPerror
from scapy.layers.inet import fragment as fragment4
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
    fragment6,
)
from scapy.layers.l2 import ARP

from bucatini.base.address import Endpoint, pack
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS
from bucatini.flows.datagram_flow import DatagramFlow
from bucatini.flows.tcp_flow import TcpFlow
from bucatini.host.sockets import IcmpError
from bucatini.stack.gateway import ERROR_BURST, ERRORS_PER_SECOND
from support.frames import (
    GATEWAY4,
    GATEWAY6,
    GATEWAY_MAC,
    GUEST4,
    GUEST6,
    GUEST_MAC,
    PEER4,
    PEER6,
    VNET,
    Bench,
    check_to_guest,
    ether,
    ip,
    payload_of,
)

VERSIONS = pytest.mark.parametrize("version", [4, 6])
ADDRESSES = {4: (GUEST4, PEER4, GATEWAY4), 6: (GUEST6, PEER6, GATEWAY6)}


def parsed_by(bench: Bench, layer: Any, **fields: Any) -> Any:
    assert bench.parse(ether(layer, **fields)) == 0
    return bench.packet


def seen(frame: bytes | None) -> Any:
    assert frame is not None
    return check_to_guest(VNET + frame)


def network(parsed: Any) -> tuple[str, str]:
    layer = parsed[IP] if IP in parsed else parsed[IPv6]
    return layer.src, layer.dst


# -- services


def test_arp() -> None:
    bench = Bench()
    reply = seen(bench.gateway.arp(parsed_by(bench, ARP(psrc=GUEST4, pdst=GATEWAY4, hwsrc=GUEST_MAC))))
    assert (reply[ARP].op, reply[ARP].hwsrc, reply[ARP].psrc, reply.dst) == (2, GATEWAY_MAC, GATEWAY4, GUEST_MAC)
    assert bench.gateway.arp(parsed_by(bench, ARP(psrc="0.0.0.0", pdst=GUEST4, hwsrc=GUEST_MAC))) is None


def test_ndp() -> None:
    bench = Bench()
    ask = ip(6, dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=GATEWAY6) / ICMPv6NDOptSrcLLAddr(lladdr=GUEST_MAC)
    reply = seen(bench.gateway.ndp(parsed_by(bench, ask, dst="33:33:ff:00:00:01")))
    assert reply[ICMPv6ND_NA].tgt == GATEWAY6
    assert reply[IPv6].hlim == 255


def test_echo_of_the_gateway_itself() -> None:
    bench = Bench()
    reply = seen(bench.gateway.echo(parsed_by(bench, ip(4, dst=GATEWAY4) / ICMP(id=7, seq=9) / b"abc")))
    assert (reply[ICMP].type, reply[ICMP].id, reply[ICMP].seq, payload_of(reply)) == (0, 7, 9, b"abc")
    assert network(reply) == (GATEWAY4, GUEST4)
    request = ip(6, dst=GATEWAY6) / ICMPv6EchoRequest(id=7, seq=9, data=b"abc")
    reply = seen(bench.gateway.echo(parsed_by(bench, request)))
    assert (reply[ICMPv6EchoReply].id, reply[ICMPv6EchoReply].data) == (7, b"abc")
    assert bench.gateway.echo(parsed_by(bench, ip(4) / ICMP(id=7))) is None


# -- resets


@VERSIONS
@pytest.mark.parametrize(
    ("flags", "length", "expected"),
    [
        ("S", 0, (0, 1001, "RA")),
        ("S", 10, (0, 1011, "RA")),
        ("F", 3, (0, 1004, "RA")),
        ("", 5, (0, 1005, "RA")),
        ("SA", 0, (5000, 0, "R")),
        ("A", 20, (5000, 0, "R")),
        ("FPA", 20, (5000, 0, "R")),
    ],
)
def test_reset(version: int, flags: str, length: int, expected: tuple[int, int, str]) -> None:
    """RFC 9293 3.10.7.1."""
    bench = Bench()
    segment = TCP(sport=1234, dport=80, seq=1000, ack=5000, flags=flags) / bytes(length)
    answer = seen(bench.gateway.reset_for(parsed_by(bench, ip(version) / segment)))
    reset = answer[TCP]
    assert (reset.seq, reset.ack, str(reset.flags)) == expected
    assert (reset.sport, reset.dport, reset.window) == (80, 1234, 0)
    assert network(answer) == ADDRESSES[version][1::-1]


def test_reset_of_a_number_that_wraps() -> None:
    bench = Bench()
    segment = TCP(seq=0xFFFFFFFF, flags="S") / b"ab"
    assert seen(bench.gateway.reset_for(parsed_by(bench, ip(4) / segment)))[TCP].ack == 2


# -- errors about a packet


def test_prohibited() -> None:
    bench = Bench()
    answer = seen(bench.gateway.prohibited(parsed_by(bench, ip(4) / UDP(sport=5, dport=6) / b"query")))
    assert (answer[ICMP].type, answer[ICMP].code) == (3, 13)
    assert network(answer) == (GATEWAY4, GUEST4)
    assert (answer[IPerror].dst, answer[UDPerror].sport, answer[UDPerror].dport) == (PEER4, 5, 6)
    answer = seen(bench.gateway.prohibited(parsed_by(bench, ip(6) / UDP(sport=5, dport=6) / b"query")))
    assert (answer[ICMPv6DestUnreach].code, network(answer)) == (1, (GATEWAY6, GUEST6))


@pytest.mark.parametrize(
    ("error", "four", "six"),
    [
        (errno.ENETUNREACH, (3, 0), 0),
        (errno.EHOSTUNREACH, (3, 1), 3),
        (errno.EACCES, (3, 13), 1),
        (errno.EPERM, (3, 13), 1),
        (errno.ECONNREFUSED, (3, 3), 4),
        (errno.EMFILE, (3, 1), 3),
    ],
)
def test_what_an_errno_becomes(error: int, four: tuple[int, int], six: int) -> None:
    bench = Bench()
    answer = seen(bench.gateway.unreachable(parsed_by(bench, ip(4) / UDP()), error))
    assert (answer[ICMP].type, answer[ICMP].code) == four
    assert answer[IP].src == (PEER4 if error == errno.ECONNREFUSED else GATEWAY4)
    answer = seen(bench.gateway.unreachable(parsed_by(bench, ip(6) / UDP()), error))
    assert answer[ICMPv6DestUnreach].code == six


def test_no_error_about_a_group() -> None:
    bench = Bench()
    group = parsed_by(bench, ip(4, dst="224.0.0.251") / UDP(), dst="01:00:5e:00:00:fb")
    assert bench.gateway.prohibited(group) is None


def test_the_budget_of_errors() -> None:
    """RFC 1812 4.3.2.8: a burst, then a rate; what is not sent is counted."""
    bench = Bench()
    gateway = bench.gateway
    packet = parsed_by(bench, ip(4) / UDP())

    def sent(tries: int) -> int:
        return sum(gateway.prohibited(packet) is not None for _ in range(tries))

    assert sent(ERROR_BURST + 50) == ERROR_BURST
    assert bench.counters[DropReason.ICMP_RATE] == 50
    gateway.now = 0.1
    assert sent(ERROR_BURST) == ERRORS_PER_SECOND // 10
    gateway.now = 1000.0
    assert sent(10_000) == ERROR_BURST


# -- errors about a flow


def flow_of(version: int, protocol: int) -> Any:
    guest, peer, _ = ADDRESSES[version]
    ends = Endpoint(pack(guest), 4000), Endpoint(pack(peer), 0 if protocol in (1, 58) else 80)
    return TcpFlow(*ends, EGRESS, 0.0) if protocol == 6 else DatagramFlow(protocol, *ends, EGRESS, 0.0)


@VERSIONS
def test_unreachable_syn_quotes_what_the_guest_sent(version: int) -> None:
    bench = Bench()
    flow = flow_of(version, 6)
    flow.rcv_nxt = 1
    answer = seen(bench.gateway.unreachable_syn(flow, errno.EHOSTUNREACH))
    if version == 4:
        assert (answer[ICMP].type, answer[ICMP].code) == (3, 1)
        quoted = answer[TCPerror]
        assert (answer[IPerror].src, answer[IPerror].dst) == (GUEST4, PEER4)
    else:
        assert answer[ICMPv6DestUnreach].code == 3
        quoted = answer[ICMPv6DestUnreach].payload.payload
    assert (quoted.sport, quoted.dport, quoted.seq) == (4000, 80, 0)


@VERSIONS
def test_relayed_errors_of_udp(version: int) -> None:
    bench = Bench()
    flow = flow_of(version, 17)
    port_unreachable = IcmpError(errno.ECONNREFUSED, 3 if version == 4 else 1, 3 if version == 4 else 4, 0, b"query")
    answer = seen(bench.gateway.relay_error(flow, port_unreachable))
    assert network(answer) == ADDRESSES[version][1::-1]
    if version == 4:
        assert (answer[ICMP].type, answer[ICMP].code) == (3, 3)
        assert (answer[UDPerror].sport, answer[UDPerror].dport, answer[UDPerror].len) == (4000, 80, 13)
    else:
        assert answer[ICMPv6DestUnreach].code == 4
    late = IcmpError(errno.EHOSTUNREACH, 11 if version == 4 else 3, 0, 0, b"query")
    answer = seen(bench.gateway.relay_error(flow, late))
    assert answer[ICMP].type == 11 if version == 4 else ICMPv6TimeExceeded in answer
    large = IcmpError(errno.EMSGSIZE, 3 if version == 4 else 2, 4 if version == 4 else 0, 1300, b"query")
    answer = seen(bench.gateway.relay_error(flow, large))
    if version == 4:
        assert (answer[ICMP].type, answer[ICMP].code, answer[ICMP].nexthopmtu) == (3, 4, 1300)
    else:
        assert answer[ICMPv6PacketTooBig].mtu == 1300


@pytest.mark.parametrize("protocol", [1, 58])
def test_relayed_errors_of_echo_name_the_guests_identifier(protocol: int) -> None:
    bench = Bench()
    version = 4 if protocol == 1 else 6
    flow = flow_of(version, protocol)
    message = bytes((8 if protocol == 1 else 128, 0, 1, 2, 0x77, 0x77, 0, 5)) + b"abc"
    answer = seen(bench.gateway.relay_error(flow, IcmpError(errno.EHOSTUNREACH, -1, 0, 0, message)))
    quoted = bytes(answer)[14 + (20 + 8 + 20 if version == 4 else 40 + 8 + 40) :]
    assert quoted[4:8] == (4000).to_bytes(2, "big") + b"\0\5"


@VERSIONS
@given(
    st.integers(1, 200), st.integers(-1, 255), st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=2048)
)
def test_any_report_of_the_host(version: int, number: int, kind: int, code: int, info: int, payload: bytes) -> None:
    """The kernel's report quotes what a router wrote: nothing in it is to be trusted."""
    bench = Bench()
    for protocol in (17, 1 if version == 4 else 58):
        frame = bench.gateway.relay_error(flow_of(version, protocol), IcmpError(number, kind, code, info, payload))
        assert frame is None or check_to_guest(VNET + frame, mtu=1280)


@VERSIONS
def test_unreachable_flow(version: int) -> None:
    bench = Bench()
    answer = seen(bench.gateway.unreachable_flow(flow_of(version, 17), errno.EMSGSIZE, 1400, b""))
    assert (answer[ICMP].nexthopmtu if version == 4 else answer[ICMPv6PacketTooBig].mtu) == 1400
    assert seen(bench.gateway.unreachable_flow(flow_of(version, 1 if version == 4 else 58), errno.EPERM, 0, b""))


# -- frames of our own


@VERSIONS
@given(body=st.binary(max_size=600))
def test_datagram(version: int, body: bytes) -> None:
    bench = Bench()
    guest, peer, _ = ADDRESSES[version]
    frame = bench.gateway.datagram(Endpoint(pack(peer), 53), Endpoint(pack(guest), 4000), body)
    answer = seen(frame)
    assert (answer[UDP].sport, answer[UDP].dport) == (53, 4000)
    assert bytes(frame)[-len(body) or len(frame) :] == body
    assert network(answer) == (peer, guest)


@pytest.mark.parametrize("protocol", [1, 58])
def test_echo_reply(protocol: int) -> None:
    bench = Bench()
    version = 4 if protocol == 1 else 6
    message = bytes((0 if version == 4 else 129, 0, 9, 9, 0x77, 0x77, 0, 5)) + b"abc"
    answer = seen(bench.gateway.echo_reply(flow_of(version, protocol), message))
    reply = answer[ICMP] if version == 4 else answer[ICMPv6EchoReply]
    assert (reply.id, reply.seq) == (4000, 5)
    assert network(answer) == ADDRESSES[version][1::-1]


@VERSIONS
def test_reassembly(version: int) -> None:
    bench = Bench()
    datagram = UDP(sport=1, dport=2) / (bytes(range(256)) * 12)
    whole = bytes(ip(version) / datagram)
    if version == 4:
        pieces = fragment4(IP(whole), 1400)
    else:
        pieces = fragment6(IPv6(bytes(ip(6) / IPv6ExtHdrFragment() / IPv6(whole).payload)), 1400)
    assert len(pieces) > 1
    results = [bench.gateway.reassemble(parsed_by(bench, piece), 1.0) for piece in pieces]
    assert results[:-1] == [0] * (len(pieces) - 1)
    assert isinstance(results[-1], bytes)
    assert results[-1][20 if version == 4 else 40 :] == whole[20 if version == 4 else 40 :]
    frame = bench.gateway.frame_header(version, 12) + results[-1]
    at, length = bench.place(frame, b"")
    assert bench.packet.parse(at, length) == 0


# -- what the guest's ICMP errors quote


@VERSIONS
def test_quoted_tcp_key(version: int) -> None:
    bench = Bench()
    guest, peer, _ = ADDRESSES[version]
    error: Any = ICMP(type=3, code=1) if version == 4 else ICMPv6DestUnreach(code=3)
    quote = (IP if version == 4 else IPv6)(src=peer, dst=guest) / TCP(sport=555, dport=80)
    packet = parsed_by(bench, ip(version) / error / quote)
    assert bench.gateway.quoted_tcp_key(packet) == pack(guest) + pack(peer) + b"\0\x50\x02\x2b"
    packet = parsed_by(bench, ip(version) / error / bytes(quote)[: 28 if version == 4 else 48])
    assert bench.gateway.quoted_tcp_key(packet) is not None
    packet = parsed_by(bench, ip(version) / error / bytes(quote)[: 27 if version == 4 else 47])
    assert bench.gateway.quoted_tcp_key(packet) is None
    datagram = (IP if version == 4 else IPv6)(src=peer, dst=guest) / UDP(sport=555, dport=80)
    assert bench.gateway.quoted_tcp_key(parsed_by(bench, ip(version) / error / datagram)) is None
    echo: Any = ICMP() if version == 4 else ICMPv6EchoRequest()
    assert bench.gateway.quoted_tcp_key(parsed_by(bench, ip(version) / echo / bytes(quote))) is None
