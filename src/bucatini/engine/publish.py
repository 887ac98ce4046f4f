"""Published ports: listeners on the host whose peers reach the guest.

Everything is bound before the guest starts, so that a port in use is an error of the command line. A peer on the
host's loopback is joined to the guest by splice (`engine.splice`); any other becomes an ordinary flow, and the guest
sees its real address and port.

TCP: the connection is accepted before the guest has answered, which is what a listening socket can do; if the guest
refuses, the peer sees a reset. UDP: the listener takes the first datagram of a peer; the conversation gets a socket
of its own, connected to that peer and bound to the address it wrote to, so answers come from where the question went.

At a bound (flow table, descriptors) the new peer is refused and the old are kept; a listener that cannot accept rests
for a moment instead of spinning.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

from bucatini.base.address import Endpoint, pack, text, unmap
from bucatini.base.errors import ConfigError
from bucatini.base.events import FlowRefused, Refusal
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import INGRESS, Request, Verdict
from bucatini.engine.guest_sockets import GuestSockets
from bucatini.engine.layout import DATAGRAM_AT, HEADROOM
from bucatini.engine.splice import PipePool, SplicedDatagrams, SplicedStream
from bucatini.flows.datagram_flow import DatagramFlow
from bucatini.flows.tcp import accepted
from bucatini.flows.tcp_flow import TcpFlow
from bucatini.host import sockets
from bucatini.stack.settings import StackSettings

__all__ = ["Publisher"]

NEVER = float("inf")
ACCEPTS = 64
"""Connections or datagrams taken from one listener in a turn."""
REST = 0.5
"""Seconds a listener rests when the host has no descriptor for it."""
EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_PKTINFO4 = struct.Struct("=i4s4s")
_PKTINFO6 = struct.Struct("=16si")
IP_PKTINFO = 8
NAMES = {6: "tcp", 17: "udp"}


class Publisher:
    """All published ports of one guest. `isn` as for `Ingress`."""

    def __init__(
        self,
        sink: Any,
        settings: StackSettings,
        decide: Callable[[Request], Verdict],
        isn: Callable[[bytes], int],
        guest_sockets: GuestSockets,
        trains: tuple[bool, bool],
    ) -> None:
        self.sink = sink
        self.settings = settings
        self.decide = decide
        self.isn = isn
        self.guest_sockets = guest_sockets
        self.trains = trains
        self.pipes = PipePool()
        self.listeners: list[_Listener] = []

    def bind(self, forward: Any) -> None:
        """Listen for one `forward.portspec.Forward`. Raises ConfigError when the host does not let us."""
        for address, guest in self._places(forward):
            family = socket.AF_INET if len(guest) == 4 else socket.AF_INET6
            try:
                self.listeners.append(self._listen(forward, address, family, Endpoint(guest, forward.guest_port)))
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT and forward.address is None and family == socket.AF_INET6:
                    continue
                raise ConfigError(f"--publish '{forward}': {_why(error, forward)}") from None

    def _places(self, forward: Any) -> list[tuple[bytes | None, bytes]]:
        """Addresses to listen on, each with the guest's address of the same family."""
        guests = self.settings.guests
        if forward.address is None:
            return [(None, guest) for guest in guests]
        return [(forward.address, guest) for guest in guests if len(guest) == len(forward.address)]

    def _listen(self, forward: Any, address: bytes | None, family: int, guest: Endpoint) -> _Listener:
        if forward.protocol == 6:
            return _TcpListener(self, sockets.listen_tcp(address, forward.host_port, family), guest)
        # Without SO_REUSEPORT first: only so is a port that another of our own processes uses found to be taken.
        sockets.probe_udp(address, forward.host_port, family)
        return _UdpListener(self, sockets.bind_udp(address, forward.host_port, family), guest, forward.host_port)

    def start(self) -> None:
        """Begin to serve; called when the guest starts."""
        for listener in self.listeners:
            listener.watch()

    def close(self) -> None:
        """Stop listening. Flows live on until the sink ends them."""
        for listener in self.listeners:
            listener.close()
        self.pipes.close()

    def peer_of(self, name: tuple[Any, ...]) -> Endpoint:
        """The peer as `accept` or `recvmsg` names it: IPv4 unwrapped, without a zone."""
        return Endpoint(unmap(pack(name[0].partition("%")[0])), name[1])

    def admit(self, protocol: int, guest: Endpoint, peer: Endpoint) -> Verdict | None:
        """Policy and room for one more; None, reported, when it is refused."""
        sink = self.sink
        verdict = self.decide(Request(INGRESS, protocol, peer.address, guest.port))
        reason = None
        if not verdict.allow:
            reason = Refusal.POLICY
            sink.counters.values[DropReason.POLICY_DENIED] += 1
        else:
            oldest = sink.table.oldest_waiting()
            if oldest is not None:
                sink.close(oldest, "closed")
            if sink.table.full():
                sink.table.refused += 1
                sink.counters.values[DropReason.FLOW_TABLE_FULL] += 1
                reason = Refusal.TABLE_FULL
        if reason is None:
            return verdict
        sink.refused(FlowRefused(NAMES[protocol], INGRESS, guest, peer, verdict.rule, reason))
        return None

    def visible(self, peer: Endpoint) -> Endpoint:
        """`peer`, or the gateway in its place when the guest would take the address for its own (`--mirror-host`)."""
        if peer.address not in self.settings.guests:
            return peer
        gateway = self.settings.gateway_ipv4 if len(peer.address) == 4 else self.settings.gateway_ipv6
        return Endpoint(gateway or peer.address, peer.port)


