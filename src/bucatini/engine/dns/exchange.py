"""One query and the resolvers asked for it: whom to ask next, when to stop, which answer counts.

Theory of operation. Resolvers are asked in order. The next one is asked when the one before has had its time, failed
(the kernel says so), or answered SERVFAIL, NOTIMP or REFUSED, which another may know better (so does glibc). Earlier
ones stay open: a slow answer is as good as a quick one. After the list comes a second round, in which those that are
silent are asked again; those that failed or refused have spoken. It ends with the first useful answer, or when nobody
is left to wait for, or at the deadline; then the first refusal received is the answer, and without one it is None.

One resolver's time is cut so that each gets its turn before the deadline.

Does not: know guests, sizes or streams: `forwarder` does.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence

from bucatini.engine.dns.order import Order
from bucatini.engine.dns.settings import Counters
from bucatini.engine.dns.upstream import TcpUpstream, UdpUpstream
from bucatini.host.resolvers import Resolver
from bucatini.services import dns

__all__ = ["Exchange", "Plan"]

_SPOKEN = (dns.Rcode.SERVFAIL, dns.Rcode.NOTIMP, dns.Rcode.REFUSED)


class Plan:
    """Whom to ask and how long. Times in seconds."""

    __slots__ = ("attempts", "per_try", "resolvers", "tcp", "total")

    def __init__(self, resolvers: Sequence[Resolver], attempts: int, per_try: float, total: float, tcp: bool) -> None:
        self.resolvers = resolvers
        self.attempts = attempts
        self.per_try = min(per_try, total / len(resolvers))
        self.total = total
        self.tcp = tcp


class Exchange:
    """A forwarded query. Ends in exactly one call of `done`, unless cancelled."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        message: bytes,
        query: dns.Query,
        plan: Plan,
        counters: Counters,
        done: Callable[[Exchange, bytes | None], None],
        order: Order,
    ) -> None:
        """`done` gets the answer as the resolver sent it except for the identifier, which is the query's; or None.

        `order` is told which resolvers answered and which were silent.
        """
        self.message = message
        self.query = query
        self.timed_out = False
        """Whether a resolver was silent, as opposed to unreachable."""
        self._loop = loop
        self._plan = plan
        self._counters = counters
        self._done = done
        self._order = order
        self._queue = deque(list(plan.resolvers) * plan.attempts)
        self._open: dict[Resolver, UdpUpstream | TcpUpstream] = {}
        self._spoken: set[Resolver] = set()
        self._current: Resolver | None = None
        self._fallback: bytes | None = None
        self._deadline = loop.time() + plan.total
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Ask the first resolver. `done` may be called before this returns."""
        self._advance()

    def cancel(self) -> None:
        """Give up: all sockets are closed and `done` is not called."""
        self._disarm()
        for upstream in self._open.values():
            upstream.close()
        self._open.clear()
        self._queue.clear()

    def _advance(self) -> None:
        """Ask the next resolver in turn; wait for those asked when there is none; end when nobody is left."""
        self._disarm()
        self._current = None
        while self._queue and self._current is None:
            resolver = self._queue.popleft()
            if resolver not in self._spoken and self._ask(resolver):
                self._current = resolver
        if not self._open:
            self._finish(self._fallback)
            return
        remaining = self._deadline - self._loop.time()
        if self._current is None or remaining <= self._plan.per_try:
            self._timer = self._loop.call_later(max(0.0, remaining), self._expire)
        else:
            self._timer = self._loop.call_later(self._plan.per_try, self._overdue, self._current)

    def _ask(self, resolver: Resolver) -> bool:
        try:
            if resolver in self._open:
                self._open[resolver].resend()
                return True
            identifier = int.from_bytes(os.urandom(2), "big")
            kind = TcpUpstream if self._plan.tcp else UdpUpstream
            self._open[resolver] = kind(
                self._loop,
                resolver,
                dns.with_identifier(self.message, identifier),
                lambda response: self._received(resolver, identifier, response),
                lambda: self._failed(resolver),
            )
        except OSError:
            self._drop(resolver)
            self._counters.upstream_errors += 1
            return False
        return True

    def _received(self, resolver: Resolver, identifier: int, response: bytes) -> None:
        if not dns.matches(self.message, self.query, identifier, response):
            self._counters.upstream_mismatches += 1
            if self._open[resolver].reliable:
                self._failed(resolver)
            return
        self._order.answered(resolver)
        response = dns.with_identifier(response, self.query.identifier)
        if dns.rcode_of(response) not in _SPOKEN:
            self._finish(response)
            return
        self._fallback = self._fallback or response
        self._counters.upstream_refusals += 1
        self._drop(resolver)
        self._after(resolver)

    def _failed(self, resolver: Resolver) -> None:
        self._counters.upstream_errors += 1
        self._drop(resolver)
        self._after(resolver)

    def _drop(self, resolver: Resolver) -> None:
        """No more from this one."""
        self._spoken.add(resolver)
        upstream = self._open.pop(resolver, None)
        if upstream is not None:
            upstream.close()

    def _after(self, resolver: Resolver) -> None:
        """Go on when the one we waited for, or the last one, has spoken."""
        if resolver == self._current or not self._open:
            self._advance()

    def _overdue(self, resolver: Resolver) -> None:
        self._silent(resolver)
        self._advance()

    def _expire(self) -> None:
        if self._current is not None:
            self._silent(self._current)
        self._finish(self._fallback)

    def _silent(self, resolver: Resolver) -> None:
        self._counters.upstream_timeouts += 1
        self.timed_out = True
        self._order.silent(resolver, self._loop.time())

    def _finish(self, response: bytes | None) -> None:
        self.cancel()
        self._done(self, response)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
