"""The forwarder: takes the guest's messages, answers or forwards each, within bounds.

One instance serves one guest. Messages come one by one (`query`, from the UDP path) or in a stream (`serve_stream`, the
far end of a socket pair to which the guest's TCP flow to port 53 is connected); both share all bounds and counters.

A UDP query is forwarded by UDP and a TC in its answer is passed on; a query from a stream is forwarded by TCP, so its
answer is whole. Resolvers come from the host's configuration at the moment of each query.

Does not: import dnspython by itself; `services.dns` does when it first makes a message, which takes 0.15 s. A caller to
whom that matters, or whose process gives up its file system, calls `services.dns.preload` first.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from bucatini.engine.dns.exchange import Exchange, Plan
from bucatini.engine.dns.order import Order
from bucatini.engine.dns.settings import Counters, Settings
from bucatini.engine.dns.stream import GuestStream
from bucatini.host.resolvers import ResolverConfig
from bucatini.services import dns

__all__ = ["Counters", "Forwarder", "Settings"]


class Forwarder:
    """Answers the guest's DNS queries. All methods are called on the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        resolvers: Callable[[], ResolverConfig],
        names: dns.HostNames,
        settings: Settings | None = None,
    ) -> None:
        """`resolvers` gives the host's resolvers of now (`host.resolvers.HostResolvers`); `names` mean the host."""
        self.counters = Counters()
        self._loop = loop
        self._resolvers = resolvers
        self.names = names
        """May be replaced at any time."""
        self._settings = settings or Settings()
        self._exchanges: set[Exchange] = set()
        self._streams: set[GuestStream] = set()
        self._order = Order(self._settings)
        self._closed = False

    @property
    def outstanding(self) -> int:
        """Queries that wait for resolvers now."""
        return len(self._exchanges)

    def query(self, message: bytes, reply: Callable[[bytes], None], limit: int) -> None:
        """Handle a message of the guest that came by UDP. Never raises because of what `message` holds.

        `reply` is called at most once, perhaps before this returns, with an answer of no more than `limit` bytes or
        what the guest's EDNS says it takes, whichever is less, but 512 at least. Dropped messages and a closed
        forwarder give no answer.
        """
        exchange = self._handle(message, lambda query, answer: reply(self._fit(answer, query, limit)), reply, tcp=False)
        if exchange is not None:
            exchange.start()

    def serve_stream(self, sock: socket.socket) -> None:
        """Take over one end of a stream that carries the guest's queries over TCP (RFC 7766), and close it in the end.

        Never raises. Beyond `Settings.streams` the socket is closed at once.
        """
        if self._closed or len(self._streams) >= self._settings.streams:
            self.counters.streams_refused += 1
            sock.close()
            return
        self.counters.streams += 1
        stream = GuestStream(
            self._loop, sock, self._settings, self.counters, self._ask_for_stream, self._streams.discard
        )
        self._streams.add(stream)
        stream.start()

    def close(self) -> None:
        """End all streams and forget all queries; later ones are ignored. May be called again."""
        self._closed = True
        for stream in tuple(self._streams):
            stream.close()
        for exchange in tuple(self._exchanges):
            self._cancel(exchange)

    def _ask_for_stream(self, message: bytes, reply: Callable[[bytes], None]) -> Callable[[], None] | None:
        """Handle a message from a stream: a function that cancels it when it waits for resolvers, else None.

        In that case `reply` is called later, or never if cancelled; otherwise it has been called, or the message
        dropped.
        """
        exchange = self._handle(message, lambda _, answer: reply(answer), reply, tcp=True)
        if exchange is None:
            return None
        # Not started here: an answer may come at once, and the stream must know the query first.
        self._loop.call_soon(self._start, exchange)
        return lambda: self._cancel(exchange)

    def _handle(
        self,
        message: bytes,
        forwarded: Callable[[dns.Query, bytes], None],
        answered: Callable[[bytes], None],
        tcp: bool,
    ) -> Exchange | None:
        """Answer what can be answered now, with `answered`; else an exchange that will call `forwarded`."""
        if self._closed:
            return None
        self.counters.queries += 1
        decision = dns.decide(message, self.names)
        if isinstance(decision, dns.Forward):
            if len(self._exchanges) < self._settings.outstanding:
                return self._exchange(message, decision.query, forwarded, tcp)
            self.counters.overloaded += 1
            answered(self._servfail(message, decision.query, dns.ExtendedError.OTHER, "too many queries are waiting"))
            return None
        setattr(self.counters, decision.reason, getattr(self.counters, decision.reason) + 1)
        if isinstance(decision, dns.Answer):
            answered(decision.message)
        return None

    def _exchange(
        self, message: bytes, query: dns.Query, forwarded: Callable[[dns.Query, bytes], None], tcp: bool
    ) -> Exchange:
        self.counters.forwarded += 1

        def done(exchange: Exchange, response: bytes | None) -> None:
            self._exchanges.discard(exchange)
            if response is None:
                self.counters.failed += 1
                response = self._no_answer(exchange)
            else:
                self.counters.answered += 1
            forwarded(query, response)

        exchange = Exchange(self._loop, message, query, self._plan(tcp), self.counters, done, self._order)
        self._exchanges.add(exchange)
        return exchange

    def _start(self, exchange: Exchange) -> None:
        if exchange in self._exchanges:
            exchange.start()

    def _cancel(self, exchange: Exchange) -> None:
        if exchange in self._exchanges:
            self._exchanges.discard(exchange)
            self.counters.cancelled += 1
            exchange.cancel()

    def _plan(self, tcp: bool) -> Plan:
        config = self._resolvers()
        resolvers = self._order.resolvers(config, self._loop.time())
        per_try = config.timeout or self._settings.per_try
        return Plan(resolvers, config.attempts, per_try, self._settings.total, tcp or config.use_tcp)

    def _fit(self, answer: bytes, query: dns.Query, limit: int) -> bytes:
        size = max(dns.MIN_UDP_SIZE, min(limit, query.udp_size))
        if len(answer) <= size:
            return answer
        self.counters.truncated += 1
        return dns.fit(answer, query, size)

    def _no_answer(self, exchange: Exchange) -> bytes:
        if exchange.timed_out:
            reason, explanation = dns.ExtendedError.NO_REACHABLE_AUTHORITY, "no resolver of the host answered in time"
        else:
            reason, explanation = dns.ExtendedError.NETWORK_ERROR, "no resolver of the host can be reached"
        return self._servfail(exchange.message, exchange.query, reason, explanation)

    def _servfail(self, message: bytes, query: dns.Query, reason: dns.ExtendedError, explanation: str) -> bytes:
        return dns.error(message, query, dns.Rcode.SERVFAIL, reason, explanation)
