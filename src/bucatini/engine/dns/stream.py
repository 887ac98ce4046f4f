"""One stream of queries from the guest: DNS over TCP, pipelined, answered in any order (RFC 7766 sections 6.2.1 and 7).

Memory is bounded at every step. The stream is read only while no whole query is buffered, fewer than
`Settings.stream_queries` wait for resolvers and no answer waits for the guest; answers the guest does not take are
kept up to `Settings.stream_output`, then the stream ends. A few queries are handled per turn of the loop, so a stream
full of queries that are answered at once does not hold up the frames.

The guest may close its half: what it asked before is still answered. A stream without a whole query, or whose answers
are not taken, ends after `Settings.stream_idle`.

Does not: decide anything about a message: `Forwarder` does.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from bucatini.engine.dns.framing import Deframer, frame
from bucatini.engine.dns.settings import Counters, Settings

__all__ = ["Ask", "GuestStream"]

Ask = Callable[[bytes, Callable[[bytes], None]], "Callable[[], None] | None"]
"""Message and reply function in; out comes how to cancel it if it waits for resolvers, None if it does not."""

_CHUNK = 16 * 1024
_QUERIES_PER_TURN = 16


class GuestStream:
    """Owns the socket until it is closed, by either side or by a bound."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        settings: Settings,
        counters: Counters,
        ask: Ask,
        closed: Callable[[GuestStream], None],
    ) -> None:
        """`closed` is called once, when the socket has been closed."""
        self._loop = loop
        self._socket = sock
        self._settings = settings
        self._counters = counters
        self._ask = ask
        self._on_closed = closed
        self._input = Deframer()
        self._output = bytearray()
        self._waiting: dict[int, Callable[[], None]] = {}
        self._next = 0
        self._reading = self._writing = self._scheduled = self._ended = False
        self._moved = loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to read."""
        self._socket.setblocking(False)
        self._timer = self._loop.call_later(self._settings.stream_idle, self._check_idle)
        self._listen()

    def close(self) -> None:
        """Close the socket and cancel what waits. May be called again."""
        if self._socket.fileno() < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for cancel in self._waiting.values():
            cancel()
        self._waiting.clear()
        self._on_closed(self)

    def _listen(self) -> None:
        """Read if the bounds allow it, stop reading if not, close when all is done."""
        if self._socket.fileno() < 0:
            return
        if self._ended and not (self._waiting or self._output or self._scheduled):
            self.close()
            return
        wanted = not (self._ended or self._scheduled or self._is_full())
        if wanted and not self._reading:
            self._loop.add_reader(self._socket, self._readable)
        elif self._reading and not wanted:
            self._loop.remove_reader(self._socket)
        self._reading = wanted

    def _is_full(self) -> bool:
        return bool(self._output) or len(self._waiting) >= self._settings.stream_queries

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if data:
            self._input.feed(data)
            self._pump()
        else:
            self._end()

    def _end(self) -> None:
        """The guest has closed: its half, then answers still go out; or both, which a send of nothing tells."""
        self._ended = True
        try:
            self._socket.send(b"")
        except OSError:
            self.close()
        self._listen()

    def _pump(self) -> None:
        """Handle buffered queries: some now, the rest in the next turn or when there is room."""
        self._scheduled = False
        for _ in range(_QUERIES_PER_TURN):
            if self._socket.fileno() < 0 or self._is_full():
                break
            message = self._input.take()
            if message is None:
                break
            self._moved = self._loop.time()
            self._handle(message)
        else:
            self._schedule()
        self._listen()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def _handle(self, message: bytes) -> None:
        number = self._next
        self._next += 1
        cancel = self._ask(message, lambda answer: self._answer(number, answer))
        if cancel is not None:
            self._waiting[number] = cancel

    def _answer(self, number: int, answer: bytes) -> None:
        if self._waiting.pop(number, None) is not None:
            # There is room again; queries that were read before may be buffered.
            self._schedule()
        if self._socket.fileno() < 0:
            return
        self._output += frame(answer)
        if not self._writing:
            self._flush()
        if len(self._output) > self._settings.stream_output:
            self._counters.streams_overflowed += 1
            self.close()

    def _flush(self) -> None:
        try:
            del self._output[: self._socket.send(self._output)]
            self._moved = self._loop.time()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.close()
            return
        if self._output and not self._writing:
            self._loop.add_writer(self._socket, self._flush)
        elif self._writing and not self._output:
            self._loop.remove_writer(self._socket)
            self._schedule()
        self._writing = bool(self._output)

    def _check_idle(self) -> None:
        idle = self._loop.time() - self._moved
        if idle >= self._settings.stream_idle and not (self._waiting and not self._output):
            self._counters.streams_idle += 1
            self.close()
            return
        wait = max(self._settings.stream_idle - idle, self._settings.stream_idle / 10)
        self._timer = self._loop.call_later(wait, self._check_idle)
