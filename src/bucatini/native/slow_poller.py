"""The interpreted twin of `fast_poller`: epoll(7) whose answers are read one by one, with the instant they came at.

The reactor asks once a turn; what it needs is a few numbers, so no list of pairs is made for it.
"""

from __future__ import annotations

import select
import time

__all__ = ["MAX_EVENTS", "Poller"]

MAX_EVENTS = 256
"""Descriptors told of in one turn; the rest is told in the next."""


class Poller:
    """An epoll descriptor of our own. All methods but `wait` raise OSError as epoll_ctl(2) does."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: list[tuple[int, int]] = []
        self.now = time.monotonic()
        """The instant at which `wait` returned last."""

    def register(self, descriptor: int, events: int) -> None:
        """Watch a descriptor."""
        self._epoll.register(descriptor, events)

    def modify(self, descriptor: int, events: int) -> None:
        """Change or renew the interest."""
        self._epoll.modify(descriptor, events)

    def unregister(self, descriptor: int) -> None:
        """Watch it no longer."""
        self._epoll.unregister(descriptor)

    def wait(self, until: float) -> int:
        """Wait until something is ready, or until that instant of the monotonic clock. How many are ready.

        epoll counts milliseconds, rounded up: an instant is never early and at most one late.
        """
        left = until - time.monotonic() if until != float("inf") else -1.0
        try:
            self._ready = self._epoll.poll(max(left, 0.0) if until != float("inf") else -1, MAX_EVENTS)
        except InterruptedError:
            self._ready = []
        self.now = time.monotonic()
        return len(self._ready)

    def descriptor(self, index: int) -> int:
        """Of those that were ready."""
        return self._ready[index][0]

    def events(self, index: int) -> int:
        """What it is ready for."""
        return self._ready[index][1]

    def fileno(self) -> int:
        """The epoll descriptor."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Idempotent."""
        self._epoll.close()
