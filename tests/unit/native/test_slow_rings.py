"""One suite for both twins of the rings, against a driver in Python: frames both ways, notifications, and what a chain
must not be.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import mmap
import os
import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucatini.base.reasons import DropReason
from bucatini.native import slow, slow_rings
from support.frames import NEEDS_CSUM, vnet
from support.ring_driver import GUEST, INDIRECT, NEXT, USER, WRITE, Memory, Nic, Queue

STRIDE = 65536 + 1024
BATCH = 64
BODY = random.Random(5).randbytes(1 << 17)
HEADER = vnet(NEEDS_CSUM, 1, 54, 1448, 34, 16)
PATIENCE = 5.0
ADDRESS, CHAIN, BROKEN, OVERSIZE = (
    DropReason.RING_ADDRESS, DropReason.RING_CHAIN, DropReason.RING_BROKEN, DropReason.OVERSIZE,
)  # fmt: skip


def twins() -> list[Any]:
    """Pairs of the modules of arena and rings."""
    try:
        fast: ModuleType | None = importlib.import_module("bucatini.native.fast")
        fast_rings: ModuleType | None = importlib.import_module("bucatini.native.fast_rings")
    except ImportError:
        fast = fast_rings = None
    skip = pytest.mark.skipif(fast is None, reason="native.fast_rings is not built")
    return [pytest.param((slow, slow_rings), id="slow"), pytest.param((fast, fast_rings), id="fast", marks=skip)]


TWINS = twins()


@pytest.fixture(params=TWINS)
def twin(request: pytest.FixtureRequest) -> Any:
    return request.param


class Desk:
    """A driver with its memory, and our side of both its queues."""

    def __init__(
        self,
        twin: Any,
        size: int = 16,
        start: int = 0,
        event_index: bool = False,
        memory: int = 1 << 22,
        batch: int = 8,
    ) -> None:
        self.arena = twin[0].Arena(batch * STRIDE)
        self.batch = batch
        self.shared = Memory(memory)
        self.nic = Nic(self.shared, size, start, event_index)
        self.memory = twin[1].GuestMemory()
        assert self.memory.add(*self.shared.region)
        self.drops = [0] * len(DropReason)
        self.to_guest = self._ring(twin, self.nic.receiving)
        self.from_guest = self._ring(twin, self.nic.sending)
        self.lengths = [0] * batch

    def _ring(self, twin: Any, queue: Queue) -> Any:
        ring = twin[1].Ring(self.memory, self.drops)
        ring.event_index = queue.event_index
        ring.mergeable = True
        ring.next = queue.index
        assert ring.place(*queue.addresses)
        return ring

    def receive(self, borrow: bool = True, stride: int = STRIDE) -> list[bytes | int]:
        """What came from the guest, void ones as the reason's number; the chains are not given back yet."""
        got = self.from_guest.receive(self.arena, 0, stride, self.batch, self.lengths, borrow)
        assert 0 <= got <= self.batch
        found = self.lengths[:got]
        return [self.arena.copy(at * stride, each) if each >= 0 else each for at, each in enumerate(found)]

    def take(self, borrow: bool = True) -> list[bytes | int]:
        """The same, and the chains are given back."""
        found = self.receive(borrow)
        self.from_guest.finish()
        return found

    def write(self, frame: bytes, at: int = 0) -> int:
        self.arena.view[at : at + len(frame)] = frame
        return int(self.to_guest.write(self.arena, at, len(frame)))

    def dropped(self) -> dict[DropReason, int]:
        return {DropReason(each): count for each, count in enumerate(self.drops) if count}  # type: ignore[call-arg]

    def close(self) -> None:
        self.to_guest.unplace()
        self.from_guest.unplace()
        self.memory.clear()
        self.shared.close()


@pytest.fixture
def desk(twin: Any) -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(*arguments: Any, **named: Any) -> Desk:
        made.append(Desk(twin, *arguments, **named))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def stream() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.settimeout(PATIENCE)
    with near, far:
        yield near, far


@pytest.fixture
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a loopback connection; the first is ours and does not block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
        near, _ = listener.accept()
    near.setblocking(False)
    with near, far:
        yield near, far


def superframe(payload: int, version: int = 4) -> bytes:
    """A TCP superframe, virtio-net header first."""
    ether = bytes(12) + (b"\x08\x00" if version == 4 else b"\x86\xdd")
    if version == 4:
        ip = b"\x45" + bytes(8) + b"\x06" + bytes(10)
        return HEADER + ether + ip + bytes(12) + b"\x50" + bytes(7) + BODY[:payload]
    ip = b"\x60" + bytes(5) + b"\x06" + bytes(33)
    return vnet(NEEDS_CSUM, 4, 74, 1428, 54, 16) + ether + ip + bytes(12) + b"\x50" + bytes(7) + BODY[:payload]


def coming(reading: Callable[[], int]) -> int:
    """The first result that is not EAGAIN: what is sent over loopback arrives in a moment."""
    end = time.monotonic() + PATIENCE
    while (got := reading()) == -errno.EAGAIN:
        assert time.monotonic() < end, "nothing came"
        os.sched_yield()
    return got


def framed(payload: bytes) -> bytes:
    """`payload` behind an empty virtio-net header, as a frame that took one chain has it."""
    return bytes(10) + b"\1\0" + payload


# -- memory