class _Listener:
    """One listening socket."""

    def __init__(self, publisher: Publisher, sock: socket.socket, guest: Endpoint) -> None:
        self.publisher = publisher
        self.sock = sock
        self.guest = guest
        self.deadline = NEVER
        self.armed_at = NEVER

    def watch(self) -> None:
        self.publisher.sink.reactor.watch(self.sock.fileno(), self.ready, select.EPOLLIN)

    def ready(self, descriptor: int, events: int, now: float) -> None:
        raise NotImplementedError

    def rest(self, now: float) -> None:
        """Look away for a moment: the descriptor stays readable, and the turns would spin."""
        self.publisher.sink.reactor.unwatch(self.sock.fileno())
        self.publisher.sink.deadlines.arm(self, now + REST)
        self.publisher.sink.counters.values[DropReason.SOCKETS_EXHAUSTED] += 1

    def due(self, now: float) -> None:
        """The rest is over."""
        if self.sock.fileno() >= 0:
            self.watch()

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            self.publisher.sink.reactor.unwatch(self.sock.fileno())
            self.sock.close()
        self.deadline = NEVER


class _TcpListener(_Listener):
    def ready(self, descriptor: int, events: int, now: float) -> None:
        self.publisher.sink.now = now
        for _ in range(ACCEPTS):
            try:
                sock, name = self.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self.rest(now)
                    return
                continue  # the connection ended before it was taken (accept(2))
            sock.setblocking(False)
            self._accepted(sock, self.publisher.peer_of(name), now)

    def _accepted(self, sock: socket.socket, peer: Endpoint, now: float) -> None:
        verdict = self.publisher.admit(6, self.guest, peer)
        if verdict is None:
            sockets.reset_on_close(sock)
            sock.close()
            return
        sockets.prepare_tcp(sock)
        if _is_loopback(peer.address):
            self._splice(sock, peer, verdict.rule)
        else:
            self._flow(sock, self.publisher.visible(peer), verdict.rule, now)

    def _splice(self, sock: socket.socket, peer: Endpoint, rule: str) -> None:
        sink = self.publisher.sink
        flow = SplicedStream(sink, self.publisher.pipes, sock, self.guest, peer, rule)
        sink.table.add_spliced(flow)
        sink.announce(flow)

        kind = "tcp4" if len(self.guest.address) == 4 else "tcp6"
        stock = self.publisher.guest_sockets

        def joined(far: socket.socket | None, second_try: Callable[[], None] | None = None) -> None:
            if far is None:
                flow.close("failed")
            elif sock.fileno() < 0:
                far.close()
            else:
                flow.begin(far, second_try)

        stock.give(kind, lambda far: joined(far, lambda: stock.give(kind, joined)))

    def _flow(self, sock: socket.socket, peer: Endpoint, rule: str, now: float) -> None:
        publisher = self.publisher
        sink = publisher.sink
        flow = TcpFlow(self.guest, peer, INGRESS, now)
        flow.key = _key(self.guest, peer)
        flow.rule = rule
        old = sink.table.tcp.get(flow.key)
        if old is not None:
            # The peer uses its port anew; the kernel has let go of the old connection, so do we.
            sink.reset_guest(old)
            sink.close(old, "closed")
        family = len(peer.address)
        settings = publisher.settings
        flow.set_link(settings.mss(family), settings.tso4 if family == 4 else settings.tso6)
        sink.table.add(flow)
        sink.opened(flow)
        sink.adopt_accepted(flow, sock)
        accepted(flow, publisher.isn(flow.key), now, sink)


