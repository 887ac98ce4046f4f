"""What the gateway says for itself: answers of the virtual network's services, and the errors and resets it sends to
the guest.

The slow path of the stack gathered in one place: every method takes the packet classified last, or a flow, and
returns a complete Ethernet frame, or None when nothing is to be said. ICMP errors share a budget (RFC 1812 4.3.2.8),
so that a guest that floods closed doors costs little.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bucatini.base.address import Endpoint
from bucatini.base.reasons import DropReason
from bucatini.flows.tcp_flow import TcpFlow
from bucatini.services.arp import ArpSettings, answer_arp, ask_arp
from bucatini.services.dhcp import PoolAnswer, answer_dhcp, answer_from_pool
from bucatini.services.dhcpv6 import answer_dhcpv6
from bucatini.services.echo import EchoSettings, answer_echo, call_everybody
from bucatini.services.icmp_error import ErrorKind, IcmpErrorSettings, icmp_error, icmp_error_packet
from bucatini.services.membership import group_mac
from bucatini.services.ndp import NdpSettings, answer_ndp, ask_ndp
from bucatini.services.pool import LeasePool
from bucatini.services.router import advertisement, answer_solicitation
from bucatini.stack.classify import Packet
from bucatini.stack.reassembly import Reassembler
from bucatini.stack.settings import StackSettings
from bucatini.wire.checksum import finish_udp, partial, pseudo_header
from bucatini.wire.ethernet import emit_ethernet
from bucatini.wire.icmp import complete_v4, complete_v6
from bucatini.wire.ipv4 import emit_ipv4
from bucatini.wire.ipv6 import emit_ipv6
from bucatini.wire.ndp import ROUTER_SOLICITATION
from bucatini.wire.octets import load_bytes
from bucatini.wire.tcp import emit_tcp
from bucatini.wire.udp import emit_udp

__all__ = ["Gateway", "Leasing"]

ETHERNET = 14
ARP_SENDER = 14
"""Where in an ARP packet the sender's protocol address stands (RFC 826)."""
RST, ACK, SYN, FIN = 0x04, 0x10, 0x02, 0x01
HOP_LIMIT = 64
ERRORS_PER_SECOND = 1000
ERROR_BURST = 200
ICMP_RATE = int(DropReason.ICMP_RATE)
FRAGMENT_MALFORMED = int(DropReason.FRAGMENT_MALFORMED)
FRAGMENT_OVERLAP = int(DropReason.FRAGMENT_OVERLAP)
FRAGMENT_TIMEOUT = int(DropReason.FRAGMENT_TIMEOUT)
FRAGMENT_TOO_MANY = int(DropReason.FRAGMENT_TOO_MANY)

KINDS = {
    errno.ENETUNREACH: ErrorKind.NETWORK,
    errno.ENETDOWN: ErrorKind.NETWORK,
    errno.ENONET: ErrorKind.NETWORK,
    errno.EHOSTUNREACH: ErrorKind.HOST,
    errno.EHOSTDOWN: ErrorKind.HOST,
    errno.EACCES: ErrorKind.PROHIBITED,
    errno.EPERM: ErrorKind.PROHIBITED,
    errno.ECONNREFUSED: ErrorKind.PORT,
    errno.ENOPROTOOPT: ErrorKind.PROTOCOL,
    errno.EPROTO: ErrorKind.HOST,
    errno.EMSGSIZE: ErrorKind.TOO_BIG,
}
"""Which error of a network each errno of a host socket stands for."""


@dataclass(frozen=True, slots=True)
class Leasing:
    """How a guest gets its address where several share a pool."""

    pool: LeasePool
    link: str
    """What this guest's link is called."""
    clock: Callable[[], float]
    """The pool's time. Not `Gateway.now`, which stands still while the machine sleeps and means nothing after it."""
    commit: Callable[[PoolAnswer], bytes | None]
    """Hears every answer; returns the frame that may leave at once. An ACK that waits for the disk leaves later: then,
    and where the message was heeded and wants no answer, the frame is empty.
    """