class TestMemory:
    def test_regions_come_and_go(self, twin: Any) -> None:
        memory = twin[1].GuestMemory()
        mapping = bytearray(8192)
        assert memory.count == 0
        assert memory.add(0x1000, 4096, 0x9000, mapping, 0)
        assert memory.add(0x2000, 4096, 0xA000, mapping, 4096)
        assert memory.count == 2
        assert not memory.remove(0x1000, 4095, 0x9000)
        assert not memory.remove(0x1000, 4096, 0xA000)
        assert memory.remove(0x1000, 4096, 0x9000)
        assert not memory.remove(0x1000, 4096, 0x9000)
        assert memory.add(0x1000, 4096, 0x9000, mapping, 0)
        memory.clear()
        memory.clear()
        assert memory.count == 0

    @pytest.mark.parametrize(
        ("guest", "size", "user", "offset"),
        [
            (0, 0, 0, 0),
            (0, -1, 0, 0),
            (-1, 16, 0, 0),
            (0, 16, -1, 0),
            (0, 16, 0, -1),
            (0, 8193, 0, 0),
            (0, 16, 0, 8177),
            (0, 8192, 0, 1),
            ((1 << 64) - 15, 16, 0, 0),
            (0, 16, (1 << 64) - 15, 0),
            (1 << 64, 16, 0, 0),
            (0, 16, 1 << 64, 0),
            (0, 1 << 64, 0, 0),
            (0, (1 << 64) - 1, 0, 0),
            (0, 16, 0, 1 << 64),
            (0, 16, 0, (1 << 64) - 1),
        ],
    )
    def test_a_region_that_cannot_be(self, twin: Any, guest: int, size: int, user: int, offset: int) -> None:
        memory = twin[1].GuestMemory()
        assert memory.add(guest, size, user, bytearray(8192), offset) is False
        assert memory.count == 0

    def test_the_edges_can_be(self, twin: Any) -> None:
        memory = twin[1].GuestMemory()
        assert memory.add((1 << 64) - 16, 16, 0, bytearray(16), 0)
        assert memory.add(0, 16, (1 << 64) - 16, bytearray(32), 16)
        assert not memory.add((1 << 64) - 1, 1, 100, bytearray(1), 0)
        assert not memory.add(100, 1, (1 << 64) - 1, bytearray(1), 0)
        assert memory.add(16, 1, 16, bytearray(1), 0)

    @pytest.mark.parametrize("shift", [-15, -1, 0, 1, 15])
    def test_regions_do_not_overlap_in_either_address(self, twin: Any, shift: int) -> None:
        memory = twin[1].GuestMemory()
        assert memory.add(1000, 16, 5000, bytearray(16), 0)
        assert not memory.add(1000 + shift, 16, 9000, bytearray(16), 0)
        assert not memory.add(9000, 16, 5000 + shift, bytearray(16), 0)
        assert not memory.add(990, 100, 9000, bytearray(100), 0)
        assert memory.add(1016, 16, 4984, bytearray(16), 0)
        assert memory.add(984, 16, 5016, bytearray(16), 0)

    def test_there_are_so_many_and_no_more(self, twin: Any) -> None:
        memory = twin[1].GuestMemory()
        most = twin[1].MAX_REGIONS
        assert [memory.add(each * 16, 16, each * 16, bytearray(16), 0) for each in range(most)] == [True] * most
        assert not memory.add(1 << 20, 16, 1 << 20, bytearray(16), 0)
        assert memory.remove(0, 16, 0)
        assert memory.add(1 << 20, 16, 1 << 20, bytearray(16), 0)

    def test_the_mapping_lives_as_long_as_the_region(self, twin: Any) -> None:
        memory = twin[1].GuestMemory()
        mapping = mmap.mmap(-1, 4096)
        assert memory.add(0, 4096, 0, mapping, 0)
        with pytest.raises(BufferError):
            mapping.close()
        assert memory.remove(0, 4096, 0)
        mapping.close()

    def test_what_is_forgotten_is_let_go(self, twin: Any) -> None:
        memory = twin[1].GuestMemory()
        mapping = mmap.mmap(-1, 4096)
        assert memory.add(0, 4096, 0, mapping, 0)
        del memory
        gc.collect()
        mapping.close()

    def test_the_first_of_several_is_removed(self, twin: Any) -> None:
        """The others stay where they are and what they are."""
        shared = [Memory(8192, GUEST + each * 8192, USER + each * 8192) for each in range(3)]
        memory = twin[1].GuestMemory()
        queue = Queue(shared[2], 4)
        for each in shared:
            assert memory.add(*each.region)
        assert memory.remove(shared[0].guest, 8192, shared[0].user)
        ring = twin[1].Ring(memory, [0] * len(DropReason))
        assert ring.place(*queue.addresses)
        at = shared[1].take(4)
        shared[1].view[at : at + 4] = b"here"
        queue.add([(shared[1].guest + at, 4)], False)
        queue.add([(shared[0].guest, 4)], False)
        arena, lengths = twin[0].Arena(STRIDE * 2), [0, 0]
        assert ring.receive(arena, 0, STRIDE, 2, lengths, True) == 2
        assert lengths == [4, -ADDRESS]
        assert arena.copy(0, 4) == b"here"
        ring.unplace()
        memory.clear()
        for each in shared:
            each.close()


# -- where the tables are


class TestPlace:
    @pytest.mark.parametrize("size", [1, 2, 4, 256, 32768])
    def test_sizes_that_can_be(self, twin: Any, size: int) -> None:
        shared = Memory(1 << 21)
        queue = Queue(shared, size)
        memory = twin[1].GuestMemory()
        memory.add(*shared.region)
        ring = twin[1].Ring(memory, [0] * len(DropReason))
        assert not ring.placed
        assert ring.place(*queue.addresses)
        assert (ring.placed, ring.size) == (True, size)
        ring.unplace()
        ring.unplace()
        assert not ring.placed
        memory.clear()
        shared.close()

    @pytest.mark.parametrize("size", [0, 3, 17, 65535, 65536, 1 << 31, (1 << 32) - 1])
    def test_sizes_that_cannot_be(self, desk: Callable[..., Desk], size: int) -> None:
        one = desk()
        _, *tables = one.nic.sending.addresses
        assert not one.from_guest.place(size, *tables)
        assert not one.from_guest.placed
        assert one.from_guest.count() == 0

    @pytest.mark.parametrize(("table", "off"), [(0, 8), (0, 1), (1, 1), (2, 2), (2, 1), (0, 4)])
    def test_tables_are_aligned(self, desk: Callable[..., Desk], table: int, off: int) -> None:
        one = desk()
        size, *tables = one.nic.sending.addresses
        tables[table] += off
        assert not one.from_guest.place(size, *tables)

    def test_tables_end_with_the_region(self, twin: Any) -> None:
        """To the byte: one more and they are outside."""
        size = 8
        for length, good in ((16 * size, True), (16 * size - 1, False)):
            memory = twin[1].GuestMemory()
            mapping = bytearray(1024)
            assert memory.add(0, length, 0x1000, mapping, 0)
            assert memory.add(0x8000, 512, 0x8000, bytearray(512), 0)
            ring = twin[1].Ring(memory, [0] * len(DropReason))
            assert ring.place(size, 0x1000, 0x8000, 0x8100) is good
        for used, good in ((512 - 6 - 8 * size - 2, True), (512 - 8 * size - 4, False)):
            ring = twin[1].Ring(memory, [0] * len(DropReason))
            memory.remove(0, 16 * size - 1, 0x1000)
            memory.add(0, 16 * size, 0x1000, bytearray(16 * size), 0)
            assert ring.place(size, 0x1000, 0x8000, 0x8000 + used) is good
        for available, good in ((512 - 6 - 2 * size, True), (512 - 4 - 2 * size, False)):
            assert ring.place(size, 0x1000, 0x8000 + available, 0x8000) is good

    @pytest.mark.parametrize("where", [0, USER - 16, USER + (1 << 22), (1 << 64) - 16, (1 << 64) - 256, GUEST])
    def test_tables_outside(self, desk: Callable[..., Desk], where: int) -> None:
        one = desk()
        size, *tables = one.nic.sending.addresses
        for table in range(3):
            other = list(tables)
            other[table] = where
            assert not one.from_guest.place(size, *other)
        assert one.from_guest.place(size, *tables)

    def test_a_table_is_in_one_region(self, twin: Any) -> None:
        memory = twin[1].GuestMemory()
        for each in range(2):
            assert memory.add(each * 64, 64, 0x1000 + each * 64, bytearray(64), 0)
        assert memory.add(0x8000, 512, 0x8000, bytearray(512), 0)
        ring = twin[1].Ring(memory, [0] * len(DropReason))
        assert not ring.place(8, 0x1000, 0x8000, 0x8100)
        assert ring.place(4, 0x1000, 0x8000, 0x8100)
        assert ring.place(4, 0x1040, 0x8000, 0x8100)

    def test_nothing_happens_where_nothing_is_placed(self, desk: Callable[..., Desk]) -> None:
        one = desk()
        near, far = socket.socketpair()
        with near, far:
            one.nic.send(b"x" * 60)
            one.nic.post(2000)
            for ring in (one.to_guest, one.from_guest):
                ring.unplace()
                assert ring.count() == 0
                assert ring.listen() is False
                ring.ignore()
                ring.finish()
                assert ring.notify(near.fileno()) is False
                assert ring.peek(one.arena, near, 12, 100, -1) == -errno.ENOBUFS
                assert ring.write(one.arena, 0, 60) == -errno.EAGAIN
            assert one.take() == []
            assert one.nic.sent() == 0
            assert one.nic.frames() == []

    def test_a_ring_goes_on_in_another_mapping(self, desk: Callable[..., Desk], twin: Any) -> None:
        """The hypervisor changes the memory table; content, indices and what is on its way stay."""
        one = desk(start=65535)
        one.nic.post(2000)
        one.nic.post(2000)
        assert one.write(framed(b"first")) == 17
        one.nic.send(framed(b"one"))
        assert one.take() == [framed(b"one")]
        one.nic.send(framed(b"two"))
        for ring in (one.to_guest, one.from_guest):
            ring.unplace()
        assert one.memory.remove(*one.shared.region[:3])
        again = mmap.mmap(one.shared.descriptor, one.shared.size)
        assert one.memory.add(one.shared.guest, one.shared.size, one.shared.user, again, 0)
        assert one.to_guest.place(*one.nic.receiving.addresses)
        assert one.from_guest.place(*one.nic.sending.addresses)
        assert one.write(framed(b"second")) == 18
        assert one.nic.frames() == [framed(b"first"), framed(b"second")]
        assert one.take() == [framed(b"two")]
        assert one.nic.sent() == 2

    def test_what_was_received_before_a_change_is_lost(self, desk: Callable[..., Desk]) -> None:
        one = desk()
        one.nic.send(superframe(60_000))
        assert one.receive() == [superframe(60_000)]
        one.from_guest.unplace()
        one.from_guest.finish()
        assert one.from_guest.place(*one.nic.sending.addresses)
        one.from_guest.finish()
        assert one.nic.sent() == 0
        one.nic.send(b"x" * 60)
        assert one.take() == [b"x" * 60]

    def test_drops_have_a_place_for_every_reason(self, twin: Any) -> None:
        ring = twin[1].Ring(twin[1].GuestMemory(), [0] * len(DropReason))
        assert (ring.size, ring.next, ring.placed, ring.broken) == (0, 0, False, False)
        assert (ring.event_index, ring.mergeable) == (False, False)


