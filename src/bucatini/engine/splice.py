"""Peers on the host's loopback reach the guest by splice: two sockets joined in the kernel, no frame, no stack of
ours (splice(2)).

One socket is the accepted connection on the host, the other was made inside the guest's network namespace and is
connected to the published port there, from the peer's own address and port where the namespace lets us have them.
Each direction has a pipe; bytes move socket -> pipe -> socket as pages. End of stream in one direction shuts that
direction only; an error resets both ends.

UDP is joined the same way, datagram by datagram, through the arena.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from bucatini.base.address import Endpoint
from bucatini.base.verdict import INGRESS
from bucatini.engine.layout import DATAGRAM_AT, DATAGRAM_BATCH, STRIDE
from bucatini.host import sockets
from bucatini.native import splice

__all__ = ["PipePool", "SplicedDatagrams", "SplicedStream"]

EDGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
PIPE_SIZE = 1 << 20
"""Bytes; the default of fs.pipe-max-size. Where the user's quota of pipe pages is used up the kernel's default stays.
"""
CHUNK = PIPE_SIZE
ROUNDS = 16
"""Moves of one direction in one turn, so that one transfer does not starve the rest."""
IDLE_PIPES = 32
EAGAIN = -errno.EAGAIN
LOOPBACK_V4 = bytes((127, 0, 0, 1))
LOOPBACK_V6 = bytes(15) + b"\x01"
NEVER = float("inf")
UDP_TIMEOUT = 180.0
CONNECT_TIMEOUT = 1.0
"""Seconds for a handshake that never leaves the guest's kernel."""
ANOTHER_ADDRESS = frozenset((errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.EADDRINUSE))
"""Nobody listens on the guest's loopback, or the peer's own port is taken in there."""
ENDINGS = {errno.ECONNREFUSED: "refused by peer", errno.ECONNRESET: "reset by guest"}
MAX_ERRORS = 16
"""Reports taken from one error queue in a turn."""
MAX_EARLY = 64
"""Datagrams that wait for a conversation's socket."""


class PipePool:
    """Empty pipes for reuse: making one and growing it costs as much as a short connection."""

    def __init__(self) -> None:
        self._idle: list[tuple[int, int]] = []

    def take(self) -> tuple[int, int]:
        """Read and write end. Raises OSError when there is none to be had."""
        if self._idle:
            return self._idle.pop()
        ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        return ends

    def give(self, ends: tuple[int, int], empty: bool) -> None:
        """Take back a pipe; one with bytes left in it is closed."""
        if empty and len(self._idle) < IDLE_PIPES:
            self._idle.append(ends)
        else:
            os.close(ends[0])
            os.close(ends[1])

    def close(self) -> None:
        """Close all idle pipes."""
        while self._idle:
            self.give(self._idle.pop(), empty=False)


class _Direction:
    """Bytes from `source` to `destination`."""

    __slots__ = ("destination", "done", "ended", "inside", "moved", "pipe", "source")

    def __init__(self, source: socket.socket, destination: socket.socket) -> None:
        self.source = source
        self.destination = destination
        self.pipe: tuple[int, int] | None = None
        self.inside = 0
        self.moved = 0
        self.ended = False
        self.done = False

    def pump(self, pool: PipePool) -> int:
        """Move what can be moved. 0 when nothing more can be now, 1 when the turn's share is used up, `-errno` on
        failure.
        """
        if self.done:
            return 0
        if self.pipe is None:
            try:
                self.pipe = pool.take()
            except OSError as error:
                return -(error.errno or errno.EMFILE)
        for _ in range(ROUNDS):
            got = EAGAIN
            if not self.ended and self.inside < CHUNK:
                got = splice(self.source.fileno(), self.pipe[1], CHUNK - self.inside)
                if got > 0:
                    self.inside += got
                elif got == 0:
                    self.ended = True
                elif got != EAGAIN:
                    return got
            if self.inside:
                sent = splice(self.pipe[0], self.destination.fileno(), self.inside)
                if sent == EAGAIN:
                    return 0
                if sent < 0:
                    return sent
                self.inside -= sent
                self.moved += sent
            elif self.ended:
                self.done = True
                with contextlib.suppress(OSError):
                    self.destination.shutdown(socket.SHUT_WR)
                return 0
            elif got == EAGAIN:
                return 0
        return 1


