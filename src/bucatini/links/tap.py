"""A TAP device opened with IFF_VNET_HDR: frames with their virtio-net header, one per read(2) or write(2) (tun(4),
Documentation/networking/tuntap).

The write of a frame delivers it to the guest's stack within the call, so nothing is queued on the way in; on the way
out the device's queue (`txqueuelen`) holds what we have not read, and drops beyond it as any interface does.
"""

from __future__ import annotations

import os
import select

from bucatini.links.base import LinkOwner
from bucatini.native import Arena

__all__ = ["TapLink"]

EPOLLIN = select.EPOLLIN


class TapLink:
    """Owns the descriptor of a TAP device."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.header = 12
        self.positions: list[int] | None = None
        self.more = False
        self._reactor: object = None

    def start(self, owner: LinkOwner) -> None:
        """See `Link`."""
        self._reactor = owner.reactor
        owner.reactor.watch(self.descriptor, owner.frames_ready, EPOLLIN)

    def receive(self, arena: Arena, at: int, stride: int, count: int, lengths: list[int]) -> int:
        """See `Link`."""
        return arena.read_frames(self.descriptor, at, stride, count, lengths)

    def done(self) -> None:
        """See `Link`."""

    def transmit(self, arena: Arena, at: int, length: int) -> int:
        """See `Link`."""
        return arena.write(self.descriptor, at, length)

    def room(self) -> bool:
        """See `Link`."""
        return True

    def flush(self) -> None:
        """See `Link`."""

    def close(self) -> None:
        """Close the descriptor; the device goes with it. Idempotent."""
        if self.descriptor >= 0:
            if self._reactor is not None:
                self._reactor.unwatch(self.descriptor)  # type: ignore[attr-defined]
            os.close(self.descriptor)
            self.descriptor = -1