# -- from the guest


PIECES: list[tuple[int, ...]] = [(), (12,), (1,), (12, 14), (10, 2, 3, 5), (200,), (256,), (255,), (257,), (12, 0, 100)]


@pytest.mark.parametrize("borrow", [True, False])
@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("length", [300, 1526, 4095, 4096, 4097, 9000, 65562, STRIDE])
def test_a_frame_from_the_guest_in_any_pieces(
    desk: Callable[..., Desk], length: int, pieces: tuple[int, ...], borrow: bool
) -> None:
    one = desk()
    frames = [superframe(length - 66), superframe(length - 86, 6), BODY[:length]]
    for frame in frames:
        assert len(frame) == length
        one.nic.send(frame, pieces)
    assert one.receive(borrow) == frames
    assert one.nic.sent() == 0
    one.from_guest.finish()
    assert one.nic.sent() == 3
    assert one.take() == []
    assert one.dropped() == {}


@pytest.mark.parametrize("length", [0, 1, 11, 12, 13, 26, 60])
def test_a_short_frame_is_handed_on_for_others_to_judge(desk: Callable[..., Desk], length: int) -> None:
    one = desk()
    one.nic.send(BODY[:length])
    assert one.take() == [BODY[:length]]


def test_slots_are_where_they_were_asked_for(desk: Callable[..., Desk]) -> None:
    one = desk(batch=8)
    one.arena.view[:] = b"\xee" * len(one.arena.view)
    for each in range(5):
        one.nic.send(bytes([each]) * 100)
    lengths = [7] * 6
    assert one.from_guest.receive(one.arena, 1000, 128, 3, lengths, True) == 3
    assert lengths == [100, 100, 100, 7, 7, 7]
    assert bytes(one.arena.view[:1000]) == b"\xee" * 1000
    assert bytes(one.arena.view[1000 : 1000 + 3 * 128]) == b"".join(bytes([e]) * 100 + b"\xee" * 28 for e in range(3))
    assert bytes(one.arena.view[1384:]) == b"\xee" * (len(one.arena.view) - 1384)
    assert one.from_guest.receive(one.arena, 0, 128, 3, lengths, True) == 2


@pytest.mark.parametrize(
    ("at", "stride", "count"),
    [
        (-1, 100, 1),
        (0, 0, 1),
        (0, -5, 1),
        (0, 100, 0),
        (0, 100, 9),
        (0, 8 * STRIDE + 1, 1),
        (8 * STRIDE, 1, 1),
        (0, STRIDE + 1, 8),
        (1, STRIDE, 8),
        (0, 1 << 60, 8),
    ],
)
def test_slots_outside_the_arena_are_a_bug(desk: Callable[..., Desk], at: int, stride: int, count: int) -> None:
    one = desk()
    one.nic.send(b"x" * 60)
    with pytest.raises(ValueError, match="slots|outside"):
        one.from_guest.receive(one.arena, at, stride, count, [0] * 8, True)
    assert one.take() == [b"x" * 60]


def test_a_frame_that_is_larger_than_its_slot(desk: Callable[..., Desk]) -> None:
    one = desk()
    one.arena.view[:] = b"\xee" * len(one.arena.view)
    for length in (100, 101, 99):
        one.nic.send(BODY[:length], (50,))
    assert one.receive(stride=100) == [BODY[:100], -OVERSIZE, BODY[:99]]
    assert bytes(one.arena.view[100:200]) == b"\xee" * 100
    one.from_guest.finish()
    assert one.nic.sent() == 3


@pytest.mark.parametrize("start", [0, 1, 65530, 65535, 32767])
@pytest.mark.parametrize("size", [1, 2, 8, 16])
def test_indices_wrap(desk: Callable[..., Desk], start: int, size: int) -> None:
    one = desk(size=size, start=start)
    count = 0
    for turn in range(40):
        room = min(len(one.nic.sending.free), turn % size + 1)
        frames = [framed(bytes([turn, each])) for each in range(room)]
        for frame in frames:
            one.nic.send(frame)
        while frames:
            got = one.take()
            assert got == frames[: len(got)]
            assert got
            del frames[: len(got)]
        count += one.nic.sent()
        for each in range(size):
            one.nic.post(20)
            assert one.write(framed(bytes([each]))) == 13
        assert one.nic.frames() == [framed(bytes([each])) for each in range(size)]
    assert one.to_guest.next == (start + 40 * size) & 0xFFFF
    assert one.from_guest.next == (start + count) & 0xFFFF == one.nic.sending.seen


def test_all_65536_indices(desk: Callable[..., Desk]) -> None:
    one = desk(size=256, batch=64)
    for turn in range(1 + 65536 // 64):
        for each in range(64):
            one.nic.send(framed(bytes([turn & 255, each])))
        assert one.take() == [framed(bytes([turn & 255, each])) for each in range(64)]
        assert one.nic.sent() == 64
    assert one.from_guest.next == 64


def test_more_frames_than_slots(desk: Callable[..., Desk]) -> None:
    one = desk(size=256, batch=64)
    frames = [framed(index.to_bytes(2, "big")) for index in range(200)]
    for frame in frames:
        one.nic.send(frame)
    assert one.from_guest.count() == 200
    got: list[Any] = []
    counts = []
    while part := one.take():
        counts.append(len(part))
        got += part
    assert got == frames
    assert counts == [64, 64, 64, 8]
    assert one.nic.sent() == 200


def test_chains_are_given_back_in_order_and_empty(desk: Callable[..., Desk]) -> None:
    one = desk()
    heads = [one.nic.send(b"x" * 60, (20, 20)) for _ in range(4)]
    one.take()
    assert one.nic.sending.collect() == [(head, 0) for head in heads]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 30_000), st.lists(st.integers(0, 5000), max_size=5), st.booleans()), max_size=20),
    st.integers(0, 65535),
    st.booleans(),
)
def test_any_frames_in_any_pieces(jobs: list[tuple[int, list[int], bool]], start: int, borrow: bool) -> None:
    for twin in TWINS:
        if twin.marks and twin.marks[0].args[0]:
            continue
        one = Desk(twin.values[0], 128, start)
        try:
            waiting: list[bytes] = []
            for length, pieces, taken in jobs:
                cuts = [each for index, each in enumerate(pieces) if sum(pieces[: index + 1]) <= length]
                cuts = cuts if sum(cuts) <= length else []
                waiting.append(superframe(length))
                one.nic.send(waiting[-1], cuts)
                if taken:
                    got = one.take(borrow)
                    assert got == waiting[: len(got)]
                    del waiting[: len(got)]
            while got := one.take(borrow):
                assert got == waiting[: len(got)]
                del waiting[: len(got)]
            assert waiting == []
            assert one.nic.sent() == len(jobs)
        finally:
            one.close()