class SplicedStream:
    """One TCP connection of a loopback peer to a published port."""

    protocol = 6
    direction = INGRESS

    def __init__(
        self, sink: Any, pool: PipePool, near: socket.socket, guest: Endpoint, peer: Endpoint, rule: str
    ) -> None:
        self.sink = sink
        self.pool = pool
        self.guest = guest
        self.peer = peer
        self.host: Endpoint | None = None
        self.rule = rule
        self.id = 0
        self.key = b""
        self.near = near
        self.far: socket.socket | None = None
        self.opened_at = sink.now
        self.deadline = self.armed_at = NEVER
        self.connected = False
        self.again = False
        self.outward: _Direction | None = None
        self.inward: _Direction | None = None
        self.second_try: Callable[[], None] | None = None

    @property
    def received(self) -> int:
        """Bytes the guest sent."""
        return self.outward.moved if self.outward else 0

    @property
    def sent(self) -> int:
        """Bytes the guest received."""
        return self.inward.moved if self.inward else 0

    def begin(self, far: socket.socket, second_try: Callable[[], None] | None) -> None:
        """Connect `far`, a socket of the guest's namespace, and join the two. Ends the flow on failure.

        With `second_try` the target is the guest's loopback, where servers of all addresses listen too, and the guest
        sees the peer's own address and port; it is called when nobody listens there, and calls `begin` again, without,
        for servers of the guest's own address alone.
        """
        self.far = far
        self.second_try = second_try
        sockets.prepare_tcp(far)
        target = self.guest
        if second_try is not None:
            target = Endpoint(_loopback_of(self.guest.address), self.guest.port)
            with contextlib.suppress(OSError):
                far.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                far.bind(sockets.sockaddr(self.peer))
        error = sockets.connect(far, target)
        if error:
            self._not_connected(error)
            return
        self.outward = _Direction(far, self.near)
        self.inward = _Direction(self.near, far)
        self.sink.reactor.watch(far.fileno(), self.ready, EDGE)
        self.sink.deadlines.arm(self, self.sink.now + CONNECT_TIMEOUT)

    def _not_connected(self, error: int) -> None:
        """Try the other address, or give up."""
        again, self.second_try = self.second_try, None
        if again is None or self.far is None or error not in ANOTHER_ADDRESS:
            self.close(ENDINGS.get(error, "failed"))
            return
        self.sink.reactor.unwatch(self.far.fileno())
        self.far.close()
        self.far = None
        again()

    def due(self, now: float) -> None:
        """The handshake within the guest's own kernel takes microseconds; a firewall in there may swallow it."""
        if not self.connected:
            self.close("refused by peer")

    def ready(self, descriptor: int, events: int, now: float) -> None:
        """Handler of both sockets."""
        self.sink.now = now
        if self.far is None:
            return
        if events & select.EPOLLERR:
            sock = self.far if descriptor == self.far.fileno() else self.near
            error = sockets.socket_error(sock)
            if error and not self.connected:
                self._not_connected(error)
                return
            if error:
                self.close("reset by guest" if sock is self.far else "reset by peer")
                return
        if not self.connected:
            if descriptor != self.far.fileno() or not events & select.EPOLLOUT:
                return
            self.connected = True
            self.deadline = NEVER
            self.sink.reactor.watch(self.near.fileno(), self.ready, EDGE)
        self.pump()

    def pump(self) -> None:
        """Move bytes both ways; ends the flow when both directions are done."""
        self.again = False
        if self.inward is None or self.outward is None:
            return
        for direction in (self.inward, self.outward):
            result = direction.pump(self.pool)
            if result < 0:
                self.close("reset by guest" if direction is self.outward else "reset by peer")
                return
            if result and not self.again:
                self.again = True
                self.sink.resume_later(self.pump)
        if self.inward.done and self.outward.done:
            self.close("closed")

    def close(self, how: str) -> None:
        """End the flow; both ends see a reset unless it is `closed`. Idempotent."""
        if self.near.fileno() < 0:
            return
        self.deadline = NEVER
        for sock in (self.near, self.far):
            if sock is not None:
                self.sink.reactor.unwatch(sock.fileno())
                if how != "closed":
                    sockets.reset_on_close(sock)
                sock.close()
        for direction in (self.inward, self.outward):
            if direction is not None and direction.pipe is not None:
                self.pool.give(direction.pipe, direction.inside == 0)
                direction.pipe = None
        self.sink.table.remove(self)
        self.sink.closed(self, how)


