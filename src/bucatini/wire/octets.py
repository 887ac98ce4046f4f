"""Big-endian loads and stores in a byte buffer. Network byte order is that of RFC 791 appendix B.

Does not check bounds itself: an offset outside the buffer raises IndexError. Offsets are never negative: compiled, a
negative offset is an error; interpreted, Python would count from the end.
"""

from __future__ import annotations

__all__ = ["load16", "load32", "load_bytes", "store16", "store32", "store_bytes"]


def load16(buf: memoryview, at: int) -> int:
    """The 16-bit value at `at`, network order."""
    return buf[at] << 8 | buf[at + 1]


def load32(buf: memoryview, at: int) -> int:
    """The 32-bit value at `at`, network order."""
    high = buf[at] << 8 | buf[at + 1]
    low = buf[at + 2] << 8 | buf[at + 3]
    return high << 16 | low


def store16(buf: memoryview, at: int, value: int) -> None:
    """Writes the low 16 bits of `value` at `at`, network order."""
    buf[at] = value >> 8 & 0xFF
    buf[at + 1] = value & 0xFF


def store32(buf: memoryview, at: int, value: int) -> None:
    """Writes the low 32 bits of `value` at `at`, network order."""
    buf[at] = value >> 24 & 0xFF
    buf[at + 1] = value >> 16 & 0xFF
    buf[at + 2] = value >> 8 & 0xFF
    buf[at + 3] = value & 0xFF


def load_bytes(buf: memoryview, at: int, length: int) -> bytes:
    """A copy of `length` bytes from `at`."""
    return bytes(buf[at : at + length])


def store_bytes(buf: memoryview, at: int, data: bytes) -> None:
    """Copies `data` to `at`. Meant for addresses: a loop, not a block copy."""
    for i in range(len(data)):
        buf[at + i] = data[i]
