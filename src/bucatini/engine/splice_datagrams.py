"""UDP between the host's loopback and the guest's by splice: two sockets joined, datagram by datagram, through the
arena.

`near` is connected to who began the conversation, `far` to who is to answer; one of the two was made in the guest's
network namespace (`engine.splice` is the same for TCP). Either direction: a peer on the host's loopback that reaches a
published port (INGRESS), or a program of the guest that reaches a port of the host (EGRESS).

Where there are several targets the one that answers is found by their refusals: on loopback a refusal is there when
send(2) returns, so what was refused is sent to the next at once, from where it lies. One that comes later only turns to
the next target. After an answer the target stays; a refusal is then taken away, since a datagram cannot tell the other
side.

A conversation ends after 180 s without traffic in either direction, as passt's do. What a socket has no room for is
dropped and counted.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Callable
from typing import Any

from bucatini.base.address import Endpoint
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS
from bucatini.engine.layout import DATAGRAM_AT, DATAGRAM_BATCH, STRIDE
from bucatini.host import sockets

__all__ = ["SplicedDatagrams"]

NEVER = float("inf")
UDP_TIMEOUT = 180.0
"""Seconds of silence after which a conversation ends."""
MAX_ERRORS = 16
"""Reports taken from one error queue in a turn."""
MAX_EARLY = 64
"""Datagrams that wait for a conversation's sockets."""
MAX_EARLY_BYTES = 1 << 17


