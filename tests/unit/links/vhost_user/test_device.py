"""links.vhost_user.device: what each message makes of the device, what it owns, and what it lets go of."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from bucatini.base.errors import PeerError
from bucatini.base.reasons import DropReason
from bucatini.host.tap import Offloads
from bucatini.links.vhost_user.device import (
    CAPABILITIES,
    EVENT_IDX,
    FEATURES,
    FROM_GUEST,
    GUEST_CSUM,
    GUEST_TSO4,
    GUEST_TSO6,
    GUEST_USO4,
    GUEST_USO6,
    MRG_RXBUF,
    PROTOCOL_FEATURES,
    REPLY_ACK,
    TO_GUEST,
    VERSION_1,
    VHOST_PROTOCOL_FEATURES,
    Device,
)
from bucatini.links.vhost_user.messages import Header, Request
from bucatini.native import Arena
from support.link_owner import descriptors
from support.ring_driver import GUEST, USER, Memory, Nic

BOTH = [TO_GUEST, FROM_GUEST]


class FrontEnd:
    """Speaks to a device without a socket. Descriptors that are sent are duplicates, as over a socket."""

    def __init__(self) -> None:
        self.device = Device([0] * len(DropReason))
        self.shared = Memory(1 << 18)
        self.nic = Nic(self.shared, 16)
        self.queues = (self.nic.receiving, self.nic.sending)
        self.mine: list[int] = [self.shared.descriptor]

    def say(self, request: int, body: bytes = b"", held: tuple[int, ...] = (), flags: int = 1) -> bytes | None:
        return self.device.handle(Header(request, flags, len(body)), body, [os.dup(each) for each in held])

    def ask(self, request: int, body: bytes = b"") -> int:
        reply = self.say(request, body)
        assert reply is not None
        assert reply[:12] == struct.pack("=III", request, 5, 8)
        return int.from_bytes(reply[12:], "little")

    def number(self, request: int, value: int, held: tuple[int, ...] = ()) -> None:
        assert self.say(request, struct.pack("=Q", value), held) is None

    def state(self, request: int, index: int, value: int) -> None:
        assert self.say(request, struct.pack("=II", index, value)) is None

    def eventfd(self) -> int:
        self.mine.append(os.eventfd(0, os.EFD_NONBLOCK))
        return self.mine[-1]

    def table(self, *memories: Memory) -> bytes | None:
        body = struct.pack("=II", len(memories), 0)
        body += b"".join(struct.pack("=QQQQ", each.guest, each.size, each.user, 0) for each in memories)
        return self.say(Request.SET_MEM_TABLE, body, tuple(each.descriptor for each in memories))

    def address(self, index: int, **changed: int) -> bytes:
        queue = self.queues[index]
        values = {
            "descriptors": queue.descriptors + USER,
            "used": queue.used + USER,
            "available": queue.available + USER,
            **changed,
        }
        return struct.pack("=IIQQQQ", index, 0, values["descriptors"], values["used"], values["available"], 0)

    def start(self, features: int = FEATURES) -> None:
        self.number(Request.SET_FEATURES, features)
        assert self.table(self.shared) is None
        for index in BOTH:
            self.state(Request.SET_VRING_NUM, index, 16)
            self.state(Request.SET_VRING_BASE, index, 0)
            assert self.say(Request.SET_VRING_ADDR, self.address(index)) is None
            self.number(Request.SET_VRING_CALL, index, (self.eventfd(),))
            self.number(Request.SET_VRING_KICK, index, (self.eventfd(),))
            self.state(Request.SET_VRING_ENABLE, index, 1)

    def works(self) -> tuple[bool, bool]:
        return self.device.queues[0].works, self.device.queues[1].works

    def close(self) -> None:
        self.device.close()
        for each in self.mine[1:]:
            os.close(each)
        self.shared.close()


@pytest.fixture
def front() -> Iterator[FrontEnd]:
    """Whatever a test does: in the end no descriptor is left, and no mapping of the guest's memory."""
    before = descriptors()
    made = FrontEnd()
    yield made
    made.close()
    assert descriptors() == before
    assert mappings() == 0


