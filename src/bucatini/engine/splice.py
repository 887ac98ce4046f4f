"""TCP between the two loopbacks by splice: two sockets joined in the kernel, no frame, no stack of ours (splice(2)).

INGRESS: a client on the host's loopback came to a published port, and the far socket, made inside the guest's network
namespace, is connected to the port there, from the client's own address where the namespace has it (all of 127.0.0.0/8
is everywhere). EGRESS: a client on the guest's loopback came to a listener in there, and the far socket is the host's.

The client's port is not kept. A bound port outlives its connection by a minute (TIME-WAIT) in the namespace, and who
connects in there has to search past it: after some ten thousand connections each further one took a millisecond.

`native.Splicer` accepts, connects and moves bytes; what is here decides, keeps the flow table and reports. Its
descriptor is one of many to the reactor, so a byte that passes costs no Python at all, and a connection costs one call
to let it in and one to end it.
"""

from __future__ import annotations

import errno
import select
import socket
from collections import deque
from typing import Any, Protocol

from bucatini.base.address import Endpoint, pack, unmap
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.engine.guest_sockets import GuestSockets
from bucatini.host import sockets
from bucatini.native import CLOSED, FAILED, FAR_RESET, NEAR_RESET, Pair, Splicer

__all__ = ["SpliceEntry", "SplicedStream", "StreamSplices"]

NEVER = float("inf")
REST = 0.5
"""Seconds a listener rests when the host has no descriptor for it."""
CONNECT_TIMEOUT = 1.0
"""Seconds for a handshake that never leaves one kernel: a firewall in there may swallow it."""
LOOPBACK_V4 = bytes((127, 0, 0, 1))
LOOPBACK_V6 = bytes(15) + b"\x01"
SOURCE_TAKEN = frozenset((errno.EADDRNOTAVAIL, errno.EADDRINUSE))
"""The peer's own address and port cannot be used for this target in the far namespace."""
HERE = -1
"""Far socket: a new one of the engine's own namespace."""


class SpliceEntry(Protocol):
    """What a listening socket stands for. Of its attributes `guest`, `targets` and `spliced` are read for each
    connection, once; the others when it is given.
    """

    direction: str
    """INGRESS: the listener is the host's, the far end is in the guest's namespace. EGRESS: the other way round."""
    far_kind: str
    """ "tcp4" or "tcp6"."""
    guest: Endpoint
    """The guest's end as reports name it. EGRESS: unused, it is the peer that was accepted."""
    targets: tuple[Endpoint, ...]
    """Where to connect in the far namespace; the next is tried when one refuses."""
    keep_address: bool
    """Try to give the far socket the peer's own address for the first target."""
    spliced: bool
    """False: every connection goes to `accepted`."""

    def admit(self, peer: Endpoint) -> str | None:
        """The name of the rule that lets `peer` in; None: it is refused, counted and reported already. Asked only for
        connections that will be spliced, before they take their place in the flow table.
        """

    def accepted(self, sock: socket.socket, peer: Endpoint, now: float) -> None:
        """A connection that is not spliced, which `admit` was not asked for. Takes over `sock`, non-blocking."""


class SplicedStream(Pair):
    """One spliced connection, as the flow table and reports see it."""

    __slots__ = ("guest", "host", "id", "listener", "opened_at", "peer", "rule", "source", "targets", "tries")

    protocol = 6
    key = b""

    def __init__(self, listener: _Listener, source: Endpoint, rule: str) -> None:
        super().__init__()
        entry = listener.entry
        self.listener = listener
        self.targets = entry.targets
        self.tries = 0
        """Position of the target whose turn it is."""
        self.source = _address_of(source) if listener.keep_address else None
        """The address that the next far socket is bound to."""
        self.host: Endpoint | None = None
        if listener.direction == EGRESS:
            self.guest, self.peer, self.host = source, listener.local, self.targets[0]
        else:
            self.guest, self.peer = entry.guest, source
        self.rule = rule
        self.id = 0
        self.opened_at: float = listener.splices.sink.now

    @property
    def direction(self) -> str:
        """INGRESS or EGRESS."""
        return self.listener.direction

    @property
    def received(self) -> int:
        """Bytes the guest sent."""
        return self.back if self.direction == INGRESS else self.onward

    @property
    def sent(self) -> int:
        """Bytes the guest received."""
        return self.onward if self.direction == INGRESS else self.back

    def begin(self, far: socket.socket | None) -> None:
        """Connect `far`, an unused socket of the guest's namespace, to the target whose turn it is; None: there is none
        to be had.
        """
        if far is None:
            self.close("failed")
        elif self.live:
            self.listener.splices.reach(self, far.detach())
        else:
            far.close()

    def close(self, how: str) -> None:
        """End the flow; both ends see a reset unless it is `closed`. Idempotent."""
        if self.live:
            self.listener.splices.end(self, how)


