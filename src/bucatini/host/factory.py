"""Sockets that live in the guest's network namespace, made by the agent there and sent to the engine (SCM_RIGHTS).

A socket belongs to the namespace of the process that created it, for ever; the engine's own never changes. Both ends
stand here: `make` for the agent, `SocketFactory` for the engine. The engine is the owner of the guest's user namespace,
so it may bind such a socket to any port and set any option on it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from typing import Any, NamedTuple

from bucatini.base.errors import HostError
from bucatini.host.channel import MAX_DESCRIPTORS, Channel, Message, Say

__all__ = ["KINDS", "MAX_COUNT", "Batch", "SocketFactory", "make"]

NETLINK_SOCK_DIAG = 4

KINDS = {
    "tcp4": (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "tcp6": (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp4": (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "udp6": (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "diag": (socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG),
}
"""Family, type and protocol; `diag` is what `port_scan` asks for the namespace's bound ports."""
MAX_COUNT = MAX_DESCRIPTORS
"""Sockets in one request."""

_NAMES = tuple(KINDS)
_REQUEST = struct.Struct("BB")  # position in KINDS, count
_TIMEOUT = 2.0  # seconds `create` waits for an answer that takes a fraction of a millisecond


class Batch(NamedTuple):
    """An answer: `sockets` are non-blocking and the receiver's own; fewer than asked (even none) with the `reason`."""

    kind: str
    sockets: list[socket.socket]
    reason: str = ""


class SocketFactory:
    """The engine's end. Requests are answered in order; never mix `create` with an unanswered `request`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def fileno(self) -> int:
        """Readable when `take` has something; for a poll set."""
        return self._channel.fileno()

    def request(self, kind: str, count: int) -> None:
        """Ask for `count` (1 to 64) sockets of a kind in `KINDS`. Raises HostError when the agent is gone or behind."""
        try:
            self._channel.send(Say.MAKE_SOCKETS, _REQUEST.pack(_NAMES.index(kind), count))
        except OSError as error:
            raise HostError(f"cannot ask for sockets in the guest: {error.strerror}") from None

    def take(self) -> Batch | None:
        """The answer to the oldest request; None when there is none yet. Raises HostError when the agent is gone."""
        try:
            message = self._channel.receive()
        except (BlockingIOError, TimeoutError):
            return None
        if message is None:
            raise HostError("the guest's agent is gone")
        return _read_batch(message)

    def create(self, kind: str, count: int) -> list[socket.socket]:
        """Ask and wait, 2 seconds at most. Raises HostError when fewer than `count` came."""
        self._channel.set_timeout(_TIMEOUT)
        try:
            self.request(kind, count)
            batch = self.take()
        finally:
            self._channel.set_timeout(0)
        if batch is None or len(batch.sockets) < count:
            for made in batch.sockets if batch else ():
                made.close()
            reason = batch.reason if batch else "no answer"
            raise HostError(f"cannot make {count} {kind} sockets in the guest: {reason}")
        return batch.sockets


def make(channel: Channel, request: Message) -> None:
    """The agent's end: answer one MAKE_SOCKETS. Raises OSError only when the engine is gone."""
    position, count = _REQUEST.unpack(request.payload)
    family, kind, protocol = KINDS[_NAMES[position]]
    made: list[socket.socket] = []
    reason = 0
    try:
        made.extend(socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol) for _ in range(min(count, MAX_COUNT)))
    except OSError as error:
        reason = error.errno or 0
    answer = bytes([position, reason])
    try:
        channel.send(Say.SOCKETS, answer, [each.fileno() for each in made])
    except BrokenPipeError:
        raise
    except OSError as error:  # ETOOMANYREFS: the user's limit of descriptors in flight
        channel.send(Say.SOCKETS, bytes([position, error.errno or 0]))
    finally:
        for each in made:
            each.close()


def _read_batch(message: Message) -> Batch:
    """Wrap the descriptors, after looking whether each is what was asked for: the sender is only half trusted."""
    wrapped: list[socket.socket] = []
    remaining = list(message.descriptors)
    try:
        if message.say != Say.SOCKETS or len(message.payload) != _REQUEST.size:
            raise HostError("the guest's agent answered something else than sockets")
        position, reason = _REQUEST.unpack(message.payload)
        if position >= len(_NAMES):
            raise HostError("the guest's agent answered an unknown kind of socket")
        name = _NAMES[position]
        while remaining:
            wrapped.append(_wrap(remaining.pop(0), name))
        if message.lost and not reason:
            reason = errno.EMFILE
        return Batch(name, wrapped, os.strerror(reason) if reason else "")
    except BaseException:
        for each in wrapped:
            each.close()
        for descriptor in remaining:
            os.close(descriptor)
        raise


_plain: Any = socket.SocketType
_family_of, _type_of = _plain.family.__get__, _plain.type.__get__
"""The numbers themselves: `socket.socket` looks up a member of an enumeration for each, which costs as much as making
the object, and there is one for each spliced connection."""


def _wrap(descriptor: int, name: str) -> socket.socket:
    """A socket object on `descriptor`, of exactly the kind `name` says; closes the descriptor otherwise."""
    try:
        made = socket.socket(fileno=descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise HostError("the guest's agent sent a descriptor that is no socket") from None
    if (_family_of(made), _type_of(made), made.proto) != KINDS[name]:
        made.close()
        raise HostError(f"the guest's agent sent another socket than {name}")
    made.setblocking(False)
    return made
