"""A virtual machine whose rings we serve in its own memory: frames in, frames out, one copy.

Three kinds of descriptors are watched: the control connection, where messages change the device; the kick of the ring
from the guest, when we have said that we wait for it; the kick of the ring to the guest, while somebody waits for its
buffers. Towards the guest a TCP superframe is peeked from the host's socket straight into the guest's buffers (`pull`);
from the guest it is sent to the socket from where it lies, and the chain is given back after that (`done`).

A frame needs no system call; the guest is told by one eventfd write at the end of a turn, if its driver asked for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket

from bucatini.base.errors import PeerError
from bucatini.base.reasons import DropReason
from bucatini.host.tap import Offloads
from bucatini.links.base import LinkOwner
from bucatini.links.listening import Door, peer_process
from bucatini.links.vhost_user.device import FROM_GUEST, TO_GUEST, Device
from bucatini.links.vhost_user.messages import HEADER_LENGTH, MAX_DESCRIPTORS, Header, parse_header
from bucatini.native import Arena, Ring

__all__ = ["NO_OFFLOADS", "VhostUserLink"]

EPOLLIN = select.EPOLLIN
EAGAIN = errno.EAGAIN
ENOTCONN = errno.ENOTCONN
NO_OFFLOADS = Offloads(False, False, False, False, False)
"""Until a driver has said what it can."""
ENOUGH = 45
"""Buffers of the smallest kind that hold a superframe: 65,535 bytes and headers in pieces of 1,526."""
LARGEST = 65535 + 128
"""Bytes of a superframe."""
CREDENTIALS = socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)
MAX_MESSAGES = 64
"""Handled in one go; the rest comes with the next turn."""


class VhostUserLink:
    """`door` accepts the hypervisor. `borrow` allows payload to stay in the guest's memory while it is judged."""

    def __init__(self, name: str, door: Door, *, one_off: bool = False) -> None:
        self.name = name
        self.door = door
        self.header = 12
        self.positions: list[int] | None = None
        self.more = False
        self.borrow = True
        self.one_off = one_off
        self.owner: LinkOwner | None = None
        self.control: socket.socket | None = None
        self.drops = [0] * len(DropReason)
        self.device = Device(self.drops)
        self.outward: Ring | None = None
        self.inward: Ring | None = None
        """The rings to the guest and from it, while they work."""
        self.kicks = [-1, -1]
        """Descriptors that are watched, by ring; -1: none."""
        self.calls = [-1, -1]
        """Descriptors by which the guest is told, by ring."""
        self.joined = False
        """The owner was told that the guest's driver works."""
        self.waits = False
        """For buffers: somebody was told that there is no room."""
        self._offloads = NO_OFFLOADS
        self._header: Header | None = None
        self._body = b""
        self._descriptors: list[int] = []

    def start(self, owner: LinkOwner) -> None:
        """See `Link`."""
        self.owner = owner
        self.drops = owner.drops
        self._new_device()
        self.door.open(owner, self.join, self._lost)

    def join(self, sock: socket.socket) -> None:
        """A hypervisor is there."""
        assert self.owner is not None
        self.control = sock
        self.owner.reactor.watch(sock.fileno(), self._message, EPOLLIN)
        self.owner.say(f"{self.name}: connected, process {peer_process(sock)}")

    # -- messages

    def _message(self, descriptor: int, events: int, now: float) -> None:
        """Handler of the control connection."""
        assert self.owner is not None
        try:
            for _ in range(MAX_MESSAGES):
                if self.control is None or not self._one_message(self.control):
                    break
        except PeerError as error:
            self.owner.say(f"{self.name}: closing: {error}")
            self._lost()
        except OSError:
            self._lost()

    def _one_message(self, control: socket.socket) -> bool:
        """Read and handle one. False when it is not all there yet. Raises OSError and PeerError at its end."""
        try:
            if self._header is None:
                self._read_header(control)
            assert self._header is not None
            while len(self._body) < self._header.size:
                part = control.recv(self._header.size - len(self._body), socket.MSG_DONTWAIT)
                if not part:
                    raise ConnectionResetError
                self._body += part
        except BlockingIOError:
            return False
        header, body, descriptors = self._header, self._body, self._descriptors
        self._header, self._body, self._descriptors = None, b"", []
        self.flush()  # what was given back before is told before rings are stopped or placed anew
        self._unwatch_kicks()
        reply = self.device.handle(header, body, descriptors)
        self.calls = [queue.call for queue in self.device.queues]
        self._watch_kicks()
        if reply is not None:
            control.sendall(reply)
        if self.device.offloads != self._offloads:
            self._offloads = self.device.offloads
            assert self.owner is not None
            self.owner.offloads_changed(self._offloads)
        return True

    def _read_header(self, control: socket.socket) -> None:
        """With the descriptors that come with it. All twelve bytes: a front end sends a message with one call."""
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        data, ancillary, _, _ = control.recvmsg(HEADER_LENGTH, CREDENTIALS, flags)
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                whole = len(content) - len(content) % 4
                self._descriptors += memoryview(content[:whole]).cast("i").tolist()
        if not data:
            raise ConnectionResetError
        header = parse_header(data) if len(data) == HEADER_LENGTH else None
        if header is None:
            raise PeerError("what came is no message of vhost-user")
        self._header = header

    # -- kicks

    def _watch_kicks(self) -> None:
        """Watch what there is now. The rings may hold chains that no kick will tell of: look once."""
        assert self.owner is not None
        reactor = self.owner.reactor
        to_guest, from_guest = self.device.queues
        if from_guest.works and from_guest.kick >= 0:
            self.inward = from_guest.ring
            self.kicks[FROM_GUEST] = from_guest.kick
            reactor.watch(from_guest.kick, self.owner.frames_ready, EPOLLIN)
            _kick(from_guest.kick)
        if to_guest.works and to_guest.kick >= 0:
            self.outward = to_guest.ring
            self.kicks[TO_GUEST] = to_guest.kick
            reactor.watch(to_guest.kick, self._buffers, EPOLLIN)
            if self.waits:
                _kick(to_guest.kick)
            else:
                to_guest.ring.ignore()
            if not self.joined:
                self.joined = True
                self.owner.link_joined()

    def _unwatch_kicks(self) -> None:
        assert self.owner is not None
        for index, descriptor in enumerate(self.kicks):
            if descriptor >= 0:
                self.owner.reactor.unwatch(descriptor)
                self.kicks[index] = -1
        self.outward = self.inward = None

    def _buffers(self, descriptor: int, events: int, now: float) -> None:
        """Handler of the kick that tells of new buffers."""
        _clear(descriptor)
        ring = self.outward
        if ring is None:
            return
        if not self.waits:
            ring.ignore()
        elif self._has_room():
            self.waits = False
            ring.ignore()
            assert self.owner is not None
            self.owner.room_again()
        elif ring.listen() or self._has_room():
            _kick(descriptor)

    # -- frames

    def receive(self, arena: Arena, at: int, stride: int, count: int, lengths: list[int]) -> int:
        """See `Link`. `count` is not kept to: a ring costs nothing to look at."""
        ring = self.inward
        if ring is None:
            self.more = False
            return -EAGAIN
        rests = ring.broken
        got = ring.receive(arena, at, stride, len(lengths), lengths, self.borrow)
        if got == len(lengths):
            self.more = True
            return got
        # All there was: wait for the driver's kick, unless it was busy in between.
        _clear(self.kicks[FROM_GUEST])
        self.more = ring.listen() or ring.count() > 0
        if ring.broken and not rests:
            assert self.owner is not None
            self.owner.say(f"{self.name}: the driver's ring is beyond repair and rests until it is set up anew")
        return got or -EAGAIN

    def done(self) -> None:
        """See `Link`."""
        if self.inward is not None:
            self.inward.finish()

    def pull(self, arena: Arena, sock: socket.socket, headers: int, limit: int, skip: int) -> int:
        """As `Arena.peek`, straight into the guest's buffers, `headers` bytes behind their start; the next frame that
        is transmitted has these bytes behind its headers. -ENOBUFS when there is no buffer.
        """
        ring = self.outward
        return -errno.ENOBUFS if ring is None else ring.peek(arena, sock, headers, limit, skip)

    def transmit(self, arena: Arena, at: int, length: int) -> int:
        """See `Link`."""
        ring = self.outward
        return -ENOTCONN if ring is None else ring.write(arena, at, length)

    def room(self) -> bool:
        """See `Link`."""
        if self._has_room():
            return True
        if not self.waits:
            self.waits = True
            if self.outward is not None and (self.outward.listen() or self._has_room()):
                _kick(self.kicks[TO_GUEST])
        return False

    def _has_room(self) -> bool:
        ring = self.outward
        if ring is None:
            return False
        there = ring.count()
        if not ring.mergeable or there >= ENOUGH:
            return there > 0
        # Few buffers, which may be large ones, or all that this driver ever gives.
        return there >= (ring.size + 1) >> 1 or ring.holds(LARGEST)

    def flush(self) -> None:
        """See `Link`: tell the driver what was given to it and what is done."""
        if self.outward is not None:
            self.outward.notify(self.calls[TO_GUEST])
        if self.inward is not None:
            self.inward.notify(self.calls[FROM_GUEST])

    def _new_device(self) -> None:
        self.device.close()
        self.device = Device(self.drops)

    # -- the end

    def _lost(self) -> None:
        self._leave()
        if self.one_off and self.owner is not None:
            self.owner.link_ended()

    def _leave(self) -> None:
        """The hypervisor is gone: let go of its memory."""
        if self.control is not None and self.owner is not None:
            self.owner.reactor.unwatch(self.control.fileno())
            self._unwatch_kicks()
            self.control.close()
            self.owner.say(f"{self.name}: disconnected")
        self.control = None
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._header, self._body, self._descriptors = None, b"", []
        self._new_device()
        self.joined = False
        self.more = False
        self.door.taken = False

    def close(self) -> None:
        """See `Link`."""
        self._leave()
        self.door.close()


def _kick(descriptor: int) -> None:
    """Write an eventfd, so that whoever watches it looks again."""
    with contextlib.suppress(OSError):
        os.eventfd_write(descriptor, 1)


def _clear(descriptor: int) -> None:
    """Read an eventfd, so that it is readable again only after the next write."""
    with contextlib.suppress(OSError):
        os.eventfd_read(descriptor)