class _Listener:
    """One listening socket, and what is the same for all its connections."""

    def __init__(self, splices: StreamSplices, sock: socket.socket, entry: SpliceEntry) -> None:
        self.splices = splices
        self.fd = sock.fileno()
        self.family = sock.family
        self.entry = entry
        self.direction = entry.direction
        self.far_kind = entry.far_kind
        self.keep_address = entry.keep_address
        address, port = sock.getsockname()[:2]
        packed = pack(address)
        self.local = Endpoint(packed if any(packed) else _loopback_of(packed), port)
        self.deadline = self.armed_at = NEVER

    def due(self, now: float) -> None:
        """The rest is over."""
        self.splices.resume(self)


class StreamSplices:
    """All spliced streams of one guest, and the listeners they come from. It is the `Splicer`'s owner.

    `sink` is an `engine.sink.Sink`; `stock` has sockets of the guest's namespace. Not bounded here: `admit` looks
    whether the flow table has room. Handshakes under way are remembered for `CONNECT_TIMEOUT` at most.
    """

    def __init__(self, sink: Any, stock: GuestSockets) -> None:
        self.sink = sink
        self.stock = stock
        self.deadline = self.armed_at = NEVER
        self._listeners: dict[int, _Listener] = {}
        self._connecting: deque[tuple[float, SplicedStream]] = deque()
        self._splicer: Splicer | None = None
        self._again = False
        self._closed = False

    @property
    def splicer(self) -> Splicer:
        """Made when the first listener comes: most guests have none."""
        if self._splicer is None:
            self._splicer = Splicer(self)
            self.sink.reactor.watch(self._splicer.fileno(), self._ready, select.EPOLLIN)
        return self._splicer

    # -- the caller's side

    def listen(self, sock: socket.socket, entry: SpliceEntry) -> None:
        """Begin to accept. `sock` listens, does not block and stays the caller's, to close after `unlisten`.

        Raises OSError when the kernel watches no more descriptors.
        """
        listener = _Listener(self, sock, entry)
        self.splicer.listen(listener.fd, listener)
        self._listeners[listener.fd] = listener

    def unlisten(self, sock: socket.socket) -> None:
        """Accept no more from `sock`; its streams live on. Harmless when it was never given."""
        listener = self._listeners.pop(sock.fileno(), None)
        if listener is not None:
            listener.deadline = NEVER
            self.splicer.unlisten(listener.fd)

    def close(self) -> None:
        """Accept no more from anybody. Streams stand still from now on, until the sink ends them. Idempotent."""
        if self._splicer is None or self._closed:
            return
        self._closed = True
        self.sink.reactor.unwatch(self._splicer.fileno())
        for listener in self._listeners.values():
            listener.deadline = NEVER
            self._splicer.unlisten(listener.fd)
        self._listeners.clear()
        if not len(self._splicer):
            self._splicer.close()

    # -- turns

    def _ready(self, descriptor: int, events: int, now: float) -> None:
        self.sink.now = now
        self._turn()

    def _turn(self) -> None:
        self._again = False
        if not self._closed and self.splicer.turn() and not self._again:
            self._again = True
            self.sink.resume_later(self._turn)

    def resume(self, listener: _Listener) -> None:
        """A listener has rested."""
        if self._listeners.get(listener.fd) is listener:
            self.splicer.listen(listener.fd, listener)

    def due(self, now: float) -> None:
        """The oldest handshakes may have lasted too long."""
        while self._connecting and self._connecting[0][0] <= now:
            stream = self._connecting.popleft()[1]
            if not stream.connected:
                stream.close("refused by peer")
        if self._connecting:
            self.sink.deadlines.arm(self, self._connecting[0][0])

    # -- the splicer's owner, see `native.slow_splices`

    def arrived(self, listener: _Listener, fd: int, address: bytes, port: int) -> None:
        """A connection was accepted."""
        entry = listener.entry
        peer = Endpoint(address if len(address) == 4 else unmap(address), port)
        if not (entry.spliced and _is_loopback(peer.address)):
            sock = socket.socket(listener.family, socket.SOCK_STREAM, 0, fd)
            sock.setblocking(False)
            entry.accepted(sock, peer, self.sink.now)
            return
        rule = entry.admit(peer)
        if rule is None:
            with socket.socket(listener.family, socket.SOCK_STREAM, 0, fd) as refused:
                sockets.reset_on_close(refused)
            return
        stream = SplicedStream(listener, peer, rule)
        self.splicer.adopt(stream, fd)
        self.sink.table.add_spliced(stream)
        if self.sink.flow_events:
            self.sink.announce(stream)
        self._try(stream)

    def exhausted(self, listener: _Listener, error: int) -> None:
        """No descriptor for a connection that waits: the listener stays ready, and the turns would spin."""
        self.splicer.unlisten(listener.fd)
        self.sink.deadlines.arm(listener, self.sink.now + REST)
        self.sink.counters.values[DropReason.SOCKETS_EXHAUSTED] += 1

    def unreached(self, stream: SplicedStream, error: int) -> None:
        """The connection to a target failed: try again without the peer's address, then the next target."""
        bound, stream.source = stream.source, None
        if error == errno.ECONNREFUSED or (error in SOURCE_TAKEN and bound is None):
            stream.tries += 1
        elif error not in SOURCE_TAKEN:
            stream.tries = len(stream.targets)
        if stream.tries < len(stream.targets):
            self._try(stream)
        elif error == errno.ECONNRESET:
            stream.close(_ENDINGS[stream.listener.direction][FAR_RESET])
        else:
            stream.close("refused by peer" if error == errno.ECONNREFUSED else "failed")

    def ended(self, stream: SplicedStream, how: int) -> None:
        """Both ends are closed."""
        self._finish(stream, _ENDINGS[stream.listener.direction][how])

    def bug(self, error: Exception) -> None:
        """An error of ours strikes one connection."""
        self.sink.bug(error)

    # -- streams

    def _try(self, stream: SplicedStream) -> None:
        if stream.listener.direction == EGRESS:
            stream.host = stream.targets[stream.tries]
            self.reach(stream, HERE)
            return
        far = self.stock.take(stream.listener.far_kind)
        if far is not None:
            self.reach(stream, far.detach())
        else:
            self.stock.give(stream.listener.far_kind, stream.begin)

    def reach(self, stream: SplicedStream, far: int) -> None:
        """Connect a far socket to the target whose turn it is."""
        target = stream.targets[stream.tries]
        error = self.splicer.reach(stream, far, target, stream.source)
        if error:
            self.unreached(stream, error)
        elif stream.live and not stream.connected:
            waiting = self._connecting
            while waiting and (waiting[0][1].connected or not waiting[0][1].live):
                waiting.popleft()
            waiting.append((self.sink.now + CONNECT_TIMEOUT, stream))
            self.sink.deadlines.arm(self, waiting[0][0])

    def end(self, stream: SplicedStream, how: str) -> None:
        """Close a stream and report it."""
        self.splicer.end(stream, how != "closed")
        self._finish(stream, how)

    def _finish(self, stream: SplicedStream, how: str) -> None:
        sink = self.sink
        sink.table.remove(stream)
        if sink.flow_events:
            sink.closed(stream, how)
        if self._closed and not len(self.splicer):
            self.splicer.close()


_ENDINGS = {
    direction: {NEAR_RESET: near, FAR_RESET: far, CLOSED: "closed", FAILED: "failed"}
    for direction, near, far in (
        (INGRESS, "reset by peer", "reset by guest"),
        (EGRESS, "reset by guest", "reset by peer"),
    )
}


def _address_of(peer: Endpoint) -> bytes | None:
    """What a far socket is bound to for the peer's sake; None where the kernel takes the same address by itself."""
    return None if peer.address in (LOOPBACK_V4, LOOPBACK_V6) else peer.address


def _loopback_of(address: bytes) -> bytes:
    """The loopback address of the same family."""
    return LOOPBACK_V4 if len(address) == 4 else LOOPBACK_V6


def _is_loopback(address: bytes) -> bool:
    return address[0] == 127 if len(address) == 4 else address == LOOPBACK_V6
