"""Echo replies of the gateway: RFC 792, RFC 1122 3.2.2.6, RFC 4443 4.2.

The gateway is an address of our own making, so we are the one to answer a ping to it. The reply carries the whole
payload, whatever its size: cutting it to the MTU is `stack.fragmentation`'s business, as putting the request together
was `stack.reassembly`'s. A fragment gets no answer here.

`call_everybody` asks the other way round: the replies of a guest that made its IPv6 address itself show it.

Does not answer pings to other addresses: those are flows. Does not answer multicast or from an unspecified source.
"""

from __future__ import annotations

from dataclasses import dataclass

from bucatini.wire.checksum import transport_ok
from bucatini.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, HEADER_LENGTH
from bucatini.wire.icmp import (
    ECHO_REPLY,
    ECHO_REQUEST,
    V6_ECHO_REPLY,
    V6_ECHO_REQUEST,
    complete_v4,
    complete_v6,
)
from bucatini.wire.ip import IpView
from bucatini.wire.ipv4 import PROTOCOL_ICMP, emit_ipv4
from bucatini.wire.ipv6 import PROTOCOL_ICMPV6, emit_ipv6
from bucatini.wire.octets import load_bytes

__all__ = ["EchoSettings", "answer_echo", "call_everybody"]

ALL_NODES = bytes.fromhex("ff02" + "00" * 13 + "01")
"""RFC 4291 section 2.7.1."""


@dataclass(frozen=True, slots=True)
class EchoSettings:
    """Our MAC, and the packed addresses of both families that are the gateway's own."""

    mac: bytes
    gateway_addresses: frozenset[bytes]


def answer_echo(frame: bytes | bytearray | memoryview, settings: EchoSettings) -> bytes | None:
    """The Ethernet frame with the reply to the echo request in `frame`; None when it gets none. Any bytes are fine."""
    buf = memoryview(bytearray(frame))
    view = IpView()
    if view.parse(buf, HEADER_LENGTH, len(buf)) or view.fragment or view.end - view.payload_at < 8:
        return None
    protocol, request = (PROTOCOL_ICMP, ECHO_REQUEST) if view.version == 4 else (PROTOCOL_ICMPV6, V6_ECHO_REQUEST)
    if view.protocol != protocol or buf[view.payload_at] != request or buf[view.payload_at + 1] != 0:
        return None
    gateway = load_bytes(buf, view.destination_at, view.address_length)
    guest = load_bytes(buf, view.source_at, view.address_length)
    if gateway not in settings.gateway_addresses or not _is_unicast(guest) or guest == gateway:
        return None
    if not transport_ok(
        buf, view.source_at, view.destination_at, view.address_length, protocol, view.payload_at, view.end
    ):
        return None
    rest = load_bytes(buf, view.payload_at + 4, view.end - view.payload_at - 4)
    packet = _reply_v4 if view.version == 4 else _reply_v6
    ethertype = ETHERTYPE_IPV4 if view.version == 4 else ETHERTYPE_IPV6
    head = load_bytes(buf, 6, 6) + settings.mac + ethertype.to_bytes(2, "big")
    return head + packet(rest, gateway, guest, view.traffic_class)


def _is_unicast(address: bytes) -> bool:
    """Neither unspecified, multicast nor the limited broadcast."""
    if len(address) == 4:
        return 0 < address[0] < 224
    return address[0] != 0xFF and any(address)


def _reply_v4(rest: bytes, source: bytes, destination: bytes, traffic_class: int) -> bytes:
    """`rest` is identifier, sequence number and payload; the type of service is kept (RFC 1122 3.2.2.6 allows it)."""
    message = complete_v4(bytes((ECHO_REPLY, 0, 0, 0)) + rest)
    packet = bytearray(20)
    emit_ipv4(memoryview(packet), 0, 20 + len(message), PROTOCOL_ICMP, source, destination, traffic_class=traffic_class)
    return bytes(packet) + message


def _reply_v6(rest: bytes, source: bytes, destination: bytes, traffic_class: int) -> bytes:
    message = complete_v6(bytes((V6_ECHO_REPLY, 0, 0, 0)) + rest, source, destination)
    packet = bytearray(40)
    emit_ipv6(memoryview(packet), 0, len(message), PROTOCOL_ICMPV6, source, destination, traffic_class=traffic_class)
    return bytes(packet) + message


def call_everybody(mac: bytes, source: bytes) -> bytes:
    """The Ethernet frame with an ICMPv6 echo request to all nodes from `source`, packed, at `mac`.

    Hosts choose the address they answer from as for any packet (RFC 4443 section 4.2, RFC 6724), so a global source
    brings a global address to light.
    """
    message = complete_v6(bytes((V6_ECHO_REQUEST, 0, 0, 0, 0, 0, 0, 1)), source, ALL_NODES)
    packet = bytearray(40)
    emit_ipv6(memoryview(packet), 0, len(message), PROTOCOL_ICMPV6, source, ALL_NODES, 255)
    return b"\x33\x33" + ALL_NODES[12:] + mac + ETHERTYPE_IPV6.to_bytes(2, "big") + packet + message
