"""Messages in a stream: two bytes of length before each (RFC 1035 section 4.2.2, RFC 7766 section 8).

Does not: read sockets; the owner feeds what it received and takes whole messages out.
"""

from __future__ import annotations

__all__ = ["MAX_MESSAGE", "Deframer", "frame"]

MAX_MESSAGE = 65535


def frame(message: bytes) -> bytes:
    """`message` of at most `MAX_MESSAGE` bytes as it goes into a stream."""
    return len(message).to_bytes(2, "big") + message


class Deframer:
    """Bytes in, messages out. Holds what was fed and not yet taken: its owner stops feeding while messages are left."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._buffer += data

    def take(self) -> bytes | None:
        """The next whole message, or None until more is fed."""
        end = 2 + int.from_bytes(self._buffer[:2], "big")
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[2:end])
        del self._buffer[:end]
        return message
