"""The straight path of a frame from the guest: classify, answer what is ours, find the flow, or ask policy for a new
one.

Where the guest has a `guard.binding.Binding`, nothing that `guard.admit` refuses comes further than the first step.
Where it shares a segment with other guests, `neighbours` takes out what is between them next.

`Ingress.frame` returns `DropReason.NONE` when the frame was of use and the reason when it was not; it never raises
for what a frame holds. All effects go through `out` (the engine's sink). New flows are the slow path and written for
reading; the fast path is `parse`, one dictionary look-up, and the flow's own machine.

Where a conversation really goes is decided once, by `forward.translate`: some addresses of the virtual network mean the
host's loopback, a resolver, or the host itself; everything else is itself. Port 53 of `StackSettings.resolvers` is our
own name service. Policy is asked about the address the guest used. A refusal is told at once: RST for TCP, ICMP
administratively prohibited for the rest.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from bucatini.base.address import Endpoint
from bucatini.base.events import FlowRefused, Refusal
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS, Request, Verdict
from bucatini.flows.datagram_flow import DatagramFlow
from bucatini.flows.table import FlowTable
from bucatini.flows.tcp import guest_segment, guest_unreachable, open_from_guest
from bucatini.flows.tcp_flow import TcpFlow
from bucatini.guard.admit import admit
from bucatini.guard.binding import Binding
from bucatini.guard.frame import Frame
from bucatini.services.membership import MLD_TYPES
from bucatini.stack.addresses import GuestAddresses
from bucatini.stack.classify import ARP, FRAGMENT, IGMP, TCP, UDP, Packet
from bucatini.stack.gateway import Gateway
from bucatini.stack.settings import StackSettings
from bucatini.wire.ndp import ROUTER_SOLICITATION

__all__ = ["Ingress"]

SYN, RST, ACK, FIN = 0x02, 0x04, 0x10, 0x01
SYN_MASK = SYN | RST | ACK | FIN
DNS_PORT = 53
TIME_WAIT = 9
GSO_UDP_L4 = 5

FOREIGN_MAC = int(DropReason.FOREIGN_MAC)
FOREIGN_SOURCE_MAC = int(DropReason.FOREIGN_SOURCE_MAC)
PORT_ZERO = int(DropReason.PORT_ZERO)
NO_FLOW = int(DropReason.NO_FLOW)
POLICY_DENIED = int(DropReason.POLICY_DENIED)
FLOW_TABLE_FULL = int(DropReason.FLOW_TABLE_FULL)
SOCKETS_EXHAUSTED = int(DropReason.SOCKETS_EXHAUSTED)
DESTINATION_UNUSABLE = int(DropReason.DESTINATION_UNUSABLE)
SOURCE_UNSPECIFIED = int(DropReason.SOURCE_UNSPECIFIED)
ICMP_TYPE = int(DropReason.ICMP_TYPE)

HOST_SEND_FAILED = int(DropReason.HOST_SEND_FAILED)
PROTOCOL = int(DropReason.PROTOCOL)
ECONNREFUSED = errno.ECONNREFUSED
V6_ECHO_REPLY = 129
NEIGHBOR_SOLICITATION = 135
SERVICE_OFF = int(DropReason.SERVICE_OFF)
DHCP_SERVER_PORT = 67
DHCPV6_SERVER_PORT = 547


class Ingress:
    """One guest's way in. `decide` is policy; `isn` gives an initial sequence number for a key (RFC 6528)."""

    __slots__ = (
        "addresses",
        "binding",
        "decide",
        "gateway",
        "guarded",
        "isn",
        "meet",
        "neighbours",
        "out",
        "packet",
        "settings",
        "stranger",
        "table",
    )

    def __init__(
        self,
        packet: Packet,
        table: FlowTable,
        settings: StackSettings,
        gateway: Gateway,
        decide: Callable[[Request], Verdict],
        isn: Callable[[bytes], int],
        out: Any,
        addresses: GuestAddresses,
    ) -> None:
        self.addresses = addresses
        self.packet = packet
        self.table = table
        self.settings = settings
        self.gateway = gateway
        self.decide = decide
        self.isn = isn
        self.out = out
        self.meet: Callable[[bytes], None] | None = None
        """Told of a source MAC address that is not the guest's known one; None: that one is certain, or guarded."""
        self.guarded = Frame(packet.memory, ip=packet.ip, copy=packet.copy)
        self.binding: Binding | None = None
        """What the guest may call itself; None: whatever it likes."""
        self.stranger: Callable[[bytes], Binding | None] | None = None
        """Asked about a source MAC address that is not the binding's: the new binding, if the guest has that now."""
        self.neighbours: Callable[[Packet, float], int] | None = None
        """Asked about each frame where guests share a segment, also about those that are not for the gateway: 0 or the
        drop reason when that was all, below 0 when the frame is for the stack.
        """

    def frame(self, at: int, length: int, now: float) -> int:
        """One frame of `length` bytes at `at`, virtio-net header first."""
        packet = self.packet
        reason = packet.parse(at, length)
        if reason == FOREIGN_MAC and self.neighbours is not None:
            reason = packet.inside()
        if reason == 0 and self.binding is not None:
            reason = self._guard(self.binding, now)
        if reason == 0 and self.neighbours is not None:
            reason = self.neighbours(packet, now)
            if reason == 0:
                return 0
        if reason > 0:
            return reason
        kind = packet.kind
        if kind == TCP:
            return self._tcp(now)
        if kind == UDP:
            return self._udp(now)
        if kind == FRAGMENT:
            return self._fragment(now)
        return self._control(now)

    def _guard(self, binding: Binding, now: float) -> int:
        """The isolation filter: whether the frame is from who it says it is from."""
        guarded = self.guarded
        guarded.adopt(self.packet.ethernet_at, self.packet.end)
        reason = admit(guarded, binding, None, now)
        if reason == FOREIGN_SOURCE_MAC and self.stranger is not None:
            met = self.stranger(self.packet.source_mac())
            if met is not None:
                reason = admit(guarded, met, None, now)
        return reason

    def _tcp(self, now: float) -> int:
        packet = self.packet
        flow = self.table.tcp.get(packet.key())
        if flow is None:
            return self._no_tcp_flow(now)
        if flow.state == TIME_WAIT and packet.tcp.flags & SYN_MASK == SYN:
            # RFC 9293 3.10.7.4: a new SYN may take over a finished conversation's ports.
            self.out.close(flow, "closed")
            return self._no_tcp_flow(now)
        return guest_segment(flow, packet.tcp, packet.options, now, self.out)

    def _no_tcp_flow(self, now: float) -> int:
        packet = self.packet
        segment = packet.tcp
        if segment.flags & SYN_MASK == SYN:
            return self._open_tcp(now)
        if _is_group(packet.destination()):
            return DESTINATION_UNUSABLE
        if _is_unspecified(packet.source()):
            return SOURCE_UNSPECIFIED
        if segment.flags & RST == 0:
            # RFC 9293 3.10.7.1: the guest learns at once that the conversation is gone.
            self.out.transmit_frame(self.gateway.reset_for(packet))
        return NO_FLOW

    def _open_tcp(self, now: float) -> int:
        packet = self.packet
        segment = packet.tcp
        if segment.source_port == 0 or segment.destination_port == 0:
            return PORT_ZERO
        guest = Endpoint(packet.source(), segment.source_port)
        peer = Endpoint(packet.destination(), segment.destination_port)
        self._look_who()
        if _is_group(peer.address) or _is_unspecified(guest.address) or peer.address == guest.address:
            return DESTINATION_UNUSABLE
        if not self.settings.tcp:
            return PROTOCOL
        self.addresses.learn(guest.address)
        reason, verdict = self._ask(6, "tcp", guest, peer, now)
        if reason:
            self.out.transmit_frame(self.gateway.reset_for(packet))
            return reason
        host = self.settings.translation.outbound(6, peer.address, peer.port)
        if self._nowhere(host, peer):
            self.out.transmit_frame(self.gateway.reset_for(packet))
            return DESTINATION_UNUSABLE
        flow = TcpFlow(guest, peer, EGRESS, now)
        flow.key = packet.key()
        flow.rule = verdict.rule
        flow.host = host
        family = len(guest.address)
        segmented = self.settings.tso4 if family == 4 else self.settings.tso6
        flow.set_link(self.settings.mss(family), segmented)
        flow.set_mss(packet.options.mss)
        self.table.add(flow)
        self.out.opened(flow)
        open_from_guest(flow, segment, packet.options, self.isn(flow.key), self.out)
        return 0

    def _udp(self, now: float) -> int:
        packet = self.packet
        flow = self.table.udp.get(packet.key())
        if flow is None:
            flow = self._open_udp(now)
            if isinstance(flow, int):
                return flow
        flow.last_active = now
        datagram = packet.udp
        cut = packet.vnet.gso_size if packet.vnet.gso_type == GSO_UDP_L4 else 0
        return self.out.send_datagram(flow, datagram.payload_at, datagram.end - datagram.payload_at, cut)  # type: ignore[no-any-return]

    def _open_udp(self, now: float) -> DatagramFlow | int:
        packet = self.packet
        datagram = packet.udp
        if datagram.source_port == 0 or datagram.destination_port == 0:
            return PORT_ZERO
        self._look_who()
        if datagram.destination_port == (DHCP_SERVER_PORT if packet.ip.version == 4 else DHCPV6_SERVER_PORT):
            return self._lease()
        guest = Endpoint(packet.source(), datagram.source_port)
        peer = Endpoint(packet.destination(), datagram.destination_port)
        if _is_unspecified(guest.address):
            return SOURCE_UNSPECIFIED
        if peer.address == guest.address:
            return DESTINATION_UNUSABLE
        if not self.settings.udp:
            return PROTOCOL
        self.addresses.learn(guest.address)
        if _is_multicast(peer.address):
            return self._to_group(guest, peer)
        if self._is_service(peer):
            return self._dns(guest, peer)
        reason, verdict = self._ask(17, "udp", guest, peer, now)
        if reason:
            self.out.transmit_error(self.gateway.prohibited(packet))
            return reason
        host = self.settings.translation.outbound(17, peer.address, peer.port)
        if self._nowhere(host, peer):
            self.out.transmit_error(self.gateway.unreachable(packet, ECONNREFUSED))
            return DESTINATION_UNUSABLE
        flow = DatagramFlow(17, guest, peer, EGRESS, now)
        flow.key = packet.key()
        flow.rule = verdict.rule
        flow.host = host
        return self._open_datagram(flow)

    def _nowhere(self, host: Endpoint | None, peer: Endpoint) -> bool:
        """Whether `peer` is an address of our own making at which nothing answers. Its service ports are ours."""
        return host is None and peer.address in self.settings.own and not self._is_service(peer)

    def _is_service(self, peer: Endpoint) -> bool:
        return peer.port == DNS_PORT and peer.address in self.settings.resolvers

    def _open_datagram(self, flow: DatagramFlow) -> DatagramFlow | int:
        error = self.out.open_datagram(flow)
        if error:
            self.out.transmit_error(self.gateway.unreachable(self.packet, error))
            return SOCKETS_EXHAUSTED
        self.table.add(flow)
        self.out.opened(flow)
        return flow

    def _to_group(self, guest: Endpoint, group: Endpoint) -> int:
        """A datagram to a multicast group: no flow, because answers may come from anybody."""
        packet = self.packet
        verdict = self.decide(Request(EGRESS, 17, group.address, group.port))
        if not verdict.allow:
            self.out.refused(FlowRefused("udp", EGRESS, guest, group, verdict.rule, Refusal.POLICY))
            return POLICY_DENIED
        payload = bytes(packet.memory[packet.udp.payload_at : packet.udp.end])
        return HOST_SEND_FAILED if self.out.send_to_group(guest, group, payload, packet.ip.hop_limit) else 0

    def _lease(self) -> int:
        """DHCP and DHCPv6 are the gateway's, or nobody's: a request never leaves this link."""
        if self.packet.ip.version == 4 and _is_unspecified(self.packet.source()):
            self.addresses.doubt(4)
        reply = self.gateway.dhcp(self.packet) if self.packet.ip.version == 4 else self.gateway.dhcpv6(self.packet)
        return self._answer(reply, SERVICE_OFF)

    def _dns(self, guest: Endpoint, gateway: Endpoint) -> int:
        """A question to the gateway: no flow, one datagram in, one out."""
        packet = self.packet
        verdict = self.decide(Request(EGRESS, 17, gateway.address, gateway.port))
        if not verdict.allow:
            self.out.refused(FlowRefused("udp", EGRESS, guest, gateway, verdict.rule, Refusal.POLICY))
            self.out.transmit_error(self.gateway.prohibited(packet))
            return POLICY_DENIED
        message = bytes(packet.memory[packet.udp.payload_at : packet.udp.end])
        self.out.resolve(message, guest, gateway)
        return 0

    def _fragment(self, now: float) -> int:
        """Collect; when this was the last piece, the whole packet takes the same path once more."""
        packet = self.packet
        whole = self.gateway.reassemble(packet, now)
        if isinstance(whole, int):
            return whole
        at, length = self.out.place_packet(whole, packet.ip.version)
        reason = self.frame(at, length, now)
        self.out.flush_datagrams()
        return reason

    def _control(self, now: float) -> int:
        """ARP, NDP, echo: what the gateway answers itself, and echo to everybody else."""
        packet = self.packet
        self._look_who()
        if packet.kind == ARP:
            self._learn(self.gateway.arp_sender(packet))
            return self._answer(self.gateway.arp(packet), int(DropReason.ARP_NOT_OURS))
        if packet.ip.version == 6 and 133 <= packet.icmp.type <= 137:
            if packet.icmp.type == ROUTER_SOLICITATION:
                self.addresses.doubt(16)
            probed = self._probed()
            self._learn(probed)
            self._learn(packet.source())
            # That nobody answers is what who probes hopes for.
            return self._answer(self.gateway.ndp(packet), int(DropReason.NDP_NOT_OURS) if probed is None else 0)
        if packet.kind == IGMP or (packet.ip.version == 6 and packet.icmp.type in MLD_TYPES):
            return self.out.membership(bytes(packet.memory[packet.ethernet_at : packet.end]))  # type: ignore[no-any-return]
        request = 8 if packet.ip.version == 4 else 128
        if packet.icmp.type == V6_ECHO_REPLY and packet.ip.version == 6:
            self._learn(packet.source())  # see `Gateway.roll_call`
            return 0
        if packet.icmp.type != request or packet.icmp.code != 0:
            return self._icmp_error(now)
        reply = self.gateway.echo(packet)
        if reply is not None:
            self.out.transmit_frame(reply)
            return 0
        return self._echo(now)

    def _look_who(self) -> None:
        """What begins something shows the guest's MAC address; never every frame, and never a group's address."""
        if self.meet is not None:
            mac = self.packet.source_mac()
            if mac != self.settings.guest_mac and not mac[0] & 1:
                self.meet(mac)

    def _probed(self) -> bytes | None:
        """The address that the guest is about to take: what duplicate address detection asks for (RFC 4862 5.4.2)."""
        packet = self.packet
        at = packet.icmp.payload_at
        if packet.icmp.type != NEIGHBOR_SOLICITATION or packet.ip.end - at < 16 or any(packet.source()):
            return None
        return packet.copy(at, 16)

    def _learn(self, source: bytes | None) -> None:
        if source is not None:
            self.addresses.learn(source)

    def _answer(self, reply: bytes | None, otherwise: int) -> int:
        if reply is None:
            return otherwise
        if reply:
            self.out.transmit_frame(reply)
        return 0

    def _echo(self, now: float) -> int:
        packet = self.packet
        flow = self.table.icmp.get(packet.key())
        if flow is None:
            guest = Endpoint(packet.source(), packet.icmp.identifier)
            peer = Endpoint(packet.destination(), 0)
            if _is_unspecified(guest.address) or _is_group(peer.address):
                return DESTINATION_UNUSABLE
            if not self.settings.icmp:
                return PROTOCOL
            self.addresses.learn(guest.address)
            protocol = 1 if packet.ip.version == 4 else 58
            reason, verdict = self._ask(protocol, "icmp", guest, peer, now)
            if reason:
                self.out.transmit_error(self.gateway.prohibited(packet))
                return reason
            flow = DatagramFlow(protocol, guest, peer, EGRESS, now)
            flow.key = packet.key()
            flow.rule = verdict.rule
            flow.host = self.settings.translation.outbound(protocol, peer.address, 0)
            opened = self._open_datagram(flow)
            if isinstance(opened, int):
                return opened
        flow.last_active = now
        return self.out.send_echo(flow, packet.icmp.sequence, packet.icmp.payload_at, packet.ip.end)  # type: ignore[no-any-return]

    def _icmp_error(self, now: float) -> int:
        """The guest reports a destination of its own unreachable: of interest only while a published port's SYN
        waits.
        """
        key = self.gateway.quoted_tcp_key(self.packet)
        flow = self.table.tcp.get(key) if key is not None else None
        if flow is None:
            return ICMP_TYPE
        guest_unreachable(flow, self.out)
        return 0

    def _ask(self, protocol: int, name: str, guest: Endpoint, peer: Endpoint, now: float) -> tuple[int, Verdict]:
        """Policy, then room. Returns the reason to refuse, or 0, and the verdict; a refusal is reported here."""
        verdict = self.decide(Request(EGRESS, protocol, peer.address, peer.port))
        if not verdict.allow:
            self.out.refused(FlowRefused(name, EGRESS, guest, peer, verdict.rule, Refusal.POLICY))
            return POLICY_DENIED, verdict
        oldest = self.table.oldest_waiting()
        if oldest is not None:
            self.out.close(oldest, "closed")
        if self.table.full():
            self.table.refused += 1
            self.out.refused(FlowRefused(name, EGRESS, guest, peer, verdict.rule, Refusal.TABLE_FULL))
            return FLOW_TABLE_FULL, verdict
        return 0, verdict


def _is_group(address: bytes) -> bool:
    """Multicast, or IPv4 above it: class E and the limited broadcast."""
    return address[0] >= 224 if len(address) == 4 else address[0] == 0xFF


def _is_multicast(address: bytes) -> bool:
    return 224 <= address[0] < 240 if len(address) == 4 else address[0] == 0xFF


def _is_unspecified(address: bytes) -> bool:
    return not any(address)
