"""The interpreted twin of `fast_rings`: the rings that a guest's virtio driver and we share, in the guest's memory.

Virtio 1.2 section 2.7, split virtqueues, the device's side. A ring is three tables in guest memory: descriptors
(address, length, flags, next), the *available* ring, where the driver says which chains of descriptors are ours, and
the *used* ring, where we give them back. Guest memory is a list of regions that the hypervisor shares with us.

Everything in there may change at any moment and may be a lie. So each value is read once; an index is below the ring's
size, or the chain is void; a chain has no more descriptors than the ring has, or it loops and is void; every descriptor
lies inside one region, or the chain is void. A void chain is given back empty and counted by its reason. An available
index further ahead than the ring is long cannot be mended: the ring is `broken` and rests until it is set up anew.
Nothing here raises for what a guest wrote.

Frames from the guest are copied into slots of the arena, except that the compiled twin leaves the payload of large TCP
superframes where it lies (`Arena.send` finds it there) until `finish` gives the chains back. Frames to the guest go
into as many chains as they need (mergeable buffers, section 5.1.6.4); `peek` reads a socket straight into them, behind
the room for headers, and `write` then adds those. Notifications in both directions are asked for only when somebody
waits (event index, sections 2.7.7 and 2.7.10).

Does not: indirect descriptors (never offered), packed rings, or a log of dirty pages.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import threading
from typing import Any

from bucatini.base.reasons import DropReason

__all__ = ["MAX_REGIONS", "GuestMemory", "Ring"]

MAX_REGIONS = 32
MAX_SIZE = 32768
"""Descriptors of a ring (virtio 1.2 section 2.7)."""
MAX_PARTS = 1024
"""Pieces of memory in one call (UIO_MAXIOV)."""
LONGEST_HEADERS = 128
LARGEST = 65536 + 1024
"""Bytes of one frame, headers included."""
RING_ADDRESS, RING_CHAIN, RING_BROKEN, OVERSIZE = (
    int(DropReason.RING_ADDRESS), int(DropReason.RING_CHAIN), int(DropReason.RING_BROKEN), int(DropReason.OVERSIZE),
)  # fmt: skip

LOOKS = 8
"""How often an index is looked at until it stands still."""

_DESCRIPTOR = struct.Struct("<QIHH")
_U16 = struct.Struct("<H")
_USED = struct.Struct("<II")
NEXT, WRITE, INDIRECT = 1, 2, 4
NO_INTERRUPT = NO_NOTIFY = 1
_ORDER = threading.Lock()


def _fence() -> None:
    """What was written is visible before what is read next: a lock that is taken and left is the barrier Python has."""
    with _ORDER:
        pass


def _store(table: memoryview, at: int, value: int) -> None:
    """16 bits at once, as the driver may read them at any moment: `pack_into` writes zeros first."""
    table.cast("H")[at >> 1] = value if sys.byteorder == "little" else value >> 8 | (value & 0xFF) << 8


class GuestMemory:
    """Regions of the guest's memory, known by two addresses each: the guest's own, and that in the hypervisor."""

    def __init__(self) -> None:
        self._regions: list[tuple[int, int, int, memoryview]] = []

    @property
    def count(self) -> int:
        """Regions there are."""
        return len(self._regions)

    def add(self, guest: int, size: int, user: int, mapping: Any, offset: int) -> bool:
        """Another region: `size` bytes at `offset` of `mapping`, a writable buffer. False when it cannot be: none left,
        empty, outside the mapping, at no address, or over another one.
        """
        if len(self._regions) >= MAX_REGIONS or size <= 0 or offset < 0 or guest < 0 or user < 0:
            return False
        if guest + size > 1 << 64 or user + size > 1 << 64 or offset + size > len(mapping):
            return False
        for other, length, place, _ in self._regions:
            if (guest < other + length and other < guest + size) or (user < place + length and place < user + size):
                return False
        view = memoryview(mapping)
        self._regions.append((guest, size, user, view[offset : offset + size]))
        return True

    def remove(self, guest: int, size: int, user: int) -> bool:
        """Forget that region. False when it is not there."""
        for index, (other, length, place, view) in enumerate(self._regions):
            if (other, length, place) == (guest, size, user):
                view.release()
                del self._regions[index]
                return True
        return False

    def clear(self) -> None:
        """Forget all. Rings that were placed in it must be dropped first."""
        for *_, view in self._regions:
            view.release()
        self._regions.clear()

    def at(self, guest: int, size: int) -> memoryview | None:
        """`size` bytes at the guest's address, or None when they are not inside one region."""
        for start, length, _, view in self._regions:
            if start <= guest and guest - start <= length and size <= length - (guest - start):
                return view[guest - start : guest - start + size]
        return None

    def at_user(self, user: int, size: int) -> memoryview | None:
        """The same by the hypervisor's address."""
        for _, length, start, view in self._regions:
            if start <= user and user - start <= length and size <= length - (user - start):
                return view[user - start : user - start + size]
        return None