class Gateway:
    """One guest's gateway. `now` is set to the instant of each turn by the engine, for the budget of errors."""

    def __init__(self, settings: StackSettings, counters: Any) -> None:
        self.counters = counters
        self.reassembler = Reassembler()
        self.leasing: Leasing | None = None
        """None: the guest's address is that of the settings."""
        self._use(settings)
        self._budget = float(ERROR_BURST)
        self._budget_at = 0.0
        self.now = 0.0

    def _use(self, settings: StackSettings) -> None:
        self.settings = settings
        guests = frozenset(settings.guests)
        self._arp = ArpSettings(settings.gateway_mac, guests)
        self._ndp = NdpSettings(settings.gateway_mac, guests)
        self._echo = EchoSettings(settings.gateway_mac, frozenset(settings.echoes))
        self._errors = IcmpErrorSettings(
            settings.gateway_mac, settings.gateway_ipv4 or bytes(4), settings.gateway_ipv6 or bytes(16)
        )

    def reconfigure(self, settings: StackSettings) -> None:
        """The network is another from now on."""
        self._use(settings)

    # -- services

    def arp(self, packet: Packet) -> bytes | None:
        """Reply to an ARP request."""
        return answer_arp(_frame(packet), self._arp)

    def arp_sender(self, packet: Packet) -> bytes | None:
        """Who asks, as its ARP packet says."""
        at = packet.ethernet_at + ETHERNET + ARP_SENDER
        return bytes(packet.memory[at : at + 4]) if at + 4 <= packet.end else None

    def ndp(self, packet: Packet) -> bytes | None:
        """Advertisement for a neighbour or router solicitation."""
        settings = self.settings
        if packet.icmp.type == ROUTER_SOLICITATION:
            return None if settings.router is None else answer_solicitation(_frame(packet), settings.router)
        return answer_ndp(_frame(packet), self._ndp) if settings.ndp else None

    def who_has(self, address: bytes) -> bytes | None:
        """The question for the guest's MAC address at one of its addresses; None without an address to ask from."""
        settings = self.settings
        if len(address) == 4:
            source = settings.gateway_ipv4
            return None if source is None else ask_arp(settings.gateway_mac, source, address)
        source = settings.gateway_ipv6
        return None if source is None else ask_ndp(settings.gateway_mac, source, address)

    def roll_call(self) -> bytes | None:
        """The question for whatever IPv6 address the guest uses; None without an address to ask from."""
        source = self.settings.gateway_ipv6
        return None if source is None else call_everybody(self.settings.gateway_mac, source)

    def advertisement(self) -> bytes | None:
        """An unsolicited router advertisement."""
        return None if self.settings.router is None else advertisement(self.settings.router)

    def dhcp(self, packet: Packet) -> bytes | None:
        """Answer to a DHCP or BOOTP message."""
        if self.settings.dhcp is None:
            return None
        leasing = self.leasing
        if leasing is not None:
            now = leasing.clock()
            frame = _frame(packet)
            return leasing.commit(
                answer_from_pool(frame, self.settings.dhcp, leasing.pool, now, link=leasing.link, verified=True)
            )
        answer = answer_dhcp(_frame(packet), self.settings.dhcp, verified=True)
        return None if answer is None else answer.frame

    def dhcpv6(self, packet: Packet) -> bytes | None:
        """Answer to a DHCPv6 message."""
        if self.settings.dhcpv6 is None:
            return None
        return answer_dhcpv6(_frame(packet), self.settings.dhcpv6, verified=True)

    def echo(self, packet: Packet) -> bytes | None:
        """Reply to an echo request to the gateway itself."""
        return answer_echo(_frame(packet), self._echo)

    def reassemble(self, packet: Packet, now: float) -> bytes | int:
        """Keep a fragment: the whole packet when it is complete, else a `DropReason`, 0 while the rest is awaited."""
        counters = self.reassembler.counters
        malformed, void = counters.malformed, counters.void + counters.overlapping
        pieces = counters.too_many_pieces
        evicted, expired = counters.evicted_for_datagrams + counters.evicted_for_bytes, counters.expired
        whole = self.reassembler.offer(packet.memory, packet.ip, now)
        drops = self.counters.values
        drops[FRAGMENT_TIMEOUT] += counters.expired - expired
        drops[FRAGMENT_TOO_MANY] += counters.evicted_for_datagrams + counters.evicted_for_bytes - evicted
        if whole is not None:
            return whole
        if counters.malformed > malformed:
            return FRAGMENT_MALFORMED
        if counters.too_many_pieces > pieces:
            return FRAGMENT_TOO_MANY
        return FRAGMENT_OVERLAP if counters.void + counters.overlapping > void else 0

    # -- errors about the packet classified last

    def prohibited(self, packet: Packet) -> bytes | None:
        """ICMP administratively prohibited: policy said no."""
        return self._error(packet, ErrorKind.PROHIBITED)

    def unreachable(self, packet: Packet, error: int) -> bytes | None:
        """ICMP error for what errno `error` of the host means."""
        return self._error(packet, KINDS.get(error, ErrorKind.HOST))

    def _error(self, packet: Packet, kind: ErrorKind) -> bytes | None:
        return icmp_error(_frame(packet), kind, self._errors) if self._may_send() else None

    def _may_send(self) -> bool:
        """One error from the budget, a bucket that fills with time."""
        self._budget = min(ERROR_BURST, self._budget + (self.now - self._budget_at) * ERRORS_PER_SECOND)
        self._budget_at = self.now
        if self._budget < 1:
            self.counters.values[ICMP_RATE] += 1
            return False
        self._budget -= 1
        return True

    def reset_for(self, packet: Packet) -> bytes:
        """RST for a segment that belongs to nothing, or whose flow was refused (RFC 9293 3.10.7.1)."""
        segment = packet.tcp
        length = segment.end - segment.payload_at + bool(segment.flags & SYN) + bool(segment.flags & FIN)
        transport = memoryview(bytearray(20))
        if segment.flags & ACK:
            flags, seq, ack = RST, segment.ack, 0
        else:
            flags, seq, ack = RST | ACK, 0, (segment.seq + length) & 0xFFFFFFFF
        emit_tcp(transport, 0, segment.destination_port, segment.source_port, seq, ack, flags, 0)
        source, destination = packet.destination(), packet.source()
        _finish_tcp(transport, source, destination)
        return self._packet(bytes(transport), 6, source, destination)

    # -- errors about a flow, whose packet is gone

    def unreachable_syn(self, flow: TcpFlow, error: int) -> bytes | None:
        """ICMP error about a flow's SYN: its connect(2) failed with errno `error`."""
        transport = bytearray(20)
        emit_tcp(
            memoryview(transport), 0, flow.guest.port, flow.peer.port, (flow.rcv_nxt - 1) & 0xFFFFFFFF, 0, SYN, 65535
        )
        return self._error_about(flow, bytes(transport), KINDS.get(error, ErrorKind.HOST), 0)

    def unreachable_flow(self, flow: Any, error: int, mtu: int, payload: bytes) -> bytes | None:
        """ICMP error about a datagram of `flow` that failed with errno `error`."""
        return self._error_about(flow, _datagram_header(flow, payload) + payload, KINDS.get(error, ErrorKind.HOST), mtu)

    def relay_error(self, flow: Any, report: Any) -> bytes | None:
        """The ICMP error that a host socket's error queue reports (`host.sockets.IcmpError`), as the guest would have
        got it.
        """
        kind = KINDS.get(report.errno, ErrorKind.HOST)
        if report.kind in (11, 3) and (report.kind == 11 or len(flow.guest.address) == 16):
            kind = ErrorKind.HOP_LIMIT
        payload = report.payload
        if flow.protocol != 17 and len(payload) >= 8:
            # A ping socket's report holds the ICMP header with the identifier of the host.
            payload = payload[:4] + flow.guest.port.to_bytes(2, "big") + payload[6:]
            return self._error_about(flow, payload, kind, report.info)
        return self._error_about(flow, _datagram_header(flow, payload) + payload, kind, report.info)

    def _error_about(self, flow: Any, transport: bytes, kind: ErrorKind, mtu: int) -> bytes | None:
        if not self._may_send():
            return None
        packet = _ip_packet(transport, flow.protocol, flow.guest.address, flow.peer.address)
        error = icmp_error_packet(packet, kind, self._errors, mtu)
        return None if error is None else self._ethernet(error)

    # -- frames of our own

    def datagram(self, source: Endpoint, destination: Endpoint, payload: bytes) -> bytes:
        """A UDP datagram with complete checksums."""
        transport = bytearray(8)
        length = 8 + len(payload)
        emit_udp(memoryview(transport), 0, source.port, destination.port, length, 0)
        total = pseudo_header(source.address, destination.address, 17, length) + partial(transport) + partial(payload)
        transport[6:8] = finish_udp(total % 0xFFFF or 0xFFFF).to_bytes(2, "big")
        group = group_mac(destination.address) if _is_group(destination.address) else None
        return self._packet(bytes(transport) + payload, 17, source.address, destination.address, group)

    def echo_reply(self, flow: Any, message: bytes) -> bytes:
        """The echo reply a ping socket received, under the guest's own identifier."""
        message = message[:2] + b"\0\0" + flow.guest.port.to_bytes(2, "big") + message[6:]
        if flow.protocol == 1:
            message = complete_v4(message)
        else:
            message = complete_v6(message, flow.peer.address, flow.guest.address)
        return self._packet(message, flow.protocol, flow.peer.address, flow.guest.address)

    def frame_header(self, version: int, link_header: int) -> bytes:
        """What is in front of a reassembled packet from the guest: the link's own header, all zero, and Ethernet's."""
        settings = self.settings
        header = bytearray(ETHERNET)
        ethertype = 0x0800 if version == 4 else 0x86DD
        emit_ethernet(memoryview(header), 0, settings.gateway_mac, settings.guest_mac, ethertype)
        return bytes(link_header) + bytes(header)

    def quoted_tcp_key(self, packet: Packet) -> bytes | None:
        """Key of the flow whose segment an ICMP error of the guest quotes; None when it is no such error."""
        unreachable = 3 if packet.ip.version == 4 else 1
        if packet.icmp.type != unreachable:
            return None
        at = packet.icmp.payload_at
        size = packet.ip.address_length
        header = 20 if size == 4 else 40
        if packet.ip.end - at < header + 8 or packet.memory[at + (9 if size == 4 else 6)] != 6:
            return None
        source = at + (12 if size == 4 else 8)
        addresses = load_bytes(packet.memory, source, 2 * size)
        ports = load_bytes(packet.memory, at + header, 4)
        return addresses[size:] + addresses[:size] + ports[2:] + ports[:2]

    def _packet(
        self, transport: bytes, protocol: int, source: bytes, destination: bytes, group: bytes | None = None
    ) -> bytes:
        # mDNS wants to see that a datagram was not routed (RFC 6762 section 11).
        hops = HOP_LIMIT if group is None else 255
        return self._ethernet(_ip_packet(transport, protocol, source, destination, hops), group)

    def _ethernet(self, packet: bytes, mac: bytes | None = None) -> bytes:
        header = bytearray(ETHERNET)
        ethertype = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
        emit_ethernet(memoryview(header), 0, mac or self.settings.guest_mac, self.settings.gateway_mac, ethertype)
        return bytes(header) + packet


