"""UNIX sockets that one guest at a time connects to (unix(7)).

`listen_at` binds a path: a file that nobody listens on any more is what a killed engine left, and is taken over; a path
in use is an error. `Door` accepts: the first client is the guest, whoever comes while it is there is closed at once,
with a line that names its process, and the guest hears nothing of it.

Does not: check who connects; the path's permissions do (0600 where we make the file).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import struct
from collections.abc import Callable

from bucatini.base.errors import ConfigError, HostError
from bucatini.links.base import LinkOwner

__all__ = ["Door", "identity", "listen_at", "peer_process"]

EPOLLIN = select.EPOLLIN
BACKLOG = 8
MAX_PATH = 107
"""Bytes of a path: sun_path less its NUL (unix(7))."""
_CREDENTIALS = struct.Struct("3i")


def listen_at(path: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A non-blocking socket of type `kind` bound to `path`, listening unless it is one for datagrams.

    Raises ConfigError for a path that cannot be one, HostError when somebody uses it or the kernel refuses.
    """
    if not 0 < len(os.fsencode(path)) <= MAX_PATH or "\0" in path:
        raise ConfigError(f"socket {path!r}: must be a path of 1 to {MAX_PATH} bytes")
    made = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        _take_over(path)
        before = os.umask(0o177)
        try:
            made.bind(path)
        finally:
            os.umask(before)
        if kind != socket.SOCK_DGRAM:
            made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise HostError(f"cannot listen on {path!r}: {_why(error)}") from None
    except BaseException:
        made.close()
        raise
    return made


def _take_over(path: str) -> None:
    """Remove a socket's file that nobody answers at. Raises OSError (EADDRINUSE) when somebody does.

    Asked with a datagram socket: where a stream is listened for, that is an error at once, and nobody was connected to.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
        found = probe.connect_ex(path)
    if found in (0, errno.EAGAIN, errno.EPERM, errno.EPROTOTYPE):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    if found == errno.ECONNREFUSED:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "somebody listens there already"
    if error.errno == errno.EEXIST:
        return "a file that is no socket is in the way"
    if error.errno == errno.EACCES:
        return f"Permission denied to user {os.geteuid()}, who makes it"
    return error.strerror or str(error)


def peer_process(sock: socket.socket) -> int:
    """The process at the other end when it connected (SO_PEERCRED); 0 when the kernel does not tell."""
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return 0
    return int(_CREDENTIALS.unpack(data)[0])


class Door:
    """Accepts clients of the listening socket `sock` at `path`; `admit` gets each that may come in."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        self.path = path
        self.taken = False
        """Whether a guest is inside; set by whoever owns the door."""
        self._sock = sock
        self._file = identity(path)
        self._guest: socket.socket | None = None
        self._owner: LinkOwner | None = None
        self._admit: Callable[[socket.socket], None] | None = None
        self._lost: Callable[[], object] | None = None

    def open(self, owner: LinkOwner, admit: Callable[[socket.socket], None], lost: Callable[[], object]) -> None:
        """Begin to accept. `lost` is called when another comes and the guest inside has hung up already."""
        self._owner, self._admit, self._lost = owner, admit, lost
        owner.reactor.watch(self._sock.fileno(), self._ready, EPOLLIN)

    def _ready(self, descriptor: int, events: int, now: float) -> None:
        try:
            client, _ = self._sock.accept()
        except OSError:
            return
        assert self._owner is not None
        assert self._admit is not None
        assert self._lost is not None
        if self.taken and _hung_up(self._guest):
            self._lost()
        if self.taken or self._sock.fileno() < 0:
            self._owner.say(f"{self.path}: refused process {peer_process(client)}: a guest is connected already")
            client.close()
            return
        client.setblocking(False)
        self.taken = True
        self._guest = client
        self._admit(client)

    def close(self) -> None:
        """Stop listening; remove the file if it is still the one that was made. Idempotent."""
        if self._sock.fileno() < 0:
            return
        if self._owner is not None:
            self._owner.reactor.unwatch(self._sock.fileno())
        self._sock.close()
        if self._file is not None and identity(self.path) == self._file:
            with contextlib.suppress(OSError):
                os.unlink(self.path)


def _hung_up(sock: socket.socket | None) -> bool:
    """Whether the far end is closed, though what it sent before may not have been read."""
    if sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP | select.POLLHUP)
    return bool(poll.poll(0))


def identity(path: str) -> tuple[int, int] | None:
    """Device and number of the file at `path`; None where there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