def mappings() -> int:
    with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
        return sum("memfd:guest" in line for line in file)


# -- agreement


def test_what_is_offered(front: FrontEnd) -> None:
    assert front.ask(Request.GET_FEATURES) == FEATURES
    assert front.ask(Request.GET_PROTOCOL_FEATURES) == PROTOCOL_FEATURES
    assert front.ask(Request.GET_QUEUE_NUM) == 1
    assert front.ask(Request.GET_MAX_MEM_SLOTS) == 32
    for needed in (VERSION_1, VHOST_PROTOCOL_FEATURES, MRG_RXBUF, EVENT_IDX, GUEST_CSUM):
        assert FEATURES & needed
    for absent in (1 << 28, 1 << 34, 1 << 26, 1 << 22):  # indirect descriptors, packed rings, the log, several queues
        assert not FEATURES & absent
    assert CAPABILITIES == {"type": "net"}


@pytest.mark.parametrize("bit", [2, 16, 22, 26, 28, 33, 34, 63])
def test_a_feature_that_was_not_offered(front: FrontEnd, bit: int) -> None:
    with pytest.raises(PeerError, match=f"features {1 << bit:#x} were not offered"):
        front.number(Request.SET_FEATURES, VERSION_1 | 1 << bit)
    assert front.device.features == 0


@pytest.mark.parametrize("features", [0, FEATURES & ~VERSION_1, VHOST_PROTOCOL_FEATURES])
def test_a_driver_of_before_virtio_1(front: FrontEnd, features: int) -> None:
    with pytest.raises(PeerError, match="before virtio 1.0"):
        front.number(Request.SET_FEATURES, features)


def test_features_reach_the_rings(front: FrontEnd) -> None:
    for features, told in ((FEATURES, True), (VERSION_1, False)):
        front.number(Request.SET_FEATURES, features)
        for queue in front.device.queues:
            assert (queue.ring.event_index, queue.ring.mergeable) == (told, told)


@pytest.mark.parametrize(
    ("bits", "offloads"),
    [
        (0, Offloads(False, False, False, False, False)),
        (GUEST_CSUM, Offloads(True, False, False, False, False)),
        (GUEST_CSUM | GUEST_TSO4, Offloads(True, True, False, False, False)),
        (GUEST_CSUM | GUEST_TSO6 | GUEST_USO4, Offloads(True, False, True, True, False)),
        (GUEST_TSO4 | GUEST_TSO6 | GUEST_USO4 | GUEST_USO6, Offloads(False, False, False, False, False)),
        (FEATURES, Offloads(True, True, True, True, True)),
    ],
)
def test_offloads_are_what_the_driver_takes(front: FrontEnd, bits: int, offloads: Offloads) -> None:
    front.number(Request.SET_FEATURES, VERSION_1 | bits)
    assert front.device.offloads == offloads


def test_nothing_is_taken_before_anything_is_agreed_on(front: FrontEnd) -> None:
    assert front.device.offloads == Offloads(False, False, False, False, False)
    assert front.works() == (False, False)


# -- replies


def test_acknowledgements_come_where_they_were_agreed_on(front: FrontEnd) -> None:
    body = struct.pack("=Q", FEATURES)
    assert front.say(Request.SET_FEATURES, body, flags=9) is None
    front.number(Request.SET_PROTOCOL_FEATURES, REPLY_ACK)
    assert front.say(Request.SET_FEATURES, body, flags=1) is None
    assert front.say(Request.SET_FEATURES, body, flags=9) == struct.pack("=IIIQ", 2, 5, 8, 0)
    assert front.say(Request.SET_OWNER, flags=9) == struct.pack("=IIIQ", 3, 5, 8, 0)
    assert front.say(Request.SET_FEATURES, struct.pack("=Q", 0), flags=9) == struct.pack("=IIIQ", 2, 5, 8, 1)
    assert front.say(Request.SET_VRING_NUM, b"", flags=9) == struct.pack("=IIIQ", 8, 5, 8, 1)
    with pytest.raises(PeerError):
        front.say(Request.SET_VRING_NUM, b"", flags=1)


