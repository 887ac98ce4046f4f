"""A stock of sockets made inside the guest's network namespace, so that a spliced connection need not wait for one.

The agent in the namespace makes them by the batch. When the stock of a kind runs low a batch is asked for; who comes
while it is empty waits in line, at most `MAX_WAITING` at a time, beyond which the connection is refused.

`fetch` and `obtain` are for sockets that listen there: they wait for the agent, which answers in a fraction of a
millisecond, since whoever asks for a forwarded port wants to hear at once whether there is one.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from bucatini.base.errors import HostError

__all__ = ["GuestSockets"]

BATCH = 32
LOW = 16
MAX_WAITING = 1024
PATIENCE = 2.0
"""Seconds that `obtain` waits for answers to what was asked before."""

Waiter = Callable[[socket.socket | None], None]


class GuestSockets:
    """`factory` is a `host.factory.SocketFactory`, or None where there is no such namespace."""

    def __init__(self, factory: Any, reactor: Any) -> None:
        self._factory = factory
        self._reactor = reactor
        self._stock: dict[str, deque[socket.socket]] = {}
        self._waiting: dict[str, deque[Waiter]] = {}
        self._dead = False
        self._asked: set[str] = set()
        self._watched = False
        self._holding = False
        """`obtain` is at work, nothing else is asked for."""

    @property
    def available(self) -> bool:
        """Whether there is a namespace to have sockets in."""
        return self._factory is not None

    def prepare(self, kind: str) -> None:
        """Fill the stock of `kind`, once. Raises HostError."""
        if kind not in self._stock:
            made = self.obtain(kind, BATCH)
            self._stock[kind] = deque(made)
            self._waiting[kind] = deque()

    def obtain(self, kind: str, count: int) -> list[socket.socket]:
        """`count` sockets, at most 64, for the caller to keep; waits for them, 4 seconds at most. Raises HostError."""
        if self._factory is None:
            raise HostError("there is no namespace of a guest to make sockets in")
        self._watch()
        self._holding = True
        try:
            self._await_answers()
            made: list[socket.socket] = self._factory.create(kind, count)
        finally:
            self._holding = False
        for low in [each for each, line in self._waiting.items() if line or len(self._stock[each]) < LOW]:
            self._ask(low)
        return made

    def fetch(self, kind: str) -> socket.socket:
        """One socket of a stock, which is filled first when it is empty. Raises HostError."""
        self.prepare(kind)
        stock = self._stock[kind]
        if not stock:
            stock.extend(self.obtain(kind, BATCH))
        return stock.popleft()

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            self._reactor.watch(self._factory.fileno(), self._ready, select.EPOLLIN)

    def _await_answers(self) -> None:
        """Answers come in order: those to earlier requests go where they belong first."""
        end = time.monotonic() + PATIENCE
        poll = select.poll()
        poll.register(self._factory.fileno(), select.POLLIN)
        while self._asked:
            if not poll.poll(max(end - time.monotonic(), 0) * 1000):
                raise HostError("the guest's agent does not answer")
            self._ready(self._factory.fileno(), select.EPOLLIN, 0.0)

    def take(self, kind: str) -> socket.socket | None:
        """A socket at once, or None."""
        stock = self._stock.get(kind)
        if stock is None:
            return None
        taken = stock.popleft() if stock else None
        if len(stock) < LOW:
            self._ask(kind)
        return taken

    def give(self, kind: str, waiter: Waiter) -> None:
        """Call `waiter` with a socket, now or when one comes; with None when there is none to be had."""
        taken = self.take(kind)
        if taken is not None:
            waiter(taken)
        elif kind not in self._asked or len(self._waiting[kind]) >= MAX_WAITING:
            waiter(None)
        else:
            self._waiting[kind].append(waiter)

    def _ask(self, kind: str) -> None:
        if kind in self._asked or self._holding or self._dead:
            return
        try:
            self._factory.request(kind, BATCH)
        except HostError:
            return
        self._asked.add(kind)

    def _ready(self, descriptor: int, events: int, now: float) -> None:
        try:
            batch = self._factory.take()
        except HostError:
            # The agent is gone: the engine learns of it elsewhere; who waits must not wait for ever.
            self._reactor.unwatch(descriptor)
            self._dead = True
            self._asked.clear()
            for line in self._waiting.values():
                while line:
                    line.popleft()(None)
            return
        if batch is None:
            return
        self._asked.discard(batch.kind)
        if batch.kind not in self._stock:
            for unasked in batch.sockets:
                unasked.close()
            return
        stock, line = self._stock[batch.kind], self._waiting[batch.kind]
        stock.extend(batch.sockets)
        while line and stock:
            line.popleft()(stock.popleft())
        if not batch.sockets:
            while line:
                line.popleft()(None)
        elif line or len(stock) < LOW:
            self._ask(batch.kind)

    def close(self) -> None:
        """Close the stock."""
        if self._watched:
            self._reactor.unwatch(self._factory.fileno())
            self._watched = False
        for stock in self._stock.values():
            while stock:
                stock.popleft().close()
