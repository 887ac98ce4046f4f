"""The interpreted twin of `fast_outbox`: frames on their way to a socket that knows no offloads.

The stack makes superframes with checksums left undone, as for a TAP with offloads. An `Outbox` does here what such a
device does below us: it cuts them to segments (virtio 1.2 section 5.1.6.2) and completes every checksum, then collects
frames so that many leave with one call. With `prefixed` each frame is preceded by its length, 4 bytes in network order,
and all of them are one stream of bytes (QEMU's stream sockets); without, each is one datagram.

```text
buffer:   | sent | head ... frames not sent yet ... tail | room |
```

What `put` has taken is never lost unless `clear` is called: a stream that was cut inside a frame goes on there. A
single large frame that finds the buffer empty is sent from where it lies, without a copy.

Does not: judge frames, which are ours; wait; or know links.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from typing import Any

from bucatini.native.slow import checksum

__all__ = ["MAX_FRAME", "Outbox"]

VNET = 12
NEEDS_CSUM = 1
GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 1, 4, 5
IPV4 = 0x0800
DIRECT = 8192
"""Bytes from which on a frame is sent from where it lies."""
MAX_FRAME = 65536 + 512
"""Bytes: the largest superframe with its headers."""
MAX_BATCH = 64
"""Datagrams in one call."""
FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Outbox:
    """`size` bytes of buffer, at least two of the largest frames."""

    def __init__(self, size: int, prefixed: bool) -> None:
        if size < 2 * MAX_FRAME:
            raise ValueError(f"an outbox of {size} bytes is too small: at least {2 * MAX_FRAME}")
        self.size = size
        self.prefixed = prefixed
        self._buffer = bytearray(size)
        self._head = 0
        self._tail = 0
        self._lengths: deque[int] = deque()

    @property
    def pending(self) -> int:
        """Bytes that wait."""
        return self._tail - self._head

    def clear(self) -> None:
        """Forget what waits: the far end is gone."""
        self._head = self._tail = 0
        self._lengths.clear()

    def put(self, sock: socket.socket, arena: Any, at: int, length: int) -> int:
        """Take the frame of `length` bytes at `at` of `arena`, virtio-net header first, completed and cut in the course
        of it.

        Returns how many frames it became; -EAGAIN when there is no room (nothing was taken), -EINVAL when its header
        contradicts it, or what else the socket said.
        """
        if length < VNET + 14 or length > MAX_FRAME:
            return -errno.EINVAL
        arena._check(at, length)  # noqa: SLF001  the twin of the same check in C
        view = arena.view[at : at + length]
        flags, kind = view[0], view[1]
        if not flags & NEEDS_CSUM:
            return self._add(sock, view[VNET:]) if not kind else -errno.EINVAL
        start = view[6] | view[7] << 8
        field = start + (view[8] | view[9] << 8)
        frame = view[VNET:]
        if field + 2 > len(frame) or start < 34 or field < start:
            return -errno.EINVAL
        if not kind:
            _complete(frame, start, field)
            return self._add(sock, frame)
        return self._cut(sock, frame, kind, view[4] | view[5] << 8, start, field)

    def _cut(self, sock: socket.socket, frame: memoryview, kind: int, size: int, start: int, field: int) -> int:
        """A superframe: headers are repeated before each `size` bytes of payload."""
        tcp = kind in (GSO_TCPV4, GSO_TCPV6)
        if not size or (not tcp and kind != GSO_UDP_L4) or len(frame) < start + (20 if tcp else 8):
            return -errno.EINVAL
        if start < 54 and frame[12] << 8 | frame[13] != IPV4:
            return -errno.EINVAL
        headers = start + ((frame[start + 12] >> 4) * 4 if tcp else 8)
        payload = len(frame) - headers
        if payload <= 0 or headers < start + 8 or field + 2 > headers:
            return -errno.EINVAL
        pieces = (payload + size - 1) // size
        if not self._has_room(pieces * (headers + 4) + payload):
            return -errno.EAGAIN
        sequence = int.from_bytes(frame[start + 4 : start + 8], "big")
        for index in range(pieces):
            part = frame[headers + index * size : headers + (index + 1) * size]
            made = bytearray(frame[:headers])
            made += part
            _set_length(made, start, tcp)
            if tcp:
                made[start + 4 : start + 8] = (sequence + index * size & 0xFFFFFFFF).to_bytes(4, "big")
                if index < pieces - 1:
                    made[start + 13] &= ~0x09
            whole = memoryview(made)
            _seed(whole, start, field, 6 if tcp else 17)
            _complete(whole, start, field)
            self._append(whole)
        return pieces

    def _has_room(self, length: int) -> bool:
        if self.size - self._tail < length and self._head:
            self._buffer[: self.pending] = self._buffer[self._head : self._tail]
            self._head, self._tail = 0, self.pending
        return self.size - self._tail >= length

    def _append(self, frame: memoryview) -> None:
        if self.prefixed:
            self._buffer[self._tail : self._tail + 4] = len(frame).to_bytes(4, "big")
            self._tail += 4
        else:
            self._lengths.append(len(frame))
        self._buffer[self._tail : self._tail + len(frame)] = frame
        self._tail += len(frame)

    def _add(self, sock: socket.socket, frame: memoryview) -> int:
        if not self._has_room(len(frame) + 4):
            return -errno.EAGAIN
        if not self.pending and len(frame) >= DIRECT:
            return self._send_at_once(sock, frame)
        self._append(frame)
        return 1

    def _send_at_once(self, sock: socket.socket, frame: memoryview) -> int:
        """One large frame, with nothing before it; what a full socket leaves of it waits."""
        whole = len(frame).to_bytes(4, "big") + frame if self.prefixed else bytes(frame)
        try:
            done = sock.send(whole, FLAGS)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.EINTR):
                return -(error.errno or errno.EIO)
            done = 0
        if done < len(whole):
            self._buffer[self._tail : self._tail + len(whole) - done] = whole[done:]
            self._tail += len(whole) - done
            if not self.prefixed:
                self._lengths.append(len(whole))
        return 1

    def _send_first(self, sock: socket.socket) -> None:
        """One datagram. One that no buffer of the host's would hold is lost, and not in the way of the next."""
        length = self._lengths[0]
        try:
            sock.send(memoryview(self._buffer)[self._head : self._head + length], FLAGS)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
        self._lengths.popleft()
        self._head += length

    def flush(self, sock: socket.socket) -> int:
        """Send what waits, as far as the socket takes it. Returns the bytes left, or `-errno` when the far end is gone
        (a full socket is no error).
        """
        try:
            while self.pending:
                if self.prefixed:
                    end = self._tail
                    self._head += sock.send(memoryview(self._buffer)[self._head : end], FLAGS)
                else:
                    self._send_first(sock)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.EINTR):
                return -(error.errno or errno.EIO)
        if not self.pending:
            self._head = self._tail = 0
        return self.pending