# -- payload that stays where it is


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("pieces", [(), (12, 54), (66,), (256, 4000), (100, 100, 100, 100), (12, 0, 500, 0, 20_000)])
def test_a_superframe_is_sent_from_where_it_lies(
    desk: Callable[..., Desk], stream: tuple[socket.socket, socket.socket], version: int, pieces: tuple[int, ...]
) -> None:
    near, far = stream
    one = desk()
    frame = superframe(60_000, version)
    headers = len(frame) - 60_000
    one.nic.send(frame, pieces)
    one.receive()
    for at, length in ((headers, 60_000), (headers, 1), (headers + 100, 3000), (headers + 59_999, 1), (250, 300)):
        assert one.arena.send(near, at, length) == length
        assert far.recv(1 << 17, socket.MSG_WAITALL if length < 4000 else 0)[:length] == frame[at : at + length][:65536]
        assert one.arena.copy(at, length) == frame[at : at + length]
    one.from_guest.finish()
    assert one.nic.sent() == 1


def test_a_partial_send_goes_on_where_it_stopped(
    desk: Callable[..., Desk], stream: tuple[socket.socket, socket.socket]
) -> None:
    near, far = stream
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4000)
    one = desk()
    frame = superframe(60_000)
    one.nic.send(frame, (66, 100, 7000, 30_000))
    one.receive()
    at, heard, waits = 66, b"", 0
    while at < len(frame):
        done = one.arena.send(near, at, len(frame) - at)
        if done == -errno.EAGAIN:
            waits += 1
            heard += far.recv(1 << 17)
            continue
        assert done > 0
        at += done
    assert waits > 3
    while len(heard) < 60_000:
        heard += far.recv(1 << 17)
    assert heard == frame[66:]


def test_borrowed_frames_of_a_whole_batch(
    desk: Callable[..., Desk], stream: tuple[socket.socket, socket.socket]
) -> None:
    near, far = stream
    one = desk(size=256, batch=64, memory=1 << 23)
    frames = [superframe(5000 + each) for each in range(64)]
    for frame in frames:
        one.nic.send(frame, (66,))
    assert one.receive() == frames
    for each, frame in enumerate(frames):
        at = each * STRIDE + 66
        assert one.arena.send(near, at, len(frame) - 66) == len(frame) - 66
        assert far.recv(1 << 17) == frame[66:]
    one.from_guest.finish()
    assert one.nic.sent() == 64


@pytest.mark.parametrize("descriptors", [63, 64, 65, 200])
def test_a_superframe_in_very_many_pieces(
    desk: Callable[..., Desk], stream: tuple[socket.socket, socket.socket], descriptors: int
) -> None:
    near, far = stream
    one = desk(size=256)
    frame = superframe(60_000)
    one.nic.send(frame, (300,) * (descriptors - 1))
    assert one.receive() == [frame]
    assert one.arena.send(near, 66, 60_000) == 60_000
    assert far.recv(1 << 17) == frame[66:]


def changed_meanwhile(one: Desk, frame: bytes) -> bytes:
    """What is read of `frame` when the guest overwrites it after it was received."""
    head = one.nic.send(frame)
    offset, size = one.nic.places[-1 - head][0]
    assert one.receive() == [frame]
    one.shared.view[offset : offset + size] = b"\xaa" * size
    got: bytes = one.arena.copy(0, len(frame))
    one.from_guest.finish()
    return got


@pytest.mark.parametrize(
    "frame",
    [
        superframe(60_000)[:9] + b"\0" * 60_000,
        vnet() + superframe(60_000)[12:],
        vnet(NEEDS_CSUM, 5, 42, 1448, 34, 6) + superframe(60_000)[12:],
        vnet(0, 1, 54, 1448, 34, 16) + superframe(60_000)[12:],
        superframe(60_000)[:35] + b"\x11" + superframe(60_000)[36:],
        superframe(60_000)[:32] + b"\x20" + superframe(60_000)[33:],
        superframe(60_000)[:33] + b"\x01" + superframe(60_000)[34:],
        superframe(60_000)[:26] + b"\x46" + superframe(60_000)[27:],
        superframe(60_000)[:24] + b"\x08\x06" + superframe(60_000)[26:],
        superframe(60_000, 6)[:32] + b"\x00" + superframe(60_000, 6)[33:],
        superframe(4000),
    ],
    ids="no-ethertype plain uso no-checksum udp more-fragments offset options arp extension small".split(),
)
def test_what_others_may_read_is_copied(desk: Callable[..., Desk], frame: bytes) -> None:
    assert changed_meanwhile(desk(), frame) == frame


@pytest.mark.parametrize("version", [4, 6])
def test_headers_do_not_change_any_more_and_payload_may(desk: Callable[..., Desk], version: int) -> None:
    frame = superframe(60_000, version)
    one = desk()
    got = changed_meanwhile(one, frame)
    assert one.arena.copy(0, 256) == bytes(one.arena.view[:256]) == frame[:256]
    assert set(got[256:]) == {0xAA} or got == frame


def test_a_loan_ends_with_finish(desk: Callable[..., Desk], stream: tuple[socket.socket, socket.socket]) -> None:
    near, far = stream
    one = desk()
    one.nic.send(superframe(60_000), (66,))
    one.receive()
    one.from_guest.finish()
    one.arena.view[:1000] = b"\x55" * 1000
    assert one.arena.send(near, 500, 100) == 100
    assert far.recv(1000) == b"\x55" * 100
    assert one.arena.copy(300, 700) == b"\x55" * 700


def test_a_loan_ends_with_the_ring(desk: Callable[..., Desk], stream: tuple[socket.socket, socket.socket]) -> None:
    """Memory that is unmapped is not read any more."""
    near, far = stream
    one = desk()
    one.nic.send(superframe(60_000), (66,))
    one.receive()
    one.from_guest.unplace()
    one.to_guest.unplace()
    one.memory.clear()
    one.shared.close()
    one.arena.view[:1000] = b"\x55" * 1000
    assert one.arena.send(near, 500, 100) == 100
    assert far.recv(1000) == b"\x55" * 100
    assert len(one.arena.copy(300, 40_000)) == 40_000


# -- to the guest


@pytest.mark.parametrize("length", [12, 13, 26, 60, 1526, 9000, 65562])
def test_a_frame_to_the_guest_in_one_chain(desk: Callable[..., Desk], length: int) -> None:
    for mergeable in (True, False):
        one = desk()
        one.to_guest.mergeable = mergeable
        one.nic.post(length)
        one.nic.post(12, length)
        for _ in range(2):
            assert one.write(BODY[:length], 77) == length
        frame = BODY[:10] + b"\1\0" + BODY[12:length]
        assert one.nic.frames() == [frame, frame]


@pytest.mark.parametrize(
    ("length", "sizes", "chains"),
    [
        (100, [100], 1),
        (101, [100, 100], 2),
        (65562, [1526] * 43, 43),
        (3000, [12, 1500, 1488], 3),
        (20, [1] * 20, 20),
        (20, [12] + [1] * 8, 9),
    ],
)
def test_a_frame_takes_as_many_chains_as_it_needs(
    desk: Callable[..., Desk], length: int, sizes: list[int], chains: int
) -> None:
    one = desk(size=64)
    for size in sizes:
        one.nic.post(size)
    spare = one.nic.post(500)
    assert one.write(BODY[:length]) == length
    used = one.nic.receiving.read(one.nic.receiving.used + 2)
    assert used == chains
    assert one.nic.frames() == [BODY[:10] + chains.to_bytes(2, "little") + BODY[12:length]]
    assert one.to_guest.count() == 1
    assert list(one.nic.places) == [spare]


