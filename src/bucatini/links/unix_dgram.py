"""Bare frames, one a datagram: SOCK_DGRAM (QEMU's dgram netdev, vfkit, Tart, krunkit) and SOCK_SEQPACKET (User-mode
Linux, BESS).

*Seqpacket* has connections, and an end; it is served like a stream. *Datagrams* have neither. We bind `local`; the
guest is at `remote`, or wherever its first datagram comes from. Once it is known we connect to it: an unconnected
sender may leave only a few frames in the other's queue (net.unix.max_dgram_qlen, unix(7)), and because then the kernel
says when there is room again. A connected socket hears its peer only: so whether the file at the guest's path is still
the same one is looked at every `LOOK` seconds, and a new one, a hypervisor that was started anew, is connected to.

vfkit sends the four bytes `VFKT` first; they are swallowed. Does not: notice the end of a guest behind an inherited
pair of datagram sockets, which the kernel does not tell (`one_off` has no meaning there).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from typing import Any

from bucatini.host.syscalls import disconnect
from bucatini.links.base import LinkOwner
from bucatini.links.listening import Door, identity
from bucatini.links.socket_link import SocketLink
from bucatini.native import Arena

__all__ = ["UnixDatagramLink", "UnixSeqpacketLink"]

GREETING = b"VFKT"
LOOK = 0.25
EAGAIN = errno.EAGAIN
EPOLLIN = select.EPOLLIN


class UnixSeqpacketLink(SocketLink):
    """See `SocketLink`. A packet of no bytes is the end of the connection."""

    def __init__(
        self, name: str, door: Door | None = None, sock: socket.socket | None = None, *, one_off: bool = False
    ) -> None:
        super().__init__(name, door, sock, False, one_off)
        self.cuts: list[int] = []

    def receive(self, arena: Arena, at: int, stride: int, count: int, lengths: list[int]) -> int:
        """See `Link`."""
        if self.fd < 0:
            return -EAGAIN
        if len(self.cuts) < len(lengths):
            self.cuts = [0] * len(lengths)
        got = arena.receive_datagrams(self.sock, at, stride, count, lengths, self.cuts)
        if got < 0:
            return got if got == -EAGAIN else self.lost()
        if got and not lengths[got - 1]:
            # The kernel says it once for each frame that was asked for and is not there.
            got = lengths.index(0)
            return got or self.lost()
        return got


class UnixDatagramLink(SocketLink):
    """`sock` is bound to `local`, or one end of a pair; `remote` is the guest's path, empty: it is learned."""

    def __init__(self, name: str, sock: socket.socket, *, local: str = "", remote: str = "") -> None:
        super().__init__(name, None, sock, False, False)
        self.one_off = False
        self.local = local
        self.remote: Any = remote
        self.given = bool(remote)
        """Whether the user said where the guest is; else whoever speaks first while nobody is known is the guest."""
        self.cuts: list[int] = []
        self.known = not local
        """Whether the socket is connected."""
        self.place: tuple[int, int, int] | None = None
        """Device, inode and time of the file we are connected to."""
        self.file = identity(local) if local else None
        """The same of the file that is ours."""
        self.timer: Any = None

    def start(self, owner: LinkOwner) -> None:
        """See `Link`."""
        super().start(owner)
        if self.local:
            self.look()

    def look(self) -> None:
        """Connect to the guest, or again to another that took its place."""
        assert self.owner is not None
        if self.fd < 0:
            return
        if self.known and self.remote and _place(self.remote) != self.place:
            self.forget()
        if not self.known and self.remote:
            self.meet(self.remote)
        self.timer = self.owner.loop.call_later(LOOK, self.look)

    def meet(self, address: Any) -> None:
        """The guest is at `address`: connect to it, if it is there."""
        try:
            self.sock.connect(address)
        except OSError:
            return
        self.known = True
        self.remote = address
        self.place = _place(address)
        assert self.owner is not None
        self.owner.say(f"{self.name}: frames go to {address!r}")
        self.owner.link_joined()
        if self.full:
            self.full = False
            self.owner.room_again()

    def forget(self) -> None:
        """Nobody is where we are connected to."""
        self.known = False
        self.outbox.clear()
        with contextlib.suppress(OSError):
            disconnect(self.fd)
        self.waits = False
        if self.asked:
            self.asked = False
            assert self.owner is not None
            self.owner.reactor.rewatch(self.fd, EPOLLIN)

    def receive(self, arena: Arena, at: int, stride: int, count: int, lengths: list[int]) -> int:
        """See `Link`."""
        if self.fd < 0:
            return -EAGAIN
        if not self.known:
            return self._first(arena, at, stride, lengths)
        if len(self.cuts) < len(lengths):
            self.cuts = [0] * len(lengths)
        got = arena.receive_datagrams(self.sock, at, stride, count, lengths, self.cuts)
        if got < 0 and got != -EAGAIN:
            if self.local:
                self.forget()
                return -EAGAIN
            return self.lost()
        if got and got > 0 and lengths[got - 1] == len(GREETING) and _is_greeting(arena, at + (got - 1) * stride):
            got -= 1
        return got or -EAGAIN

    def _first(self, arena: Arena, at: int, stride: int, lengths: list[int]) -> int:
        """A datagram of somebody who is not known yet."""
        try:
            got, _, flags, address = self.sock.recvmsg_into([arena.view[at : at + stride]])
        except OSError as error:
            return -(error.errno or errno.EIO)
        if flags & socket.MSG_TRUNC:
            got = -errno.EMSGSIZE
        if address and not self.given:
            self.meet(address)
        lengths[0] = got
        return -EAGAIN if got == len(GREETING) and _is_greeting(arena, at) else 1

    def transmit(self, arena: Arena, at: int, length: int) -> int:
        """See `Link`."""
        if not self.known:
            return -errno.ENOTCONN
        return SocketLink.transmit(self, arena, at, length)

    def room(self) -> bool:
        """See `Link`."""
        if not self.known:
            self.full = True
            return False
        # Cython gives methods that a .pxd declares no cell for super().
        return SocketLink.room(self)

    def lost(self) -> int:
        """The guest's socket is gone; ours stays, for the next, unless it is one of a pair."""
        if self.local and self.fd >= 0:
            self.forget()
            return -EAGAIN
        self.one_off = True
        return SocketLink.lost(self)

    def close(self) -> None:
        """See `Link`."""
        if self.timer is not None:
            self.timer.cancel()
        was_open = self.fd >= 0 or self.sock is not None
        ours = was_open and bool(self.local) and identity(self.local) == self.file
        super().close()
        if ours:
            with contextlib.suppress(OSError):
                os.unlink(self.local)


def _is_greeting(arena: Arena, at: int) -> bool:
    return arena.copy(at, len(GREETING)) == GREETING


def _place(path: Any) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    # A file's number is given to the next one: the time of its making tells them apart.
    return status.st_dev, status.st_ino, status.st_ctime_ns
