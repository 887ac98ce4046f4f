"""Messages between the engine and the guest's processes, with descriptors (unix(7): SOCK_SEQPACKET, SCM_RIGHTS).

One packet is one message: a byte that says what it is, then its payload. A packet arrives whole or not at all, so
nothing is framed. The end of the other process is the end of the channel.

The engine treats what arrives as half trusted: the command, as root of its namespaces, might find a way into the
processes that send it. Payloads are read with checks, descriptors are looked at before use.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["MAX_DESCRIPTORS", "MAX_PAYLOAD", "Channel", "Message", "Say", "pair"]

MAX_DESCRIPTORS = 64
"""In one message; the kernel's own limit is 253 (SCM_MAX_FD)."""
MAX_PAYLOAD = 4096
"""Bytes; longer ones are cut by the sender."""


class Say:
    """What a message is. Upper case: from the guest's processes to the engine; lower case: from the engine."""

    ERROR = b"E"
    """Set-up failed; payload: one line of text. Nothing follows."""
    NOTE = b"N"
    """Something wished for could not be had; payload: one line of text."""
    INIT = b"I"
    """Descriptor: init's pidfd."""
    TAP = b"T"
    """Descriptor: the TAP, its interface configured; payload: TUN_F_* mask in one byte, then the MAC."""
    READY = b"R"
    """Init waits for GO."""
    STATUS = b"W"
    """The command stopped, continued or ended; payload: wait status, 4 bytes in network order."""
    SOCKETS = b"S"
    """Descriptors: sockets asked for; payload: kind and errno (0: as many as asked), one byte each."""
    GO = b"g"
    """Run the command."""
    SIGNAL = b"k"
    """Send the command the signal in the payload's byte."""
    RESUME = b"c"
    """Continue the command; payload's byte is 1 to make it the terminal's foreground group first."""
    MAKE_SOCKETS = b"s"
    """Payload: kind and count, one byte each."""
    RECONFIGURE = b"r"
    """Payload: see `netchange.py`; descriptor: a channel on which the agent answers one NOTE, of no or many lines."""


class Message(NamedTuple):
    """One message; the receiver owns the descriptors."""

    say: bytes
    payload: bytes
    descriptors: tuple[int, ...]
    lost: bool = False
    """The kernel dropped descriptors: we are at our limit of open files."""


class Channel:
    """One end. Blocking, non-blocking or with a timeout as the socket is set."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def fileno(self) -> int:
        """For poll; -1 once closed."""
        return self._socket.fileno()

    def set_timeout(self, seconds: float | None) -> None:
        """How long `send` and `receive` wait: None for ever, 0 not at all."""
        self._socket.settimeout(seconds)

    def send(self, say: bytes, payload: bytes = b"", descriptors: Sequence[int] = ()) -> None:
        """Send one message. Raises OSError: EPIPE when the other end is gone, EAGAIN when it is behind."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._socket.sendmsg([say + payload[:MAX_PAYLOAD]], rights, socket.MSG_NOSIGNAL)

    def receive(self) -> Message | None:
        """The next message; None when the other end is gone. Raises BlockingIOError or TimeoutError as set."""
        room = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
        try:
            data, rights, flags, _ = self._socket.recvmsg(1 + MAX_PAYLOAD, room, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return None
        descriptors = array.array("i")
        for level, kind, value in rights:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(value[: len(value) - len(value) % descriptors.itemsize])
        if not data:
            for descriptor in descriptors:
                os.close(descriptor)
            return None
        return Message(data[:1], data[1:], tuple(descriptors), bool(flags & socket.MSG_CTRUNC))

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()


def pair() -> tuple[Channel, Channel]:
    """Two connected ends, closed on exec."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), Channel(theirs)
