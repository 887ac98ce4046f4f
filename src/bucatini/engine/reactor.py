"""The selector of the asyncio loop that serves the data plane itself (epoll(7)).

One thread, two planes. Descriptors of the data plane are given with a handler and are served inside `select()`;
asyncio hears only of its own descriptors and timers. So a frame costs one `epoll_wait` share and one call, with no
Task, Handle or Future, while asyncio's timers keep their time.

One turn: wait; call the handlers of what is ready; call `end_of_turn` (flush, deadlines). Turns follow each other
inside `select()` until asyncio has something to do: a ready descriptor of its own, its timeout, or `interrupt()`,
which whoever schedules asyncio work from a handler must call.

Use: `asyncio.SelectorEventLoop(reactor)`. For another owner's loop: `fileno()` is readable when `turn(0)` has work.
"""

from __future__ import annotations

import select
import selectors
import time
from collections.abc import Callable, Mapping
from typing import Any

from bucatini.native import Poller

__all__ = ["Reactor"]

Handler = Callable[[int, int, float], None]
"""Called with descriptor, epoll events and the turn's instant."""

NEVER = float("inf")
_READ = select.EPOLLIN
_WRITE = select.EPOLLOUT


class Reactor(selectors.BaseSelector):
    """`end_of_turn(now)` runs after the handlers of a turn and returns the instant it wants to run again at the
    latest.
    """

    def __init__(self, end_of_turn: Callable[[float], float] | None = None) -> None:
        self._epoll = Poller()
        self._handlers: dict[int, Handler] = {}
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._ends = [] if end_of_turn is None else [end_of_turn]
        self._next = 0.0
        self._interrupted = False
        self.turns = 0
        self.on_bug: Callable[[Exception], None] | None = None
        """Told of exceptions that come out of handlers; None: they pass."""

    def attach(self, end_of_turn: Callable[[float], float]) -> None:
        """Add to what ends a turn; each guest has its own."""
        self._ends.append(end_of_turn)

    def detach(self, end_of_turn: Callable[[float], float]) -> None:
        """Take out what `attach` added."""
        self._ends.remove(end_of_turn)

    # -- the data plane

    def watch(self, descriptor: int, handler: Handler, events: int) -> None:
        """Call `handler` when `descriptor` has any of `events` (EPOLLERR and EPOLLHUP come unasked)."""
        self._epoll.register(descriptor, events)
        self._handlers[descriptor] = handler

    def rewatch(self, descriptor: int, events: int) -> None:
        """Change or renew the interest: an edge that lies in the past is reported again."""
        self._epoll.modify(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        """Forget a descriptor; to be called before it is closed. Harmless when it is not watched."""
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def forget(self, descriptor: int) -> None:
        """As `unwatch`, for a descriptor that is closed right after: the kernel takes it out of the epoll set then."""
        self._handlers.pop(descriptor, None)

    def interrupt(self) -> None:
        """Return to asyncio at the end of this turn."""
        self._interrupted = True

    def hurry(self) -> None:
        """Have the next turn not wait: something became due outside a turn."""
        self._next = 0.0

    def turn(self, timeout: float) -> list[tuple[selectors.SelectorKey, int]]:
        """One turn, waiting at most `timeout` seconds. Returns what is ready for asyncio."""
        return self._turn(time.monotonic() + timeout if 0 < timeout < NEVER else timeout)

    def _turn(self, until: float) -> list[tuple[selectors.SelectorKey, int]]:
        """One turn, waiting until that instant at most."""
        poller = self._epoll
        if self._next < until:
            until = self._next
        count = poller.wait(until - time.monotonic() if 0 < until < NEVER else until)
        now = time.monotonic()
        theirs: list[tuple[selectors.SelectorKey, int]] = []
        if count:
            serve(poller, count, now, self._handlers, self._keys, theirs, self._struck)
        self._next = NEVER
        for end_of_turn in self._ends:
            due = end_of_turn(now)
            if due < self._next:
                self._next = due
        self.turns += 1
        return theirs

    def _struck(self, descriptor: int, error: Exception) -> None:
        """A handler raised what nobody should have: it costs what the descriptor stood for, and not the guest."""
        if self.on_bug is None:
            raise error
        self.unwatch(descriptor)
        self.on_bug(error)

    # -- selectors.BaseSelector, for asyncio

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Turns until asyncio has something to do; see the module."""
        end = NEVER if timeout is None else time.monotonic() + max(timeout, 0.0)
        while True:
            theirs = self._turn(end)
            if theirs or self._interrupted or (end < NEVER and time.monotonic() >= end):
                self._interrupted = False
                return theirs

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As `selectors.BaseSelector.register`."""
        key = selectors.SelectorKey(fileobj, _number(fileobj), events, data)
        if key.fd in self._keys:
            raise KeyError(f"{fileobj!r} is registered already")
        self._epoll.register(key.fd, _epoll_events(events))
        self._keys[key.fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """As `selectors.BaseSelector.unregister`."""
        number = _number(fileobj, self._keys)
        key = self._keys.pop(number)
        try:
            self._epoll.unregister(number)
        except OSError:
            pass  # closed before it was unregistered, as selectors.EpollSelector allows
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As `selectors.BaseSelector.modify`."""
        number = _number(fileobj, self._keys)
        key = self._keys[number]
        if events != key.events:
            self._epoll.modify(number, _epoll_events(events))
        key = key._replace(events=events, data=data)
        self._keys[number] = key
        return key

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """asyncio's registrations by descriptor."""
        return self._keys

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """As `selectors.BaseSelector.get_key`."""
        try:
            return self._keys[_number(fileobj, self._keys)]
        except KeyError:
            raise KeyError(f"{fileobj!r} is not registered") from None

    def fileno(self) -> int:
        """The epoll descriptor: readable when a turn has work."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Close the epoll descriptor and forget everything watched."""
        self._epoll.close()
        self._handlers.clear()
        self._keys.clear()


def serve(
    poller: Poller,
    count: int,
    now: float,
    handlers: dict[int, Handler],
    keys: dict[int, selectors.SelectorKey],
    theirs: list[tuple[selectors.SelectorKey, int]],
    struck: Callable[[int, Exception], None],
) -> None:
    """Call the handlers of the `count` descriptors that are ready; what is asyncio's is added to `theirs`."""
    for index in range(count):
        descriptor = poller.descriptor(index)
        events = poller.events(index)
        handler = handlers.get(descriptor)
        if handler is not None:
            try:
                handler(descriptor, events, now)
            except Exception as error:
                struck(descriptor, error)
        elif descriptor in keys:
            key = keys[descriptor]
            theirs.append((key, _mask(events) & key.events))


def _number(fileobj: Any, known: Mapping[int, selectors.SelectorKey] | None = None) -> int:
    """The descriptor of a file object, also of one that was closed since it was registered."""
    number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
    if number < 0 and known is not None:
        for key in known.values():
            if key.fileobj is fileobj:
                return key.fd
    if number < 0:
        raise ValueError(f"invalid descriptor of {fileobj!r}")
    return int(number)


def _epoll_events(events: int) -> int:
    return (_READ if events & selectors.EVENT_READ else 0) | (_WRITE if events & selectors.EVENT_WRITE else 0)


def _mask(events: int) -> int:
    mask = selectors.EVENT_READ if events & ~_WRITE else 0
    return mask | (selectors.EVENT_WRITE if events & ~_READ else 0)