def _is_group(address: bytes) -> bool:
    return 224 <= address[0] < 240 if len(address) == 4 else address[0] == 0xFF


def _frame(packet: Packet) -> bytes:
    """The Ethernet frame, without what the link put around it."""
    return bytes(packet.memory[packet.ethernet_at : packet.end])


def _ip_packet(transport: bytes, protocol: int, source: bytes, destination: bytes, hops: int = HOP_LIMIT) -> bytes:
    if len(source) == 4:
        header = bytearray(20)
        emit_ipv4(memoryview(header), 0, 20 + len(transport), protocol, source, destination, hops)
    else:
        header = bytearray(40)
        emit_ipv6(memoryview(header), 0, len(transport), protocol, source, destination, hops)
    return bytes(header) + transport


def _finish_tcp(transport: memoryview, source: bytes, destination: bytes) -> None:
    total = pseudo_header(source, destination, 6, len(transport)) + partial(transport)
    checksum = ~(total % 0xFFFF or 0xFFFF) & 0xFFFF
    transport[16] = checksum >> 8
    transport[17] = checksum & 0xFF


def _datagram_header(flow: Any, payload: bytes) -> bytes:
    """The UDP header of a datagram of the guest, or the start of its echo request."""
    if flow.protocol == 17:
        header = bytearray(8)
        emit_udp(memoryview(header), 0, flow.guest.port, flow.peer.port, 8 + len(payload), 0)
        return bytes(header)
    kind = 8 if flow.protocol == 1 else 128
    identifier: bytes = flow.guest.port.to_bytes(2, "big")
    return bytes((kind, 0, 0, 0)) + identifier + bytes(2)
