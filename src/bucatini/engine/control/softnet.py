"""The policy of a running guest, over a connected UNIX stream socket that was inherited (`--control-fd`).

Newline-delimited JSON-RPC 2.0: what is asked and answered is `guard.live_policy`'s, here are only bytes. Who handed the
descriptor over is trusted, there is no asking who it is (`peers` does that for sockets anybody may connect to). It is
validated and duplicated; the number given stays open and its owner's, but non-blocking, which two descriptors share.

Requests are answered in order, one in each turn of the loop, so that neither a flood of them nor one of frames holds up
the other for long. A request counts when its newline has come; what an end of the stream cuts off was none. The end of
the channel, however it comes about, leaves the last policy in force.

Bounds: a line of 1 MiB, what is longer is answered with an error and skipped up to its newline. 4 MiB of answers that
the peer has not read end the channel, `lost` says so; after the peer's end of stream it has 60 s to read them.
"""

from __future__ import annotations

import asyncio
import os
import socket

from bucatini.base.errors import ConfigError
from bucatini.engine.control.server import Method
from bucatini.guard.live_policy import MAX_LINE, LivePolicy
from bucatini.host.descriptors import check_inherited

__all__ = ["MAX_UNSENT", "PolicyChannel", "policy_methods"]

MAX_UNSENT = 4 << 20
"""Bytes of answers that wait for the peer."""
RECEIVE_SIZE = 1 << 16
SEND_SIZE = 1 << 16
LINGER = 60.0
"""Seconds."""

ACCEPTED = "the number of a connected UNIX stream socket is accepted"


def policy_methods(live: LivePolicy) -> dict[str, Method]:
    """The same two methods for `ControlServer`, whose errors about parameters have one code."""
    return {"softnet.policy.get": live.get, "softnet.policy.set": live.set}


class PolicyChannel:
    """Serves `live` on a duplicate of `descriptor`, in `loop`, once started. Raises ConfigError, which names `option`,
    when it is no connected UNIX stream socket.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, descriptor: int, live: LivePolicy, option: str = "--control-fd"
    ) -> None:
        self._loop = loop
        self._live = live
        self._socket = _take(descriptor, option)
        self._task: asyncio.Task[None] | None = None
        self._unsent = bytearray()
        self._has_unsent = asyncio.Event()
        self._is_last = False
        self.requests = 0
        """Lines answered, with an error or not."""
        self.overlong = 0
        """Of them, those too long to be read."""
        self.lost = ""
        """Why the channel ended before its peer ended it; empty while it has not."""

    def start(self) -> None:
        """Begin to serve; the loop need not run yet."""
        self._task = self._loop.create_task(self._serve())
        # Not in the task itself: what is cancelled before its first step runs nothing.
        self._task.add_done_callback(lambda _: self._hang_up())

    @property
    def is_open(self) -> bool:
        """Whether the policy can still be changed through it."""
        return self._socket.fileno() >= 0

    def close(self) -> None:
        """End the channel, at once or, while the loop runs, with its next turns: it still knows the descriptor.
        Idempotent.
        """
        if self._task is not None:
            self._task.cancel()
            if self._loop.is_running():
                return
            if not self._task.done() and not self._loop.is_closed():
                self._loop.run_until_complete(asyncio.gather(self._task, return_exceptions=True))
        self._hang_up()

    async def _serve(self) -> None:
        reader, writer = (self._loop.create_task(each) for each in (self._read(), self._write()))
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                reader.result()
                if not self.lost:
                    self._is_last = True
                    self._has_unsent.set()
                    await asyncio.wait_for(writer, LINGER)
            else:
                writer.result()
        except TimeoutError:
            self.lost = f"answers were not read for {LINGER:.0f} s"
        except OSError as error:
            self.lost = error.strerror or str(error)
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read(self) -> None:
        """Until the end of the stream, or the channel is lost."""
        pending = bytearray()
        skipping = False
        while data := await self._loop.sock_recv(self._socket, RECEIVE_SIZE):
            start = len(pending)
            pending += data
            while (end := pending.find(b"\n", start)) >= 0:
                line = bytes(pending[:end])
                del pending[: end + 1]
                start = 0
                if not skipping:
                    if not self._answer(line):
                        return
                    await asyncio.sleep(0)
                skipping = False
            if len(pending) > MAX_LINE:
                if not self._answer(bytes(pending)):
                    return
                skipping = True
            if skipping:
                pending.clear()
            await asyncio.sleep(0)  # sock_recv does not wait while there are bytes

    def _answer(self, line: bytes) -> bool:
        """Whether there is room for the answer; without, the channel is lost."""
        self.requests += 1
        self.overlong += len(line) > MAX_LINE
        answer = self._live.answer(line)
        if len(self._unsent) + len(answer) >= MAX_UNSENT:
            self.lost = f"more than {MAX_UNSENT} bytes of answers were not read"
            return False
        self._unsent += answer
        self._unsent += b"\n"
        self._has_unsent.set()
        return True

    async def _write(self) -> None:
        """Until nothing more will be said."""
        while not self._is_last:
            await self._has_unsent.wait()
            while self._unsent:
                data = bytes(self._unsent[:SEND_SIZE])
                await self._loop.sock_sendall(self._socket, data)
                del self._unsent[: len(data)]
            self._has_unsent.clear()

    def _hang_up(self) -> None:
        """The peer sees the end even where others hold the same socket."""
        if self._socket.fileno() < 0:
            return
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # gone already
        self._socket.close()
        self._unsent.clear()


def _take(descriptor: int, option: str) -> socket.socket:
    """A socket of our own on the same description."""
    check_inherited(option, descriptor, ACCEPTED)
    duplicate = os.dup(descriptor)
    try:
        sock = socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise ConfigError(f"{option} {descriptor}: it is no socket; {ACCEPTED}") from None
    if reason := _misfit(sock):
        sock.close()
        raise ConfigError(f"{option} {descriptor}: {reason}; {ACCEPTED}")
    sock.setblocking(False)
    return sock


def _misfit(sock: socket.socket) -> str:
    if sock.family != socket.AF_UNIX:
        return "it is no UNIX socket"
    if sock.type != socket.SOCK_STREAM:
        return "it is no stream socket"
    try:
        sock.getpeername()
    except OSError:
        return "it is not connected"
    return ""
