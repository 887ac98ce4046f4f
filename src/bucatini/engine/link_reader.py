"""Drains the link: a bounded batch of frames per turn, each judged at once, their datagrams sent before the slots are
used again.
"""

from __future__ import annotations

import errno
from typing import Any

from bucatini.base.reasons import Counters, DropReason
from bucatini.engine.layout import BATCH, STRIDE
from bucatini.native import Arena
from bucatini.stack.ingress import Ingress

__all__ = ["LinkReader"]

OVERSIZE = int(DropReason.OVERSIZE)
WAIT = (-errno.EAGAIN, -errno.EINTR)
"""Nothing to read now."""


class LinkReader:
    """`judged` is told of every frame and its drop reason when a capture runs, else None. `on_end` is called when the
    link ends.
    """

    def __init__(
        self, link: Any, arena: Arena, ingress: Ingress, sink: Any, counters: Counters, judged: Any, on_end: Any
    ) -> None:
        self.link = link
        self.arena = arena
        self.ingress = ingress
        self.sink = sink
        self.drops = counters.values
        self.judged = judged
        self.on_end = on_end
        self.lengths = [0] * BATCH
        self.drop_events: Any = None
        """`engine.drop_events.DropEvents`; None: nobody wants them."""
        self.frames = 0
        self.batch = 1

    def ready(self, descriptor: int, events: int, now: float) -> None:
        """Handler of the link's descriptor, level-triggered: what this turn leaves comes with the next."""
        sink = self.sink
        sink.now = now
        sink.gateway.now = now
        link = self.link
        # A read that finds nothing costs as much as one that finds a frame: ask for more only while more comes.
        count = link.receive(self.arena, 0, STRIDE, self.batch, self.lengths)
        self.batch = min(self.batch << 2, BATCH) if count == self.batch else 1 if count <= 1 else self.batch
        if count <= 0:
            if count not in WAIT:
                # End of file, or the guest removed the device: a descriptor that stays readable would spin.
                self.on_end()
            elif link.more:
                sink.resume_later(self.again)
            return
        self.frames += count
        ingress = self.ingress
        positions = link.positions
        for index in range(count):
            at = index * STRIDE if positions is None else positions[index]
            length = self.lengths[index]
            if length < 0:
                self.drops[-length if length > -len(self.drops) else OVERSIZE] += 1
                continue
            try:
                reason = ingress.frame(at, length, now)
            except Exception as error:
                sink.bug(error)
                continue
            if reason:
                self.drops[reason] += 1
                if self.drop_events is not None:
                    self.drop_events.dropped(reason, at + link.header, at + length, now)
            if self.judged is not None:
                self.judged(self.arena, at, length, reason)
        sink.flush_datagrams()
        link.done()
        if link.more:
            # What was read already waits for no descriptor; the sockets have their turn first.
            sink.resume_later(self.again)

    def again(self) -> None:
        """More frames, without waiting for the link's descriptor."""
        self.ready(-1, 0, self.sink.now)