class Ring:
    """One ring. Placed and started by messages of the hypervisor, which are checked here as well."""

    def __init__(self, memory: GuestMemory, drops: list[int]) -> None:
        """`drops` counts void chains towards the guest, and rings that broke, by `DropReason`."""
        self.memory = memory
        self.drops = drops
        self.size = 0
        self.event_index = False
        self.mergeable = False
        """Whether a frame to the guest may take more than one chain."""
        self.broken = False
        self.next = 0
        """Where in the available ring the next chain is, modulo 2**16."""
        self._descriptors: memoryview | None = None
        self._available: memoryview | None = None
        self._used: memoryview | None = None
        self._used_index = 0
        self._signalled = 0
        self._waiting: list[int] = []
        self._placed = 0
        self._parts: list[memoryview] = []
        self._chains: list[tuple[int, int]] = []

    def place(self, size: int, descriptors: int, available: int, used: int) -> bool:
        """Where the three tables are, at the hypervisor's addresses. False, and not placed, when they cannot be."""
        self.unplace()
        if not 0 < size <= MAX_SIZE or size & (size - 1) or descriptors & 15 or available & 1 or used & 3:
            return False
        tables = (
            self.memory.at_user(descriptors, 16 * size),
            self.memory.at_user(available, 6 + 2 * size),
            self.memory.at_user(used, 6 + 8 * size),
        )
        if None in tables:
            return False
        self._descriptors, self._available, self._used = tables
        self.size = size
        self._used_index = self._signalled = self._load(self._used, 2)
        self.broken = False
        return True

    def unplace(self) -> None:
        """Forget where the tables are; chains taken and not given back are lost."""
        self._descriptors = self._available = self._used = None
        self._waiting.clear()
        self._drop_gathered()

    @property
    def placed(self) -> bool:
        """Whether the tables can be used."""
        return self._available is not None and not self.broken

    @staticmethod
    def _load(table: memoryview | None, at: int) -> int:
        assert table is not None
        return int(_U16.unpack_from(table, at)[0])

    def count(self) -> int:
        """Chains that the driver has made available; a count that cannot be breaks the ring, and is 0."""
        if not self.placed:
            return 0
        ahead = (self._load(self._available, 2) - self.next) & 0xFFFF
        if ahead > self.size:
            self.broken = True
            self.drops[RING_BROKEN] += 1
            return 0
        return ahead

    def _take(self, writable: bool, ahead: int) -> tuple[int, list[memoryview], int]:
        """The chain that is `ahead` of `next`: its head, its pieces, and 0 or the reason why it is void."""
        head = self._load(self._available, 4 + 2 * ((self.next + ahead) & (self.size - 1)))
        parts: list[memoryview] = []
        index, seen, total = head, 0, 0
        while True:
            if index >= self.size or seen >= self.size or seen >= MAX_PARTS:
                return head, [], RING_CHAIN
            assert self._descriptors is not None
            address, length, flags, following = _DESCRIPTOR.unpack_from(self._descriptors, 16 * index)
            if flags & INDIRECT or bool(flags & WRITE) != writable:
                return head, [], RING_CHAIN
            piece = self.memory.at(address, length)
            if piece is None:
                return head, [], RING_ADDRESS
            total += length
            if not writable and total > LARGEST:
                return head, [], OVERSIZE
            parts.append(piece)
            seen += 1
            if not flags & NEXT:
                return head, parts, 0
            index = following

    # -- from the guest

    def receive(self, arena: Any, at: int, stride: int, count: int, lengths: list[int], borrow: bool) -> int:
        """Copy up to `count` frames into slots. Their number; the length of a void one is the negative reason.

        `borrow` has no meaning here: it allows the compiled twin to leave payload where it is.
        """
        arena._check_slots(at, stride, count, len(lengths))  # noqa: SLF001  the twin of the same check in C
        there = min(self.count(), count)
        for index in range(there):
            head, parts, reason = self._take(False, 0)
            self.next = (self.next + 1) & 0xFFFF
            self._waiting.append(head)
            place = at + index * stride
            total = sum(map(len, parts))
            if not reason and total > stride:
                reason = OVERSIZE
            lengths[index] = -reason if reason else total
            if reason:
                continue
            for part in parts:
                arena.view[place : place + len(part)] = part
                place += len(part)
        return there

    def finish(self) -> None:
        """Give the chains back that were received."""
        for head in self._waiting:
            self._give_back(head, 0)
        if self._waiting:
            self._publish()
            self._waiting.clear()

    def _give_back(self, head: int, length: int) -> None:
        assert self._used is not None
        _USED.pack_into(self._used, 4 + 8 * (self._used_index & (self.size - 1)), head, length)
        self._used_index = (self._used_index + 1) & 0xFFFF

    def _publish(self) -> None:
        assert self._used is not None
        _fence()
        _store(self._used, 2, self._used_index)

    # -- to the guest

    def _gather(self, wanted: int) -> int:
        """Find chains for `wanted` bytes. How many bytes they hold; a void chain is given back on the way."""
        self._drop_gathered()
        there = self.count()
        capacity = 0
        while len(self._chains) < there and capacity < wanted:
            head, parts, reason = self._take(True, len(self._chains))
            if reason or not sum(map(len, parts)):
                if self._chains:
                    break  # it is the first the next time
                self.drops[reason or RING_CHAIN] += 1
                self.next = (self.next + 1) & 0xFFFF
                there -= 1
                self._give_back(head, 0)
                self._publish()
                continue
            if len(self._parts) + len(parts) > MAX_PARTS:
                break
            size = sum(map(len, parts))
            self._chains.append((head, size))
            self._parts += parts
            capacity += size
            if not self.mergeable:
                break
        return capacity

    def holds(self, length: int) -> bool:
        """Whether the chains that are there would take a frame of `length` bytes."""
        capacity = self._gather(length)
        self._drop_gathered()
        return capacity >= length

    def _drop_gathered(self) -> None:
        self._parts = []
        self._chains = []
        self._placed = 0

    def peek(self, arena: Any, sock: socket.socket, headers: int, limit: int, skip: int) -> int:
        """Peek up to `limit` bytes of a stream straight into the guest's buffers, `headers` bytes behind their start.

        As `Arena.peek`; -ENOBUFS when there are no buffers. The next call must be `write` of headers and these bytes.
        """
        capacity = self._gather(headers + limit)
        if capacity <= headers:
            self._drop_gathered()
            return -errno.ENOBUFS
        parts = _cut(self._parts, headers, min(limit, capacity - headers))
        flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
        try:
            if skip <= 0:
                got = sock.recvmsg_into(parts, 0, flags)[0]
            else:
                scratch = arena._discards  # noqa: SLF001  as `Arena.peek`
                if skip > len(scratch):
                    self._drop_gathered()
                    return -errno.EMSGSIZE
                got = sock.recvmsg_into([scratch[:skip], *parts[: MAX_PARTS - 1]], 0, flags)[0]
                got = got - skip if got > skip else -errno.EAGAIN if got else 0
        except OSError as error:
            got = -(error.errno or errno.EIO)
        if got > 0:
            self._placed = got
        else:
            self._drop_gathered()
        return got

    def write(self, arena: Any, at: int, length: int) -> int:
        """Give the guest the frame at `at`, virtio-net header first; of one whose payload `peek` has put there only the
        headers are copied. `length`, or -EAGAIN without buffers, -EMSGSIZE when it does not fit in one chain.
        """
        if self._placed and not 12 < length - self._placed <= LONGEST_HEADERS:
            self._drop_gathered()
        headers = length - self._placed
        arena._check(at, max(headers, 0))  # noqa: SLF001  the twin of the same check in C
        if not self._placed and self._gather(length) < length:
            alone = self._chains and not self.mergeable
            self._drop_gathered()
            return -errno.EMSGSIZE if alone else -errno.EAGAIN
        used, left = [], length
        for head, size in self._chains:
            used.append((head, min(size, left)))
            left -= min(size, left)
            if not left:
                break
        if left or headers < 12:
            self._drop_gathered()
            return -errno.EAGAIN
        _U16.pack_into(arena.view, at + 10, len(used))
        place = at
        for part in _cut(self._parts, 0, headers):
            part[:] = arena.view[place : place + len(part)]
            place += len(part)
        for head, size in used:
            self._give_back(head, size)
        self.next = (self.next + len(used)) & 0xFFFF
        self._publish()
        self._drop_gathered()
        return length

    # -- notifications

    def notify(self, descriptor: int) -> bool:
        """Tell the driver, by an eventfd, of chains given back since the last time, if it wants to know."""
        if self._used is None or self._used_index == self._signalled:
            return False
        _fence()
        old, self._signalled = self._signalled, self._used_index
        if self.event_index:
            event = self._load(self._available, 4 + 2 * self.size)
            wanted = (self._used_index - event - 1) & 0xFFFF < (self._used_index - old) & 0xFFFF
        else:
            wanted = not self._load(self._available, 0) & NO_INTERRUPT
        if wanted:
            try:
                os.eventfd_write(descriptor, 1)
            except (OSError, ValueError):  # -1, none, is a ValueError here
                return False
        return wanted

    def listen(self) -> bool:
        """Have the driver tell us of the next chain that it makes available. Whether that came to nothing, because it
        was making some available all the while: then look again.
        """
        if not self.placed or self._used is None:
            return False
        for _ in range(LOOKS):
            index = self._load(self._available, 2)
            if self.event_index:
                _store(self._used, 4 + 8 * self.size, index)
            else:
                _store(self._used, 0, 0)
            _fence()
            if self._load(self._available, 2) == index:
                return False
        return True

    def ignore(self) -> None:
        """We look by ourselves for a while; with the event index nothing need be said."""
        if self.placed and self._used is not None and not self.event_index:
            _store(self._used, 0, NO_NOTIFY)


def _cut(parts: list[memoryview], skip: int, length: int) -> list[memoryview]:
    """The pieces that hold `length` bytes from `skip` on."""
    found = []
    for part in parts:
        if skip >= len(part):
            skip -= len(part)
            continue
        piece = part[skip : skip + length]
        skip = 0
        length -= len(piece)
        found.append(piece)
        if not length:
            break
    return found