def test_chains_of_several_buffers_each(desk: Callable[..., Desk]) -> None:
    one = desk(size=64)
    for _ in range(5):
        one.nic.post(12, 100, 0, 300)
    assert one.write(BODY[:1000]) == 1000
    assert one.nic.frames() == [BODY[:10] + b"\3\0" + BODY[12:1000]]


def test_no_buffers_and_too_few(desk: Callable[..., Desk]) -> None:
    one = desk()
    assert one.write(BODY[:100]) == -errno.EAGAIN
    one.nic.post(60)
    assert one.write(BODY[:100]) == -errno.EAGAIN
    assert one.to_guest.count() == 1
    assert one.nic.frames() == []
    one.nic.post(60)
    assert one.write(BODY[:100]) == 100
    assert len(one.nic.frames()) == 1
    assert one.dropped() == {}


def test_a_frame_that_is_too_large_for_a_chain_that_must_hold_it(desk: Callable[..., Desk]) -> None:
    one = desk()
    one.to_guest.mergeable = False
    assert one.write(BODY[:101]) == -errno.EAGAIN
    one.nic.post(40, 60)
    one.nic.post(200)
    assert one.write(BODY[:101]) == -errno.EMSGSIZE
    assert one.to_guest.count() == 2
    assert one.write(BODY[:100]) == 100
    assert one.write(BODY[:101]) == 101
    assert [len(frame) for frame in one.nic.frames()] == [100, 101]


@pytest.mark.parametrize("length", [0, 1, 11])
def test_less_than_a_header_is_no_frame(desk: Callable[..., Desk], length: int) -> None:
    one = desk()
    one.nic.post(1000)
    assert one.write(BODY[:length]) == -errno.EAGAIN
    assert one.to_guest.count() == 1


@pytest.mark.parametrize(("at", "length"), [(-1, 100), (-200, 100), (8 * STRIDE - 99, 100), (1 << 62, 100), (0, -5)])
def test_a_frame_outside_the_arena_is_a_bug(desk: Callable[..., Desk], at: int, length: int) -> None:
    one = desk()
    one.nic.post(1000)
    with contextlib.suppress(ValueError):
        assert one.to_guest.write(one.arena, at, length) < 0
    assert one.to_guest.count() == 1
    assert one.nic.frames() == []


# -- straight from a socket


def pulled(one: Desk, sock: socket.socket, limit: int, skip: int, headers: bytes = HEADER + BODY[:54]) -> int:
    """Peek into the guest's buffers, and write the headers in front of what was there."""
    got = coming(lambda: int(one.to_guest.peek(one.arena, sock, len(headers), limit, skip)))
    if got > 0:
        one.arena.view[500 : 500 + len(headers)] = headers
        assert one.to_guest.write(one.arena, 500, len(headers) + got) == len(headers) + got
    return got


def seen(one: Desk, headers: bytes = HEADER + BODY[:54]) -> list[bytes]:
    """Payloads of the frames that came."""
    frames = one.nic.frames()
    for frame in frames:
        assert frame[:10] + frame[12 : len(headers)] == headers[:10] + headers[12:]
    return [frame[len(headers) :] for frame in frames]


@pytest.mark.parametrize("kind", ["tcp", "stream"])
@pytest.mark.parametrize("sizes", [(70_000,), (12, 70_000), (66, 70_000), (1526,) * 15, (100, 20_000)])
@pytest.mark.parametrize("mergeable", [True, False])
def test_bytes_go_straight_into_the_guest(
    desk: Callable[..., Desk], kind: str, sizes: tuple[int, ...], mergeable: bool, request: pytest.FixtureRequest
) -> None:
    near, far = request.getfixturevalue(kind)
    one = desk(size=256)
    one.to_guest.mergeable = mergeable
    if mergeable:
        for size in sizes:
            one.nic.post(size)
    else:
        one.nic.post(*sizes)
    assert one.to_guest.peek(one.arena, near, 66, 1000, -1) == -errno.EAGAIN
    far.sendall(BODY[:20_000])
    assert far.fileno() >= 0
    end = time.monotonic() + PATIENCE
    while one.arena.peek(near, 0, STRIDE, 0) < 20_000:
        assert time.monotonic() < end
    one.arena.view[:] = bytes(len(one.arena.view))
    assert pulled(one, near, 65_000, 0) == 20_000
    assert seen(one) == [BODY[:20_000]]
    assert one.arena.peek(near, 0, STRIDE, 0) == 20_000


@pytest.mark.parametrize("skip", [1, 100, 5000, 19_999])
def test_what_is_on_its_way_already_is_passed_over(
    desk: Callable[..., Desk], tcp: tuple[socket.socket, socket.socket], skip: int
) -> None:
    near, far = tcp
    one = desk(size=64)
    for _ in range(20):
        one.nic.post(1526)
    far.sendall(BODY[:20_000])
    end = time.monotonic() + PATIENCE
    while one.arena.peek(near, 0, STRIDE, 0) < 20_000:
        assert time.monotonic() < end
    assert pulled(one, near, 700, skip) == min(700, 20_000 - skip)
    assert seen(one) == [BODY[skip : min(skip + 700, 20_000)]]
    assert one.to_guest.peek(one.arena, near, 66, 700, 20_000) == -errno.EAGAIN
    assert one.to_guest.peek(one.arena, near, 66, 700, 20_001) == -errno.EAGAIN
    assert one.to_guest.peek(one.arena, near, 66, 700, (1 << 18) + 1) == -errno.EMSGSIZE
    far.close()
    assert coming(lambda: int(one.arena.discard(near, 20_000))) == 20_000
    assert coming(lambda: int(one.to_guest.peek(one.arena, near, 66, 700, 50))) == 0


@pytest.mark.parametrize("kind", ["tcp", "stream"])
def test_the_kernel_keeps_the_offset(desk: Callable[..., Desk], kind: str, request: pytest.FixtureRequest) -> None:
    near, far = request.getfixturevalue(kind)
    one = desk(size=64)
    if one.arena.set_peek_offset(near, 0):
        pytest.skip("this kernel keeps no offset for TCP")
    for _ in range(40):
        one.nic.post(1526)
    far.sendall(BODY[:20_000])
    found = 0
    while found < 20_000:
        got = pulled(one, near, 3000, -1)
        assert 0 < got <= 3000
        found += got
    assert b"".join(seen(one)) == BODY[:20_000]
    assert one.to_guest.peek(one.arena, near, 66, 700, -1) == -errno.EAGAIN
    far.close()
    assert coming(lambda: int(one.to_guest.peek(one.arena, near, 66, 700, -1))) == 0


def test_no_more_than_the_buffers_hold(desk: Callable[..., Desk], stream: tuple[socket.socket, socket.socket]) -> None:
    near, far = stream
    one = desk()
    far.sendall(BODY[:5000])
    assert one.to_guest.peek(one.arena, near, 66, 1000, 0) == -errno.ENOBUFS
    one.nic.post(66)
    assert one.to_guest.peek(one.arena, near, 66, 1000, 0) == -errno.ENOBUFS
    one.nic.post(1)
    assert pulled(one, near, 1000, 0) == 1
    one.nic.post(500)
    one.nic.post(500)
    assert pulled(one, near, 65_000, 0) == 934
    assert seen(one) == [BODY[:1], BODY[:934]]


