"""Arithmetic on TCP sequence numbers: 32 bits, modulo 2**32 (RFC 9293 section 3.4)."""

from __future__ import annotations

__all__ = ["add", "distance"]


def distance(a: int, b: int) -> int:
    """How far `a` lies ahead of `b`: -2**31 to 2**31 - 1, negative when it lies behind."""
    return (((a - b) & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def add(a: int, count: int) -> int:
    """`a` moved ahead by `count`."""
    return (a + count) & 0xFFFFFFFF
