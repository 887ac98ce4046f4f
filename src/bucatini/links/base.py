"""What a link is: a place where frames of one guest enter and leave.

Every frame lies in an arena. Towards the guest it always begins with a virtio-net header of 12 bytes; from the guest it
does on links whose `header` is 12, and begins with Ethernet where it is 0. `Offloads` is what the far end of the link
does for us: complete checksums and cut superframes. A link to a socket without offloads does both itself, in
`native.Outbox`, so the stack hands the same superframes to all of them.

Order of a turn: `receive` until there is nothing or the batch is full, the stack judges each frame, `done`; at the end
of the turn `flush`. A link that cannot take more says so by `room()` and calls `LinkOwner.room_again` once it can: what
is refused between the two is lost, and counted.
"""

from __future__ import annotations

from typing import Any, Protocol

from bucatini.host.tap import Offloads
from bucatini.native import Arena

__all__ = ["Link", "LinkOwner"]


class LinkOwner(Protocol):
    """What a link may ask of the engine it serves. Reactor as `engine.reactor.Reactor`."""

    reactor: Any
    arena: Arena
    loop: Any
    """The asyncio loop, for what is not in a hurry."""
    drops: list[int]
    """What a link could not use, by `DropReason`."""

    def frames_ready(self, descriptor: int, events: int, now: float) -> None:
        """Handler for descriptors that say that frames can be received."""

    def room_again(self) -> None:
        """The link takes frames again; called from a handler."""

    def offloads_changed(self, offloads: Offloads) -> None:
        """The guest's driver can do this from now on."""

    def link_joined(self) -> None:
        """A guest can hear us from now on."""

    def link_ended(self) -> None:
        """Nobody is at the far end, and nobody will be."""

    def say(self, line: str) -> None:
        """A line for people about who comes and goes."""


class Link(Protocol):
    """Frames in, frames out. Descriptors are non-blocking."""

    header: int
    """Bytes before Ethernet in frames that are received: 12 or 0."""
    positions: list[int] | None
    """Where the frames of the last `receive` begin; None: each at the start of its slot."""

    more: bool
    """Whether `receive` has more at once, though no descriptor will say so."""

    def start(self, owner: LinkOwner) -> None:
        """Begin to serve: watch what has to be watched."""

    def receive(self, arena: Arena, at: int, stride: int, count: int, lengths: list[int]) -> int:
        """Read up to `count` frames into slots, or as many as `lengths` has places for. The number read; 0 at the end
        of the link; `-errno` when there is none. A length below zero is the negative `DropReason` of a void frame.
        """

    def done(self) -> None:
        """The frames received last are not needed any more."""

    def transmit(self, arena: Arena, at: int, length: int) -> int:
        """Send the frame at `at`. Bytes taken, or `-errno`."""

    def room(self) -> bool:
        """Whether a superframe would be taken now."""

    def flush(self) -> None:
        """The end of a turn: nothing that was taken may wait any longer."""

    def close(self) -> None:
        """Stop and close. Idempotent."""
