"""One guest behind the isolation filter: the loop that serves its link, the TAP on the bridge, and whoever controls it.

Neither side can hold up the other, nor signals, control or timers: each is read in bounded batches, and a turn ends
after one of each. What one side has more comes with the next turn; nobody waits for the other to be idle. Towards a
guest that takes nothing frames are dropped and counted; the bridge's queue is emptied all the same, so what a guest
hears after a pause is recent.

Leases run on the clock that goes on while the machine sleeps (CLOCK_BOOTTIME), as they do at the server.

`ended` is set when the guest's end of the link is gone for good, or when there is nothing left to filter: then
`failure` says why.
"""

from __future__ import annotations

import asyncio
import errno
import select
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from bucatini.base.events import FlowRefused, FrameDropped
from bucatini.base.reasons import Counters, DropReason
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.engine.drop_events import DropEvents
from bucatini.engine.filter.exposures import Exposures
from bucatini.engine.filter.passage import Passage
from bucatini.engine.filter.refusals import Refusals
from bucatini.engine.layout import BATCH, STRIDE
from bucatini.engine.reactor import Reactor
from bucatini.guard.binding import Binding
from bucatini.guard.live_policy import LivePolicy
from bucatini.host.tap import Offloads, negotiate
from bucatini.native import Arena
from bucatini.observe.captured import CapturedLink
from bucatini.observe.pcapng import PcapngWriter

__all__ = ["Filter", "FilterParts"]

GUEST_AT = 64
"""Room before it for an empty header, and for that of the first frame."""
HOST_AT = GUEST_AT + BATCH * STRIDE
ARENA_SIZE = HOST_AT + (BATCH + 1) * STRIDE
OVERSIZE = int(DropReason.OVERSIZE)
BUG = int(DropReason.BUG)
NOT_NOW = (-errno.EAGAIN, -errno.EINTR)
DOWN = (*NOT_NOW, -errno.EIO, -errno.EFAULT)
"""Of the TAP: nothing to read while somebody has taken it down."""
EPOLLIN = select.EPOLLIN
NEVER = float("inf")


def boot_time() -> float:
    """Seconds, those of the machine's sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class FilterParts(NamedTuple):
    """What a filter is made from. The link becomes its own, the TAP stays the caller's."""

    link: Any
    offloads: Offloads
    """Of the link at first."""
    tap: int
    binding: Binding
    live: LivePolicy
    faithful: bool = False
    exposures: Exposures | None = None
    capture: PcapngWriter | None = None
    tell: Callable[[FrameDropped, float], None] | None = None
    """Hears of the guest's frames that are dropped; None: nobody wants to."""
    tell_refused: Callable[[FlowRefused, float], None] | None = None
    """Hears whom policy keeps the guest from, and from whom it keeps others."""
    end_of_turn: Callable[[], None] | None = None
    say: Callable[[str], None] | None = None
    """Hears lines about the link."""
    clock: Callable[[], float] = boot_time
    """Of leases."""


