"""The interpreted twin of `fast`: the same `Arena`, made of a bytearray and the standard library's calls.

An arena is one block of memory with the calls that fill and drain it. All positions and lengths are bytes. Sockets
are given as `socket.socket`, other descriptors as numbers; all must be non-blocking. See the package for the rule of
results.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

__all__ = ["Arena", "checksum"]

SO_PEEK_OFF = 42
SO_MEMINFO = 55
UDP_SEGMENT = 103
UDP_GRO = 104
SOL_UDP = 17

_MEMINFO = struct.Struct("=9I")
_SNDBUF, _WMEM_QUEUED = 3, 5
_GSO_SIZE = struct.Struct("=H")
_GRO_SIZE = struct.Struct("=i")
_CONTROL_SPACE = socket.CMSG_SPACE(4)

EMSGSIZE = errno.EMSGSIZE
SCRATCH = 1 << 18
"""Bytes a peek may pass over."""
MAX_BATCH = 64
"""Datagrams in one call."""


def checksum(data: bytes | bytearray | memoryview, initial: int = 0) -> int:
    """Ones' complement sum of big-endian 16-bit words plus `initial`, folded to 16 bits, not inverted (RFC 1071).

    2**16 is 1 modulo 65535, so the whole buffer read as one number has the same remainder as the sum of its words.
    A sum that is not zero never folds to zero in ones' complement arithmetic: the remainder 0 stands for 65535 then.
    """
    value = int.from_bytes(data, "big")
    if len(data) & 1:
        value <<= 8
    value += initial
    return value % 65535 or (65535 if value else 0)


class Arena:
    """`size` bytes of memory; `view` is a writable memoryview of all of it, valid as long as the arena."""

    __slots__ = ("_discards", "gso_size", "size", "view")

    def __init__(self, size: int) -> None:
        self.size = size
        self.view = memoryview(bytearray(size))
        self.gso_size = 0
        """Segment size in bytes of the datagram train that `receive_datagrams` read last; 0 when it was one datagram.
        """
        self._discards = memoryview(bytearray(SCRATCH))

    def _check(self, at: int, length: int) -> None:
        if at < 0 or length < 0 or at + length > self.size:
            raise ValueError(f"{length} bytes at {at} are outside an arena of {self.size}")

    def _check_slots(self, at: int, stride: int, count: int, most: int) -> None:
        if stride <= 0 or count < 1 or count > most or stride > self.size // count:
            raise ValueError(f"bad slots: {count} of {stride} bytes, {most} at most")
        self._check(at, stride * count)

    def copy(self, at: int, length: int) -> bytes:
        """The `length` bytes at `at`."""
        self._check(at, length)
        return bytes(self.view[at : at + length])

    def move(self, to: int, at: int, length: int) -> None:
        """Move `length` bytes from `at` to `to`; the two may overlap."""
        self._check(to, length)
        self._check(at, length)
        self.view[to : to + length] = self.view[at : at + length]

    def read(self, fd: int, at: int, length: int) -> int:
        """One read(2): one frame of a TAP device."""
        self._check(at, length)
        try:
            return os.readv(fd, [self.view[at : at + length]])
        except OSError as error:
            return -(error.errno or errno.EIO)

    def read_frames(self, fd: int, at: int, stride: int, count: int, lengths: list[int]) -> int:
        """Read up to `count` frames into slots `stride` bytes apart from `at`; their lengths go to `lengths`.

        Returns the number read, or `-errno` when the first read failed.
        """
        self._check_slots(at, stride, count, len(lengths))
        for index in range(count):
            got = self.read(fd, at + index * stride, stride)
            if got <= 0:
                return index if index or got == 0 else got
            lengths[index] = got
        return count

    def write(self, fd: int, at: int, length: int) -> int:
        """One write(2): one frame to a TAP device."""
        self._check(at, length)
        try:
            return os.write(fd, self.view[at : at + length])
        except OSError as error:
            return -(error.errno or errno.EIO)

    def send(self, sock: socket.socket, at: int, length: int) -> int:
        """send(2) on a connected socket, never raising SIGPIPE."""
        self._check(at, length)
        try:
            return sock.send(self.view[at : at + length], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            return -(error.errno or errno.EIO)

    def send_pieces(self, sock: socket.socket, pieces: list[int], count: int) -> int:
        """sendmsg(2) of `count` pieces, at most 64, on a connected stream; `pieces` holds position and length of each
        in turn. The bytes sent, or `-errno`.
        """
        if not 0 < count <= min(MAX_BATCH, len(pieces) // 2):
            raise ValueError("bad count")
        parts = []
        for index in range(count):
            at, length = pieces[2 * index], pieces[2 * index + 1]
            self._check(at, length)
            parts.append(self.view[at : at + length])
        try:
            return sock.sendmsg(parts, (), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            return -(error.errno or errno.EIO)

    def peek(self, sock: socket.socket, at: int, length: int, skip: int) -> int:
        """Look at up to `length` bytes of a stream without consuming them.

        `skip` is -1 when the kernel keeps the peek offset (SO_PEEK_OFF, socket(7)); else the number of bytes to pass
        over first, which are read into scratch memory (at most the arena's scratch of 256 KiB; more gives -EMSGSIZE).
        """
        self._check(at, length)
        try:
            if skip <= 0:
                return sock.recv_into(self.view[at : at + length], length, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            if skip > len(self._discards):
                return -EMSGSIZE
            got = sock.recvmsg_into(
                [self._discards[:skip], self.view[at : at + length]], 0, socket.MSG_PEEK | socket.MSG_DONTWAIT
            )[0]
        except OSError as error:
            return -(error.errno or errno.EIO)
        if got == 0:
            return 0
        return got - skip if got > skip else -errno.EAGAIN

    def discard(self, sock: socket.socket, count: int) -> int:
        """Consume `count` bytes at the head of a stream; with TCP nothing is copied (MSG_TRUNC, tcp(7))."""
        done = 0
        try:
            while done < count:
                step = min(count - done, len(self._discards))
                got = sock.recv_into(self._discards, step, socket.MSG_TRUNC | socket.MSG_DONTWAIT)
                if got == 0:
                    break
                done += got
        except OSError as error:
            return done or -(error.errno or errno.EIO)
        return done

    def set_peek_offset(self, sock: socket.socket, offset: int) -> int:
        """SO_PEEK_OFF; 0 or -errno."""
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, offset)
        except OSError as error:
            return -(error.errno or errno.EIO)
        return 0

    def send_space(self, sock: socket.socket) -> int:
        """Bytes the send buffer still takes, in the kernel's own accounting (SO_MEMINFO); may be negative."""
        try:
            info = _MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMINFO.size))
        except (OSError, struct.error):
            return 0
        return int(info[_SNDBUF]) - int(info[_WMEM_QUEUED])

    def send_datagrams(self, sock: socket.socket, pieces: list[int], count: int, gso_size: int) -> int:
        """Send `count` datagrams of a connected socket; `pieces` holds position and length of each in turn.

        With `gso_size` above 0 the pieces are joined and the kernel cuts them to that size again (UDP_SEGMENT, udp(7)).
        Returns the number of pieces sent, or `-errno` when the first failed.
        """
        parts = []
        for index in range(count):
            at, length = pieces[2 * index], pieces[2 * index + 1]
            self._check(at, length)
            parts.append(self.view[at : at + length])
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        sent = 0
        try:
            if gso_size:
                sock.sendmsg(parts, [(SOL_UDP, UDP_SEGMENT, _GSO_SIZE.pack(gso_size))], flags)
                return count
            for part in parts:
                sock.send(part, flags)
                sent += 1
        except OSError as error:
            return sent or -(error.errno or errno.EIO)
        return sent

    def receive_datagram(self, sock: socket.socket, at: int, length: int) -> int:
        """One datagram, or one train of equal datagrams (UDP_GRO): `gso_size` says the cut. Truncation gives
        -EMSGSIZE.
        """
        self._check(at, length)
        self.gso_size = 0
        try:
            got, ancillary, flags, _ = sock.recvmsg_into(
                [self.view[at : at + length]], _CONTROL_SPACE, socket.MSG_DONTWAIT
            )
        except OSError as error:
            return -(error.errno or errno.EIO)
        for level, kind, data in ancillary:
            if level == SOL_UDP and kind == UDP_GRO:
                self.gso_size = _GRO_SIZE.unpack(data[:4])[0]
        if flags & socket.MSG_TRUNC:
            return -EMSGSIZE
        return got

    def receive_datagrams(
        self, sock: socket.socket, at: int, stride: int, count: int, lengths: list[int], cuts: list[int]
    ) -> int:
        """Up to `count` datagrams or trains into slots `stride` bytes apart (recvmmsg(2)).

        `lengths[i]` is the length of slot i (-EMSGSIZE: it did not fit and is lost), `cuts[i]` its segment size or 0.
        Returns the number of slots filled, or `-errno` when the first call failed.
        """
        self._check_slots(at, stride, count, min(len(lengths), len(cuts), MAX_BATCH))
        for index in range(count):
            got = self.receive_datagram(sock, at + index * stride, stride)
            if got < 0 and got != -EMSGSIZE:
                return index or got
            lengths[index] = got
            cuts[index] = self.gso_size
        return count
