"""UDP forwards: the listener takes the first datagram of a peer, then the conversation has sockets of its own.

They share the listener's port by SO_REUSEPORT and are connected, which wins over the listener in the kernel, so a
conversation costs no look-up of ours, and answers come from the address the question went to. What reaches a socket
between its bind and its connect is anybody's, and is sorted; what the listener holds by then is older and goes first.
Conversations outlive the listener.

A published port: a peer on the host's loopback is spliced, any other becomes a flow. A port of the guest's own
loopback: only peers of that loopback, always spliced; the peer's source port is kept on the host where it can be had,
unless it is below 1024, where it would be taken for privilege.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

from bucatini.base.address import Endpoint, pack, unmap
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.engine.forwarding.binding import EXHAUSTED, LOOPBACK, is_loopback, kind_of
from bucatini.engine.forwarding.tcp_listener import key_of
from bucatini.engine.layout import DATAGRAM_AT, HEADROOM
from bucatini.engine.splice_datagrams import SplicedDatagrams
from bucatini.flows.datagram_flow import DatagramFlow
from bucatini.forward.portspec import Forward
from bucatini.host import sockets

__all__ = ["UdpInward", "UdpOutward"]

UDP = 17
NEVER = float("inf")
RECEIVES = 64
"""Datagrams taken from one listener in a turn."""
MAX_RECEIVES = 1024
"""The same where a conversation begins, whose order would suffer if older ones were left."""
REST = 0.5
"""Seconds a listener rests when the host has no descriptor for a conversation."""
DATAGRAM_COST = 512
"""Bytes of a socket's buffer that the kernel counts for a datagram at the least (768 and more in Linux 6)."""
PRIVILEGED = 1024
IP_PKTINFO = 8
_PKTINFO4 = struct.Struct("=i4s4s")
_PKTINFO6 = struct.Struct("=16si")
_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC

_Name = tuple[Any, ...]
"""A peer as `recvmsg` names it."""


