"""Which ports are taken in a network namespace: TCP in LISTEN, UDP bound and not connected (sock_diag(7), inet_diag).

A netlink socket asks about the namespace it was made in, so one made by the guest's agent (`factory`, kind `diag`) asks
about the guest's. The kernel filters by state; it writes the first part of an answer while it takes the request and
each further part while the one before is read, so the socket never has to be waited for. A namespace may hold any
number of sockets: `advance` reads a bounded part, and the caller comes back for the rest.

Without inet_diag in the kernel (CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG) `begin` or `advance` raises HostError, and
ports are not forwarded by themselves.

Does not: see addresses, owners, or sockets that are connected; tell of changes.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from typing import NamedTuple

from bucatini.base.errors import HostError
from bucatini.host.factory import NETLINK_SOCK_DIAG

__all__ = ["BoundPorts", "PortScan", "open_scan", "scan"]

PARTS = 8
"""Parts of an answer, 32 KiB each at most, that one `advance` reads: some 2,500 sockets, about a millisecond."""

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBBBI48s")  # family, protocol, extensions, pad, states, socket's identity
_ERROR, _DONE = 2, 3
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_FLAGS = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_LISTEN, _CLOSE = 10, 7  # TCP states; an unconnected UDP socket is CLOSE
_PORT_AT = _HEADER.size + 4  # inet_diag_msg: family, state, timer, retransmissions, then the local port
_RECEIVE_SIZE = 1 << 16
_ABSENT = frozenset((errno.ENOENT, errno.EPROTONOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP, errno.EAFNOSUPPORT))
_QUESTIONS = tuple(
    (protocol, family, 1 << state)
    for protocol, state in ((socket.IPPROTO_TCP, _LISTEN), (socket.IPPROTO_UDP, _CLOSE))
    for family in (socket.AF_INET, socket.AF_INET6)
)


class BoundPorts(NamedTuple):
    """Port numbers, of both families together."""

    tcp: frozenset[int]
    udp: frozenset[int]


class PortScan:
    """One namespace, asked again and again through `sock`, which it owns."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._found: dict[int, set[int]] = {}
        self._question = len(_QUESTIONS)
        self._sequence = 0
        self._begun = False

    def begin(self) -> None:
        """Start anew; an answer under way is left to its end first. Raises HostError."""
        if self._begun:
            return
        self._begun = True
        self._found = {socket.IPPROTO_TCP: set(), socket.IPPROTO_UDP: set()}
        self._question = 0
        self._ask()

    def advance(self) -> BoundPorts | None:
        """Read on, `PARTS` parts at most. The result when it is complete, else None: call again. Raises HostError; the
        scan is over then.
        """
        for _ in range(PARTS):
            try:
                part = self._socket.recv(_RECEIVE_SIZE)
            except OSError as error:
                raise self._failed(error.errno or errno.EIO) from None
            if not self._read(part):
                continue
            self._question += 1
            if self._question == len(_QUESTIONS):
                self._begun = False
                found = self._found
                return BoundPorts(frozenset(found[socket.IPPROTO_TCP]), frozenset(found[socket.IPPROTO_UDP]))
            self._ask()
        return None

    def close(self) -> None:
        """Idempotent."""
        self._begun = False
        self._socket.close()

    def _ask(self) -> None:
        protocol, family, states = _QUESTIONS[self._question]
        self._sequence += 1
        request = _REQUEST.pack(family, protocol, 0, 0, states, bytes(48))
        header = _HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _FLAGS, self._sequence, 0)
        try:
            self._socket.sendto(header + request, (0, 0))
        except OSError as error:
            raise self._failed(error.errno or errno.EIO) from None

    def _read(self, part: bytes) -> bool:
        """Take the ports of one part; whether it was the last of its question."""
        protocol = _QUESTIONS[self._question][0]
        ports = self._found[protocol]
        offset = 0
        while offset + _HEADER.size <= len(part):
            length, kind, _, sequence, _ = _HEADER.unpack_from(part, offset)
            if length < _HEADER.size or offset + length > len(part):
                return False
            if sequence == self._sequence:
                if kind == _DONE:
                    return True
                if kind == _ERROR:
                    number = int.from_bytes(part[offset + 16 : offset + 20], sys.byteorder, signed=True)
                    raise self._failed(-number if number < 0 else errno.EIO)
                if kind == _BY_FAMILY and length >= _PORT_AT + 2:
                    ports.add(part[offset + _PORT_AT] << 8 | part[offset + _PORT_AT + 1])
            offset += (length + 3) & ~3
        return False

    def _failed(self, number: int) -> HostError:
        self._begun = False
        if number in _ABSENT:
            return HostError("this kernel cannot list bound ports (CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG)")
        return HostError(f"cannot list bound ports: {os.strerror(number)}")


def open_scan() -> PortScan:
    """A scan of the namespace the caller is in now. Raises HostError."""
    try:
        return PortScan(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG))
    except OSError as error:
        raise HostError(f"cannot list bound ports: {error.strerror}") from None


def scan(ports: PortScan) -> BoundPorts:
    """One scan from its beginning to its end. Raises HostError."""
    ports.begin()
    while True:
        found = ports.advance()
        if found is not None:
            return found