def _loopback_of(address: bytes) -> bytes:
    """The loopback address of the same family."""
    return LOOPBACK_V4 if len(address) == 4 else LOOPBACK_V6


class SplicedDatagrams:
    """UDP of one loopback peer to a published port: `near` is connected to the peer, `far` to the guest's loopback,
    from
    where a server on all addresses answers to what it takes for itself.
    """

    protocol = 17
    direction = INGRESS

    def __init__(
        self,
        sink: Any,
        near: socket.socket,
        guest: Endpoint,
        peer: Endpoint,
        rule: str,
        on_close: Callable[[Endpoint], None],
    ) -> None:
        self.sink = sink
        self.near = near
        self.far: socket.socket | None = None
        self.guest = guest
        self.peer = peer
        self.host: Endpoint | None = None
        self.rule = rule
        self.id = 0
        self.key = b""
        self._on_close = on_close
        self._early: list[bytes] = []
        self.sent = 0
        """Bytes the guest sent; `received` those it received."""
        self.received = 0
        self.opened_at = self.last_active = sink.now
        self.deadline = self.armed_at = NEVER
        self._lengths = [0] * DATAGRAM_BATCH
        self._cuts = [0] * DATAGRAM_BATCH
        sink.deadlines.arm(self, sink.now + UDP_TIMEOUT)

    def begin(self, far: socket.socket | None) -> None:
        """Use `far`, a socket of the guest's namespace; None when there is none to be had ends the flow."""
        if self.near.fileno() < 0 or far is None:
            if far is not None:
                far.close()
            self.close("failed")
            return
        self.far = far
        with contextlib.suppress(OSError):
            far.bind(sockets.sockaddr(self.peer))
        try:
            far.connect(sockets.sockaddr(Endpoint(_loopback_of(self.guest.address), self.guest.port)))
        except OSError:
            self.close("unreachable")
            return
        self.sink.reactor.watch(self.near.fileno(), self.ready, select.EPOLLIN)
        self.sink.reactor.watch(far.fileno(), self.ready, select.EPOLLIN)
        early, self._early = self._early, []
        for payload in early:
            self.deliver(payload)

    def deliver(self, payload: bytes) -> None:
        """Hand the guest a datagram that came by the listener; before `begin` it waits, `MAX_EARLY` at a time."""
        if self.far is None:
            if len(self._early) < MAX_EARLY:
                self._early.append(payload)
            return
        with contextlib.suppress(OSError):
            self.far.send(payload)
            self.received += len(payload)

    def ready(self, descriptor: int, events: int, now: float) -> None:
        """Handler of both sockets."""
        self.sink.now = now
        if self.far is None:
            return
        outward = descriptor == self.far.fileno()
        source, destination = (self.far, self.near) if outward else (self.near, self.far)
        if events & select.EPOLLERR:
            # The port is closed over there: a datagram cannot tell the other side; the report is only taken away.
            for _ in range(MAX_ERRORS):
                if sockets.read_error(source) is None:
                    break
            sockets.socket_error(source)
        arena = self.sink.arena
        count = arena.receive_datagrams(source, DATAGRAM_AT, STRIDE, DATAGRAM_BATCH, self._lengths, self._cuts)
        pieces: list[int] = []
        for index in range(count):
            if self._lengths[index] >= 0:
                pieces += (DATAGRAM_AT + index * STRIDE, self._lengths[index])
        if not pieces:
            return
        self.last_active = now
        total = sum(pieces[1::2])
        arena.send_datagrams(destination, pieces, len(pieces) >> 1, 0)
        if outward:
            self.sent += total
        else:
            self.received += total

    def due(self, now: float) -> None:
        """Silence may have lasted long enough."""
        if self.near.fileno() < 0:
            return
        if self.last_active + UDP_TIMEOUT <= now:
            self.close("closed")
        else:
            self.sink.deadlines.arm(self, self.last_active + UDP_TIMEOUT)

    def close(self, how: str) -> None:
        """End the flow. Idempotent."""
        if self.near.fileno() < 0:
            return
        for sock in (self.near, self.far):
            if sock is not None:
                self.sink.reactor.unwatch(sock.fileno())
                sock.close()
        self.deadline = NEVER
        self._on_close(self.peer)
        self.sink.table.remove(self)
        self.sink.closed(self, how)