class _UdpListener:
    """One listening socket. `publisher` is a `Publisher`."""

    __slots__ = ("_busy", "_later", "armed_at", "deadline", "forward", "length", "publisher", "sock", "spliced")

    def __init__(self, publisher: Any, sock: socket.socket, forward: Forward, length: int) -> None:
        self.publisher = publisher
        self.sock = sock
        self.forward = forward
        self.length = length
        self.spliced: dict[Endpoint, SplicedDatagrams] = {}
        """Conversations that no packet finds, by who began them."""
        self.deadline = self.armed_at = NEVER
        self._busy = False
        self._later: list[Callable[[], None]] = []

    def watch(self) -> None:
        """Begin to serve."""
        self.publisher.sink.reactor.watch(self.sock.fileno(), self.ready, select.EPOLLIN)

    def ready(self, descriptor: int, events: int, now: float) -> None:
        """Handler of the socket."""
        self.publisher.sink.now = now
        self._busy = True
        try:
            self._receive(now)
            while self._later:
                self._later.pop(0)()
        finally:
            self._busy = False

    def _receive(self, now: float) -> None:
        for number in range(MAX_RECEIVES):
            if number >= RECEIVES and not self._later:
                return
            try:
                payload, ancillary, _, name = self.sock.recvmsg(65536, 64)
            except OSError:
                return
            if name[1]:
                self.first(payload, local_address(ancillary), name, now)

    def after_these(self, work: Callable[[], None]) -> None:
        """Do `work` when what the listener holds has been taken."""
        self._later.append(work)
        if not self._busy:
            self.ready(self.sock.fileno(), select.EPOLLIN, self.publisher.sink.now)

    def first(self, payload: bytes, local: bytes | None, name: _Name, now: float) -> None:
        """A datagram of a peer that has no conversation yet, or had none when it was sent."""
        raise NotImplementedError

    def sort(self, near: socket.socket, client: Endpoint, own: Callable[[bytes], None], local: bytes | None) -> None:
        """Datagrams that reached `near` before it was connected: each to its own conversation, `own` for `client`'s.

        Until bind and connect were both done half of everybody's came here, so all that its buffer can hold is read:
        one left behind would be taken for `client`'s.
        """
        if near.fileno() < 0:  # the conversation ended meanwhile
            return
        for _ in range(near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // DATAGRAM_COST):
            try:
                payload, name = near.recvfrom(65536)
            except OSError:
                return
            if peer_of(name) == client:
                own(payload)
            elif name[1]:
                self.first(payload, local, name, self.publisher.sink.now)

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
        """Serve no new peers; conversations live on. Idempotent."""
        if self.sock.fileno() >= 0:
            self.publisher.sink.reactor.unwatch(self.sock.fileno())
            self.sock.close()
        self.deadline = NEVER

    def failed(self, error: OSError, now: float) -> None:
        """No socket for a conversation."""
        if error.errno in EXHAUSTED:
            self.rest(now)
        else:
            self.publisher.sink.counters.values[DropReason.HOST_SEND_FAILED] += 1

    def begin(self, flow: SplicedDatagrams, payload: bytes) -> None:
        """Enter a spliced conversation."""
        sink = self.publisher.sink
        self.spliced[flow.client] = flow
        sink.table.add_spliced(flow)
        sink.announce(flow)
        flow.deliver(payload)

    def forget(self, client: Endpoint) -> None:
        """A spliced conversation is over."""
        self.spliced.pop(client, None)


class UdpInward(_UdpListener):
    """A published port, one family of it."""

    __slots__ = ()

    @property
    def guest(self) -> Endpoint:
        """Where the guest is reached now; an unspecified address while it has none."""
        return Endpoint(self.publisher.guest_address(self.length) or bytes(self.length), self.forward.guest_port)

    def first(self, payload: bytes, local: bytes | None, name: _Name, now: float) -> None:
        """See `_UdpListener`."""
        peer = peer_of(name)
        if self.publisher.spliced and is_loopback(peer.address):
            known = self.spliced.get(peer)
            if known is not None:
                # It was on its way when the conversation's own socket was made.
                known.deliver(payload)
            else:
                self._splice(payload, local, peer, now)
            return
        publisher = self.publisher
        pair = publisher.seen_as(UDP, peer, self.forward.guest_port, self.length)
        if pair is None:
            return
        old = publisher.sink.table.udp.get(key_of(*pair))
        if old is not None:
            self._deliver(old, payload)
        else:
            self._flow(payload, local, peer, pair, _device(name) or self.forward.device, now)

    def _flow(
        self,
        payload: bytes,
        local: bytes | None,
        peer: Endpoint,
        pair: tuple[Endpoint, Endpoint],
        device: str,
        now: float,
    ) -> None:
        publisher = self.publisher
        guest, visible = pair
        rule = publisher.admit(UDP, INGRESS, guest, peer)
        if rule is None:
            return
        try:
            near = self._near(local, peer, publisher.trains[0 if self.length == 4 else 1], device)
        except OSError as error:
            self.failed(error, now)
            return
        flow = DatagramFlow(UDP, guest, visible, INGRESS, now)
        flow.key = key_of(guest, visible)
        flow.rule = rule
        publisher.sink.table.add(flow)
        publisher.sink.opened(flow)
        self._deliver(flow, payload)

        def sorted_out() -> None:
            self.sort(near, peer, lambda own: self._deliver(flow, own), local)
            publisher.sink.datagrams.adopt(flow, near)

        self.after_these(sorted_out)

    def _near(self, local: bytes | None, peer: Endpoint, train: bool, device: str) -> socket.socket:
        family = socket.AF_INET if self.length == 4 else socket.AF_INET6
        freebind = self.publisher.freebind
        return sockets.bind_udp(local, self.forward.host_port, family, peer, train, device, freebind)

    def _splice(self, payload: bytes, local: bytes | None, peer: Endpoint, now: float) -> None:
        publisher = self.publisher
        guest = self.guest
        rule = publisher.admit(UDP, INGRESS, guest, peer)
        if rule is None:
            return
        try:
            near = self._near(local, peer, False, self.forward.device)
        except OSError as error:
            self.failed(error, now)
            return
        targets = publisher.inner_targets(UDP, self.length, guest.port)
        flow = SplicedDatagrams(publisher.sink, INGRESS, guest, peer, guest, targets, rule, self.forget, near=near)
        self.begin(flow, payload)
        self.after_these(lambda: self.sort(near, peer, flow.deliver, local))

        def joined(far: socket.socket | None) -> None:
            if far is None:
                flow.close("failed")
            elif flow.closed:
                far.close()
            else:
                with contextlib.suppress(OSError):
                    far.bind(sockets.sockaddr(peer))
                flow.far = far
                flow.begin()

        publisher.guest_sockets.give(kind_of(UDP, self.length), joined)

    def _deliver(self, flow: DatagramFlow, payload: bytes) -> None:
        sink = self.publisher.sink
        at = DATAGRAM_AT + HEADROOM
        sink.arena.view[at : at + len(payload)] = payload
        start = at - 12 - len(flow.template)
        flow.received += len(payload)
        sink.transmit(start, sink.egress.datagram(flow, start, len(payload), 0))


class UdpOutward(_UdpListener):
    """A port of the guest's own loopback, one family of it."""

    __slots__ = ("local", "targets")

    def __init__(self, publisher: Any, sock: socket.socket, forward: Forward, length: int) -> None:
        super().__init__(publisher, sock, forward, length)
        self.local = Endpoint(LOOPBACK[length], forward.guest_port)
        self.targets = (Endpoint(LOOPBACK[length], forward.host_port),)

    def first(self, payload: bytes, local: bytes | None, name: _Name, now: float) -> None:
        """See `_UdpListener`."""
        publisher = self.publisher
        client = peer_of(name)
        known = self.spliced.get(client)
        if known is not None:
            known.deliver(payload)
            return
        if not is_loopback(client.address):
            # It belongs to somebody the guest routes for.
            publisher.sink.counters.values[DropReason.PEER_UNEXPECTED] += 1
            return
        rule = publisher.admit(UDP, EGRESS, client, self.local, self.targets[0])
        if rule is None:
            return
        try:
            far = _far(client)
        except OSError as error:
            self.failed(error, now)
            return
        flow = SplicedDatagrams(
            publisher.sink, EGRESS, client, client, self.local, self.targets, rule, self.forget, far=far
        )
        self.begin(flow, payload)

        def joined(near: socket.socket | None) -> None:
            if near is None:
                flow.close("failed")
            elif flow.closed:
                near.close()
            else:
                self._join(flow, near)

        publisher.guest_sockets.give(kind_of(UDP, self.length), joined)

    def _join(self, flow: SplicedDatagrams, near: socket.socket) -> None:
        flow.near = near
        try:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            near.bind(sockets.sockaddr(self.local))
            near.connect(sockets.sockaddr(flow.client))
        except OSError:
            flow.close("failed")
            return
        flow.begin()
        self.after_these(lambda: self.sort(near, flow.client, flow.deliver, None))


def _far(client: Endpoint) -> socket.socket:
    """A socket of the host's loopback from the client's own port where that can be had. Raises OSError."""
    family = socket.AF_INET if len(client.address) == 4 else socket.AF_INET6
    far = socket.socket(family, socket.SOCK_DGRAM | _FLAGS)
    if client.port >= PRIVILEGED:
        with contextlib.suppress(OSError):
            far.bind(sockets.sockaddr(client))
    return far


def peer_of(name: _Name) -> Endpoint:
    """The peer as `recvmsg` names it: IPv4 unwrapped, without a zone."""
    return Endpoint(unmap(pack(name[0].partition("%")[0])), name[1])


def _device(name: _Name) -> str:
    """The interface that a link-local peer is on, through which alone it can be answered; empty for any other."""
    if len(name) == 4 and name[3]:
        with contextlib.suppress(OSError):
            return socket.if_indextoname(name[3])
    return ""


def local_address(ancillary: list[tuple[int, int, bytes]]) -> bytes | None:
    """Where a datagram was sent to (IP_PKTINFO, ip(7); IPV6_PKTINFO, RFC 3542), so that the answer can come from
    there.
    """
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO and len(data) >= _PKTINFO4.size:
            return _PKTINFO4.unpack_from(data)[1]  # type: ignore[no-any-return]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and len(data) >= _PKTINFO6.size:
            return _PKTINFO6.unpack_from(data)[0]  # type: ignore[no-any-return]
    return None