class _UdpListener(_Listener):
    def __init__(self, publisher: Publisher, sock: socket.socket, guest: Endpoint, port: int) -> None:
        super().__init__(publisher, sock, guest)
        self.port = port
        self.spliced: dict[Endpoint, SplicedDatagrams] = {}
        """Conversations of loopback peers, which are not found by packets."""

    def ready(self, descriptor: int, events: int, now: float) -> None:
        self.publisher.sink.now = now
        for _ in range(ACCEPTS):
            try:
                payload, ancillary, _, name = self.sock.recvmsg(65536, 64)
            except OSError:
                return
            self._first(payload, _local_address(ancillary), self.publisher.peer_of(name), now)

    def _first(self, payload: bytes, local: bytes | None, peer: Endpoint, now: float) -> None:
        publisher = self.publisher
        if peer.port == 0:
            return
        key = _key(self.guest, publisher.visible(peer))
        known = publisher.sink.table.udp.get(key) or self.spliced.get(peer)
        if known is not None:
            # It was on its way when the conversation's own socket was made.
            self._deliver(known, payload)
            return
        verdict = publisher.admit(17, self.guest, peer)
        if verdict is None:
            return
        family = socket.AF_INET if len(peer.address) == 4 else socket.AF_INET6
        train = publisher.trains[0 if family == socket.AF_INET else 1]
        spliced = _is_loopback(peer.address)
        try:
            near = sockets.bind_udp(local, self.port, family, peer, train and not spliced)
        except OSError as error:
            if error.errno in EXHAUSTED:
                self.rest(now)
            else:
                # No way back to that peer; a link-local one, for instance, would need its zone.
                publisher.sink.counters.values[DropReason.HOST_SEND_FAILED] += 1
            return
        if spliced:
            self._splice(near, peer, verdict.rule, payload, local, now)
            return
        flow = DatagramFlow(17, self.guest, publisher.visible(peer), INGRESS, now)
        flow.key = key
        flow.rule = verdict.rule
        publisher.sink.table.add(flow)
        publisher.sink.opened(flow)
        self._deliver(flow, payload)
        self._sort(near, flow, local, now)
        publisher.sink.datagrams.adopt(flow, near)

    def _sort(
        self, near: socket.socket, flow: DatagramFlow | SplicedDatagrams, local: bytes | None, now: float
    ) -> None:
        """Datagrams that reached `near` before it was connected are anybody's: each to its own conversation."""
        for _ in range(ACCEPTS):
            try:
                payload, name = near.recvfrom(65536)
            except OSError:
                return
            peer = self.publisher.peer_of(name)
            if peer == flow.peer or self.publisher.visible(peer) == flow.peer:
                self._deliver(flow, payload)
            else:
                self._first(payload, local, peer, now)

    def _splice(
        self, near: socket.socket, peer: Endpoint, rule: str, payload: bytes, local: bytes | None, now: float
    ) -> None:
        publisher = self.publisher
        flow = SplicedDatagrams(publisher.sink, near, self.guest, peer, rule, self._spliced_closed)
        self.spliced[peer] = flow
        publisher.sink.table.add_spliced(flow)
        publisher.sink.announce(flow)
        flow.deliver(payload)
        self._sort(near, flow, local, now)
        publisher.guest_sockets.give("udp4" if len(peer.address) == 4 else "udp6", flow.begin)

    def _spliced_closed(self, peer: Endpoint) -> None:
        self.spliced.pop(peer, None)

    def _deliver(self, flow: DatagramFlow | SplicedDatagrams, payload: bytes) -> None:
        if isinstance(flow, SplicedDatagrams):
            flow.deliver(payload)
            return
        sink = self.publisher.sink
        at = DATAGRAM_AT + HEADROOM
        sink.arena.view[at : at + len(payload)] = payload
        start = at - 12 - len(flow.template)
        flow.received += len(payload)
        sink.transmit(start, sink.egress.datagram(flow, start, len(payload), 0))


def _key(guest: Endpoint, peer: Endpoint) -> bytes:
    """The key that the guest's packets of this conversation have, see `flows.table`."""
    return guest.address + peer.address + guest.port.to_bytes(2, "big") + peer.port.to_bytes(2, "big")


def _is_loopback(address: bytes) -> bool:
    return address[0] == 127 if len(address) == 4 else address == bytes(15) + b"\x01"


def _local_address(ancillary: list[tuple[int, int, bytes]]) -> bytes | None:
    """Where a datagram was sent to (IP_PKTINFO, ip(7); IPV6_PKTINFO, RFC 3542), so that the answer can come from
    there.
    """
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO and len(data) >= _PKTINFO4.size:
            return _PKTINFO4.unpack_from(data)[1]  # type: ignore[no-any-return]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and len(data) >= _PKTINFO6.size:
            return _PKTINFO6.unpack_from(data)[0]  # type: ignore[no-any-return]
    return None


def _why(error: OSError, forward: Any) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {forward.host_port} is in use on this host"
    if error.errno == errno.EACCES:
        return f"port {forward.host_port} needs privilege here (net.ipv4.ip_unprivileged_port_start)"
    if error.errno == errno.EADDRNOTAVAIL and forward.address is not None:
        return f"{text(forward.address)} is not an address of this host"
    return error.strerror or str(error)
