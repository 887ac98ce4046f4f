"""A link's owner for tests: the engine's reactor, a reader like the engine's, and lists of all that a link says.

`Owner.turn` is one turn of the engine: handlers, what was put off, `flush`. Frames that were received are in `frames`.
Timers run when `Owner.loop.fire` is called, not with time.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import Any, Self

from bucatini.base.reasons import Counters
from bucatini.engine.layout import ARENA_SIZE, BATCH, STRIDE, TRANSMIT_AT
from bucatini.engine.reactor import Reactor
from bucatini.host.tap import Offloads
from bucatini.native import Arena
from support.frames import VNET

__all__ = ["Owner", "descriptors"]

PATIENCE = 5.0


def descriptors() -> dict[int, str]:
    """Every descriptor that is open here, and what it is."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # that of the listing itself
    return found


class Timers:
    """The part of an asyncio loop that links use."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], None], Timers.Handle]] = []

    class Handle:
        """Of a timer."""

        def __init__(self) -> None:
            self.cancelled = False

        def cancel(self) -> None:
            """Not to be called any more."""
            self.cancelled = True

    def call_later(self, delay: float, work: Callable[[], None]) -> Timers.Handle:
        """Note `work`; it is called by `fire`."""
        self.waiting.append((work, self.Handle()))
        return self.waiting[-1][1]

    def fire(self) -> int:
        """All timers that wait now have come. How many that were."""
        due, self.waiting = [(w, h) for w, h in self.waiting if not h.cancelled], []
        for work, _ in due:
            work()
        return len(due)


class Owner:
    """Serves one link. `during` is called for each frame, while the link has not been told that it is done."""

    def __init__(self, link: Any) -> None:
        self.link = link
        self.arena = Arena(ARENA_SIZE)
        self.counters = Counters()
        self.drops = self.counters.values
        self.loop = Timers()
        self.reactor = Reactor(self._end_of_turn)
        self.frames: list[bytes] = []
        self.lines: list[str] = []
        self.rooms = 0
        self.joins = 0
        self.ends = 0
        self.offloads: list[Offloads] = []
        self.during: Callable[[int, int], object] | None = None
        self.lengths = [0] * BATCH
        self.batch = 1
        self.voids: list[int] = []
        """What came instead of lengths for frames that were void."""
        self._again = False

    def __enter__(self) -> Self:
        self.link.start(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()
        self.reactor.close()

    # -- as LinkOwner

    def frames_ready(self, descriptor: int, events: int, now: float) -> None:
        """As `engine.link_reader.LinkReader.ready`."""
        link = self.link
        count = link.receive(self.arena, 0, STRIDE, self.batch, self.lengths)
        self.batch = min(self.batch << 2, BATCH) if count == self.batch else 1 if count <= 1 else self.batch
        if count <= 0:
            if count not in (-errno.EAGAIN, -errno.EINTR):
                self.link_ended()
            elif link.more:
                self._again = True
            return
        assert count <= BATCH
        positions = link.positions
        for index in range(count):
            at, length = index * STRIDE if positions is None else positions[index], self.lengths[index]
            if length < 0:
                self.voids.append(-length)
                continue
            self.frames.append(self.arena.copy(at, length))
            if self.during is not None:
                self.during(at, length)
        link.done()
        if link.more:
            self._again = True

    def room_again(self) -> None:
        self.rooms += 1

    def offloads_changed(self, offloads: Offloads) -> None:
        self.offloads.append(offloads)

    def link_joined(self) -> None:
        self.joins += 1

    def link_ended(self) -> None:
        self.ends += 1
        self.link.close()

    def say(self, line: str) -> None:
        self.lines.append(line)

    def _end_of_turn(self, now: float) -> float:
        if self._again:
            self._again = False
            self.frames_ready(-1, 0, now)
        self.link.flush()
        return now if self._again else float("inf")

    # -- for tests

    def turn(self, seconds: float = 0.0) -> None:
        self.reactor.turn(seconds)

    def settle(self) -> None:
        """Turns until several in a row find nothing to do that can be seen from here."""
        for _ in range(6):
            self.turn()

    def until(self, done: Callable[[], Any]) -> Any:
        """Turn until `done` gives something true."""
        end = time.monotonic() + PATIENCE
        while not (result := done()):
            assert time.monotonic() < end, f"nothing happened; {self.lines}"
            self.turn(0.01)
        return result

    def heard_at_least(self, count: int) -> list[bytes]:
        """The next `count` frames, and what came with them."""
        self.until(lambda: len(self.frames) >= count)
        self.settle()
        found, self.frames = self.frames, []
        return found

    def heard(self, count: int) -> list[bytes]:
        """The next `count` frames; there are no more."""
        found = self.heard_at_least(count)
        assert len(found) == count
        return found

    def rests(self) -> bool:
        """Whether the engine waits rather than spins."""
        end = time.monotonic() + 0.2
        turns = 0
        while time.monotonic() < end:
            self.turn(0.05)
            turns += 1
        return turns < 25

    def send(self, frame: bytes, header: bytes = VNET) -> int:
        """Have the link transmit a frame."""
        whole = header + frame
        self.arena.view[TRANSMIT_AT : TRANSMIT_AT + len(whole)] = whole
        return int(self.link.transmit(self.arena, TRANSMIT_AT, len(whole)))

    def send_all(self, *frames: bytes) -> None:
        """Have it transmit frames, each of which is taken."""
        for frame in frames:
            assert self.send(frame) == len(VNET) + len(frame)
        self.turn()

    def fill(self, size: int = 60_000) -> int:
        """Send frames until there is no room for a superframe. How many."""
        count = 0
        while self.link.room():
            assert self.send(count.to_bytes(4, "big") * (size // 4)) > 0
            count += 1
            assert count < 1000
        return count

    def stuff(self, size: int = 9000) -> int:
        """Send frames, room or not, until one is refused. How many were taken."""
        for count in range(100_000):
            took = self.send(count.to_bytes(4, "big") * (size // 4))
            if took < 0:
                assert took == -errno.EAGAIN
                return count
        raise AssertionError("there is no end to it")