def test_a_request_that_has_a_reply_has_one_reply(front: FrontEnd) -> None:
    front.number(Request.SET_PROTOCOL_FEATURES, REPLY_ACK)
    assert front.say(Request.GET_FEATURES, flags=9) == struct.pack("=IIIQ", 1, 5, 8, FEATURES)


@pytest.mark.parametrize("request_number", [0, 6, 7, 19, 20, 21, 24, 35, 39, 40, 1000, 0xFFFFFFFF])
def test_an_unknown_request(front: FrontEnd, request_number: int) -> None:
    with pytest.raises(PeerError, match=f"request {request_number} is not known here"):
        front.say(request_number, bytes(40), (front.eventfd(),))
    front.number(Request.SET_PROTOCOL_FEATURES, REPLY_ACK)
    assert front.say(request_number, bytes(40), (front.eventfd(),), 9) == struct.pack("=IIIQ", request_number, 5, 8, 1)


@pytest.mark.parametrize("request_number", sorted(set(Request) - {1, 3, 4, 14, 15, 17, 36}))
def test_a_body_that_is_too_short(front: FrontEnd, request_number: int) -> None:
    with pytest.raises(PeerError):
        front.say(request_number, bytes(7), (front.eventfd(),))


@pytest.mark.parametrize("index", [2, 3, 255])
@pytest.mark.parametrize("request_number", [8, 10, 11, 12, 13, 18])
def test_a_ring_that_is_not_there(front: FrontEnd, request_number: int, index: int) -> None:
    with pytest.raises(PeerError, match=f"ring {index}: there are two"):
        front.say(request_number, struct.pack("=II", index, 0), (front.eventfd(),))


# -- memory


def test_a_table_of_memory(front: FrontEnd) -> None:
    second = Memory(8192, GUEST + (1 << 20), USER + (1 << 20))
    assert front.table(front.shared, second) is None
    assert front.device.memory.count == 2
    assert mappings() == 4
    assert front.table(second) is None
    assert front.device.memory.count == 1
    assert mappings() == 3
    assert front.table() is None
    assert front.device.memory.count == 0
    assert mappings() == 2
    second.close()


def test_regions_one_by_one(front: FrontEnd) -> None:
    def region(memory: Memory, request: int, offset: int = 0, size: int = 0) -> None:
        body = struct.pack("=QQQQQ", 0, memory.guest, size or memory.size, memory.user, offset)
        assert front.say(request, body, (memory.descriptor,) if request == Request.ADD_MEM_REG else ()) is None

    second = Memory(8192, GUEST + (1 << 20), USER + (1 << 20))
    region(front.shared, Request.ADD_MEM_REG)
    region(second, Request.ADD_MEM_REG, 4096, 4096)
    assert front.device.memory.count == 2
    with pytest.raises(PeerError, match="overlaps"):
        region(second, Request.ADD_MEM_REG, 4096, 4096)
    region(second, Request.REM_MEM_REG, 4096, 4096)
    assert front.device.memory.count == 1
    with pytest.raises(PeerError, match="not there"):
        region(second, Request.REM_MEM_REG, 4096, 4096)
    second.close()


@pytest.mark.parametrize(
    ("size", "offset", "what"),
    [
        (8193, 0, "mapped"),
        (8192, 1, "mapped"),
        (1 << 40, 0, "mapped"),
        ((1 << 64) - 1, 0, "mapped"),
        (4096, 1 << 63, "mapped"),
        ((1 << 64) - 1, (1 << 64) - 1, "mapped"),
        (0, 0, "overlaps"),
        (0, 8192, "overlaps"),
    ],
)
def test_a_region_that_its_file_does_not_have(front: FrontEnd, size: int, offset: int, what: str) -> None:
    second = Memory(8192)
    body = struct.pack("=QQQQQ", 0, GUEST, size, USER, offset)
    with pytest.raises(PeerError, match=what):
        front.say(Request.ADD_MEM_REG, body, (second.descriptor,))
    with pytest.raises(PeerError, match=what):
        front.say(Request.SET_MEM_TABLE, struct.pack("=IIQQQQ", 1, 0, GUEST, size, USER, offset), (second.descriptor,))
    assert front.device.memory.count == 0
    second.close()


