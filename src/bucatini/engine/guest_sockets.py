"""A stock of sockets made inside the guest's network namespace, so that a spliced connection need not wait for one.

The agent in the namespace makes them by the batch. When the stock of a kind runs low a batch is asked for; who comes
while it is empty waits in line, at most `MAX_WAITING` at a time, beyond which the connection is refused.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from bucatini.base.errors import HostError

__all__ = ["GuestSockets"]

BATCH = 32
LOW = 16
MAX_WAITING = 1024


class GuestSockets:
    """`factory` is a `host.factory.SocketFactory`."""

    def __init__(self, factory: Any, reactor: Any) -> None:
        self._factory = factory
        self._reactor = reactor
        self._stock: dict[str, deque[socket.socket]] = {}
        self._waiting: dict[str, deque[Callable[[socket.socket | None], None]]] = {}
        self._asked: set[str] = set()
        self._watched = False

    def prepare(self, kind: str) -> None:
        """Fill the stock of `kind` before the guest starts. Raises HostError."""
        self._stock[kind] = deque(self._factory.create(kind, BATCH))
        self._waiting[kind] = deque()
        if not self._watched:
            self._watched = True
            self._reactor.watch(self._factory.fileno(), self._ready, select.EPOLLIN)

    def take(self, kind: str) -> socket.socket | None:
        """A socket at once, or None."""
        stock = self._stock.get(kind)
        if stock is None:
            return None
        taken = stock.popleft() if stock else None
        if len(stock) < LOW:
            self._ask(kind)
        return taken

    def give(self, kind: str, waiter: Callable[[socket.socket | None], None]) -> None:
        """Call `waiter` with a socket, now or when one comes; with None when there is none to be had."""
        taken = self.take(kind)
        if taken is not None:
            waiter(taken)
        elif kind not in self._asked or len(self._waiting[kind]) >= MAX_WAITING:
            waiter(None)
        else:
            self._waiting[kind].append(waiter)

    def _ask(self, kind: str) -> None:
        if kind in self._asked:
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
            for line in self._waiting.values():
                while line:
                    line.popleft()(None)
            self._asked.clear()
            return
        if batch is None:
            return
        self._asked.discard(batch.kind)
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
