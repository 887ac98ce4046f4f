"""A UNIX stream socket at a path, served by tasks of an asyncio loop (unix(7)).

The socket exists, with mode 0600, from construction on, so that a path that cannot be had is an error of the command
line. A file left behind by an engine that is gone is replaced; one that somebody serves is not.

Bounds: 16 connections at a time, further ones are closed at once; 60 s of silence end a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable

from bucatini.base.errors import ConfigError
from bucatini.engine.control.peers import is_welcome

__all__ = ["IDLE", "MAX_STREAMS", "Stream", "UnixService"]

MAX_STREAMS = 16
IDLE = 60.0
"""Seconds a peer may take for a request, or to read an answer."""
REST = 0.5
"""Seconds before the next try when there is no descriptor for a peer."""
RECEIVE_SIZE = 1 << 16
MAX_PATH = 107
"""Bytes of a path, without its closing zero."""


class Stream:
    """One peer. Methods raise OSError when it is gone and TimeoutError when it is silent for too long."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop = loop
        self._socket = sock

    async def receive(self) -> bytes:
        """Some bytes; none at the end of the peer's stream."""
        return await asyncio.wait_for(self._loop.sock_recv(self._socket, RECEIVE_SIZE), IDLE)

    async def send(self, data: bytes) -> None:
        """All of `data`."""
        await asyncio.wait_for(self._loop.sock_sendall(self._socket, data), IDLE)


class UnixService:
    """Calls `talk` with each peer that is welcome, once started. `option` is what errors call the path; they are
    ConfigErrors.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, path: str, talk: Callable[[Stream], Awaitable[None]], option: str
    ) -> None:
        self._loop = loop
        self._path = path
        self._talk = talk
        self._socket = _listen(path, option)
        self._file = os.lstat(path)
        self._tasks: set[asyncio.Task[None]] = set()
        self.refused = 0
        """Peers that were not welcome, or too many."""

    def start(self) -> None:
        """Begin to serve; the loop need not run yet."""
        self._keep(self._loop.create_task(self._accept()))

    def close(self) -> None:
        """End all connections and take the file away, if it is still ours. Idempotent."""
        if self._socket.fileno() < 0:
            return
        for task in self._tasks:
            task.cancel()
        if self._tasks and not self._loop.is_running() and not self._loop.is_closed():
            self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._socket.close()
        with contextlib.suppress(OSError):
            found = os.lstat(self._path)
            if (found.st_dev, found.st_ino) == (self._file.st_dev, self._file.st_ino):
                os.unlink(self._path)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        while True:
            try:
                sock, _ = await self._loop.sock_accept(self._socket)
            except OSError:
                await asyncio.sleep(REST)  # no descriptors
                continue
            sock.setblocking(False)
            # One of the tasks is this one.
            if len(self._tasks) > MAX_STREAMS or not is_welcome(sock):
                self.refused += 1
                sock.close()
                continue
            self._keep(self._loop.create_task(self._serve(sock)))

    async def _serve(self, sock: socket.socket) -> None:
        try:
            await self._talk(Stream(self._loop, sock))
        except OSError:
            pass  # gone or silent, TimeoutError is one too
        finally:
            sock.close()


def _listen(path: str, option: str) -> socket.socket:
    if not path or "\0" in path or len(os.fsencode(path)) > MAX_PATH:
        raise ConfigError(f"{option} {path!r}: a path of 1 to {MAX_PATH} bytes is accepted")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        try:
            _bind(sock, path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path, option)
            _bind(sock, path)
        sock.listen(MAX_STREAMS)
    except OSError as error:
        sock.close()
        raise ConfigError(f"{option} {path!r}: {error.strerror or error}") from None
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket, path: str) -> None:
    before = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(before)


def _remove_stale(path: str, option: str) -> None:
    """Take away a socket that nobody serves. Raises ConfigError for anything else."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise ConfigError(f"{option} {path!r}: there is a file of that name, and it is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        answer = probe.connect_ex(path)
    if answer != errno.ECONNREFUSED:
        raise ConfigError(f"{option} {path!r}: it is in use; another engine may serve it")
    os.unlink(path)
