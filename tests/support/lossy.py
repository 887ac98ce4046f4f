"""A link that loses and reorders frames: wraps another link, both ways, from a seeded generator.

A frame that is reordered is held back and let go after a few later frames of its direction. Towards the guest it also
goes at the next read of the link, so that it is never held for longer than the guest is silent. What is held is
bounded: a frame that finds the place taken passes. The virtio-net header travels with its frame: a superframe is lost
as a whole.

Does not: delay, corrupt or duplicate; work for more than one reader.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from typing import Any

from bucatini.native import Arena

__all__ = ["HELD", "LossyLink"]

HELD = 8
"""Frames held back at a time, each direction."""
LATER = (1, 5)
"""How many frames may pass one that is held: at least, at most."""


class _Direction:
    """The fate of each frame of one direction, and the frames held back."""

    def __init__(self, drop: float, reorder: float, chance: random.Random) -> None:
        self.drop = drop
        self.reorder = reorder
        self.chance = chance
        self.held: list[tuple[int, bytes]] = []
        """How many frames may still pass each, and what is in it."""
        self.passed = 0
        self.dropped = 0
        self.reordered = 0

    def fate(self) -> str:
        """`drop`, `hold` or `pass`; counted."""
        draw = self.chance.random()
        if draw < self.drop:
            self.dropped += 1
            return "drop"
        if draw < self.drop + self.reorder and len(self.held) < HELD:
            self.reordered += 1
            return "hold"
        self.passed += 1
        return "pass"

    def hold(self, frame: bytes) -> None:
        self.held.append((self.chance.randint(*LATER), frame))

    def due(self) -> list[bytes]:
        """One more frame has passed: those that have waited long enough."""
        self.held = [(left - 1, frame) for left, frame in self.held]
        ready = [frame for left, frame in self.held if left <= 0]
        self.held = [entry for entry in self.held if entry[0] > 0]
        return ready

    def all(self) -> list[bytes]:
        ready = [frame for _, frame in self.held]
        self.held = []
        return ready


class LossyLink:
    """`drop` and `reorder` are shares of all frames, 0 to 1."""

    def __init__(self, link: Any, drop: float = 0.01, reorder: float = 0.01, seed: int = 1) -> None:
        self.link = link
        self.descriptor = link.descriptor
        self.header = link.header
        self.positions: list[int] | None = None
        self.more = False
        self.up = _Direction(drop, reorder, random.Random(seed))
        self.down = _Direction(drop, reorder, random.Random(seed + 1))
        self._waiting: list[bytes] = []

    def start(self, owner: Any) -> None:
        """See `links.base.Link`."""
        self.link.start(owner)

    def done(self) -> None:
        """See `links.base.Link`."""
        self.link.done()

    def room(self) -> bool:
        """See `links.base.Link`."""
        return bool(self.link.room())

    def flush(self) -> None:
        """See `links.base.Link`."""
        self.link.flush()

    def receive(self, arena: Arena, at: int, stride: int, count: int, lengths: list[int]) -> int:
        """See `links.base.Link`. Frames that find no slot, behind others let go, come first next time."""
        self._let_go(arena, at)
        got = int(self.link.receive(arena, at, stride, count, lengths))
        if got <= 0:
            return got
        read = [bytes(arena.view[start : start + lengths[index]]) for index, start in _slots(got, at, stride)]
        for frame in read:
            fate = self.up.fate()
            if fate == "hold":
                self.up.hold(frame)
                continue
            if fate == "pass":
                self._waiting.append(frame)
            self._waiting += self.up.due()
        frames, self._waiting = self._waiting[:count], self._waiting[count:]
        for index, start in _slots(len(frames), at, stride):
            arena.view[start : start + len(frames[index])] = frames[index]
            lengths[index] = len(frames[index])
        return len(frames) or -errno.EAGAIN

    def _let_go(self, arena: Arena, at: int) -> None:
        """Send what is held for the guest, through the first slot, which holds no frame yet."""
        for frame in self.down.all():
            arena.view[at : at + len(frame)] = frame
            self.link.transmit(arena, at, len(frame))

    def transmit(self, arena: Arena, at: int, length: int) -> int:
        """See `links.base.Link`."""
        fate = self.down.fate()
        if fate == "drop":
            return length
        if fate == "hold":
            self.down.hold(bytes(arena.view[at : at + length]))
            return length
        done = int(self.link.transmit(arena, at, length))
        due = self.down.due()
        if due:
            kept = bytes(arena.view[at : at + max(length, *map(len, due))])
            for frame in due:
                arena.view[at : at + len(frame)] = frame
                self.link.transmit(arena, at, len(frame))
            arena.view[at : at + len(kept)] = kept
        return done

    def close(self) -> None:
        """Close the wrapped link."""
        self.link.close()

    def statistics(self) -> dict[str, int]:
        """Frames by direction and fate."""
        return {
            f"{name}_{fate}": getattr(direction, fate)
            for name, direction in (("up", self.up), ("down", self.down))
            for fate in ("passed", "dropped", "reordered")
        }


def _slots(count: int, at: int, stride: int) -> Iterator[tuple[int, int]]:
    return ((index, at + index * stride) for index in range(count))
