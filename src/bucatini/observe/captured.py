"""A link that writes down what passes: wraps another link, costs nothing when it is not there.

Frames to the guest are captured as they are sent. Frames from the guest are captured after the stack has judged them,
so that the comment can say why one was dropped. The virtio-net header is left out; a superframe appears whole, its
checksum perhaps undone, as in any capture taken above an offloading device.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bucatini.native import Arena
from bucatini.observe.pcapng import FROM_GUEST, TO_GUEST, PcapngWriter

__all__ = ["CapturedLink"]

VNET = 12


class CapturedLink:
    """`link` is what is captured. `comment` turns a drop reason's number into words, or None for a frame that was of
    use.
    """

    def __init__(self, link: Any, writer: PcapngWriter, comment: Callable[[int], str | None]) -> None:
        self.link = link
        if hasattr(link, "borrow"):
            # What is written down is read from the arena.
            link.borrow = False
        self.header: int = link.header
        self._writer = writer
        self._comment = comment

    @property
    def positions(self) -> list[int] | None:
        """See `links.base.Link`."""
        return self.link.positions  # type: ignore[no-any-return]

    @property
    def more(self) -> bool:
        """See `links.base.Link`."""
        return self.link.more  # type: ignore[no-any-return]

    def start(self, owner: Any) -> None:
        """See `links.base.Link`."""
        self.link.start(owner)

    def receive(self, arena: Arena, at: int, stride: int, count: int, lengths: list[int]) -> int:
        """See `links.base.Link`."""
        return self.link.receive(arena, at, stride, count, lengths)  # type: ignore[no-any-return]

    def judged(self, arena: Arena, at: int, length: int, reason: int) -> None:
        """The frame at `at` came from the guest and the stack said `reason` (0: it was of use)."""
        frame = arena.view[at + self.header : at + length]
        self._writer.write(FROM_GUEST, time.time_ns(), frame, self._comment(reason))

    def done(self) -> None:
        """See `links.base.Link`."""
        self.link.done()

    def transmit(self, arena: Arena, at: int, length: int) -> int:
        """See `links.base.Link`."""
        frame = bytes(arena.view[at + VNET : at + length])
        done: int = self.link.transmit(arena, at, length)
        comment = None if done >= 0 else "link refused the frame"
        self._writer.write(TO_GUEST, time.time_ns(), frame, comment)
        return done

    def room(self) -> bool:
        """See `links.base.Link`."""
        return self.link.room()  # type: ignore[no-any-return]

    def flush(self) -> None:
        """See `links.base.Link`."""
        self.link.flush()

    def close(self) -> None:
        """Close the wrapped link."""
        self.link.close()