def test_limits_are_kept(desk: Callable[..., Desk], stream: tuple[socket.socket, socket.socket]) -> None:
    near, far = stream
    one = desk()
    far.sendall(BODY[:5000])
    head = one.nic.post(1000)
    offset, _ = one.nic.places[head][0]
    one.shared.view[offset : offset + 1000] = b"\xee" * 1000
    assert one.to_guest.peek(one.arena, near, 66, 200, 0) == 200
    assert bytes(one.shared.view[offset : offset + 1000]) == b"\xee" * 66 + BODY[:200] + b"\xee" * 734


def test_another_frame_than_the_peeked_one(
    desk: Callable[..., Desk], stream: tuple[socket.socket, socket.socket]
) -> None:
    """It is written whole, and the peeked bytes are as if they had not been looked at."""
    near, far = stream
    one = desk()
    far.sendall(BODY[:5000])
    for _ in range(4):
        one.nic.post(2000)
    assert one.to_guest.peek(one.arena, near, 66, 1500, 0) == 1500
    assert one.write(BODY[:60]) == 60
    assert one.to_guest.peek(one.arena, near, 66, 1500, 0) == 1500
    assert one.write(BODY[: 1500 + 12]) == 1512
    assert one.to_guest.peek(one.arena, near, 66, 1500, 0) == 1500
    assert one.write(BODY[: 1500 + 129]) == 1629
    assert one.nic.frames() == [BODY[:10] + b"\1\0" + BODY[12:length] for length in (60, 1512, 1629)]


def test_a_peek_that_is_followed_by_another(
    desk: Callable[..., Desk], stream: tuple[socket.socket, socket.socket]
) -> None:
    near, far = stream
    one = desk()
    one.nic.post(2000)
    far.sendall(BODY[:5000])
    assert one.to_guest.peek(one.arena, near, 66, 1500, 0) == 1500
    assert pulled(one, near, 100, 0) == 100
    assert seen(one) == [BODY[:100]]


def test_errors_of_the_socket_are_numbers(desk: Callable[..., Desk]) -> None:
    one = desk()
    one.nic.post(2000)
    with socket.socket() as sock:
        sock.setblocking(False)
        assert one.to_guest.peek(one.arena, sock, 66, 1500, -1) == -errno.ENOTCONN
        assert one.to_guest.peek(one.arena, sock, 66, 1500, 10) == -errno.ENOTCONN
    assert one.write(BODY[:60]) == 60
    assert one.nic.frames() == [BODY[:10] + b"\1\0" + BODY[12:60]]


@pytest.mark.parametrize("first", [1, 12, 65, 66, 67, 68])
@pytest.mark.parametrize("skip", [0, 10])
def test_buffers_of_a_byte_each(
    desk: Callable[..., Desk], stream: tuple[socket.socket, socket.socket], skip: int, first: int
) -> None:
    """More pieces than one call takes: as many as it does."""
    near, far = stream
    one = desk(size=2048)
    far.sendall(BODY[:5000])
    one.nic.post(first)
    for _ in range(2000):
        one.nic.post(1)
    got = one.to_guest.peek(one.arena, near, 66, 3000, skip)
    assert got == first + 1023 - 66 - (1 if skip and first > 66 else 0)
    one.arena.view[500:566] = HEADER + BODY[:54]
    assert one.to_guest.write(one.arena, 500, 66 + got) == 66 + got
    assert seen(one) == [BODY[skip : skip + got]]


# -- chains that must not be


def looped(queue: Queue) -> None:
    for index in range(8):
        queue.describe(index, GUEST, 16, NEXT, (index + 1) % 8)
    queue.offer(0)


def to_itself(queue: Queue) -> None:
    queue.describe(3, GUEST, 0, NEXT, 3)
    queue.offer(3)


def one_chain(*descriptors: tuple[int, int, int, int], head: int = 0) -> Callable[[Queue], None]:
    """(address, length, flags, next) of descriptors 0, 1, ..."""

    def make(queue: Queue) -> None:
        for index, each in enumerate(descriptors):
            queue.describe(index, *each)
        queue.offer(head)

    return make


END = GUEST + (1 << 22)
TOP = 1 << 64
VOID: dict[str, tuple[Callable[[Queue], None], int]] = {
    "head behind the table": (one_chain(head=16), CHAIN),
    "head far behind it": (one_chain(head=65535), CHAIN),
    "next behind the table": (one_chain((GUEST, 16, NEXT, 16)), CHAIN),
    "next far behind it": (one_chain((GUEST, 16, NEXT, 65535)), CHAIN),
    "loop": (looped, CHAIN),
    "loop of one": (to_itself, CHAIN),
    "loop of two": (one_chain((GUEST, 1, NEXT, 1), (GUEST, 1, NEXT, 0)), CHAIN),
    "indirect": (one_chain((GUEST, 16, INDIRECT, 0)), CHAIN),
    "indirect later": (one_chain((GUEST, 16, NEXT, 1), (GUEST, 16, INDIRECT, 0)), CHAIN),
    "indirect and all flags": (one_chain((GUEST, 16, 0xFFFD, 1)), CHAIN),
    "wrong direction": (one_chain((GUEST, 16, WRITE, 0)), CHAIN),
    "wrong direction later": (one_chain((GUEST, 16, NEXT, 1), (GUEST, 16, WRITE, 0)), CHAIN),
    "below": (one_chain((GUEST - 1, 16, 0, 0)), ADDRESS),
    "at zero": (one_chain((0, 16, 0, 0)), ADDRESS),
    "above": (one_chain((END, 1, 0, 0)), ADDRESS),
    "over the edge": (one_chain((END - 16, 17, 0, 0)), ADDRESS),
    "over the edge from the start": (one_chain((GUEST, (1 << 22) + 1, 0, 0)), ADDRESS),
    "over the edge by a lot": (one_chain((END - 16, 0xFFFFFFFF, 0, 0)), ADDRESS),
    "nothing behind the edge": (one_chain((END + 1, 0, 0, 0)), ADDRESS),
    "wraps to zero": (one_chain((TOP - 16, 16, 0, 0)), ADDRESS),
    "wraps beyond it": (one_chain((TOP - 16, 32, 0, 0)), ADDRESS),
    "wraps into the memory": (one_chain((TOP - 0x1000, 0x4000_2000, 0, 0)), ADDRESS),
    "the last address": (one_chain((TOP - 1, 1, 0, 0)), ADDRESS),
    "the hypervisor's address": (one_chain((USER, 16, 0, 0)), ADDRESS),
    "outside later": (one_chain((GUEST, 16, NEXT, 1), (END, 16, 0, 0)), ADDRESS),
    "too long in one": (one_chain((GUEST, STRIDE + 1, 0, 0)), OVERSIZE),
    "too long together": (one_chain((GUEST, 60_000, NEXT, 1), (GUEST, 60_000, 0, 0)), OVERSIZE),
}  # fmt: skip


@pytest.mark.parametrize("borrow", [True, False])
@pytest.mark.parametrize("name", sorted(VOID))
def test_a_void_chain_from_the_guest(desk: Callable[..., Desk], name: str, borrow: bool) -> None:
    """It is given back, told by its reason, and the frames before and behind it are not touched."""
    make, reason = VOID[name]
    one = desk()
    one.nic.send(b"before")
    one.nic.sending.free = list(range(8, 16))
    for index in range(8):
        one.nic.sending.describe(index, GUEST, 16)
    make(one.nic.sending)
    head = one.nic.sending.read(one.nic.sending.available + 4 + 2)
    one.nic.sending.describe(9, one.shared.guest + one.shared.take(100), 100)
    one.nic.sending.describe(8, one.shared.guest, 6)
    one.nic.sending.offer(9)
    got = one.receive(borrow)
    assert got[1] == -reason
    assert len(got) == 3
    assert got[2] == bytes(100)
    one.from_guest.finish()
    queue = one.nic.sending
    heads = [int.from_bytes(one.shared.view[queue.used + 4 + 8 * e :][:8], "little") for e in range(3)]
    assert heads[1:] == [head, 9]
    assert queue.read(queue.used + 2) == 3
    assert not one.from_guest.broken