@pytest.mark.parametrize("what", ["eventfd", "socket", "pipe", "folder", "read-only", "path only", "empty", "epoll"])
@pytest.mark.parametrize("request_number", [5, 12, 13, 14, 37])
def test_a_descriptor_of_another_kind(front: FrontEnd, what: str, request_number: int) -> None:
    """Nothing but PeerError comes of it, and it is closed."""
    made: list[int] = []
    if what == "eventfd":
        made.append(os.eventfd(0))
    elif what == "socket":
        made += [each.detach() for each in socket.socketpair()]
    elif what == "pipe":
        made += os.pipe()
    elif what == "epoll":
        with select.epoll() as poll:
            made.append(os.dup(poll.fileno()))
    elif what == "empty":
        made.append(os.memfd_create("guest"))
    else:
        flags = {"folder": os.O_RDONLY, "read-only": os.O_RDONLY, "path only": os.O_PATH}[what]
        made.append(os.open("/" if what == "folder" else __file__, flags))
    bodies = {
        5: struct.pack("=IIQQQQ", 1, 0, GUEST, 4096, USER, 0),
        37: struct.pack("=QQQQQ", 0, GUEST, 4096, USER, 0),
    }
    try:
        front.say(request_number, bodies.get(request_number, struct.pack("=Q", 0)), (made[0],))
    except PeerError:
        pass
    for each in made:
        os.close(each)


@pytest.mark.parametrize("count", [0, 2, 3])
def test_a_table_that_does_not_fit_its_descriptors(front: FrontEnd, count: int) -> None:
    body = struct.pack("=IIQQQQ", 1, 0, front.shared.guest, front.shared.size, front.shared.user, 0)
    with pytest.raises(PeerError, match="does not fit"):
        front.say(Request.SET_MEM_TABLE, body, (front.shared.descriptor,) * count)
    with pytest.raises(PeerError, match="without its descriptor"):
        front.say(
            Request.ADD_MEM_REG,
            struct.pack("=QQQQQ", 0, GUEST, 4096, USER, 0),
            (front.shared.descriptor,) * count,
        )


def test_more_regions_than_there_are_slots(front: FrontEnd) -> None:
    def add(number: int) -> None:
        body = struct.pack("=QQQQQ", 0, GUEST + number * 4096, 4096, USER + number * 4096, 0)
        front.say(Request.ADD_MEM_REG, body, (front.shared.descriptor,))

    for number in range(32):
        add(number)
    with pytest.raises(PeerError, match="one too many"):
        add(32)
    assert front.device.memory.count == 32


# -- rings


def test_from_nothing_to_a_device_that_works(front: FrontEnd) -> None:
    front.start()
    assert front.works() == (True, True)
    for queue in front.device.queues:
        assert queue.kick >= 0
        assert queue.call >= 0
        assert queue.ring.placed


def test_a_ring_works_when_all_of_it_is_there(front: FrontEnd) -> None:
    front.number(Request.SET_FEATURES, FEATURES)
    front.table(front.shared)
    steps = (
        lambda: front.state(Request.SET_VRING_NUM, 0, 16),
        lambda: front.say(Request.SET_VRING_ADDR, front.address(0)),
        lambda: front.number(Request.SET_VRING_KICK, 0, (front.eventfd(),)),
        lambda: front.state(Request.SET_VRING_ENABLE, 0, 1),
    )
    for step in steps:
        assert front.works() == (False, False)
        step()
    assert front.works() == (True, False)
    front.state(Request.SET_VRING_ENABLE, 0, 0)
    assert front.works() == (False, False)


def test_without_protocol_features_rings_are_enabled(front: FrontEnd) -> None:
    front.number(Request.SET_FEATURES, FEATURES & ~VHOST_PROTOCOL_FEATURES)
    front.table(front.shared)
    for index in BOTH:
        front.state(Request.SET_VRING_NUM, index, 16)
        front.say(Request.SET_VRING_ADDR, front.address(index))
        front.number(Request.SET_VRING_KICK, index, (front.eventfd(),))
    assert front.works() == (True, True)


