"""Puts the guest's fragments together: RFC 791 section 3.2, RFC 8200 section 4.5, RFC 5722, RFC 6946.

Theory of operation. Policy reads ports, and ports are only in the first fragment, so nothing fragmented is judged or
passed on before it is whole. One datagram is a list of pieces sorted by offset, found by its family, addresses,
identification and, in IPv4, protocol. It is complete when its last fragment is known and the pieces cover everything up
to it.

A fragment that overlaps another shows an attack on whoever reads the datagram differently (teardrop, RFC 1858, RFC
5722). The whole datagram is then void: its bytes are let go at once, and it stays in the table until its time is up so
that the fragments still to come are swallowed too. The same holds for two different ends, data behind the end, and a
datagram in too many pieces. Only a repetition, the same bytes at the same place, is harmless and ignored.

Bounds: datagrams, bytes of all of them, pieces of one, seconds. At the first two the oldest datagram makes room; a
newcomer never has to wait, so a guest that leaves datagrams unfinished harms only its own. Every bound has its counter.

Time is a number of seconds that the caller hands in and that never goes back.

Does not send "reassembly time exceeded". Does not combine ECN marks (RFC 3168 5.3): those of the first fragment stay.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from bucatini.wire.ip import IpView
from bucatini.wire.ipv4 import header_sum
from bucatini.wire.octets import load_bytes, store16

__all__ = [
    "LIFETIME_V4",
    "LIFETIME_V6",
    "MAXIMUM_BYTES",
    "MAXIMUM_DATAGRAMS",
    "MAXIMUM_PIECES",
    "Reassembler",
    "ReassemblyCounters",
]

MAXIMUM_DATAGRAMS = 64
"""Unfinished at a time."""
MAXIMUM_BYTES = 4 << 20
"""Held by all unfinished datagrams together; Linux's ipfrag_high_thresh has the same value."""
MAXIMUM_PIECES = 256
"""Of one datagram: 64 KiB in pieces for an MTU of 576 bytes are 119."""
LIFETIME_V4 = 30.0
"""Seconds from the first fragment to arrive; Linux's ipfrag_time."""
LIFETIME_V6 = 60.0
"""RFC 8200 4.5."""

_PIECE_COST = 128
"""Bytes charged for a piece on top of its data: about what its Python objects take."""
_LONGEST = 65535

_Key = tuple[bytes, bytes, int, int]


@dataclass(slots=True)
class ReassemblyCounters:
    """How fragments and datagrams ended. `duplicate`, `malformed` and `void` count fragments, the others datagrams."""

    completed: int = 0
    expired: int = 0
    evicted_for_datagrams: int = 0
    evicted_for_bytes: int = 0
    overlapping: int = 0
    """Declared void for an overlap, for two ends, or for data behind the end."""
    too_many_pieces: int = 0
    duplicate: int = 0
    malformed: int = 0
    """Empty, of a length that is no multiple of 8 before the end, or reaching beyond 65535 bytes."""
    void: int = 0
    """Swallowed because their datagram was already void."""


@dataclass(slots=True)
class _Datagram:
    deadline: float
    offsets: list[int] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    head: bytes | None = None
    """What stands before the payload in the first fragment; an IPv6 Fragment header is already cut out."""
    length: int = -1
    """Of the payload, once the last fragment is known."""
    covered: int = 0
    """Bytes of payload held; complete when equal to `length`, as pieces never overlap."""
    cost: int = 0
    void: bool = False


