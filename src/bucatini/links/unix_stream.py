"""Frames on a UNIX stream socket, each behind its length: 4 bytes, network order, Ethernet without FCS (QEMU's stream
netdev; passt(1); libkrun's unixstream).

One read takes whatever is there, many frames at once; they are handed out where they lie, nothing is copied. Length
words and frames may be cut anywhere: what is incomplete is moved to the front and goes on with the next read. A length
below 14 or above 65549 cannot be right, and behind it nothing can be found again: the connection is closed.
"""

from __future__ import annotations

import errno
import socket

from bucatini.links.listening import Door
from bucatini.links.socket_link import SocketLink
from bucatini.native import Arena
from bucatini.wire.octets import load32

__all__ = ["UnixStreamLink"]

PREFIX = 4
SHORTEST = 14
LONGEST = 65535 + 14
"""The largest IPv4 packet: guests that leave segmentation to us send nothing longer."""
EAGAIN = errno.EAGAIN
EINTR = errno.EINTR


class UnixStreamLink(SocketLink):
    """See `SocketLink`. The front of the arena, all slots together, is the buffer that is read into."""

    def __init__(
        self, name: str, door: Door | None = None, sock: socket.socket | None = None, *, one_off: bool = False
    ) -> None:
        super().__init__(name, door, sock, True, one_off)
        self.begin = 0
        self.end = 0
        """Where in the arena bytes lie that were read and not handed out."""

    def join(self, sock: socket.socket) -> None:
        """See `SocketLink`. Half a frame of an earlier connection is forgotten."""
        self.begin = self.end = 0
        super().join(sock)

    def receive(self, arena: Arena, at: int, stride: int, count: int, lengths: list[int]) -> int:
        """See `Link`. `count` is not kept to: what was read is handed out, up to the size of `lengths`."""
        if self.fd < 0:
            return -EAGAIN
        if not self.more:
            got = self._read(arena, at, stride * len(lengths))
            if got <= 0:
                return got
        if self.positions is None:
            self.positions = [0] * len(lengths)
        return self._hand_out(arena.view, lengths)

    def _read(self, arena: Arena, at: int, size: int) -> int:
        """Fill the buffer behind what is left of a frame."""
        left = self.end - self.begin
        if left > 0 and self.begin != at:
            arena.move(at, self.begin, left)
        self.begin = at
        self.end = at + left
        got = arena.read(self.fd, self.end, size - left)
        if got > 0:
            self.end += got
        elif got == 0 or got not in (-EAGAIN, -EINTR):
            return self.lost()
        return got

    def _hand_out(self, view: memoryview, lengths: list[int]) -> int:
        """Find the complete frames. How many; 0 is -EAGAIN."""
        positions = self.positions
        assert positions is not None
        begin, end = self.begin, self.end
        found = 0
        most = len(lengths)
        self.more = False
        while end - begin >= PREFIX:
            length = load32(view, begin)
            if length < SHORTEST or length > LONGEST:
                self.begin = begin
                if found:
                    self.more = True  # then it is the first
                    return found
                assert self.owner is not None
                self.owner.say(f"{self.name}: a frame of {length} bytes cannot be, closing")
                return self.lost()
            if end - begin - PREFIX < length:
                break
            if found == most:
                self.more = True
                break
            positions[found] = begin + PREFIX
            lengths[found] = length
            found += 1
            begin += PREFIX + length
        self.begin = begin
        return found or -EAGAIN
