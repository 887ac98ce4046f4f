"""The interface of a TAP that somebody else has open: a packet socket on it is the other end of that wire (packet(7)).

Firecracker, cloud-hypervisor and crosvm open a TAP by its name, so we cannot. The kernel's side of it is an interface
like any other: what the guest sends arrives there, and what is sent there reaches the guest. With PACKET_VNET_HDR each
frame has a virtio-net header, so superframes and checksums left undone pass in both directions; where the hypervisor's
TAP takes none, the kernel cuts and completes them.

A datagram that the interface's MTU does not hold is sent in fragments (`stack.fragmentation`): unlike a TAP, a packet
socket takes no frame of any size.

The interface needs no address, and should have none: this machine's own stack sees the frames too, and would answer
for itself. Frames that the hypervisor does not fetch are dropped by the interface's queue, as on any network.

Does not: make the interface, or bring it up. Needs CAP_NET_RAW to open.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import select
import socket
import struct

from bucatini.base.errors import ConfigError, HostError
from bucatini.host.netlink import Netlink
from bucatini.host.tap import Offloads
from bucatini.links.base import LinkOwner
from bucatini.native import Arena
from bucatini.stack.fragmentation import fragment
from bucatini.wire.checksum import finish_udp, partial

__all__ = ["OFFLOADS", "PacketLink", "open_packet"]

OFFLOADS = Offloads(uso4=False, uso6=False)
"""Trains of datagrams are taken from kernels of all ages here."""
EPOLLIN = select.EPOLLIN
EAGAIN = errno.EAGAIN
EMSGSIZE = errno.EMSGSIZE
ETHERNET = 14
NEEDS_CSUM = 1
SIOCGIFMTU = 0x8921
ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING, PACKET_VNET_HDR_SZ = 15, 23, 24
LONG_HEADER, SHORT_HEADER = 12, 10
"""Bytes of the header: that of the arena, and what kernels before 6.4 have."""
BUFFER = 4 << 20


def open_packet(interface: str, *, short: bool = False) -> tuple[socket.socket, int, int]:
    """A packet socket on `interface`, the length of its header, and the interface's MTU. `short` forces the header of
    older kernels.

    Raises ConfigError when there is no such interface or it is no TAP, HostError when the kernel refuses.
    """
    _check(interface)
    try:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    except PermissionError:
        raise HostError(f"--tap {interface!r}: needs CAP_NET_RAW, as root or the owner of the namespace has") from None
    try:
        made.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        header = SHORT_HEADER if short else _header_length(made)
        if header == SHORT_HEADER:
            made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with contextlib.suppress(OSError):
                made.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        made.bind((interface, ETH_P_ALL))
        request = struct.pack("16s24x", interface.encode())
        mtu = int(struct.unpack_from("16xi", fcntl.ioctl(made, SIOCGIFMTU, request))[0])
    except OSError as error:
        made.close()
        raise HostError(f"--tap {interface!r}: {error.strerror}") from None
    return made, header, mtu


def _check(interface: str) -> None:
    """On any other interface than a TAP the frames are not one guest's: a network of this host would be served."""
    try:
        index = socket.if_nametoindex(interface)
    except OSError:
        raise ConfigError(f"--tap {interface!r}: must be the name of an interface of this host") from None
    with Netlink() as netlink:
        kind = netlink.kind(index)
    if kind != "tap":
        raise ConfigError(f"--tap {interface!r}: must be the interface of a TAP; this is {kind or 'another kind'}")


def _header_length(sock: socket.socket) -> int:
    try:
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR_SZ, LONG_HEADER)
    except OSError:
        return SHORT_HEADER
    return LONG_HEADER


class PacketLink:
    """`sock` and `length` as `open_packet` gives them; `mtu` is the interface's, in bytes."""

    def __init__(self, name: str, sock: socket.socket, length: int, mtu: int = 1500) -> None:
        self.name = name
        self.sock = sock
        self.mtu = mtu
        self.identification = 0
        """Of the last packet that was sent in fragments."""
        self.shift = LONG_HEADER - length
        """How much later in its slot a frame begins than the header that the stack expects."""
        self.header = LONG_HEADER
        self.positions: list[int] | None = None
        self.more = False
        self.cuts: list[int] = []
        self.owner: LinkOwner | None = None

    def start(self, owner: LinkOwner) -> None:
        """See `Link`."""
        self.owner = owner
        owner.reactor.watch(self.sock.fileno(), owner.frames_ready, EPOLLIN)

    def receive(self, arena: Arena, at: int, stride: int, count: int, lengths: list[int]) -> int:
        """See `Link`."""
        if len(self.cuts) < len(lengths):
            self.cuts = [0] * len(lengths)
        shift = self.shift
        # Slots are read into from where frames of a short header begin: the last one ends in the next slot's room.
        got = arena.receive_datagrams(self.sock, at + shift, stride, count, lengths, self.cuts)
        if got == -errno.ENETDOWN:
            return -EAGAIN if _exists(self.sock) else 0
        if shift:
            for index in range(max(got, 0)):
                arena.move(at + index * stride, at + index * stride + shift, SHORT_HEADER)
                lengths[index] += shift if lengths[index] > 0 else 0
        return got

    def done(self) -> None:
        """See `Link`."""

    def transmit(self, arena: Arena, at: int, length: int) -> int:
        """See `Link`."""
        shift = self.shift
        if shift:
            arena.move(at + shift, at, SHORT_HEADER)
        done = arena.send(self.sock, at + shift, length - shift)
        if done == -EMSGSIZE:
            if shift:
                arena.move(at, at + shift, SHORT_HEADER)
            return self._in_fragments(arena.copy(at, length))
        return done

    def _in_fragments(self, frame: bytes) -> int:
        """Send a frame that is too long as several, its checksum complete. Bytes sent, or `-errno`."""
        if frame[1]:
            return -EMSGSIZE  # a superframe: its segments do not fit either
        self.identification = self.identification + 1 & 0xFFFF
        ethernet = frame[LONG_HEADER : LONG_HEADER + ETHERNET]
        packet = _completed(frame)
        for piece in fragment(packet, self.mtu, self.identification):
            try:
                self.sock.send(bytes(LONG_HEADER - self.shift) + ethernet + piece)
            except OSError as error:
                return -(error.errno or errno.EIO)
        return len(frame)

    def room(self) -> bool:
        """See `Link`. The interface drops what it cannot queue, and nobody says when it could again."""
        return True

    def flush(self) -> None:
        """See `Link`."""

    def close(self) -> None:
        """See `Link`."""
        if self.sock.fileno() >= 0:
            if self.owner is not None:
                self.owner.reactor.unwatch(self.sock.fileno())
            self.sock.close()


def _completed(frame: bytes) -> bytes:
    """The IP packet of a frame, with the checksum that its virtio-net header says is to be done."""
    packet = bytearray(frame[LONG_HEADER + ETHERNET :])
    if frame[0] & NEEDS_CSUM:
        start = int.from_bytes(frame[6:8], "little") - ETHERNET
        field = start + int.from_bytes(frame[8:10], "little")
        packet[field : field + 2] = finish_udp(partial(packet[start:])).to_bytes(2, "big")
    return bytes(packet)


def _exists(sock: socket.socket) -> bool:
    """Whether the interface is only down, and not gone."""
    return bool(sock.getsockname()[0])