class SplicedDatagrams:
    """One conversation, begun by `client`. `targets` are tried in turn, and again.

    One of `near` and `far` is there from the beginning, the other is set before `begin`; both are ours then. For EGRESS
    `local` is what the guest wrote to. `on_close` is called with `client`.
    """

    protocol = 17

    def __init__(
        self,
        sink: Any,
        direction: str,
        guest: Endpoint,
        client: Endpoint,
        local: Endpoint,
        targets: tuple[Endpoint, ...],
        rule: str,
        on_close: Callable[[Endpoint], None],
        near: socket.socket | None = None,
        far: socket.socket | None = None,
    ) -> None:
        self.sink = sink
        self.direction = direction
        self.guest = guest
        self.client = client
        self.targets = targets
        self.peer = local if direction == EGRESS else client
        self.host = targets[0] if direction == EGRESS else None
        self.rule = rule
        self.id = 0
        self.key = b""
        self.near = near
        self.far = far
        self.closed = False
        self.sent = 0
        """Bytes the guest sent; `received` those it received."""
        self.received = 0
        self.opened_at = self.last_active = sink.now
        self.deadline = self.armed_at = NEVER
        self._on_close = on_close
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._tried = 0
        self._begun = False
        self._answered = False
        self._lengths = [0] * DATAGRAM_BATCH
        self._cuts = [0] * DATAGRAM_BATCH
        sink.deadlines.arm(self, sink.now + UDP_TIMEOUT)

    def begin(self) -> None:
        """Both sockets are there: `near` connected to the client, `far` perhaps bound."""
        near, far = self.near, self.far
        if near is None or far is None or not self._turn():
            self.close("unreachable")
            return
        self._begun = True
        self.sink.reactor.watch(near.fileno(), self.ready, select.EPOLLIN)
        self.sink.reactor.watch(far.fileno(), self.ready, select.EPOLLIN)
        early, self._early = self._early, []
        for payload in early:
            self.deliver(payload)

    def _turn(self) -> bool:
        """Connect `far` to the next target that can be had."""
        for _ in self.targets:
            target = self.targets[self._tried % len(self.targets)]
            self._tried += 1
            if self.far is not None:
                with contextlib.suppress(OSError):
                    self.far.connect(sockets.sockaddr(target))
                    return True
        return False

    def deliver(self, payload: bytes) -> None:
        """A datagram of the client that came by the listener; before `begin` it waits."""
        self.last_active = self.sink.now
        if self._begun:
            self.sink.arena.view[DATAGRAM_AT : DATAGRAM_AT + len(payload)] = payload
            self._send_onward([DATAGRAM_AT, len(payload)])
        elif len(self._early) < MAX_EARLY and self._early_bytes + len(payload) <= MAX_EARLY_BYTES:
            self._early.append(payload)
            self._early_bytes += len(payload)
        else:
            self.sink.counters.values[DropReason.HOST_BUFFER_FULL] += 1

    def _send_onward(self, pieces: list[int]) -> None:
        """Positions and lengths in the arena, to whoever of the targets takes them."""
        if self.far is None:
            return
        self._count(True, sum(pieces[1::2]))
        if self._answered or len(self.targets) == 1:
            self._send_batch(self.far, pieces)
            return
        for first in range(0, len(pieces), 2):
            self._try_targets(self.far, pieces[first : first + 2])

    def _try_targets(self, far: socket.socket, piece: list[int]) -> None:
        """One datagram at a time: a refusal is of the one before it."""
        for _ in self.targets:
            self._send_batch(far, piece)
            if sockets.socket_error(far) != errno.ECONNREFUSED:
                return
            self._turn()

    def _count(self, onward: bool, total: int) -> None:
        if onward == (self.direction == EGRESS):
            self.sent += total
        else:
            self.received += total

    def ready(self, descriptor: int, events: int, now: float) -> None:
        """Handler of both sockets."""
        self.sink.now = now
        if self.far is None or self.near is None:
            return
        onward = descriptor == self.near.fileno()
        source = self.near if onward else self.far
        if events & select.EPOLLERR:
            refused = self._error(source) == errno.ECONNREFUSED
            if refused and not onward and not self._answered:
                self._turn()
        if events & select.EPOLLIN:
            self._move(source, onward, now)

    def _error(self, source: socket.socket) -> int:
        """Take away what is reported of `source`; the last error."""
        number = 0
        for _ in range(MAX_ERRORS):
            report = sockets.read_error(source)
            if report is None:
                break
            number = report.errno
        return sockets.socket_error(source) or number

    def _move(self, source: socket.socket, onward: bool, now: float) -> None:
        arena = self.sink.arena
        count = arena.receive_datagrams(source, DATAGRAM_AT, STRIDE, DATAGRAM_BATCH, self._lengths, self._cuts)
        pieces: list[int] = []
        for index in range(count):
            if self._lengths[index] >= 0:
                pieces += (DATAGRAM_AT + index * STRIDE, self._lengths[index])
        if not pieces:
            return
        self.last_active = now
        if onward:
            self._send_onward(pieces)
        elif self.near is not None:
            self._answered = True
            self._count(False, sum(pieces[1::2]))
            self._send_batch(self.near, pieces)

    def _send_batch(self, destination: socket.socket, pieces: list[int]) -> None:
        """A refusal of an earlier datagram stops the batch: take it up again behind, which is told only once."""
        total = len(pieces) >> 1
        done = sent = 0
        for _ in range(2):
            sent = self.sink.arena.send_datagrams(destination, pieces[2 * done :], total - done, 0)
            done += max(sent, 0)
            if done == total:
                return
            if sent < 0 and sent != -errno.ECONNREFUSED:
                break
        full = sent == -errno.EAGAIN
        reason = DropReason.HOST_BUFFER_FULL if full else DropReason.HOST_SEND_FAILED
        self.sink.counters.values[reason] += total - done

    def due(self, now: float) -> None:
        """Silence may have lasted long enough."""
        if self.closed:
            return
        if self.last_active + UDP_TIMEOUT <= now:
            self.close("closed")
        else:
            self.sink.deadlines.arm(self, self.last_active + UDP_TIMEOUT)

    def close(self, how: str) -> None:
        """End the flow. Idempotent."""
        if self.closed:
            return
        self.closed = True
        for sock in (self.near, self.far):
            if sock is not None:
                self.sink.reactor.unwatch(sock.fileno())
                sock.close()
        self.near = self.far = None
        self.deadline = NEVER
        self._early.clear()
        self._on_close(self.client)
        self.sink.table.remove(self)
        self.sink.closed(self, how)
