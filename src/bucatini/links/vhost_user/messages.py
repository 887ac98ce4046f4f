"""Messages of vhost-user: a header of 12 bytes and a body, all in the host's order (QEMU, interop/vhost-user).

A body that is shorter than its request wants is None, whatever was in it. Does not: know what a request does, or carry
descriptors.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

__all__ = [
    "HEADER_LENGTH",
    "MAX_BODY",
    "MAX_DESCRIPTORS",
    "NEED_REPLY",
    "Header",
    "Region",
    "Request",
    "VringAddress",
    "answer",
    "parse_header",
    "parse_region",
    "parse_regions",
    "parse_state",
    "parse_u64",
    "parse_vring_address",
]

HEADER_LENGTH = 12
MAX_BODY = 4096
"""Bytes: the longest that any request here has is far below."""
MAX_DESCRIPTORS = 32
VERSION = 1
REPLY = 4
NEED_REPLY = 8
VERSION_MASK = 3
MAX_TABLE = 8
"""Regions in one table (VHOST_MEMORY_BASELINE_NREGIONS)."""

_HEADER = struct.Struct("=III")
_U64 = struct.Struct("=Q")
_STATE = struct.Struct("=II")
_ADDRESS = struct.Struct("=IIQQQQ")
_REGION = struct.Struct("=QQQQ")
_TABLE = struct.Struct("=II")


class Request(IntEnum):
    """Requests of the front end that are known here."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38


class Header(NamedTuple):
    """Request number, flags and length of the body in bytes."""

    request: int
    flags: int
    size: int


class Region(NamedTuple):
    """A piece of guest memory: its addresses in the guest and in the front end, and its offset in the descriptor."""

    guest: int
    size: int
    user: int
    offset: int


class VringAddress(NamedTuple):
    """Where a ring's tables are, in the front end's address space."""

    ring: int
    descriptors: int
    used: int
    available: int


def parse_header(data: bytes) -> Header | None:
    """None when it is of another version or the body is longer than any."""
    header = Header(*_HEADER.unpack(data))
    if header.flags & VERSION_MASK != VERSION or header.size > MAX_BODY:
        return None
    return header


def answer(request: int, body: bytes) -> bytes:
    """The reply to a request."""
    return _HEADER.pack(request, VERSION | REPLY, len(body)) + body


def parse_u64(body: bytes) -> int | None:
    """One number."""
    return int(_U64.unpack_from(body)[0]) if len(body) >= _U64.size else None


def parse_state(body: bytes) -> tuple[int, int] | None:
    """A ring's index and a number about it."""
    return _STATE.unpack_from(body) if len(body) >= _STATE.size else None


def parse_vring_address(body: bytes) -> VringAddress | None:
    """Flags and the log's address are left out: nothing is logged."""
    if len(body) < _ADDRESS.size:
        return None
    ring, _flags, descriptors, used, available, _log = _ADDRESS.unpack_from(body)
    return VringAddress(ring, descriptors, used, available)


def parse_region(body: bytes) -> Region | None:
    """Of ADD_MEM_REG and REM_MEM_REG: eight bytes of padding come first."""
    return Region(*_REGION.unpack_from(body, 8)) if len(body) >= 8 + _REGION.size else None


def parse_regions(body: bytes) -> list[Region] | None:
    """Of SET_MEM_TABLE."""
    if len(body) < _TABLE.size:
        return None
    count = _TABLE.unpack_from(body)[0]
    if count > MAX_TABLE or len(body) < _TABLE.size + count * _REGION.size:
        return None
    return [Region(*_REGION.unpack_from(body, _TABLE.size + each * _REGION.size)) for each in range(count)]