@pytest.mark.parametrize("size", [0, 3, 65536, 0xFFFFFFFF])
def test_a_ring_of_a_size_that_cannot_be(front: FrontEnd, size: int) -> None:
    front.table(front.shared)
    front.state(Request.SET_VRING_NUM, 0, size)
    with pytest.raises(PeerError, match="ring 0 is outside the guest's memory, or of a size that cannot be"):
        front.say(Request.SET_VRING_ADDR, front.address(0))


@pytest.mark.parametrize("table", ["descriptors", "used", "available"])
@pytest.mark.parametrize("where", [0, 1 << 40, (1 << 64) - 1, USER + (1 << 18), GUEST])
def test_a_ring_outside_the_memory(front: FrontEnd, table: str, where: int) -> None:
    front.table(front.shared)
    front.state(Request.SET_VRING_NUM, 0, 16)
    with pytest.raises(PeerError, match="ring 0 is outside"):
        front.say(Request.SET_VRING_ADDR, front.address(0, **{table: where}))
    front.number(Request.SET_VRING_KICK, 0, (front.eventfd(),))
    front.state(Request.SET_VRING_ENABLE, 0, 1)
    assert front.works() == (False, False)


def test_a_ring_of_an_index_that_is_not_there(front: FrontEnd) -> None:
    body = bytearray(front.address(0))
    body[0] = 2
    with pytest.raises(PeerError, match="ring 2: there are two"):
        front.say(Request.SET_VRING_ADDR, bytes(body))


def test_get_vring_base_stops_and_says_where(front: FrontEnd) -> None:
    front.start()
    arena, lengths = Arena(1 << 18), [0] * 4
    for _ in range(3):
        front.nic.send(bytes(60))
    ring = front.device.queues[FROM_GUEST].ring
    assert ring.receive(arena, 0, 1 << 16, 4, lengths, True) == 3
    assert front.nic.sent() == 0
    reply = front.say(Request.GET_VRING_BASE, struct.pack("=II", 1, 0))
    assert reply == struct.pack("=IIIII", 11, 5, 8, 1, 3)
    assert front.nic.sent() == 3
    assert front.works() == (True, False)
    assert front.device.queues[FROM_GUEST].kick == -1
    front.nic.send(bytes(60))
    front.state(Request.SET_VRING_BASE, 1, 3)
    front.number(Request.SET_VRING_KICK, 1, (front.eventfd(),))
    assert front.works() == (True, True)
    assert ring.receive(arena, 0, 1 << 16, 4, lengths, True) == 1


@pytest.mark.parametrize("base", [0, 1, 65535, 65536, 0x80000000, 0xFFFFFFFF])
def test_a_base_is_sixteen_bits(front: FrontEnd, base: int) -> None:
    front.state(Request.SET_VRING_BASE, 0, base)
    reply = front.say(Request.GET_VRING_BASE, struct.pack("=II", 0, 0))
    assert reply is not None
    assert struct.unpack("=II", reply[12:]) == (0, base & 0xFFFF)


@pytest.mark.parametrize("request_number", [12, 13])
def test_a_ring_without_its_descriptor(front: FrontEnd, request_number: int) -> None:
    with pytest.raises(PeerError, match="without its descriptor"):
        front.number(request_number, 0)
    with pytest.raises(PeerError, match="without its descriptor"):
        front.number(request_number, 0, (front.eventfd(), front.eventfd()))
    front.number(request_number, 0x100)
    front.number(request_number, 0x101, (front.eventfd(),))
    assert [(queue.kick, queue.call) for queue in front.device.queues] == [(-1, -1), (-1, -1)]


def test_a_descriptor_that_is_given_again_replaces_the_first(front: FrontEnd) -> None:
    front.start()
    for _ in range(5):
        front.number(Request.SET_VRING_CALL, 0, (front.eventfd(),))
        front.number(Request.SET_VRING_KICK, 0, (front.eventfd(),))
        front.number(Request.SET_VRING_ERR, 0, (front.eventfd(),))
    front.number(Request.SET_VRING_KICK, 0, (front.mine[-1],))
    os.eventfd_write(front.mine[-1], 5)
    assert os.eventfd_read(front.device.queues[0].kick) == 5
    front.number(Request.SET_VRING_KICK, 0x100)
    assert front.works() == (False, True)


