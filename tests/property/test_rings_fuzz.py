"""Rings under a guest, and vhost-user under a hypervisor, that write whatever they like whenever they like.

Nothing raises, hangs or crashes, and no byte is touched that is not the guest's. The guest's memory is mapped between
pages that may not be touched at all, with exact ends, in a child process: one byte too far is a signal, and fails the
test. Bytes beside the regions, and around the slots of the arena, have a pattern that must not change. Half of the runs
have another process scribble in the rings at the same time.

`BUCATINI_RING_STEPS` is the number of steps of the long run (`-m slow`), one million unless it says something else.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import gc
import importlib
import mmap
import os
import pickle
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bucatini.base.errors import PeerError
from bucatini.base.reasons import DropReason
from bucatini.links.listening import Door, listen_at
from bucatini.links.vhost_user import VhostUserLink
from bucatini.links.vhost_user.device import FEATURES, Device
from bucatini.links.vhost_user.messages import Header, Request
from bucatini.native import slow, slow_rings
from support.frames import NEEDS_CSUM, vnet
from support.link_owner import Owner, descriptors

PAGE = mmap.PAGESIZE
STRIDE = 65536 + 1024
SLOTS = 4
MARGIN = 4096
TRANSMIT_AT = MARGIN + SLOTS * STRIDE
STEPS = 4000
LONG = int(os.environ.get("BUCATINI_RING_STEPS", "1000000"))
RACE = 1.5
"""Seconds."""
HANG = 20
"""Seconds of processor time for so many steps, and at least that."""
PATTERN = bytes(range(7, 256)) * 300
TOP = 1 << 64
NEXT, WRITE, INDIRECT = 1, 2, 4
NOWHERE = (-errno.EAGAIN, -errno.EMSGSIZE, -errno.ENOBUFS)
REASONS = (DropReason.RING_ADDRESS, DropReason.RING_CHAIN, DropReason.OVERSIZE)
PAYLOAD = random.Random(11).randbytes(1 << 17)
SUPERFRAME = (
    vnet(NEEDS_CSUM, 1, 54, 1448, 34, 16) + bytes(12) + b"\x08\x00\x45" + bytes(8) + b"\x06" + bytes(22) + b"\x50"
)
_DESCRIPTOR = struct.Struct("<QIHH")


def twins() -> list[Any]:
    """Pairs of the modules of arena and rings."""
    try:
        fast: Any = importlib.import_module("bucatini.native.fast")
        fast_rings: Any = importlib.import_module("bucatini.native.fast_rings")
    except ImportError:
        fast = fast_rings = None
    skip = pytest.mark.skipif(fast is None, reason="native.fast_rings is not built")
    return [pytest.param((slow, slow_rings), id="slow"), pytest.param((fast, fast_rings), id="fast", marks=skip)]


TWINS = twins()


# -- a child that may crash


def survives(function: Callable[[Any], dict[str, int]], steps: int) -> dict[str, int]:
    """What `function` returns in a child process. It is given a place to say how far it is."""
    place = mmap.mmap(-1, PAGE)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        for number in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        limit = max(HANG, HANG * steps // STEPS)
        signal.setitimer(signal.ITIMER_PROF, limit)
        signal.alarm(4 * limit)
        try:
            answer = (True, function(place))
        except BaseException:
            answer = (False, traceback.format_exc())  # type: ignore[assignment]
        with open(writing, "wb") as pipe:
            pipe.write(pickle.dumps(answer))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    where = place[:80].rstrip(b"\0").decode()
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        pytest.fail(f"{name}{' (hangs)' if name in ('SIGPROF', 'SIGALRM') else ''} at {where}")
    succeeded, result = pickle.loads(data)
    if not succeeded:
        pytest.fail(f"at {where}\n{result}")
    return result  # type: ignore[no-any-return]


# -- memory


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_FIXED = 0x10


class Fenced:
    """`size` bytes of guest memory that end where a page ends, with pages around them that nobody may touch.

    What is before them in their first page has a pattern. Shared: a process that is forked later writes to the same.
    """

    def __init__(self, size: int, guest: int, user: int) -> None:
        assert size % 16 == 0
        self.size, self.guest, self.user = size, guest, user
        inner = -(-size // PAGE) * PAGE
        address = _libc.mmap(None, inner + 2 * PAGE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        assert address not in (None, ctypes.c_void_p(-1).value), os.strerror(ctypes.get_errno())
        descriptor = os.memfd_create("fenced")
        os.ftruncate(descriptor, inner)
        both = mmap.PROT_READ | mmap.PROT_WRITE
        made = _libc.mmap(address + PAGE, inner, both, mmap.MAP_SHARED | _FIXED, descriptor, 0)
        assert made == address + PAGE, os.strerror(ctypes.get_errno())
        self.descriptor = descriptor
        self.whole = memoryview((ctypes.c_ubyte * inner).from_address(made)).cast("B")
        self.offset = inner - size
        self.whole[: self.offset] = PATTERN[: self.offset]
        self.view = self.whole[self.offset :]
        self.words = self.view.cast("H")

    @property
    def region(self) -> tuple[int, int, int, Any, int]:
        """The arguments of `GuestMemory.add`."""
        return (self.guest, self.size, self.user, self.whole, self.offset)

    def untouched(self) -> bool:
        """Whether the bytes beside the region are what they were."""
        return bytes(self.whole[: self.offset]) == PATTERN[: self.offset]


TABLES = 16384
USER = 0x7F00_0000_0000


def layout() -> list[Fenced]:
    """Regions side by side for the guest, far apart in truth; one at the end of all addresses; one never shared."""
    return [
        Fenced(TABLES, 0x10_0000, USER),
        Fenced(140_000, 0x10_0000 + TABLES, USER + TABLES),
        Fenced(112, 0x20_0000, USER + (1 << 30)),
        Fenced(8192, TOP - 8192, TOP - 8192),
        Fenced(4080, 0x10_0000 + TABLES + 140_000, USER + TABLES + 140_000),
    ]


class Guest:
    """A driver's side that keeps to nothing. `regions` are of `layout`; the tables of both rings are in the first."""

    def __init__(self, regions: list[Fenced], chance: random.Random) -> None:
        self.regions = regions
        self.memory = regions[0]
        self.random = chance
        self.sizes = [1, 1]
        self.tables = [(0, 0, 0), (0, 0, 0)]
        """Offsets of descriptors, available and used ring."""
        edges = [0, 1, 16, TOP - 1, TOP - 16, TOP - 4096, 1 << 63, USER]
        for each in regions:
            edges += [each.guest + off for off in (-1, 0, 1, 16, each.size - 1, each.size, each.size + 1)]
        self.edges = [edge % TOP for edge in edges]
        self.lengths = [0, 1, 2, 11, 12, 13, 54, 66, 200, 256, 257, 1526, 4096, 16384, 65536, 65562, 66560, 66561]
        self.lengths += [0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, *(each.size for each in regions)]

    def place(self, index: int) -> tuple[int, int, int, int]:
        """Other tables for a ring, most of them such as can be. The arguments of `Ring.place`."""
        chance = self.random
        size = 1 << chance.choice((0, 1, 2, 3, 3, 4, 5, 6))
        room = self.memory.size
        if chance.random() < 0.8:
            # Each ring has its half, and in it the tables follow each other to its end.
            base = index * (room // 2) + chance.choice((0, 16, 32))
            if chance.random() < 0.5:
                base = (index + 1) * (room // 2) - (-(-(26 * size + 12) // 16) * 16)
            tables = (base, base + 16 * size, base + 16 * size + (-(-(6 + 2 * size) // 4) * 4))
        else:
            tables = tuple(chance.randrange(0, room, 16) for _ in range(3))  # type: ignore[assignment]
        self.sizes[index], self.tables[index] = size, tables
        user = self.memory.user
        made = [size, *(user + each for each in tables)]
        if chance.random() < 0.05:
            made[chance.randrange(4)] = chance.choice(
                (0, 3, 65536, TOP - 16, user - 16, user + room, user + 8, user + 1)
            )
        return tuple(made)  # type: ignore[return-value]

    def begin(self, index: int) -> int:
        """Where both rings of a queue begin: anywhere."""
        start = self.random.choice((0, 65535, self.random.randrange(1 << 16)))
        self._put16(self.tables[index][1] + 2, start)
        self._put16(self.tables[index][2] + 2, start)
        return start

    def _put16(self, at: int, value: int) -> None:
        if 0 <= at <= self.memory.size - 2:
            self.memory.words[at >> 1] = value & 0xFFFF

    def _get16(self, at: int) -> int:
        return int(self.memory.words[at >> 1]) if 0 <= at <= self.memory.size - 2 else 0

    def describe(self, index: int, at: int, address: int, length: int, flags: int, following: int) -> None:
        """One descriptor of ring `index`."""
        where = self.tables[index][0] + 16 * at
        if where + 16 <= self.memory.size:
            _DESCRIPTOR.pack_into(self.memory.view, where, address % TOP, length, flags, following)

    def offer(self, index: int, head: int, count: int = 1) -> None:
        """`head` becomes available, as a rule only when the ring has a place for it."""
        size, (_, available, used) = self.sizes[index], self.tables[index]
        now = self._get16(available + 2)
        if (now - self._get16(used + 2) & 0xFFFF) + count > size and self.random.random() < 0.99:
            return
        for each in range(count):
            self._put16(available + 4 + 2 * ((now + each) % size), head)
        self._put16(available + 2, now + count)

    def good_chain(self, index: int) -> None:
        """A chain that can be, with something in it that is like a frame."""
        chance = self.random
        size = self.sizes[index]
        region = self.regions[1]
        parts = chance.randrange(1, min(size, 6) + 1)
        head = chance.randrange(size)
        total = chance.choice((60, 300, 1526, 5000, 9000, 65_562, 66_560))
        cuts = sorted(chance.randrange(total + 1) for _ in range(parts - 1))
        if chance.random() < 0.3 and cuts:
            cuts = sorted([min(total, chance.choice((12, 66, 255, 256, 257))), *cuts[1:]])
        lengths = [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]
        at = chance.randrange(0, region.size - total + 1)
        if chance.random() < 0.3:
            at = region.size - total
        if not index or chance.random() < 0.7:
            region.view[at : at + len(SUPERFRAME)] = SUPERFRAME[: region.size - at]
        for each, length in enumerate(lengths):
            flags = (WRITE if index == 0 else 0) | (NEXT if each < parts - 1 else 0)
            self.describe(index, (head + each) % size, region.guest + at, length, flags, (head + each + 1) % size)
            at += length
        self.offer(index, head)

    def bad_descriptor(self, index: int) -> None:
        """A descriptor whose every field is at some edge."""
        chance = self.random
        length = chance.choice(self.lengths)
        address = chance.choice(self.edges)
        if chance.random() < 0.4:
            address -= length
        direction = WRITE if index == 0 else 0
        flags = chance.choice((direction, direction | NEXT, direction | NEXT, direction ^ WRITE, INDIRECT, 0xFFFF))
        size = self.sizes[index]
        following = chance.choice((0, chance.randrange(size), size - 1, size, 0xFFFF))
        self.describe(index, chance.randrange(size), address, length, flags, following)

    def mutate(self, index: int) -> None:
        """One thing that a driver, or somebody who is none, might write."""
        chance = self.random
        what = chance.random()
        size, (descriptors_at, available, used) = self.sizes[index], self.tables[index]
        if what < 0.35:
            self.good_chain(index)
        elif what < 0.6:
            self.bad_descriptor(index)
        elif what < 0.75:
            self.offer(
                index, chance.choice((0, chance.randrange(size), size - 1, size, 0xFFFF)), chance.choice((1, 1, 3))
            )
        elif what < 0.8:
            self._put16(available + 4 + 2 * chance.randrange(size), chance.randrange(1 << 16))
        elif what < 0.85:
            self._put16(chance.choice((available, available + 4 + 2 * size)), chance.randrange(1 << 16))
        elif what < 0.9:
            self._put16(used + 2 * chance.randrange(3 + 4 * size), chance.randrange(1 << 16))
        elif what < 0.91:
            self._put16(available + 2, chance.randrange(1 << 16))
        elif what < 0.97:
            at = descriptors_at + chance.randrange(16 * size)
            data = chance.randbytes(chance.choice((1, 2, 4, 8, 16)))[: max(0, self.memory.size - at)]
            self.memory.view[at : at + len(data)] = data
        else:
            region = chance.choice(self.regions[:4])
            at = chance.randrange(region.size)
            data = chance.randbytes(100)[: region.size - at]
            region.view[at : at + len(data)] = data


class Scribbler:
    """A process that does what `Guest.mutate` does, as fast as it can, in the same memory."""

    def __init__(self, guest: Guest, seed: int) -> None:
        parent = os.getpid()
        self.child = os.fork()
        if self.child == 0:
            signal.alarm(0)
            guest.random = random.Random(seed)
            while os.getppid() == parent:
                for _ in range(500):
                    guest.mutate(guest.random.randrange(2))
            os._exit(0)

    def stop(self) -> None:
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)


# -- our side


class Ours:
    """Two rings of one twin, and an arena of which only the middle may be used."""

    def __init__(self, twin: Any, regions: list[Fenced]) -> None:
        self.arena = twin[0].Arena(TRANSMIT_AT + STRIDE + MARGIN)
        for at in (0, TRANSMIT_AT + STRIDE):
            self.arena.view[at : at + MARGIN] = PATTERN[:MARGIN]
        self.arena.view[TRANSMIT_AT : TRANSMIT_AT + STRIDE] = PAYLOAD[:STRIDE]
        self.regions = regions
        self.memory = twin[1].GuestMemory()
        for each in regions[:3]:
            assert self.memory.add(*each.region)
        self.drops = [0] * len(DropReason)
        self.rings = [twin[1].Ring(self.memory, self.drops) for _ in range(2)]
        self.bell = os.eventfd(0, os.EFD_NONBLOCK)
        self.near, self.far = socket.socketpair()
        self.source, self.filled = socket.socketpair()
        for each in (self.near, self.far, self.source, self.filled):
            each.setblocking(False)
        self.filled.send(PAYLOAD[:70_000])
        self.lengths = [0] * SLOTS

    def untouched(self) -> bool:
        view = self.arena.view
        return bytes(view[:MARGIN]) == bytes(view[TRANSMIT_AT + STRIDE :]) == PATTERN[:MARGIN] and all(
            each.untouched() for each in self.regions
        )

    def receive(self, count: int, stride: int, borrow: bool, how: tuple[int, int]) -> list[Any]:
        """What `count` frames are, read where they lie; the first is also sent, `how` says which bytes of it."""
        got = self.rings[1].receive(self.arena, MARGIN, stride, count, self.lengths, borrow)
        assert 0 <= got <= count
        found: list[Any] = []
        for index, length in enumerate(self.lengths[:got]):
            if length < 0:
                assert -length in REASONS
                found.append(length)
                continue
            assert length <= stride
            at = MARGIN + index * stride
            found.append(self.arena.copy(at, length))
            assert len(found[-1]) == length
            begin = min(how[0], length)
            part = min(how[1], length - begin)
            sent = self.arena.send(self.near, at + begin, part)
            assert sent in (part, -errno.EAGAIN) or 0 < sent < part
        with contextlib.suppress(BlockingIOError):
            while self.far.recv(1 << 20):
                pass
        return found

    def close(self) -> None:
        for ring in self.rings:
            ring.unplace()
        self.memory.clear()
        for each in (self.near, self.far, self.source, self.filled):
            each.close()
        os.close(self.bell)


def step(device: Any, guest: Guest, what: float, draw: random.Random) -> tuple[str, Any]:
    """One call of ours, chosen by `what` and `draw`. Its name and what it gave."""
    index = draw.randrange(2)
    ring = device.rings[index]
    if what < 0.3:
        stride = draw.choice((STRIDE, STRIDE, STRIDE, 1, 60, 1526, 4096))
        how = (draw.choice((0, 54, 66, 255, 256, 257, 5000)), draw.choice((0, 1, 300, 66_000)))
        found = device.receive(draw.randrange(1, SLOTS + 1), stride, draw.random() < 0.7, how)
        device.rings[1].finish()
        return "receive", found
    if what < 0.5:
        length = draw.choice((0, 11, 12, 13, 60, 66, 1526, 9000, 65_562, STRIDE))
        took = device.rings[0].write(device.arena, TRANSMIT_AT, length)
        assert took == length or took in NOWHERE
        return "write", took
    if what < 0.65:
        headers, limit = draw.choice((13, 54, 66, 128)), draw.choice((1, 100, 1448, 60_000))
        skip = draw.choice((-1, 0, 1, 1000, 69_999, 70_000, 80_000, 1 << 18, (1 << 18) + 1))
        got = device.rings[0].peek(device.arena, device.source, headers, limit, skip)
        assert 0 < got <= limit or got in NOWHERE
        if got > 0 and draw.random() < 0.8:
            took = device.rings[0].write(device.arena, TRANSMIT_AT, headers + got)
            assert took in (headers + got, -errno.EAGAIN)
            return "peek", (got, took)
        return "peek", got
    if what < 0.72:
        told = ring.notify(device.bell)
        assert told in (True, False)
        return "notify", told
    if what < 0.79:
        return "listen", ring.listen()
    if what < 0.82:
        ring.ignore()
        return "ignore", None
    if what < 0.85:
        count = ring.count()
        assert 0 <= count <= max(ring.size, 0)
        return "count", count
    if what < 0.9:
        return "holds", ring.holds(draw.choice((0, 1, 1526, 65_663)))
    if what < 0.93:
        ring.event_index, ring.mergeable = draw.random() < 0.5, draw.random() < 0.8
        return "features", None
    if what < 0.95:
        extra = guest.regions[3]
        added = device.memory.add(*extra.region)
        if not added:
            # As the link does it: rings are not in memory that changes.
            for each in device.rings:
                each.unplace()
            assert device.memory.remove(*extra.region[:3])
        return "region", added
    if what < 0.96:
        ring.unplace()
        return "unplace", None
    return "rest", None


def again(device: Any, guest: Guest, draw: random.Random) -> str:
    """Rings that rest are placed anew, now and then."""
    for index, ring in enumerate(device.rings):
        if not ring.placed and draw.random() < 0.2:
            broken = ring.broken
            arguments = guest.place(index)
            ring.next = guest.begin(index)
            if ring.place(*arguments):
                return "healed" if broken else "placed"
            return "cannot be placed"
    return ""


def fuzz(twin: Any, seed: int, steps: int, scribbled: bool, place: Any) -> dict[str, int]:
    """In the child."""
    chance = random.Random(seed)
    regions = layout()
    guest = Guest(regions, chance)
    device = Ours(twin, regions)
    seen: Counter[str] = Counter()
    scribbler: Scribbler | None = None
    for number in range(steps):
        if number % 16 == 0:
            note = f"seed {seed} step {number}".encode()
            place[: len(note)] = note
        if number % 1000 == 0 and scribbled:
            if scribbler is not None:
                scribbler.stop()
            for index, ring in enumerate(device.rings):
                arguments = guest.place(index)
                ring.next = guest.begin(index)
                ring.place(*arguments)
            scribbler = Scribbler(guest, seed + number)
        for _ in range(chance.randrange(4)):
            guest.mutate(chance.randrange(2))
        if not scribbled:
            if word := again(device, guest, chance):
                seen[word] += 1
        else:
            # Where the tables are is what the scribbler knows.
            for index, ring in enumerate(device.rings):
                if not ring.placed:
                    seen["healed" if ring.broken else "placed"] += 1
                    ring.next = guest.begin(index)
                    ring.place(guest.sizes[index], *(guest.memory.user + each for each in guest.tables[index]))
        what, result = step(device, guest, chance.random(), chance)
        count(seen, what, result)
        if number % 50 == 0:
            assert device.untouched(), "bytes that are not the guest's were changed"
        if number % 1000 == 0:
            slots_are_kept_apart(device)
    if scribbler is not None:
        scribbler.stop()
    for reason in DropReason:
        if device.drops[reason]:
            seen[f"drop {reason.label}"] = device.drops[reason]
    assert device.untouched()
    device.close()
    return dict(seen)


def count(seen: Counter[str], what: str, result: Any) -> None:
    """What was seen, by kind."""
    if what == "receive":
        for each in result:
            seen["frame" if isinstance(each, bytes) else f"void {DropReason(-each).label}"] += 1
            seen["large"] += isinstance(each, bytes) and len(each) >= 4096 and each.startswith(SUPERFRAME[:12])
    elif what in ("write", "peek"):
        took = result if isinstance(result, int) else 1
        seen[f"{what} {'taken' if took >= 0 else errno.errorcode[-took]}"] += 1
    else:
        seen[f"{what} {result}"] += 1


def slots_are_kept_apart(device: Any) -> None:
    """A frame stays in its slot: around it nothing changes."""
    arena = device.arena
    middle = SLOTS * STRIDE
    arena.view[MARGIN : MARGIN + middle] = bytes(middle)
    at, stride = MARGIN + 1000, 3000
    got = device.rings[1].receive(arena, at, stride, 2, device.lengths, False)
    device.rings[1].finish()
    end = at + got * stride
    assert not any(arena.view[MARGIN:at])
    assert bytes(arena.view[end : MARGIN + middle]) == bytes(MARGIN + middle - end)


EXPECTED = {
    "frame", "large", "void ring-address", "void ring-chain", "void oversize", "write taken", "write EAGAIN",
    "write EMSGSIZE", "peek taken", "peek EAGAIN", "peek ENOBUFS", "peek EMSGSIZE", "notify True", "notify False",
    "listen False", "holds True", "holds False", "region True", "region False", "healed", "drop ring-broken",
    "drop ring-address", "drop ring-chain",
}  # fmt: skip


@pytest.mark.parametrize("scribbled", [False, True], ids=["between steps", "all the while"])
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("twin", TWINS)
def test_a_hostile_guest(twin: Any, seed: int, scribbled: bool) -> None:
    outcome = survives(lambda place: fuzz(twin, seed, STEPS, scribbled, place), STEPS)
    missing = EXPECTED - {name for name, times in outcome.items() if times}
    assert not missing, outcome


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scribbled", [False, True], ids=["between steps", "all the while"])
@pytest.mark.parametrize("twin", TWINS)
def test_a_hostile_guest_for_a_million_steps(twin: Any, scribbled: bool) -> None:
    """New seeds each time; a failure names its own."""
    done = 0
    while done < LONG // 2:
        part = min(50_000, LONG // 2 - done)
        seed = int.from_bytes(os.urandom(4), "big")
        survives(lambda place, seed=seed, part=part: fuzz(twin, seed, part, scribbled, place), part)  # type: ignore[misc]
        done += part


def compare(seed: int, steps: int, place: Any) -> dict[str, int]:
    """In the child: the same guest, twice, before each of the twins."""
    sides = []
    for param in TWINS:
        regions = layout()
        sides.append((Guest(regions, random.Random(seed)), Ours(param.values[0], regions), random.Random(seed)))
    seen: Counter[str] = Counter()
    for number in range(steps):
        note = f"seed {seed} step {number}".encode()
        place[: len(note)] = note
        results = []
        for guest, device, draw in sides:
            for _ in range(draw.randrange(4)):
                guest.mutate(draw.randrange(2))
            word = again(device, guest, draw)
            what, result = step(device, guest, draw.random(), draw)
            state = [(ring.placed, ring.broken, ring.size, ring.next) for ring in device.rings]
            results.append((word, what, result, state, device.drops, bytes(guest.memory.view)))
        first, second = results
        for one, other in zip(first, second, strict=True):
            assert one == other, (
                f"{first[1]}: {str(first[2])[:500]} is not {str(second[2])[:500]}, {first[3]}, {second[3]}"
            )
        if number % 20 == 0:
            for one, other in zip(sides[0][0].regions, sides[1][0].regions, strict=True):
                assert bytes(one.whole) == bytes(other.whole), "the memories of the two differ"
        count(seen, first[1], first[2])
    for _, device, _ in sides:
        device.close()
    return dict(seen)


@pytest.mark.skipif(TWINS[1].values[0][0] is None, reason="native.fast_rings is not built")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_both_twins_do_the_same(seed: int) -> None:
    """To the last byte of the guest's memory, whatever it writes."""
    outcome = survives(lambda place: compare(seed, STEPS // 3, place), STEPS)
    assert outcome["frame"] > 50
    assert outcome["write taken"] > 20


TRAPS = "bounds,vla-bound,shift,signed-integer-overflow,object-size"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hostile_guest_before_checked_code(tmp_path: Path) -> None:
    """The fast twin once more, with every index checked: Cython's `boundscheck` for lists and the like, and the C
    compiler's for arrays, which are a signal as well; `wraparound` stays off, so -1 is an error.

    Not covered: memory that is reached by a pointer without an array's type (frames, buffers). There the fences are.
    """
    pytest.importorskip("Cython")
    compiler = shutil.which("cc")
    package = Path(slow.__file__).parents[1]
    if compiler is None or not (package / "native/fast_rings.pyx").exists() or TWINS[1].values[0][0] is None:
        pytest.skip("needs a C compiler, and the sources")
    shutil.copytree(package, tmp_path / "bucatini")
    include = sysconfig.get_paths()["include"]
    for name in ("fast", "fast_rings"):
        source = tmp_path / f"bucatini/native/{name}.pyx"
        text = source.read_text()
        assert "boundscheck=False" in text
        source.write_text(text.replace("boundscheck=False", "boundscheck=True"))
        run(tmp_path, sys.executable, "-m", "cython", "-3", "-I", ".", f"bucatini/native/{name}.pyx", "-o", f"{name}.c")
        for old in (tmp_path / "bucatini/native").glob(f"{name}.*.so"):
            old.unlink()
        made = f"bucatini/native/{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
        flags = ("-shared", "-fPIC", "-O1", f"-I{include}", f"-fsanitize={TRAPS}", "-fsanitize-undefined-trap-on-error")
        run(tmp_path, compiler, *flags, f"{name}.c", "-o", made)
    tests = ("-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", "fast or both", __file__)
    said = run(Path(__file__).parents[2], sys.executable, "-m", "pytest", *tests, path=tmp_path)
    assert " passed" in said


def run(folder: Path, *command: str, path: Path | None = None) -> str:
    """The command's output. The test fails when it does."""
    environment = {**os.environ, "PYTHONPATH": str(path)} if path is not None else None
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


# -- what changes between two looks

FLIPS = 64
"""Copies of a page in one call."""


def flip(region: Fenced, first: bytes, second: bytes) -> int:
    """A process in which the one page of `region` is `first`, then `second`, and so on, as fast as memory is copied.

    The page is mapped many times in a row, so one call of memmove(3) writes it many times.
    """
    child = os.fork()
    if child:
        return child
    signal.alarm(HANG)
    window = _libc.mmap(None, FLIPS * PAGE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    both = mmap.PROT_READ | mmap.PROT_WRITE
    for index in range(FLIPS):
        _libc.mmap(window + index * PAGE, PAGE, both, mmap.MAP_SHARED | _FIXED, region.descriptor, 0)
    source = ctypes.create_string_buffer((first + second) * (FLIPS // 2), FLIPS * PAGE)
    while True:
        ctypes.memmove(window, source, FLIPS * PAGE)


def race(twin: Any, writable: bool, place: Any) -> dict[str, int]:
    """In the child: chains of two descriptors, each of which is good at one moment and not at the next."""
    place[:4] = b"race"
    table, rest, buffers = (
        Fenced(PAGE, 0x1000, USER),
        Fenced(PAGE, 0x2000, USER + PAGE),
        Fenced(PAGE, 0x3000, TOP - PAGE),
    )
    end = buffers.guest + PAGE
    size = PAGE // 16
    direction = WRITE if writable else 0
    good, bad = bytearray(PAGE), bytearray(PAGE)
    for index in range(size):
        last = index % 2
        flags = direction | (0 if last else NEXT)
        values = (end - 60, 60, flags, (index + 1) % size)
        _DESCRIPTOR.pack_into(good, 16 * index, *values)
        wrong = [
            (end - 60, 0xFFFFFFF0, flags, values[3]),
            (end - 59, 60, flags, values[3]),
            (end - 60, 60, direction | NEXT, 0xFFFF),
            (end - 60, 61, direction ^ WRITE, values[3]),
        ]
        _DESCRIPTOR.pack_into(bad, 16 * index, *wrong[index // 2 % 4])
    memory = twin[1].GuestMemory()
    for each in (table, rest, buffers):
        assert memory.add(*each.region)
    drops = [0] * len(DropReason)
    ring = twin[1].Ring(memory, drops)
    assert ring.place(size, USER, USER + PAGE, USER + PAGE + 1024)
    for slot in range(size):
        rest.words[(4 + 2 * slot) >> 1] = slot * 2 % size
    ring.mergeable = True
    arena, lengths = twin[0].Arena(8 * STRIDE), [0] * 8
    seen: Counter[str] = Counter()
    child = flip(table, bytes(good), bytes(bad))
    end_of_race = time.monotonic() + RACE
    while time.monotonic() < end_of_race:
        for _ in range(50):
            rest.words[1] = ring.next + 8 & 0xFFFF
            if writable:
                # The first may be void and the second is not, so a frame takes what it finds.
                took = ring.write(arena, 0, 100)
                seen["good" if took == 100 else errno.errorcode[-took]] += 1
                continue
            for length in lengths[: ring.receive(arena, 0, STRIDE, 8, lengths, True)]:
                # Of one descriptor some fields may be of the one moment and some of the other: also that is a chain.
                assert (length > 0 and length % 60 == 0) or -length in REASONS, length
                seen["good" if length > 0 else "void"] += 1
            ring.finish()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    seen["void"] += sum(drops)
    ring.unplace()
    memory.clear()
    return dict(seen)


@pytest.mark.parametrize("writable", [False, True], ids=["from the guest", "to the guest"])
@pytest.mark.parametrize("twin", TWINS)
def test_a_descriptor_that_changes_while_it_is_looked_at(twin: Any, writable: bool) -> None:
    """It is looked at once: what was found good is what is used."""
    outcome = survives(lambda place: race(twin, writable, place), STEPS)
    assert outcome["good"] > 100, outcome
    assert outcome["void"] > 100, outcome


# -- the fence holds


@pytest.mark.parametrize("off", [-1, 0])
def test_a_byte_too_far_is_seen(off: int) -> None:
    """The test of the tests: reading behind the end, or before the beginning, kills the child."""

    def reach(place: Any) -> dict[str, int]:
        faulthandler.disable()  # it is expected
        region = Fenced(PAGE, 0x1000, USER)
        address = ctypes.addressof(ctypes.c_ubyte.from_buffer(region.whole)) + (off or region.size)
        return {"read": ctypes.c_ubyte.from_address(address).value}

    with pytest.raises(pytest.fail.Exception, match="SIGSEGV"):
        survives(reach, 1)


# -- a hostile hypervisor


Message = tuple[int, int, bytes, list[int]]
"""Request, flags, body and descriptors."""


class Words:
    """Messages of vhost-user, most of them such as can be, and descriptors of all kinds to go with them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.size = 1 << 20
        self.rings = [(1, 0, 16), (1, 0, 16)]
        """Size, and offsets of descriptors and available ring."""
        self.memory = os.memfd_create("guest")
        os.ftruncate(self.memory, self.size)
        self.mapping = mmap.mmap(self.memory, self.size)
        empty = os.memfd_create("guest")
        small = os.memfd_create("guest")
        os.ftruncate(small, 100)
        ends = [each.detach() for each in socket.socketpair()]
        with select.epoll() as poll:
            other = os.dup(poll.fileno())
        self.pool = [
            self.memory, self.memory, self.memory, self.memory, empty, small, *os.pipe(), *ends, other,
            os.open("/dev/null", os.O_RDWR), os.open("/dev/zero", os.O_RDWR), os.open("/", os.O_RDONLY),
            os.open(__file__, os.O_RDONLY), os.open(__file__, os.O_PATH), os.eventfd(0), os.eventfd(0, os.EFD_NONBLOCK),
            os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(5, os.EFD_NONBLOCK),
        ]  # fmt: skip

    def number(self) -> int:
        chance = self.random
        edges = (0, 1, 2, 7, 16, 255, 256, 257, 4096, 65535, 65536, self.size, 1 << 31, (1 << 32) - 1, 1 << 63, TOP - 1)
        return chance.choice(edges) if chance.random() < 0.7 else chance.randrange(TOP)

    def region(self) -> bytes:
        """Of a memory that is there, or anything."""
        if self.random.random() < 0.6:
            part = self.random.choice((4096, 65536, self.size // 2))
            offset = self.random.randrange(0, self.size - part + 1, 4096)
            return struct.pack("=QQQQ", 0x10_0000 + offset, part, USER + offset, offset)
        if self.random.random() < 0.5:
            return struct.pack("=QQQQ", 0x10_0000, self.size, USER, 0)
        return struct.pack("=QQQQ", *(self.number() for _ in range(4)))

    def beginning(self) -> list[Message]:
        """What makes a device work."""
        chance = self.random
        features = FEATURES & ~(chance.getrandbits(2) << 29) | 1 << 30
        said: list[Message] = [
            (Request.SET_PROTOCOL_FEATURES, 1, struct.pack("=Q", chance.choice((8, 1 << 15 | 8))), []),
            (Request.SET_FEATURES, 9, struct.pack("=Q", features), []),
            (Request.SET_MEM_TABLE, 9, struct.pack("=IIQQQQ", 1, 0, 0x10_0000, self.size, USER, 0), [self.memory]),
        ]
        for ring in range(2):
            size = chance.choice((1, 8, 64, 256))
            at = ring * (self.size // 8)
            tables = (at, at + 16 * size, at + 32 * size + 16)
            self.mapping[at : at + 50 * size] = bytes(50 * size)
            address = struct.pack("=IIQQQQ", ring, 0, USER + tables[0], USER + tables[2], USER + tables[1], 0)
            said += [
                (Request.SET_VRING_NUM, 9, struct.pack("=II", ring, size), []),
                (Request.SET_VRING_BASE, 9, struct.pack("=II", ring, 0), []),
                (Request.SET_VRING_ADDR, 9, address, []),
                (Request.SET_VRING_CALL, 9, struct.pack("=Q", ring), [self.pool[-1]]),
                (Request.SET_VRING_KICK, 9, struct.pack("=Q", ring), [self.pool[-2]]),
                (Request.SET_VRING_ENABLE, 9, struct.pack("=II", ring, 1), []),
            ]
            self.rings[ring] = (size, tables[0], tables[1])
        return said

    def offer(self) -> None:
        """A few chains, of one descriptor each, in the rings that `beginning` made."""
        chance = self.random
        for ring, (size, descriptors_at, available) in enumerate(self.rings):
            for index in range(size):
                address = 0x10_0000 + self.size // 2 + chance.randrange(self.size // 4)
                length = chance.choice((60, 1526, 66_000))
                _DESCRIPTOR.pack_into(
                    self.mapping, descriptors_at + 16 * index, address, length, 0 if ring else WRITE, 0
                )
                struct.pack_into("<H", self.mapping, available + 4 + 2 * index, index)
            now = struct.unpack_from("<H", self.mapping, available + 2)[0]
            struct.pack_into("<H", self.mapping, available + 2, now + chance.randrange(min(size, 3) + 1) & 0xFFFF)

    def message(self) -> Message:
        """Anything."""
        chance = self.random
        request = chance.choice(list(Request)) if chance.random() < 0.97 else chance.randrange(1 << 32)
        held = [chance.choice(self.pool) for _ in range(chance.choice((0, 0, 0, 1, 1, 1, 1, 2, 3, 8, 32)))]
        ring = chance.choice((0, 0, 1, 1, 1, 2, 255, 1 << 31))
        body = struct.pack("=QQ", self.number(), self.number())
        if request == Request.SET_FEATURES and chance.random() < 0.9:
            body = struct.pack("=Q", 1 << 32 | (FEATURES & chance.randrange(TOP)))
        elif request == Request.SET_PROTOCOL_FEATURES:
            body = struct.pack("=Q", chance.choice((0, 8, 8, 1 << 15 | 8, TOP - 1)))
        elif request == Request.SET_MEM_TABLE:
            regions = [self.region() for _ in range(chance.choice((0, 1, 1, 1, 2, 8, 9)))]
            body = struct.pack("=II", len(regions), 0) + b"".join(regions)
            if chance.random() < 0.9:
                held = [chance.choice(self.pool[:5]) for _ in regions]
        elif request in (Request.ADD_MEM_REG, Request.REM_MEM_REG):
            body = bytes(8) + self.region()
            held = [self.memory] if request == Request.ADD_MEM_REG and chance.random() < 0.9 else held
        elif request == Request.SET_VRING_NUM:
            body = struct.pack("=II", ring, chance.choice((1, 2, 8, 64, 256, 1024, 0, 3, 1 << 16)))
        elif request == Request.SET_VRING_ADDR:
            tables = [USER + chance.randrange(0, self.size // 4, 16) for _ in range(3)]
            if chance.random() < 0.3:
                tables[chance.randrange(3)] = self.number()
            body = struct.pack("=IIQQQQ", ring, 0, *tables, 0)
        elif request in (Request.SET_VRING_BASE, Request.GET_VRING_BASE, Request.SET_VRING_ENABLE):
            body = struct.pack("=II", ring, chance.choice((0, 1, 1, 1, 65535, 1 << 31)))
        elif request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR):
            body = struct.pack("=Q", chance.choice((0, 1, 0, 1, 0x100, 0x101, 2, TOP - 1)))
            if chance.random() < 0.8:
                held = [chance.choice(self.pool[-3:])]
        if chance.random() < 0.03:
            body = body[: chance.randrange(len(body) + 1)]
        return request, chance.choice((1, 9, 9, 9, 9, 9, 9, 5, 13, 0xFFFFFFF9)), body, held

    def scribble(self) -> None:
        """In the memory that is shared."""
        chance = self.random
        at = chance.randrange(self.size - 2000)
        data = chance.randbytes(2000) if chance.random() < 0.3 else bytes(2000)
        self.mapping[at : at + 2000] = data
        for _ in range(10):
            where = chance.randrange(0, self.size // 4, 16)
            address = 0x10_0000 + chance.randrange(self.size)
            flags = chance.randrange(4)
            _DESCRIPTOR.pack_into(
                self.mapping, where, address, chance.choice((60, 1526, 70_000)), flags, chance.randrange(64)
            )

    def close(self) -> None:
        self.mapping.close()
        for each in set(self.pool):
            os.close(each)


def mappings() -> int:
    with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
        return sum("memfd:guest" in line for line in file)


def fuzz_device(seed: int, steps: int, place: Any) -> dict[str, int]:
    """In the child: one device after the other, until a message ends it."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    before = descriptors()
    words = Words(seed)
    pooled = descriptors()
    chance = words.random
    arena, lengths, drops = slow_or_fast_arena(), [0] * 8, [0] * len(DropReason)
    seen: Counter[str] = Counter()
    device = Device(drops)
    planned: list[Message] = []
    for number in range(steps):
        note = f"seed {seed} step {number}".encode()
        place[: len(note)] = note
        request, flags, body, held = planned.pop(0) if planned and chance.random() < 0.95 else words.message()
        ended = False
        try:
            reply = device.handle(Header(request, flags, len(body)), body, [os.dup(each) for each in held])
            assert reply is None or len(reply) >= 12
            seen["reply" if reply else "none"] += 1
        except PeerError:
            ended = True
        seen["ended"] += ended
        if ended and chance.random() < 0.3:
            device.close()
            device.close()
            device = Device(drops)
            assert descriptors().keys() == pooled.keys()
            planned = words.beginning() if chance.random() < 0.7 else []
        if chance.random() < 0.1:
            words.scribble()
        if chance.random() < 0.3:
            words.offer()
        for index, queue in enumerate(device.queues):
            if queue.works:
                seen[f"works {index}"] += 1
        if device.queues[1].works:
            got = device.queues[1].ring.receive(arena, 0, STRIDE, 8, lengths, True)
            seen["frames"] += got
            device.queues[1].ring.finish()
            device.queues[1].ring.notify(device.queues[1].call)
        if device.queues[0].works:
            seen["written"] += device.queues[0].ring.write(arena, 0, 1526) > 0
            device.queues[0].ring.notify(device.queues[0].call)
        for queue in device.queues:
            queue.ring.listen()
    device.close()
    assert mappings() == 1
    assert descriptors().keys() == pooled.keys()
    words.close()
    assert mappings() == 0
    assert descriptors().keys() == before.keys()
    return dict(seen)


def slow_or_fast_arena() -> Any:
    from bucatini.native import Arena

    return Arena(9 * STRIDE)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_hostile_hypervisor_before_a_device(seed: int) -> None:
    """Nothing but PeerError, no descriptor and no mapping left behind."""
    outcome = survives(lambda place: fuzz_device(seed, STEPS // 2, place), STEPS)
    for name in ("reply", "none", "ended", "works 0", "works 1", "frames", "written"):
        assert outcome.get(name), outcome


class Hypervisor:
    """Connects to the link, says what it likes, and goes."""

    def __init__(self, path: str, words: Words) -> None:
        self.path = path
        self.words = words
        self.sock: socket.socket | None = None
        self.planned: list[Message] = []

    def act(self) -> str:
        chance = self.words.random
        if self.sock is None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.setblocking(False)
            if self.sock.connect_ex(self.path):
                self.sock.close()
                self.sock = None
            self.planned = self.words.beginning() if chance.random() < 0.8 else []
            return "connect"
        what = chance.random()
        try:
            if what < 0.95:
                planned = self.planned and chance.random() < 0.98
                request, flags, body, held = self.planned.pop(0) if planned else self.words.message()
                message = struct.pack("=III", request, flags, len(body)) + body
                cut = len(message) if chance.random() < 0.98 else chance.randrange(1, len(message) + 1)
                socket.send_fds(self.sock, [message[:cut]], held)
                if cut < len(message) and chance.random() < 0.7 and cut >= 12:
                    self.sock.send(message[cut:])
                return "message"
            if what < 0.955:
                self.sock.send(chance.randbytes(chance.choice((1, 12, 100))))
                return "bytes"
            if what < 0.99:
                self.sock.recv(1 << 16)
                return "read"
            self.sock.close()
            self.sock = None
        except BlockingIOError:
            return "full"
        except OSError:
            self.sock.close()
            self.sock = None
        return "gone"

    def kick(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(self.words.random.choice(self.words.pool[-3:]), 1)


def fuzz_link(seed: int, steps: int, place: Any) -> dict[str, int]:
    """In the child: an engine's turns, and a hypervisor between them."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    before = descriptors()
    words = Words(seed)
    chance = words.random
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "vhost")
        link = VhostUserLink("--vhost-user p", Door(listen_at(path), path))
        with Owner(link) as owner:
            owner.during = lambda at, length: seen.update(frames=1)
            most = len(descriptors()) + 2 + 64
            hypervisor = Hypervisor(path, words)
            for number in range(steps):
                note = f"seed {seed} step {number}".encode()
                place[: len(note)] = note
                seen[hypervisor.act()] += 1
                if chance.random() < 0.05:
                    words.scribble()
                if chance.random() < 0.5:
                    words.offer()
                if chance.random() < 0.3:
                    hypervisor.kick()
                if chance.random() < 0.5:
                    if link.room():
                        seen["room"] += 1
                    took = owner.send(PAYLOAD[: chance.choice((60, 1500, 60_000))])
                    seen["sent"] += took > 0
                owner.turn()
                owner.frames.clear()
                owner.lines = owner.lines[-5:]
                if number % 50 == 0:
                    assert len(descriptors()) <= most, descriptors()
            seen["room again"] = owner.rooms
            if hypervisor.sock is not None:
                hypervisor.sock.close()
            owner.until(lambda: link.control is None)
            assert owner.ends == 0
            assert mappings() == 1
    words.close()
    gc.collect()
    assert mappings() == 0
    assert descriptors().keys() == before.keys()
    return dict(seen)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_hostile_hypervisor_before_a_link(seed: int) -> None:
    outcome = survives(lambda place: fuzz_link(seed, STEPS, place), STEPS)
    for name in ("message", "bytes", "gone", "frames", "sent", "room again"):
        assert outcome.get(name), outcome


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hostile_hypervisor_for_long() -> None:
    for _ in range(max(1, LONG // 200_000)):
        seed = int.from_bytes(os.urandom(4), "big")
        survives(lambda place, seed=seed: fuzz_device(seed, 10_000, place), 20_000)  # type: ignore[misc]
        survives(lambda place, seed=seed: fuzz_link(seed, 20_000, place), 20_000)  # type: ignore[misc]