def writable(make: Callable[[Queue], None]) -> Callable[[Queue], None]:
    """The same chain in the other direction."""

    def other(queue: Queue) -> None:
        make(queue)
        for index in range(queue.size):
            at = queue.descriptors + 16 * index + 12
            queue.raw(at, queue.read(at) ^ WRITE)

    return other


@pytest.mark.parametrize("mergeable", [True, False])
@pytest.mark.parametrize("name", sorted(set(VOID) - {"too long in one", "too long together"}))
def test_a_void_chain_to_the_guest(desk: Callable[..., Desk], name: str, mergeable: bool) -> None:
    """It is given back empty and counted, and the frame goes into the next one."""
    make, reason = VOID[name]
    one = desk()
    one.to_guest.mergeable = mergeable
    queue = one.nic.receiving
    writable(make)(queue)
    head = queue.read(queue.available + 4)
    at = one.shared.take(2000)
    queue.describe(10, one.shared.guest + at, 2000, WRITE)
    queue.offer(10)
    assert one.write(BODY[:1000]) == 1000
    assert one.dropped() == {reason: 1}
    assert queue.read(queue.used + 2) == 2
    given = [int.from_bytes(one.shared.view[queue.used + 4 + 8 * e :][:8], "little") for e in range(2)]
    assert given == [head, 10 | 1000 << 32]
    assert bytes(one.shared.view[at : at + 1000]) == BODY[:10] + b"\1\0" + BODY[12:1000]
    assert one.to_guest.next == 2


def test_a_chain_that_holds_nothing(desk: Callable[..., Desk]) -> None:
    one = desk()
    one.nic.post(0)
    one.nic.post(0, 0)
    one.nic.post(100)
    assert one.write(BODY[:60]) == 60
    assert one.dropped() == {CHAIN: 2}
    assert [length for _, length in one.nic.receiving.collect()] == [0, 0, 60]


def test_only_void_chains(desk: Callable[..., Desk]) -> None:
    one = desk()
    for _ in range(5):
        one.nic.receiving.add([(END, 100)], True)
    assert one.write(BODY[:60]) == -errno.EAGAIN
    assert one.dropped() == {ADDRESS: 5}
    assert len(one.nic.receiving.collect()) == 5
    assert one.write(BODY[:60]) == -errno.EAGAIN


def test_a_void_chain_among_those_of_one_frame(desk: Callable[..., Desk]) -> None:
    """What is before it has to be used first; nothing is lost but it."""
    one = desk()
    one.nic.post(100)
    one.nic.receiving.add([(END, 100)], True)
    one.nic.post(100)
    assert one.write(BODY[:150]) == -errno.EAGAIN
    assert one.dropped() == {}
    assert one.write(BODY[:90]) == 90
    assert one.write(BODY[:90]) == 90
    assert one.dropped() == {ADDRESS: 1}
    assert [length for _, length in one.nic.receiving.collect()] == [90, 0, 90]


def test_a_chain_to_the_guest_may_be_of_any_length(desk: Callable[..., Desk]) -> None:
    """The same megabyte over and over: no sum of ours overflows."""
    one = desk(size=256)
    queue = one.nic.receiving
    for index in range(256):
        queue.describe(index, GUEST + (1 << 21), 1 << 21, WRITE | (NEXT if index < 255 else 0), index + 1)
    queue.offer(0)
    assert one.write(BODY[:60]) == 60
    assert queue.read(queue.used + 2) == 1
    assert bytes(one.shared.view[1 << 21 :][:60]) == BODY[:10] + b"\1\0" + BODY[12:60]


def test_more_pieces_than_a_call_takes(desk: Callable[..., Desk]) -> None:
    """A chain that the ring has room for, and a system call has not."""
    one = desk(size=2048)
    one.nic.send(b"x" * 2000, (1,) * 1023)
    one.nic.send(b"y" * 2000, (1,) * 1000)
    assert one.take() == [b"x" * 2000, b"y" * 2000]
    assert one.nic.sent() == 2
    one.nic.send(b"x" * 2000, (1,) * 1024)
    assert one.take() == [-CHAIN]
    one.nic.post(*(1,) * 1025)
    one.nic.post(*(1,) * 1000, 1000)
    assert one.write(BODY[:1500]) == 1500
    assert one.dropped() == {CHAIN: 1}


@pytest.mark.parametrize("at", [GUEST, END - 100])
def test_a_frame_at_the_very_edge_of_the_memory(desk: Callable[..., Desk], at: int) -> None:
    one = desk()
    one.nic.sending.describe(0, at, 100, NEXT, 1)
    one.nic.sending.describe(1, END, 0)
    one.nic.sending.offer(0)
    assert one.take() == [bytes(one.shared.view[at - GUEST : at - GUEST + 100])]


def test_tables_that_lie_over_each_other(desk: Callable[..., Desk]) -> None:
    """What we write changes what we read: whatever happens, it ends."""
    one = desk()
    size, tables, _, _ = one.nic.receiving.addresses
    for shift in (0, 4, 16, 64):
        assert one.to_guest.place(size, tables, tables, tables + shift)
        one.to_guest.next = one.nic.receiving.read(one.nic.receiving.descriptors + 2)
        for _ in range(50):
            one.nic.receiving.describe(0, GUEST + 8192, 2000, WRITE)
            one.write(BODY[:60])
            one.to_guest.notify(-1)
            one.to_guest.listen()


# -- a count that cannot be


@pytest.mark.parametrize("ahead", [17, 18, 1000, 32768, 65535])
@pytest.mark.parametrize("start", [0, 65530])
def test_an_index_beyond_the_ring_breaks_it(desk: Callable[..., Desk], ahead: int, start: int) -> None:
    one = desk(start=start)
    for ring, queue in ((one.from_guest, one.nic.sending), (one.to_guest, one.nic.receiving)):
        queue.set_index(start + 16)
        assert ring.count() == 16
        queue.set_index(start + ahead)
        assert ring.placed
        assert ring.count() == 0
        assert (ring.broken, ring.placed) == (True, False)
        queue.set_index(start + 1)
        assert ring.count() == 0
    assert one.dropped() == {BROKEN: 2}
    assert one.take() == []
    assert one.write(BODY[:60]) == -errno.EAGAIN
    assert one.to_guest.listen() is False
    one.to_guest.ignore()
    assert one.dropped() == {BROKEN: 2}


def test_a_ring_that_is_set_up_anew_is_whole_again(desk: Callable[..., Desk]) -> None:
    one = desk()
    one.nic.sending.set_index(100)
    assert one.take() == []
    assert one.from_guest.broken
    one.nic.sending.set_index(0)
    one.from_guest.next = 0
    assert one.from_guest.place(*one.nic.sending.addresses)
    assert not one.from_guest.broken
    one.nic.send(b"x" * 60)
    assert one.take() == [b"x" * 60]
    assert one.dropped() == {BROKEN: 1}


def test_chains_taken_before_it_broke_are_given_back(desk: Callable[..., Desk]) -> None:
    one = desk()
    one.nic.send(superframe(60_000))
    assert one.receive() == [superframe(60_000)]
    one.nic.sending.set_index(500)
    assert one.from_guest.count() == 0
    one.from_guest.finish()
    assert one.nic.sent() == 1


# -- notifications


@pytest.fixture
def bell() -> Iterator[int]:
    made = os.eventfd(0, os.EFD_NONBLOCK)
    yield made
    os.close(made)


