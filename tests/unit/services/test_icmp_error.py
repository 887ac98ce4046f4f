"""ICMP errors: type, code and quotation in both families, and the packets about which there must be none."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6ND_Redirect,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether

from bucatini.base.address import pack
from bucatini.services.icmp_error import ErrorKind, IcmpErrorSettings, icmp_error, icmp_error_packet
from bucatini.wire.checksum import internet, transport_ok
from bucatini.wire.ip import IpView

GUEST_MAC = "02:00:00:00:00:01"
OUR_MAC = "9a:55:9a:55:9a:55"
SETTINGS = IcmpErrorSettings(bytes.fromhex("9a559a559a55"), bytes([10, 0, 0, 1]), pack("fe80::1"))


def four(size: int = 4, source: str = "10.0.0.2", destination: str = "198.51.100.7") -> Ether:
    return Ether(dst=OUR_MAC, src=GUEST_MAC) / IP(src=source, dst=destination) / UDP(sport=5, dport=6) / (b"q" * size)


def six(size: int = 4, source: str = "2001:db8::2", destination: str = "2001:db8:f::7") -> Ether:
    return Ether(dst=OUR_MAC, src=GUEST_MAC) / IPv6(src=source, dst=destination) / UDP(sport=5, dport=6) / (b"q" * size)


V4_CASES = [
    (ErrorKind.NETWORK, 3, 0, "10.0.0.1"),
    (ErrorKind.HOST, 3, 1, "10.0.0.1"),
    (ErrorKind.PROTOCOL, 3, 2, "198.51.100.7"),
    (ErrorKind.PORT, 3, 3, "198.51.100.7"),
    (ErrorKind.TOO_BIG, 3, 4, "10.0.0.1"),
    (ErrorKind.PROHIBITED, 3, 13, "10.0.0.1"),
    (ErrorKind.HOP_LIMIT, 11, 0, "10.0.0.1"),
]


@pytest.mark.parametrize(("kind", "type_", "code", "source"), V4_CASES)
@pytest.mark.parametrize("size", [0, 3, 520, 521, 9000])
def test_ipv4(kind: ErrorKind, type_: int, code: int, source: str, size: int) -> None:
    guest = bytes(four(size))
    frame = icmp_error(guest + bytes(2), kind, SETTINGS, 1400)
    assert frame is not None
    reply = Ether(frame)
    assert (reply.dst, reply.src) == (GUEST_MAC, OUR_MAC)
    assert (reply[IP].src, reply[IP].dst, reply[IP].len) == (source, "10.0.0.2", len(frame) - 14)
    assert internet(frame[14:34]) == 0
    message = frame[34:]
    assert (message[0], message[1], internet(message)) == (type_, code, 0)
    assert message[4:8] == (b"\0\0\x05\x78" if kind is ErrorKind.TOO_BIG else bytes(4))
    assert message[8:] == guest[14 : 14 + 548]
    assert len(frame) - 14 <= 576


V6_CASES = [
    (ErrorKind.NETWORK, 1, 0, "fe80::1"),
    (ErrorKind.PROHIBITED, 1, 1, "fe80::1"),
    (ErrorKind.HOST, 1, 3, "fe80::1"),
    (ErrorKind.PORT, 1, 4, "2001:db8:f::7"),
    (ErrorKind.TOO_BIG, 2, 0, "fe80::1"),
    (ErrorKind.HOP_LIMIT, 3, 0, "fe80::1"),
    (ErrorKind.PROTOCOL, 4, 1, "2001:db8:f::7"),
]


@pytest.mark.parametrize(("kind", "type_", "code", "source"), V6_CASES)
@pytest.mark.parametrize("size", [0, 3, 1184, 1185, 9000])
def test_ipv6(kind: ErrorKind, type_: int, code: int, source: str, size: int) -> None:
    guest = bytes(six(size))
    frame = icmp_error(guest + bytes(2), kind, SETTINGS, 1400)
    assert frame is not None
    reply = Ether(frame)
    assert (reply.dst, reply.src) == (GUEST_MAC, OUR_MAC)
    assert (reply[IPv6].src, reply[IPv6].dst, reply[IPv6].plen) == (source, "2001:db8::2", len(frame) - 54)
    buf = memoryview(bytearray(frame))
    assert transport_ok(buf, 22, 38, 16, 58, 54, len(frame))
    message = frame[54:]
    detail = {ErrorKind.TOO_BIG: 1400, ErrorKind.PROTOCOL: 6}.get(kind, 0)
    assert (message[0], message[1], int.from_bytes(message[4:8], "big")) == (type_, code, detail)
    assert message[8:] == guest[14 : 14 + 1232]
    assert len(frame) - 14 <= 1280


def test_the_pointer_of_an_unknown_protocol_is_where_it_was_named() -> None:
    packet = IPv6(src="2001:db8::2", dst="2001:db8::7") / IPv6ExtHdrDestOpt(nh=253) / b"????????"
    error = icmp_error_packet(bytes(packet), ErrorKind.PROTOCOL, SETTINGS)
    assert error is not None
    assert int.from_bytes(error[44:48], "big") == 40


def test_from_packet_to_packet() -> None:
    error = icmp_error_packet(bytes(four()[IP]), ErrorKind.PORT, SETTINGS)
    frame = icmp_error(bytes(four()), ErrorKind.PORT, SETTINGS)
    assert error is not None
    assert frame is not None
    assert frame[14:] == error
    assert IpView().parse(memoryview(bytearray(error)), 0, len(error)) == 0


def ping4(kind: int) -> Ether:
    return Ether(dst=OUR_MAC, src=GUEST_MAC) / IP(src="10.0.0.2", dst="198.51.100.7") / ICMP(type=kind)


def test_an_echo_request_may_be_refused() -> None:
    assert icmp_error(bytes(ping4(8)), ErrorKind.PROHIBITED, SETTINGS) is not None
    request = Ether(src=GUEST_MAC, dst=OUR_MAC) / IPv6(src="2001:db8::2", dst="2001:db8::9") / ICMPv6EchoRequest()
    assert icmp_error(bytes(request), ErrorKind.PROHIBITED, SETTINGS) is not None


def fragment4(offset: int) -> bytes:
    packet = four()
    packet[IP].flags = "MF"
    packet[IP].frag = offset
    return bytes(packet)


def fragment6(offset: int) -> bytes:
    fragment = IPv6ExtHdrFragment(nh=17, offset=offset, m=1)
    return bytes(Ether(dst=OUR_MAC, src=GUEST_MAC) / IPv6(src="2001:db8::2", dst="2001:db8::9") / fragment / bytes(16))


def test_a_first_fragment_may_be_refused() -> None:
    assert icmp_error(fragment4(0), ErrorKind.PROHIBITED, SETTINGS) is not None
    assert icmp_error(fragment6(0), ErrorKind.PROHIBITED, SETTINGS) is not None


def to_group_mac(packet: Ether) -> bytes:
    packet.dst = "ff:ff:ff:ff:ff:ff"
    return bytes(packet)


def icmp6(body: object, destination: str = "2001:db8::9") -> bytes:
    return bytes(Ether(dst=OUR_MAC, src=GUEST_MAC) / IPv6(src="2001:db8::2", dst=destination) / body)


@pytest.mark.parametrize(
    "frame",
    [
        *(pytest.param(bytes(ping4(kind)), id=f"ICMP type {kind}") for kind in (3, 4, 5, 11, 12)),
        pytest.param(icmp6(ICMPv6DestUnreach()), id="ICMPv6 error"),
        pytest.param(icmp6(ICMPv6ND_Redirect()), id="ICMPv6 redirect"),
        pytest.param(bytes(Ether() / IP(src="10.0.0.2", dst="198.51.100.7", proto=1)), id="empty ICMP"),
        pytest.param(fragment4(1), id="later fragment"),
        pytest.param(fragment6(1), id="later fragment, IPv6"),
        pytest.param(bytes(four(destination="224.0.0.251")), id="multicast"),
        pytest.param(bytes(four(destination="255.255.255.255")), id="broadcast"),
        pytest.param(to_group_mac(four(destination="10.0.0.255")), id="directed broadcast"),
        pytest.param(bytes(six(destination="ff02::fb")), id="multicast, IPv6"),
        pytest.param(bytes(four(source="0.0.0.0")), id="unspecified source"),
        pytest.param(bytes(four(source="127.0.0.1")), id="loopback source"),
        pytest.param(bytes(four(source="224.0.0.1")), id="multicast source"),
        pytest.param(bytes(six(source="::")), id="unspecified source, IPv6"),
        pytest.param(bytes(six(source="ff02::1")), id="multicast source, IPv6"),
        pytest.param(bytes(four())[:30], id="cut"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_no_error(frame: bytes) -> None:
    assert icmp_error(frame, ErrorKind.PROHIBITED, SETTINGS) is None


def test_packet_too_big_is_the_exception_for_ipv6_multicast() -> None:
    assert icmp_error(bytes(six(destination="ff0e::1")), ErrorKind.TOO_BIG, SETTINGS, 1280) is not None
    assert icmp_error(bytes(four(destination="224.0.0.251")), ErrorKind.TOO_BIG, SETTINGS, 1280) is None


def test_a_refused_segment_is_recognisable_to_its_sender() -> None:
    segment = Ether(dst=OUR_MAC, src=GUEST_MAC) / IP(src="10.0.0.2", dst="198.51.100.7") / TCP(sport=4321, dport=443)
    frame = icmp_error(bytes(segment), ErrorKind.HOST, SETTINGS)
    assert frame is not None
    quoted = IP(frame[42:])
    assert (quoted.src, quoted.dst, quoted[TCP].sport, quoted[TCP].dport) == ("10.0.0.2", "198.51.100.7", 4321, 443)