def _set_length(frame: bytearray, start: int, tcp: bool) -> None:
    """The length fields of IP and UDP, for what `frame` is now. The IPv4 header's own checksum is made anew."""
    if frame[12] << 8 | frame[13] == IPV4:
        frame[16:18] = (len(frame) - 14).to_bytes(2, "big")
        frame[24:26] = bytes(2)
        frame[24:26] = (checksum(frame[14:start]) ^ 0xFFFF).to_bytes(2, "big")
    else:
        frame[18:20] = (len(frame) - 54).to_bytes(2, "big")
    if not tcp:
        frame[start + 4 : start + 6] = (len(frame) - start).to_bytes(2, "big")


def _seed(frame: memoryview, start: int, field: int, protocol: int) -> None:
    """The sum of the pseudo-header, into the checksum field."""
    addresses = frame[26:34] if frame[12] << 8 | frame[13] == IPV4 else frame[22:54]
    frame[field : field + 2] = checksum(addresses, len(frame) - start + protocol).to_bytes(2, "big")


def _complete(frame: memoryview, start: int, field: int) -> None:
    """Add the rest to the sum in the checksum field. A UDP sum of zero is sent as all ones (RFC 768)."""
    total = checksum(frame[start:]) ^ 0xFFFF
    if not total and field - start == 6:
        total = 0xFFFF
    frame[field : field + 2] = total.to_bytes(2, "big")
