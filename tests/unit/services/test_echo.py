"""Pings to the gateway: the reply a host would give, of any size, and silence for what is not for the gateway."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, IPOption_NOP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Ether

from bucatini.base.address import pack
from bucatini.services.echo import EchoSettings, answer_echo

GUEST_MAC = "02:00:00:00:00:01"
OUR_MAC = "9a:55:9a:55:9a:55"
SETTINGS = EchoSettings(
    bytes.fromhex("9a559a559a55"), frozenset({bytes([10, 0, 0, 1]), pack("fe80::1"), pack("2001:db8::1")})
)
PAYLOADS = [b"", b"x", b"0123456789" * 5, b"\xff" * 60_000]


def four(payload: bytes = b"ping", source: str = "10.0.0.2", destination: str = "10.0.0.1", **fields: object) -> Ether:
    icmp = ICMP(**{"type": 8, "id": 0x1234, "seq": 7, **fields})
    return Ether(dst=OUR_MAC, src=GUEST_MAC) / IP(src=source, dst=destination, tos=0x10) / icmp / payload


def six(payload: bytes = b"ping", source: str = "fe80::2", destination: str = "fe80::1", **fields: object) -> Ether:
    icmp = ICMPv6EchoRequest(**{"id": 0x1234, "seq": 7, "data": payload, **fields})
    return Ether(dst=OUR_MAC, src=GUEST_MAC) / IPv6(src=source, dst=destination, tc=0x20) / icmp


@pytest.mark.parametrize("payload", PAYLOADS, ids=len)
def test_an_ipv4_reply(payload: bytes) -> None:
    frame = answer_echo(bytes(four(payload)), SETTINGS)
    assert frame is not None
    ours = Ether(frame)
    theirs = (
        Ether(dst=GUEST_MAC, src=OUR_MAC)
        / IP(src="10.0.0.1", dst="10.0.0.2", id=0, ttl=64, tos=0x10)
        / ICMP(type=0, id=0x1234, seq=7)
        / payload
    )
    assert bytes(theirs) == frame, ours.show(dump=True)


@pytest.mark.parametrize("payload", PAYLOADS, ids=len)
@pytest.mark.parametrize("gateway", ["fe80::1", "2001:db8::1"])
def test_an_ipv6_reply(payload: bytes, gateway: str) -> None:
    frame = answer_echo(bytes(six(payload, destination=gateway)), SETTINGS)
    theirs = (
        Ether(dst=GUEST_MAC, src=OUR_MAC)
        / IPv6(src=gateway, dst="fe80::2", hlim=64, tc=0x20)
        / ICMPv6EchoReply(id=0x1234, seq=7, data=payload)
    )
    assert bytes(theirs) == frame


def test_options_and_extension_headers_are_not_echoed() -> None:
    packet = four()
    packet[IP].options = [IPOption_NOP()]
    frame = answer_echo(bytes(packet), SETTINGS)
    assert frame is not None
    assert Ether(frame)[IP].ihl == 5
    request = ICMPv6EchoRequest(id=1, seq=2, data=b"abc")
    long = Ether(dst=OUR_MAC, src=GUEST_MAC) / IPv6(src="fe80::2", dst="fe80::1") / IPv6ExtHdrDestOpt() / request
    frame = answer_echo(bytes(long), SETTINGS)
    assert frame is not None
    assert Ether(frame)[IPv6].nh == 58


def damaged(frame: Ether) -> bytes:
    data = bytearray(bytes(frame))
    data[-1] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(bytes(four(destination="10.0.0.3")), id="another address"),
        pytest.param(bytes(six(destination="fe80::3")), id="another address, IPv6"),
        pytest.param(bytes(four(type=0)), id="reply"),
        pytest.param(bytes(four(code=1)), id="code"),
        pytest.param(bytes(four(source="0.0.0.0")), id="unspecified source"),
        pytest.param(bytes(four(source="224.0.0.1")), id="multicast source"),
        pytest.param(bytes(four(source="255.255.255.255")), id="broadcast source"),
        pytest.param(bytes(six(source="::")), id="unspecified source, IPv6"),
        pytest.param(bytes(six(source="ff02::1")), id="multicast source, IPv6"),
        pytest.param(bytes(four(source="10.0.0.1")), id="from the gateway itself"),
        pytest.param(damaged(four()), id="checksum"),
        pytest.param(damaged(six()), id="checksum, IPv6"),
        pytest.param(bytes(four())[:40], id="cut"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_no_answer(frame: bytes) -> None:
    assert answer_echo(frame, SETTINGS) is None


def test_a_fragment_gets_no_answer() -> None:
    packet = four()
    packet[IP].flags = "MF"
    assert answer_echo(bytes(packet), SETTINGS) is None