class Filter:
    """See the module. Is the link's `LinkOwner`."""

    def __init__(self, parts: FilterParts) -> None:
        self.parts = parts
        self.counters = Counters()
        self.drops = self.counters.values
        self.reactor = Reactor(self._end_of_turn)
        self.loop = asyncio.SelectorEventLoop(self.reactor)
        self.arena = Arena(ARENA_SIZE)
        if hasattr(parts.link, "borrow"):
            parts.link.borrow = False  # what is judged must be what is handed on
        self.link: Any = parts.link
        self._judged: Callable[[Arena, int, int, int], None] | None = None
        if parts.capture is not None:
            self.link = CapturedLink(parts.link, parts.capture, _comment)
            self._judged = self.link.judged
        self.passage = Passage(
            self.arena, self.link, parts.tap, parts.binding, parts.live, parts.faithful, self._report
        )
        self.clock = parts.clock
        self.ended = asyncio.Event()
        self.failure = ""
        self._lengths = [0] * BATCH
        self._batch = 1
        self._host_lengths = [0] * BATCH
        self._host_batch = 1
        self._has_more = False
        self._closed = False
        self._bug_seen = False
        self._drop_events: DropEvents | None = None
        self._now = 0.0
        if parts.tell is not None:
            tell = parts.tell
            self._drop_events = DropEvents(lambda event: tell(event, self._now), self.arena.copy, untold=())
        self._refusals = None if parts.tell_refused is None else Refusals(parts.tell_refused)
        self.reactor.on_bug = self.struck

    def start(self) -> None:
        """Begin to serve."""
        negotiate(self.parts.tap, self.parts.offloads)
        self.link.start(self)
        self.reactor.watch(self.parts.tap, self.host_ready, EPOLLIN)

    def close(self) -> None:
        """Close the link and the loop. Idempotent."""
        if not self._closed:
            self._closed = True
            if self._refusals is not None:
                self._refusals.finish(time.monotonic())
            self.reactor.unwatch(self.parts.tap)
            self.link.close()
            self.loop.close()

    # -- frames

    def frames_ready(self, descriptor: int, events: int, now: float) -> None:
        """Handler of the link: a batch of the guest's frames."""
        link, lengths = self.link, self._lengths
        count = link.receive(self.arena, GUEST_AT, STRIDE, self._batch, lengths)
        self._batch = _next_batch(self._batch, count)
        if count <= 0:
            if count not in NOT_NOW:
                self.link_ended()
            else:
                self._has_more = link.more
            return
        clock = self.clock()
        positions = link.positions
        for index in range(count):
            at = GUEST_AT + index * STRIDE if positions is None else positions[index]
            length = lengths[index]
            if length < 0:
                self.drops[-length if length > -len(self.drops) else OVERSIZE] += 1
                continue
            reason = self.passage.from_guest(at, length, clock)
            if reason:
                self._dropped(reason, at + link.header, at + length, now)
            if self._judged is not None:
                self._judged(self.arena, at, length, reason)
        link.done()
        self._has_more = link.more

    def host_ready(self, descriptor: int, events: int, now: float) -> None:
        """Handler of the TAP: a batch of the host's frames."""
        lengths = self._host_lengths
        count = self.arena.read_frames(descriptor, HOST_AT, STRIDE, self._host_batch, lengths)
        self._host_batch = _next_batch(self._host_batch, count)
        if count <= 0:
            if count not in DOWN:
                self.fail("the interface on the bridge is gone")
            return
        clock = self.clock()
        for index in range(count):
            reason = self.passage.to_guest(HOST_AT + index * STRIDE, lengths[index], clock)
            if reason:
                self.drops[reason] += 1
                self._is_told(reason, INGRESS, now)

    def _dropped(self, reason: int, at: int, end: int, now: float) -> None:
        self.drops[reason] += 1
        if not self._is_told(reason, EGRESS, now) and self._drop_events is not None:
            self._now = now
            self._drop_events.dropped(reason, at, end, now)

    def _is_told(self, reason: int, direction: str, now: float) -> bool:
        """Whether the frame judged last is told of as something that policy refuses."""
        if self._refusals is None:
            return False
        return self._refusals.refused(reason, direction, self.passage.frame, self.parts.live.rules, now)

    def _end_of_turn(self, now: float) -> float:
        if self._closed:
            return NEVER
        if self._has_more:
            self._has_more = False
            self.frames_ready(-1, 0, now)
        self.link.flush()
        due = NEVER
        if self.parts.exposures is not None:
            clock = self.clock()
            due = now + max(self.parts.exposures.look(clock) - clock, 0.0)
        if self.parts.end_of_turn is not None:
            self.parts.end_of_turn()
        return now if self._has_more else due

    # -- what goes wrong

    def struck(self, error: Exception) -> None:
        """An exception that nobody should have raised cost what a descriptor stood for."""
        self.drops[BUG] += 1
        self._report(error)

    def _report(self, error: Exception) -> None:
        if not self._bug_seen:
            self._bug_seen = True
            sys.stderr.write("bucatini: error of ours, please report it:\n")
            traceback.print_exception(error)

    def fail(self, why: str) -> None:
        """There is nothing to go on with."""
        self.reactor.unwatch(self.parts.tap)
        self.failure = self.failure or why
        self.ended.set()
        self.reactor.interrupt()

    # -- LinkOwner, see links.base

    def link_ended(self) -> None:
        """The guest is gone for good."""
        self.link.close()
        self.ended.set()
        self.reactor.interrupt()

    def offloads_changed(self, offloads: Offloads) -> None:
        """The guest's driver was asked anew, or another one has come."""
        negotiate(self.parts.tap, offloads)

    def room_again(self) -> None:
        """Nobody waits for room."""

    def link_joined(self) -> None:
        """Whoever joins is known by the MAC address, not by having joined."""

    def say(self, line: str) -> None:
        """A line for people about the link."""
        if self.parts.say is not None:
            self.parts.say(line)


def _next_batch(batch: int, count: int) -> int:
    """A read that finds nothing costs as much as one that finds a frame: ask for more only while more comes."""
    return min(batch << 2, BATCH) if count == batch else 1 if count <= 1 else batch


def _comment(reason: int) -> str | None:
    return DropReason(reason).label if reason else None  # type: ignore[call-arg]