def test_eventfds_do_not_block_us(front: FrontEnd) -> None:
    front.mine.append(os.eventfd(0))
    front.number(Request.SET_VRING_CALL, 0, (front.mine[-1],))
    assert os.get_blocking(front.device.queues[0].call) is False


# -- memory that changes under a ring that works


def test_rings_move_with_the_memory(front: FrontEnd) -> None:
    front.start()
    front.device.queues[0].ring.next = 7
    assert front.table(front.shared) is None
    assert front.works() == (True, True)
    assert front.device.queues[0].ring.next == 7


def test_rings_rest_while_their_memory_is_gone(front: FrontEnd) -> None:
    front.start()
    second = Memory(8192, GUEST + (1 << 20), USER + (1 << 20))
    assert front.table(second) is None
    assert front.works() == (False, False)
    assert front.table(second, front.shared) is None
    assert front.works() == (True, True)
    second.close()


def test_a_table_that_fails_half_way_leaves_rings_at_rest(front: FrontEnd) -> None:
    front.start()
    body = struct.pack("=II", 2, 0) + struct.pack("=QQQQ", GUEST, 1 << 18, USER, 0) * 2
    with pytest.raises(PeerError, match="overlaps"):
        front.say(Request.SET_MEM_TABLE, body, (front.shared.descriptor,) * 2)
    assert front.works() == (False, False)
    assert front.table(front.shared) is None
    assert front.works() == (True, True)


def test_a_region_more_or_less_leaves_rings_where_they_are(front: FrontEnd) -> None:
    front.start()
    second = Memory(8192, GUEST + (1 << 20), USER + (1 << 20))
    body = struct.pack("=QQQQQ", 0, second.guest, second.size, second.user, 0)
    front.say(Request.ADD_MEM_REG, body, (second.descriptor,))
    assert front.works() == (True, True)
    front.say(Request.REM_MEM_REG, body)
    assert front.works() == (True, True)
    front.say(Request.REM_MEM_REG, struct.pack("=QQQQQ", 0, GUEST, 1 << 18, USER, 0))
    assert front.works() == (False, False)
    second.close()


def test_a_broken_ring_is_whole_again_when_it_is_set_up_anew(front: FrontEnd) -> None:
    front.start()
    front.nic.sending.set_index(1000)
    queue = front.device.queues[FROM_GUEST]
    assert queue.ring.count() == 0
    assert front.works() == (True, False)
    front.nic.sending.set_index(0)
    assert front.say(Request.GET_VRING_BASE, struct.pack("=II", 1, 0)) is not None
    front.state(Request.SET_VRING_BASE, 1, 0)
    front.say(Request.SET_VRING_ADDR, front.address(1))
    front.number(Request.SET_VRING_KICK, 1, (front.eventfd(),))
    assert front.works() == (True, True)


# -- the end


def test_close_is_idempotent(front: FrontEnd) -> None:
    front.start()
    front.device.close()
    front.device.close()
    assert mappings() == 1
    assert front.works() == (False, False)
    assert front.device.memory.count == 0


def test_descriptors_that_nobody_asked_for_are_closed(front: FrontEnd) -> None:
    """Also those of a request that fails; the fixture counts."""
    many: Any = tuple(front.eventfd() for _ in range(8))
    front.say(Request.GET_FEATURES, b"", many)
    front.say(Request.SET_FEATURES, struct.pack("=Q", FEATURES), many)
    front.say(Request.SET_VRING_ERR, bytes(8), many)
    for request in (*Request, 99):
        try:
            front.say(request, bytes(4), many)
        except PeerError:
            pass


def test_a_ring_has_its_own_eventfds(front: FrontEnd) -> None:
    front.start()
    queue = front.device.queues[TO_GUEST]
    os.eventfd_write(queue.call, 3)
    assert os.eventfd_read(front.mine[1]) == 3
    os.eventfd_write(front.mine[2], 4)
    assert os.eventfd_read(queue.kick) == 4
