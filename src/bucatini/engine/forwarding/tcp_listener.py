"""TCP forwards as `engine.splice` serves them: where a connection leads, and who may come in.

The connection is accepted before the far end has answered, which is all a listening socket can do; if that refuses, the
peer sees a reset.

A published port: a peer on the host's loopback is joined to the guest by splice; any other becomes an ordinary flow,
and the guest sees its address and port. A port of the guest's own loopback: only peers of that loopback, always by
splice.
"""

from __future__ import annotations

import socket
from typing import Any

from bucatini.base.address import Endpoint
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.engine.forwarding.binding import LOOPBACK, TCP, kind_of
from bucatini.flows.tcp import accepted
from bucatini.flows.tcp_flow import TcpFlow
from bucatini.forward.portspec import Forward
from bucatini.host import sockets

__all__ = ["TcpInward", "TcpOutward"]


class _TcpListener:
    """One listening socket; a `splice.SpliceEntry`. `publisher` is a `Publisher`."""

    __slots__ = ("far_kind", "forward", "length", "publisher", "sock")
    direction = INGRESS
    keep_address = True

    def __init__(self, publisher: Any, sock: socket.socket, forward: Forward, length: int) -> None:
        self.publisher = publisher
        self.sock = sock
        self.forward = forward
        self.length = length
        self.far_kind = kind_of(TCP, length)

    def watch(self) -> None:
        """Begin to accept."""
        self.publisher.splices.listen(self.sock, self)

    def close(self) -> None:
        """Accept no more; streams live on. Idempotent."""
        if self.sock.fileno() >= 0:
            self.publisher.splices.unlisten(self.sock)
            self.sock.close()


class TcpInward(_TcpListener):
    """A published port, one family of it. Where the guest is reached is worked out anew when its addresses or the
    forwards have changed, since a short connection asks more than once.
    """

    __slots__ = ("_guest", "_seen", "_targets")

    def __init__(self, publisher: Any, sock: socket.socket, forward: Forward, length: int) -> None:
        super().__init__(publisher, sock, forward, length)
        self._seen: tuple[tuple[bytes, ...], int] | None = None
        self._guest = Endpoint(bytes(length), forward.guest_port)
        self._targets: tuple[Endpoint, ...] = ()

    def _look(self) -> None:
        publisher = self.publisher
        seen = (publisher.known(), publisher.changes)
        if seen != self._seen:
            self._seen = seen
            port, length = self.forward.guest_port, self.length
            self._guest = Endpoint(publisher.guest_address(length) or bytes(length), port)
            self._targets = publisher.inner_targets(TCP, length, port)

    @property
    def spliced(self) -> bool:
        """Whether peers on the host's loopback are spliced."""
        return bool(self.publisher.spliced)

    @property
    def guest(self) -> Endpoint:
        """Where the guest is reached now; an unspecified address while it has none."""
        self._look()
        return self._guest

    @property
    def targets(self) -> tuple[Endpoint, ...]:
        """Where a spliced peer may find the server in there."""
        self._look()
        return self._targets

    def admit(self, peer: Endpoint) -> str | None:
        """See `splice.SpliceEntry`."""
        return self.publisher.admit(TCP, INGRESS, self.guest, peer)  # type: ignore[no-any-return]

    def accepted(self, sock: socket.socket, peer: Endpoint, now: float) -> None:
        """Make a flow of a connection that is not spliced."""
        publisher = self.publisher
        pair = publisher.seen_as(TCP, peer, self.forward.guest_port, self.length)
        rule = publisher.admit(TCP, INGRESS, pair[0], peer) if pair is not None else None
        if rule is None or pair is None:
            refuse(sock)
            return
        sockets.prepare_tcp(sock)
        guest, visible = pair
        sink = publisher.sink
        flow = TcpFlow(guest, visible, INGRESS, now)
        flow.key = key_of(guest, visible)
        flow.rule = rule
        old = sink.table.tcp.get(flow.key)
        if old is not None:
            # The peer uses its port anew; the kernel has let go of the old connection, so do we.
            sink.reset_guest(old)
            sink.close(old, "closed")
        family = len(visible.address)
        settings = publisher.settings
        flow.set_link(settings.mss(family), settings.tso4 if family == 4 else settings.tso6)
        sink.table.add(flow)
        sink.opened(flow)
        sink.adopt_accepted(flow, sock)
        accepted(flow, publisher.isn(flow.key), now, sink)


class TcpOutward(_TcpListener):
    """A port of the guest's own loopback, one family of it."""

    __slots__ = ("guest", "local", "targets")
    direction = EGRESS
    keep_address = False
    """A port below 1024 of the guest's would be taken for privilege on the host."""
    spliced = True

    def __init__(self, publisher: Any, sock: socket.socket, forward: Forward, length: int) -> None:
        super().__init__(publisher, sock, forward, length)
        self.guest = Endpoint(bytes(length), 0)
        self.local = Endpoint(LOOPBACK[length], forward.guest_port)
        self.targets = (Endpoint(LOOPBACK[length], forward.host_port),)

    def admit(self, peer: Endpoint) -> str | None:
        """See `splice.SpliceEntry`."""
        return self.publisher.admit(TCP, EGRESS, peer, self.local, self.targets[0])  # type: ignore[no-any-return]

    def accepted(self, sock: socket.socket, peer: Endpoint, now: float) -> None:
        """An address of the guest's that is not loopback: it belongs to somebody the guest routes for."""
        self.publisher.sink.counters.values[DropReason.PEER_UNEXPECTED] += 1
        refuse(sock)


def refuse(sock: socket.socket) -> None:
    """Reset a connection that was accepted."""
    sockets.reset_on_close(sock)
    sock.close()


def key_of(guest: Endpoint, peer: Endpoint) -> bytes:
    """The key that the guest's packets of this conversation have, see `flows.table`."""
    return guest.address + peer.address + guest.port.to_bytes(2, "big") + peer.port.to_bytes(2, "big")