def rings(bell: int) -> int:
    """How often it was rung."""
    try:
        return os.eventfd_read(bell)
    except BlockingIOError:
        return 0


def test_the_driver_is_told_unless_it_says_no(desk: Callable[..., Desk], bell: int) -> None:
    one = desk()
    assert one.from_guest.notify(bell) is False
    one.nic.send(b"x" * 60)
    one.receive()
    assert one.from_guest.notify(bell) is False
    one.from_guest.finish()
    assert one.from_guest.notify(bell) is True
    assert one.from_guest.notify(bell) is False
    assert rings(bell) == 1
    one.nic.sending.hush()
    one.nic.send(b"x" * 60)
    one.take()
    assert one.from_guest.notify(bell) is False
    one.nic.sending.ask()
    assert one.from_guest.notify(bell) is False
    one.nic.send(b"x" * 60)
    one.take()
    assert one.from_guest.notify(bell) is True
    assert rings(bell) == 1


@pytest.mark.parametrize("start", [0, 65534])
def test_the_driver_is_told_at_the_index_it_names(desk: Callable[..., Desk], bell: int, start: int) -> None:
    one = desk(start=start, event_index=True)
    queue = one.nic.receiving
    told = []
    queue.raw(queue.available + 4 + 2 * queue.size, start + 2)
    for _ in range(6):
        one.nic.post(100)
        one.write(BODY[:60])
        told.append(one.to_guest.notify(bell))
    assert told == [False, False, True, False, False, False]
    queue.raw(queue.available + 4 + 2 * queue.size, start + 7)
    for _ in range(4):
        one.nic.post(100)
        one.write(BODY[:60])
    assert one.to_guest.notify(bell) is True
    assert rings(bell) == 2
    one.nic.frames()
    assert queue.ask() is False
    queue.hush()
    one.nic.post(100)
    one.write(BODY[:60])
    assert one.to_guest.notify(bell) is False


def test_a_bell_that_cannot_be_rung(desk: Callable[..., Desk]) -> None:
    one = desk()
    for descriptor in (-1, 1 << 20):
        one.nic.send(b"x" * 60)
        one.take()
        assert one.from_guest.notify(descriptor) is False


@pytest.mark.parametrize("event_index", [False, True])
@pytest.mark.parametrize("start", [0, 65530, 65535])
def test_we_are_told_when_we_ask(desk: Callable[..., Desk], event_index: bool, start: int) -> None:
    one = desk(start=start, event_index=event_index)
    ring, queue = one.from_guest, one.nic.sending
    assert ring.listen() is False
    one.nic.send(b"x" * 60)
    assert queue.wants_kick()
    ring.ignore()
    one.take()
    for _ in range(3):
        one.nic.send(b"x" * 60)
    assert not queue.wants_kick()
    assert ring.listen() is False
    assert ring.count() == 3, "what came before is seen by whoever looks after asking"
    one.nic.send(b"x" * 60)
    assert queue.wants_kick()


@pytest.mark.parametrize("event_index", [False, True])
@pytest.mark.parametrize("to_guest", [False, True])
@pytest.mark.parametrize("start", [0, 65000])
def test_no_wake_up_is_lost(twin: Any, event_index: bool, to_guest: bool, start: int) -> None:
    """A driver in another process, on another processor: either side sleeps only when the other has promised to wake
    it.
    """
    one = Desk(twin, 8, start, event_index)
    kick, call = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
    count = 3000
    side = (run_receiver if to_guest else run_sender, run_writer if to_guest else run_reader)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if side[0](one.nic, count, kick, call) else 2
        finally:
            os._exit(status)
    try:
        assert side[1](one, count, kick, call), "the driver made chains available and did not wake us"
        _, status = os.waitpid(child, 0)
        child = 0
        assert status == 0, "we gave chains back and did not wake the driver"
    finally:
        if child:
            os.kill(child, 9)
            os.waitpid(child, 0)
        for descriptor in (kick, call):
            os.close(descriptor)
        one.close()


def sleep_on(descriptor: int) -> bool:
    """Until it is rung; False when it is not."""
    if not select.select([descriptor], [], [], PATIENCE)[0]:
        return False
    os.eventfd_read(descriptor)
    return True


def run_sender(nic: Nic, count: int, kick: int, call: int) -> bool:
    chance = random.Random(1)
    for index in range(count):
        while not nic.sending.free:
            nic.sent()
            if not nic.sending.free and not nic.sending.ask() and not sleep_on(call):
                return False
        nic.send(framed(index.to_bytes(4, "big")))
        if nic.sending.wants_kick():
            os.eventfd_write(kick, 1)
        for _ in range(chance.choice((0, 0, 10, 3000))):
            pass
    return True


def run_reader(one: Desk, count: int, kick: int, call: int) -> bool:
    index = 0
    while index < count:
        got = one.take()
        assert got == [framed((index + each).to_bytes(4, "big")) for each in range(len(got))]
        index += len(got)
        one.from_guest.notify(call)
        if not got and not one.from_guest.listen() and not one.from_guest.count() and not sleep_on(kick):
            return False
        one.from_guest.ignore()
    return True


def run_receiver(nic: Nic, count: int, kick: int, call: int) -> bool:
    index = 0
    chance = random.Random(1)
    while index < count:
        while nic.receiving.free:
            nic.post(20)
            if nic.receiving.wants_kick():
                os.eventfd_write(kick, 1)
            for _ in range(chance.choice((0, 0, 10, 3000))):
                pass
        frames = nic.frames()
        if frames != [framed((index + each).to_bytes(4, "big")) for each in range(len(frames))]:
            return False
        index += len(frames)
        if not frames and not nic.receiving.ask() and not sleep_on(call):
            return False
    return True


def run_writer(one: Desk, count: int, kick: int, call: int) -> bool:
    index = 0
    while index < count:
        if one.write(framed(index.to_bytes(4, "big"))) > 0:
            index += 1
            if index % 3 == 0 or index == count:
                one.to_guest.notify(call)
            continue
        one.to_guest.notify(call)
        if not one.to_guest.listen() and not one.to_guest.count() and not sleep_on(kick):
            return False
        one.to_guest.ignore()
    return True


@pytest.mark.parametrize("event_index", [False, True])
def test_a_driver_that_never_stands_still(event_index: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`listen` gives up after a few looks, and says so: it never hangs on a guest that counts on and on.

    Of the slow twin only: the fast one is done before Python has counted.
    """
    one = Desk((slow, slow_rings), 8, 0, event_index)
    queue = one.nic.sending
    looks = []

    def count() -> None:
        looks.append(1)
        queue.set_index(queue.index + 1)

    monkeypatch.setattr(slow_rings, "_fence", count)
    assert one.from_guest.listen() is True
    assert 1 < len(looks) < 100
    one.close()


@pytest.mark.parametrize("event_index", [False, True])
def test_the_driver_never_sees_a_number_that_was_never_meant(twin: Any, event_index: bool) -> None:
    """It reads while we write the same number over and over: never anything in between."""
    one = Desk(twin, 16, 0xFFFF, event_index)
    ring, queue = one.from_guest, one.nic.sending
    ring.listen() if event_index else ring.ignore()
    at = queue.used + (4 + 8 * queue.size if event_index else 0)
    meant = queue.read(at)
    assert meant == (0xFFFF if event_index else 1)
    end = time.monotonic() + 0.7
    child = os.fork()
    if child == 0:
        while time.monotonic() < end + 0.1:
            for _ in range(1000):
                if queue.read(at) != meant:
                    os._exit(1)
        os._exit(0)
    write = ring.listen if event_index else ring.ignore
    while time.monotonic() < end:
        for _ in range(1000):
            write()
    _, status = os.waitpid(child, 0)
    one.close()
    assert status == 0
