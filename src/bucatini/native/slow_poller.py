"""The interpreted twin of `fast_poller`: epoll(7) whose answers are read one by one.

The reactor asks once a turn; what it needs is a few numbers, so no list of pairs is made for it. Does not: read a
clock.
"""

from __future__ import annotations

import select

__all__ = ["MAX_EVENTS", "Poller"]

MAX_EVENTS = 256
"""Descriptors told of in one turn; the rest is told in the next."""


FOREVER = 1e9
"""Seconds that are not worth counting."""


class Poller:
    """An epoll descriptor of our own. All methods but `wait` raise OSError as epoll_ctl(2) does."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: list[tuple[int, int]] = []

    def register(self, descriptor: int, events: int) -> None:
        """Watch a descriptor."""
        self._epoll.register(descriptor, events)

    def modify(self, descriptor: int, events: int) -> None:
        """Change or renew the interest."""
        self._epoll.modify(descriptor, events)

    def unregister(self, descriptor: int) -> None:
        """Watch it no longer."""
        self._epoll.unregister(descriptor)

    def wait(self, timeout: float) -> int:
        """Wait until something is ready, at most `timeout` seconds (infinite: for ever). How many are ready.

        epoll counts milliseconds, rounded up: an instant is never early and at most one late.
        """
        try:
            self._ready = self._epoll.poll(max(timeout, 0.0) if timeout < FOREVER else -1, MAX_EVENTS)
        except InterruptedError:
            self._ready = []
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
