"""How the arena of a guest is divided. All in bytes; see `engine.sink`."""

from __future__ import annotations

__all__ = ["ARENA_SIZE", "BATCH", "DATAGRAM_AT", "DATAGRAM_BATCH", "HEADROOM", "REASSEMBLY_AT", "STRIDE", "TRANSMIT_AT"]

STRIDE = 65536 + 1024
"""One frame: the largest IP packet, its headers, and slack."""
BATCH = 64
"""Frames read from the link in one turn; see `native.fast.MAX_BATCH`."""
DATAGRAM_BATCH = 32
"""Datagrams received from one socket in one call."""
HEADROOM = 128
"""Before each received datagram, for the headers in front of it."""

TRANSMIT_AT = BATCH * STRIDE
REASSEMBLY_AT = TRANSMIT_AT + STRIDE
DATAGRAM_AT = REASSEMBLY_AT + STRIDE
ARENA_SIZE = DATAGRAM_AT + DATAGRAM_BATCH * STRIDE + STRIDE
