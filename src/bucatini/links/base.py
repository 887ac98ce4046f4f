"""What a link is: a place where frames of one guest enter and leave.

Every frame lies in an arena and begins with a virtio-net header of 12 bytes; a link without that header on its wire
puts one there and takes it away. `Offloads` is what the far end of the link does for us: complete checksums and cut
superframes.
"""

from __future__ import annotations

from typing import Protocol

from bucatini.native import Arena

__all__ = ["Link"]


class Link(Protocol):
    """Frames in, frames out. Descriptors are non-blocking."""

    descriptor: int

    def receive(self, arena: Arena, at: int, stride: int, count: int, lengths: list[int]) -> int:
        """Read up to `count` frames into slots. The number read; 0 at the end of the link; `-errno` when there is
        none.
        """

    def transmit(self, arena: Arena, at: int, length: int) -> int:
        """Send the frame at `at`. Bytes written, or `-errno`."""
