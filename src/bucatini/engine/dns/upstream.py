"""One question to one resolver, by a UDP socket or a TCP connection made for it alone.

A fresh socket per question gives it a source port nobody else can guess and lets the kernel check the source of what
arrives: both sockets are connected (RFC 5452 sections 9.1 and 9.2). ICMP errors come back as errors of the socket.

Does not: judge messages, wait with a limit, or ask again on its own: `exchange` does.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

from bucatini.engine.dns.framing import MAX_MESSAGE, Deframer, frame
from bucatini.host.resolvers import Resolver

__all__ = ["TcpUpstream", "UdpUpstream"]

_CHUNK = 64 * 1024


class UdpUpstream:
    """A datagram to a resolver, and every datagram that comes back from it."""

    reliable = False
    """Whether a wrong answer means a broken resolver; here it may be a forgery and the right one still comes."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        resolver: Resolver,
        message: bytes,
        received: Callable[[bytes], None],
        failed: Callable[[], None],
    ) -> None:
        """Send `message`. Raises OSError when the resolver cannot be asked.

        Later calls `received` with each message and `failed` once, if the kernel reports an error; either may `close`.
        """
        self._loop = loop
        self._message = message
        self._received = received
        self._failed = failed
        self._socket = socket.socket(resolver.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(resolver.sockaddr)
            self.resend()
        except BaseException:
            self._socket.close()
            raise
        loop.add_reader(self._socket, self._readable)

    def resend(self) -> None:
        """Ask again, with the same identifier and port: then a forger's chance does not grow (RFC 5452 section 5).

        Raises OSError as the constructor.
        """
        try:
            self._socket.send(self._message)
        except BlockingIOError:
            pass  # A full send buffer is a lost datagram.

    def close(self) -> None:
        """Forget the question; nothing is called afterwards. May be called again."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def _readable(self) -> None:
        try:
            message = self._socket.recv(MAX_MESSAGE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            self._failed()
            return
        self._received(message)


class TcpUpstream:
    """A connection to a resolver with one query in it, and every message that comes back."""

    reliable = True

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        resolver: Resolver,
        message: bytes,
        received: Callable[[bytes], None],
        failed: Callable[[], None],
    ) -> None:
        """Connect and send `message` of at most 65535 bytes; as `UdpUpstream`, and a closed connection is a failure."""
        self._loop = loop
        self._output = memoryview(frame(message))
        self._input = Deframer()
        self._received = received
        self._failed = failed
        self._socket = socket.socket(resolver.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        result = self._socket.connect_ex(resolver.sockaddr)
        if result not in (0, errno.EINPROGRESS):
            self._socket.close()
            raise OSError(result, os.strerror(result))
        loop.add_writer(self._socket, self._writable)

    def resend(self) -> None:
        """Nothing: TCP does it."""

    def close(self) -> None:
        """Forget the question; nothing is called afterwards. May be called again."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def _writable(self) -> None:
        try:
            # The first send also reports a connect that failed.
            self._output = self._output[self._socket.send(self._output) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._fail()
            return
        if not self._output:
            self._loop.remove_writer(self._socket)
            self._loop.add_reader(self._socket, self._readable)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        self._input.feed(data)
        message = self._input.take()
        if message is not None:
            self._received(message)
        elif not data:
            self._fail()

    def _fail(self) -> None:
        self.close()
        self._failed()
