"""What links to sockets without offloads share: a connected socket, frames collected for it, and the wait for room.

`transmit` hands each frame to a `native.Outbox`, which completes checksums and cuts superframes, and sends in large
pieces; what the socket does not take waits there. From `HIGH` waiting bytes on the link has no room, so TCP flows leave
their bytes in the host's sockets; small frames still find place until the buffer is full, then they are lost and
counted. When the socket has taken what waited down to `LOW`, they all go on.

A guest may go and come again (a hypervisor that is started anew, a connection that is made again): flows stay, nothing
of the old connection does.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from typing import Any

from bucatini.host.tap import Offloads
from bucatini.links.base import LinkOwner
from bucatini.links.listening import Door, peer_process
from bucatini.native import Arena, Outbox

__all__ = ["OFFLOADS", "SocketLink"]

OFFLOADS = Offloads()
"""All of them: what the far end cannot do is done by the outbox."""
OUTBOX = 1 << 20
HIGH = 1 << 18
LOW = 1 << 16
EAGER = 1 << 16
"""Bytes that are sent before the turn ends."""
BUFFER = 4 << 20
"""Bytes asked for as the socket's own buffers; the kernel grants what its limits allow."""
EPOLLIN = select.EPOLLIN
EPOLLOUT = select.EPOLLOUT
ENOTCONN = errno.ENOTCONN
REFUSED = (-errno.EAGAIN, -errno.EINVAL, -errno.EMSGSIZE)
"""A frame was not taken, which says nothing of those that come."""
EAGAIN = errno.EAGAIN


class SocketLink:
    """`door` accepts the guest, or `sock` is connected to it already. `one_off`: the end of the first connection is the
    end of the link; it always is without a door.
    """

    def __init__(self, name: str, door: Door | None, sock: socket.socket | None, prefixed: bool, one_off: bool) -> None:
        self.name = name
        self.door = door
        self.sock: Any = sock
        self.fd = -1
        self.header = 0
        self.positions: list[int] | None = None
        self.more = False
        self.one_off = one_off or door is None
        self.waits = False
        """For the socket to take what is in the outbox."""
        self.asked = False
        """Whether the reactor was asked to say so."""
        self.full = False
        """Somebody was told that there is no room."""
        self.outbox = Outbox(OUTBOX, prefixed)
        self.owner: LinkOwner | None = None

    def start(self, owner: LinkOwner) -> None:
        """See `Link`."""
        self.owner = owner
        if self.door is not None:
            self.door.open(owner, self.join, self.lost)
        if self.sock is not None:
            self.join(self.sock)

    def join(self, sock: socket.socket) -> None:
        """A guest is there: serve it over `sock`."""
        assert self.owner is not None
        self.sock = sock
        self.fd = sock.fileno()
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        self.owner.reactor.watch(self.fd, self.ready, EPOLLIN)
        if self.door is not None:
            self.owner.say(f"{self.name}: connected, process {peer_process(sock)}")
        if self.room():
            self.owner.link_joined()
        if self.full:
            self.full = False
            self.owner.room_again()

    def ready(self, descriptor: int, events: int, now: float) -> None:
        """Handler of the connection."""
        owner = self.owner
        assert owner is not None
        if events & EPOLLOUT:
            self.waits = False
            self.drain()
        if events & ~EPOLLOUT and self.fd >= 0:
            owner.frames_ready(descriptor, events, now)

    def done(self) -> None:
        """See `Link`."""

    def transmit(self, arena: Arena, at: int, length: int) -> int:
        """See `Link`."""
        if self.fd < 0:
            return -ENOTCONN
        outbox = self.outbox
        took = outbox.put(self.sock, arena, at, length)
        if took < 0:
            if took not in REFUSED:
                self.lost()
            return took
        if outbox.pending >= EAGER and not self.waits:
            self.drain()
        return length

    def room(self) -> bool:
        """See `Link`. Without a guest there is none."""
        if self.fd >= 0 and self.outbox.pending < HIGH:
            return True
        self.full = True
        return False

    def flush(self) -> None:
        """See `Link`. A socket that is full says by itself when it is not."""
        if not self.waits and self.outbox.pending:
            self.drain()

    def drain(self) -> None:
        """Send what waits, as far as the socket takes it; then wait for the rest to find room, or no longer."""
        left = self.outbox.flush(self.sock)
        if left < 0:
            self.lost()
            return
        assert self.owner is not None
        self.waits = left > 0
        if self.waits != self.asked:
            self.asked = self.waits
            self.owner.reactor.rewatch(self.fd, EPOLLIN | EPOLLOUT if self.waits else EPOLLIN)
        if self.full and left <= LOW:
            self.full = False
            self.owner.room_again()

    def lost(self) -> int:
        """The connection is over. What `receive` returns then: 0 when the link is, too."""
        self.leave()
        if self.one_off:
            if self.owner is not None:
                self.owner.link_ended()
            return 0
        return -EAGAIN

    def leave(self) -> None:
        """Let go of the connection and of whatever was on its way. Idempotent."""
        if self.fd >= 0:
            assert self.owner is not None
            self.owner.reactor.unwatch(self.fd)
            self.owner.say(f"{self.name}: disconnected")
        if self.sock is not None:
            self.sock.close()
        self.sock = None
        self.fd = -1
        self.waits = self.asked = False
        self.more = False
        self.outbox.clear()
        if self.door is not None:
            self.door.taken = False

    def close(self) -> None:
        """See `Link`."""
        self.leave()
        if self.door is not None:
            self.door.close()