class Reassembler:
    """The table of unfinished datagrams of one guest."""

    def __init__(self, maximum_datagrams: int = MAXIMUM_DATAGRAMS, maximum_bytes: int = MAXIMUM_BYTES) -> None:
        self._maximum_datagrams = maximum_datagrams
        self._maximum_bytes = maximum_bytes
        self._datagrams: dict[_Key, _Datagram] = {}  # oldest first
        self._held = 0
        self.counters = ReassemblyCounters()

    def __len__(self) -> int:
        return len(self._datagrams)

    @property
    def held_bytes(self) -> int:
        """Bytes charged for all unfinished datagrams."""
        return self._held

    def next_deadline(self) -> float | None:
        """When the next unfinished datagram is given up; None when there is none."""
        return min((datagram.deadline for datagram in self._datagrams.values()), default=None)

    def expire(self, now: float) -> int:
        """Gives up what is out of time and returns how many datagrams that were."""
        late = [key for key, datagram in self._datagrams.items() if datagram.deadline <= now]
        for key in late:
            self._forget(key)
        self.counters.expired += len(late)
        return len(late)

    def offer(self, buf: memoryview, view: IpView, now: float) -> bytes | None:
        """Takes the fragment that `view` found in `buf`; returns the whole IP packet when this completes it.

        Call it when `view.fragment` is true. The result has an IPv4 header without fragment offset and with right
        length and checksum, or IPv6 headers without the Fragment header. The bytes are copied: `buf` is free
        afterwards.
        """
        self.expire(now)
        offset = view.fragment_offset
        start = view.payload_at if view.version == 4 else view.fragment_header_at + 8
        data = load_bytes(buf, start, view.end - start)
        if _is_malformed(view, data):
            self.counters.malformed += 1
            return None
        key = _key(buf, view)
        datagram = self._datagrams.get(key) or self._open(key, view.version, now)
        if datagram.void:
            self.counters.void += 1
            return None
        if not self._insert(datagram, offset, data, view.more_fragments):
            return None
        if offset == 0:
            datagram.head = _head_of(buf, view)
            self._charge(datagram, len(datagram.head))
        if datagram.covered == datagram.length and datagram.head is not None:
            return self._finish(key, datagram)
        self._make_room()
        return None

    def _open(self, key: _Key, version: int, now: float) -> _Datagram:
        if len(self._datagrams) >= self._maximum_datagrams:
            self._forget(next(iter(self._datagrams)))
            self.counters.evicted_for_datagrams += 1
        datagram = _Datagram(now + (LIFETIME_V4 if version == 4 else LIFETIME_V6))
        self._datagrams[key] = datagram
        return datagram

    def _insert(self, datagram: _Datagram, offset: int, data: bytes, more: bool) -> bool:
        """Puts the piece in its place. False when it is a repetition or makes the datagram void."""
        end = offset + len(data)
        index = bisect_left(datagram.offsets, offset)
        if _repeats(datagram, index, offset, data, more):
            self.counters.duplicate += 1
            return False
        if _contradicts(datagram, index, offset, end, more):
            self._void(datagram)
            self.counters.overlapping += 1
            return False
        if len(datagram.pieces) >= MAXIMUM_PIECES:
            self._void(datagram)
            self.counters.too_many_pieces += 1
            return False
        datagram.offsets.insert(index, offset)
        datagram.pieces.insert(index, data)
        datagram.covered += len(data)
        if not more:
            datagram.length = end
        self._charge(datagram, len(data) + _PIECE_COST)
        return True

    def _finish(self, key: _Key, datagram: _Datagram) -> bytes | None:
        assert datagram.head is not None
        packet = bytearray(datagram.head)
        self._forget(key)
        for piece in datagram.pieces:
            packet += piece
        version = packet[0] >> 4
        if len(packet) > _LONGEST + (0 if version == 4 else 40):
            self.counters.malformed += 1
            return None
        _complete_header(packet)
        self.counters.completed += 1
        return bytes(packet)

    def _make_room(self) -> None:
        while self._held > self._maximum_bytes:
            self._forget(next(iter(self._datagrams)))
            self.counters.evicted_for_bytes += 1

    def _charge(self, datagram: _Datagram, cost: int) -> None:
        datagram.cost += cost
        self._held += cost

    def _void(self, datagram: _Datagram) -> None:
        self._held -= datagram.cost
        datagram.cost = 0
        datagram.void = True
        datagram.head = None
        datagram.offsets.clear()
        datagram.pieces.clear()

    def _forget(self, key: _Key) -> None:
        self._held -= self._datagrams.pop(key).cost


def _key(buf: memoryview, view: IpView) -> _Key:
    """RFC 791 names the protocol too; RFC 8200 does not, as the next header of later fragments may be anything."""
    return (
        load_bytes(buf, view.source_at, view.address_length),
        load_bytes(buf, view.destination_at, view.address_length),
        view.identification,
        view.protocol if view.version == 4 else -1,
    )


def _is_malformed(view: IpView, data: bytes) -> bool:
    if not data or (view.more_fragments and len(data) % 8):
        return True
    headers = view.payload_at - view.header_at if view.version == 4 else view.fragment_header_at - view.header_at - 40
    return headers + view.fragment_offset + len(data) > _LONGEST


def _repeats(datagram: _Datagram, index: int, offset: int, data: bytes, more: bool) -> bool:
    """Whether the piece that would stand at `index` is there already, with the same bytes and the same end."""
    if index == len(datagram.offsets) or datagram.offsets[index] != offset or datagram.pieces[index] != data:
        return False
    return more == (offset + len(data) != datagram.length)


def _contradicts(datagram: _Datagram, index: int, offset: int, end: int, more: bool) -> bool:
    """Whether a new piece `offset..end`, to stand at `index`, overlaps others or disagrees with them about the end."""
    if index > 0 and datagram.offsets[index - 1] + len(datagram.pieces[index - 1]) > offset:
        return True
    if index < len(datagram.offsets) and datagram.offsets[index] < end:
        return True
    if datagram.length >= 0:
        return not more or end > datagram.length
    return not more and index < len(datagram.offsets)


def _head_of(buf: memoryview, view: IpView) -> bytes:
    """The headers before the payload, the Fragment header cut out and what it named put where it was named."""
    if view.version == 4:
        return load_bytes(buf, view.header_at, view.payload_at - view.header_at)
    at = view.fragment_header_at
    head = bytearray(load_bytes(buf, view.header_at, at - view.header_at))
    head[_namer_of(head)] = buf[at]
    return bytes(head)


def _namer_of(head: bytearray) -> int:
    """Offset of the byte that names the Fragment header behind `head`: the chain was walked before, so it ends."""
    named_at, next_at = 6, 40
    while next_at < len(head):
        length = (head[next_at + 1] + 2) << 2 if head[named_at] == 51 else (head[next_at + 1] + 1) << 3
        named_at, next_at = next_at, next_at + length
    return named_at


def _complete_header(packet: bytearray) -> None:
    """Writes length and, for IPv4, Don't Fragment alone of the fragment field, and the checksum."""
    buf = memoryview(packet)
    if packet[0] >> 4 == 6:
        store16(buf, 4, len(packet) - 40)
        return
    store16(buf, 2, len(packet))
    buf[6] &= 0x40
    buf[7] = 0
    store16(buf, 10, 0)
    store16(buf, 10, header_sum(buf, 0, (packet[0] & 0x0F) * 4) ^ 0xFFFF)
