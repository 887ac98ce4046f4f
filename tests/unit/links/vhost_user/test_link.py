"""links.vhost_user.link: a hypervisor at a socket, a driver in its memory, and everything either may do to us."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bucatini.base.reasons import DropReason
from bucatini.engine.layout import BATCH, TRANSMIT_AT
from bucatini.host.tap import Offloads
from bucatini.links.listening import Door, listen_at
from bucatini.links.vhost_user import VhostUserLink
from bucatini.links.vhost_user.device import (
    EVENT_IDX,
    FEATURES,
    GUEST_TSO6,
    GUEST_USO4,
    GUEST_USO6,
    MRG_RXBUF,
    VHOST_PROTOCOL_FEATURES,
)
from bucatini.links.vhost_user.messages import Request
from support.link_owner import Owner, descriptors
from support.ring_driver import GUEST, USER, FrontEnd, Memory, Nic

BODY = random.Random(8).randbytes(1 << 17)
RX, TX = 0, 1
ALL, NONE = Offloads(), Offloads(False, False, False, False, False)


def mappings() -> int:
    with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
        return sum("memfd:guest" in line for line in file)


class Machine:
    """A guest with its hypervisor: memory, driver, and the control connection."""

    def __init__(
        self, path: str, owner: Owner, features: int = FEATURES, size: int = 256, memory: int = 1 << 23
    ) -> None:
        self.owner = owner
        self.memory = Memory(memory)
        self.nic = Nic(self.memory, size, 0, bool(features & EVENT_IDX))
        self.features = features
        self.control = socket.socket(socket.AF_UNIX)
        self.control.connect(path)
        self.front = FrontEnd(self.control, owner.turn)

    def start(self) -> None:
        protocol = 1 << 3 | 1 << 15 if self.features & VHOST_PROTOCOL_FEATURES else 0
        self.front.start(self.nic, self.features, protocol)
        if not protocol:
            self.owner.settle()

    def post(self, count: int, size: int = 1526) -> None:
        """Buffers for the device; it is kicked if it asked for that."""
        for _ in range(count):
            self.nic.post(size)
        if self.nic.receiving.wants_kick():
            self.front.kick(RX)

    def send(self, *frames: bytes) -> None:
        """Frames for the device, the same way."""
        for frame in frames:
            self.nic.send(frame)
            if self.nic.sending.wants_kick():
                self.front.kick(TX)

    def close(self) -> None:
        self.front.close()
        self.memory.close()


class Bench:
    """A link at a path, its owner, and machines that come to it."""

    def __init__(self, path: str, **named: Any) -> None:
        self.path = path
        self.link = VhostUserLink("--vhost-user p", Door(listen_at(path), path), **named)
        self.owner = Owner(self.link)
        self.owner.__enter__()
        self.machines: list[Machine] = []

    def machine(self, *arguments: Any, **named: Any) -> Machine:
        """A machine that has connected and does nothing yet."""
        self.machines.append(Machine(self.path, self.owner, *arguments, **named))
        return self.machines[-1]

    def running(self, *arguments: Any, **named: Any) -> Machine:
        """A machine whose device works."""
        made = self.machine(*arguments, **named)
        made.start()
        return made

    def gone(self) -> bool:
        return self.link.control is None

    def close(self) -> None:
        for each in self.machines:
            each.close()
        self.owner.__exit__()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """In the end there are no more descriptors than before, and no memory of a guest's is mapped."""
    before = descriptors()
    made: list[Bench] = []

    def make(**named: Any) -> Bench:
        made.append(Bench(str(tmp_path / "vhost"), **named))
        return made[-1]

    yield make
    for each in made:
        each.close()
    made.clear()
    assert descriptors() == before
    assert mappings() == 0


FORMS = [FEATURES, FEATURES & ~EVENT_IDX, FEATURES & ~MRG_RXBUF, FEATURES & ~VHOST_PROTOCOL_FEATURES]
FORM_NAMES = ["all", "no event index", "not mergeable", "no protocol features"]
forms = pytest.mark.parametrize("features", FORMS, ids=FORM_NAMES)


# -- frames


@forms
def test_frames_from_the_guest(bench: Callable[..., Bench], features: int) -> None:
    one = bench()
    machine = one.running(features)
    frames = [BODY[index : index + length] for index, length in enumerate((26, 60, 1526, 9000, 65562))]
    machine.send(*frames)
    assert one.owner.heard(5) == frames
    assert machine.nic.sent() == 5
    assert (one.owner.joins, one.link.header) == (1, 12)


@forms
def test_frames_to_the_guest(bench: Callable[..., Bench], features: int) -> None:
    one = bench()
    machine = one.running(features)
    size = 1526 if features & MRG_RXBUF else 70_000
    machine.post(100, size)
    frames = [BODY[index : index + length] for index, length in enumerate((14, 60, 1514, 9000, 65550))]
    one.owner.send_all(*frames)
    got = machine.nic.frames()
    assert [frame[12:] for frame in got] == frames
    assert [frame[:10] for frame in got] == [bytes(10)] * 5
    assert [int.from_bytes(frame[10:12], "little") for frame in got] == [-(-len(each) // size) for each in got]


@forms
@pytest.mark.parametrize("count", [BATCH - 1, BATCH, BATCH + 1, 200])
def test_more_frames_than_a_batch_has(bench: Callable[..., Bench], features: int, count: int) -> None:
    one = bench()
    machine = one.running(features)
    frames = [index.to_bytes(2, "big") * 30 for index in range(count)]
    machine.send(*frames)
    assert one.owner.heard(count) == frames
    assert machine.nic.sent() == count
    assert one.owner.rests()
    machine.send(b"once more" * 5)
    assert one.owner.heard(1) == [b"once more" * 5]


@forms
def test_frames_for_a_long_time(bench: Callable[..., Bench], features: int) -> None:
    """Kicked only where we have asked for it: a wake-up that was lost would leave the queue as it is."""
    one = bench()
    machine = one.running(features, size=16)
    chance = random.Random(features)
    heard: list[bytes] = []
    sent = 0
    while len(heard) < 1500:
        for _ in range(chance.randrange(20)):
            if machine.nic.sending.free and sent < 1500:
                machine.send(sent.to_bytes(4, "big") * 20)
                sent += 1
        if not machine.nic.sending.free and not machine.nic.sent():
            one.owner.until(machine.nic.sent)
        if chance.random() < 0.5:
            one.owner.turn()
        if sent == 1500:
            left = 1500 - len(heard)
            one.owner.until(lambda left=left: len(one.owner.frames) == left)
        heard += one.owner.frames
        one.owner.frames.clear()
    assert heard == [index.to_bytes(4, "big") * 20 for index in range(1500)]


def test_what_was_made_available_before_the_start_is_found(bench: Callable[..., Bench]) -> None:
    """No kick will tell of it: the guest's driver kicked an engine that is no more."""
    one = bench()
    machine = one.machine()
    machine.nic.send(BODY[:60])
    machine.nic.post(2000)
    machine.front.begin()
    machine.front.share(machine.memory)
    for index, queue in enumerate((machine.nic.receiving, machine.nic.sending)):
        machine.front.place(index, queue, base=0)
        machine.front.run(index)
    assert one.owner.heard(1) == [BODY[:60]]
    assert one.owner.send(BODY[:60]) == 72


def test_payload_is_lent_until_the_frame_is_judged(bench: Callable[..., Bench]) -> None:
    one = bench()
    machine = one.running()
    near, far = socket.socketpair()
    near.setblocking(False)
    header = struct.pack("<BBHHHHH", 1, 1, 54, 1448, 34, 16, 0)
    frame = header + bytes(12) + b"\x08\x00\x45" + bytes(8) + b"\x06" + bytes(22) + b"\x50" + bytes(7) + BODY[:60_000]
    given = []

    def judged(at: int, length: int) -> None:
        given.append(machine.nic.sent())
        assert one.owner.arena.send(near, at + 66, length - 66) == 60_000

    one.owner.during = judged
    machine.send(frame)
    one.owner.until(lambda: given)
    assert given == [0]
    assert machine.nic.sent() == 1
    assert far.recv(1 << 17) == BODY[:60_000]
    near.close()
    far.close()


def test_a_stream_is_pulled_straight_into_the_guest(bench: Callable[..., Bench]) -> None:
    one = bench()
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        arena = one.owner.arena
        assert one.link.pull(arena, near, 66, 1000, 0) == -errno.ENOBUFS
        machine = one.running()
        assert one.link.pull(arena, near, 66, 1000, 0) == -errno.ENOBUFS
        machine.post(50)
        assert one.link.pull(arena, near, 66, 1000, 0) == -errno.EAGAIN
        far.send(BODY[:5000])
        assert one.link.pull(arena, near, 66, 60_000, 0) == 5000
        assert one.link.transmit(arena, TRANSMIT_AT, 66 + 5000) == 5066
        assert [frame[66:] for frame in machine.nic.frames()] == [BODY[:5000]]


# -- what the driver must not do


def test_void_chains_are_counted_and_the_rest_goes_on(bench: Callable[..., Bench]) -> None:
    one = bench()
    machine = one.running()
    machine.nic.sending.add([(GUEST - 1, 100)], False)
    machine.nic.sending.add([(GUEST, 100)], True)
    machine.nic.sending.add([(GUEST, 60)], False)
    machine.front.kick(TX)
    assert one.owner.heard(1) == [bytes(machine.memory.view[:60])]
    assert one.owner.voids == [DropReason.RING_ADDRESS, DropReason.RING_CHAIN]
    assert len(machine.nic.sending.collect()) == 3
    machine.nic.receiving.add([(GUEST - 1, 100)], True)
    machine.post(1)
    assert one.owner.send(BODY[:60]) == 72
    assert one.owner.counters[DropReason.RING_ADDRESS] == 1


@forms
def test_a_broken_ring_rests_and_is_told_once(bench: Callable[..., Bench], features: int) -> None:
    one = bench()
    machine = one.running(features)
    machine.nic.sending.set_index(1000)
    machine.front.kick(TX)
    for _ in range(5):
        machine.front.kick(TX)
        one.owner.settle()
    assert one.owner.rests()
    assert [line for line in one.owner.lines if "beyond repair" in line] == [
        "--vhost-user p: the driver's ring is beyond repair and rests until it is set up anew"
    ]
    assert one.owner.counters[DropReason.RING_BROKEN] == 1
    machine.post(1)
    assert one.owner.send(BODY[:60]) == 72
    machine.front.stop(TX)
    machine.nic.sending.set_index(0)
    assert machine.front.place(TX, machine.nic.sending) == 0
    machine.front.run(TX)
    machine.send(BODY[:60])
    assert one.owner.heard(1) == [BODY[:60]]


def test_a_broken_ring_of_buffers_rests(bench: Callable[..., Bench]) -> None:
    one = bench()
    machine = one.running()
    machine.nic.receiving.set_index(1000)
    assert not one.link.room()
    assert one.owner.send(BODY[:60]) < 0
    machine.front.kick(RX)
    assert one.owner.rests()
    machine.front.stop(RX)
    machine.nic.receiving.set_index(0)
    machine.front.place(RX, machine.nic.receiving)
    machine.front.run(RX)
    machine.post(100)
    one.owner.until(lambda: one.owner.rooms)
    assert one.link.room()


# -- room


@forms
def test_room_ends_with_the_buffers_and_comes_back(bench: Callable[..., Bench], features: int) -> None:
    one = bench()
    machine = one.running(features)
    mergeable = bool(features & MRG_RXBUF)
    for turn in range(1, 6):
        assert not one.link.room()
        assert not one.link.room()
        one.owner.settle()
        machine.post(100, 1526 if mergeable else 70_000)
        one.owner.until(lambda turn=turn: one.owner.rooms == turn)
        while one.link.room():
            assert one.owner.send(BODY[:5000]) > 0
        one.owner.settle()
        assert machine.nic.frames()
        assert one.owner.rests()
        assert one.owner.rooms == turn
        while one.owner.send(BODY[:1000]) > 0:
            pass
        one.owner.settle()
        machine.nic.frames()


@forms
@pytest.mark.parametrize("seed", range(3))
def test_nobody_waits_for_buffers_that_are_there(bench: Callable[..., Bench], features: int, seed: int) -> None:
    """Buffers come one by one, or many; the driver kicks where it was asked to, and nobody sleeps through it."""
    one = bench()
    machine = one.running(features, size=128, memory=1 << 24)
    chance = random.Random(seed)
    size = 1526 if features & MRG_RXBUF else 70_000
    sent = received = waits = 0
    blocked = False
    while received < 400:
        if blocked and one.owner.rooms:
            blocked = False
        one.owner.rooms = 0
        while not blocked and chance.random() < 0.9:
            if one.link.room():
                assert one.owner.send(BODY[:20_000]) > 0
                sent += 1
            else:
                blocked = True
                waits += 1
        received += len(machine.nic.frames())
        for _ in range(chance.choice((0, 1, 3, 60) if features & MRG_RXBUF else (0, 1, 2, 9))):
            if machine.nic.receiving.free:
                machine.post(1, size)
        if blocked and not machine.nic.receiving.free:
            one.owner.until(lambda: one.owner.rooms)
        one.owner.turn()
    assert waits > 20
    assert sent >= received


@pytest.mark.parametrize("size", [1, 2, 4])
def test_there_is_no_room_without_buffers_however_small_the_ring(bench: Callable[..., Bench], size: int) -> None:
    one = bench()
    machine = one.running(FEATURES, size)
    assert not one.link.room()
    machine.post(size, 70_000)
    one.owner.until(lambda: one.owner.rooms)
    assert one.link.room()
    for _ in range(size):
        assert one.owner.send(BODY[:60_000]) > 0
    assert not one.link.room()


def test_who_waits_before_there_is_a_machine_is_told(bench: Callable[..., Bench]) -> None:
    one = bench()
    assert not one.link.room()
    assert one.owner.send(BODY[:60]) == -errno.ENOTCONN
    machine = one.running()
    assert one.owner.rooms == 0
    machine.post(100)
    one.owner.until(lambda: one.owner.rooms)


def test_who_waits_while_the_machine_is_started_anew_is_told(bench: Callable[..., Bench]) -> None:
    one = bench()
    machine = one.running()
    assert not one.link.room()
    machine.close()
    one.machines.clear()
    one.owner.until(one.gone)
    assert one.owner.rooms == 0
    again = one.running()
    again.post(100)
    one.owner.until(lambda: one.owner.rooms)
    assert one.link.room()


# -- notifications


@forms
def test_the_driver_is_told_when_it_asked(bench: Callable[..., Bench], features: int) -> None:
    one = bench()
    machine = one.running(features)
    size = 1526 if features & MRG_RXBUF else 70_000
    machine.post(10, size)
    machine.nic.receiving.ask()
    one.owner.send_all(BODY[:60])
    assert machine.front.called(RX)
    machine.nic.frames()
    machine.nic.receiving.hush()
    one.owner.send_all(BODY[:60], BODY[:60])
    assert not machine.front.called(RX)
    machine.nic.frames()
    machine.nic.receiving.ask()
    machine.nic.sending.ask()
    assert not machine.front.called(TX)
    machine.send(BODY[:60])
    one.owner.heard(1)
    assert machine.front.called(TX)
    assert not machine.front.called(RX)
    machine.nic.sent()
    machine.nic.sending.hush()
    machine.send(BODY[:60])
    one.owner.heard(1)
    assert not machine.front.called(TX)


def test_a_turn_tells_once(bench: Callable[..., Bench]) -> None:
    one = bench()
    machine = one.running(FEATURES & ~EVENT_IDX)
    machine.post(50)
    for _ in range(20):
        one.owner.send(BODY[:60])
    one.owner.turn()
    assert os.eventfd_read(machine.front.calls[RX]) == 1


def test_the_driver_is_not_to_kick_for_buffers_that_nobody_waits_for(bench: Callable[..., Bench]) -> None:
    one = bench()
    machine = one.running(FEATURES & ~EVENT_IDX)
    machine.post(100)
    one.owner.settle()
    machine.nic.post(1526)
    assert not machine.nic.receiving.wants_kick()


@pytest.mark.parametrize("message", ["add", "table", "stop", "call"])
@pytest.mark.parametrize("index", [RX, TX])
def test_a_message_does_not_swallow_a_notification(bench: Callable[..., Bench], message: str, index: int) -> None:
    """Chains are given back, and before the turn ends a message changes the device: the driver is still told."""
    one = bench()
    machine = one.running()
    machine.post(10)
    one.owner.settle()
    machine.front.called(RX)
    machine.nic.receiving.ask()
    machine.nic.sending.ask()
    other = Memory(8192, GUEST + (1 << 30), USER + (1 << 30))

    def change() -> None:
        front = machine.front
        if message == "add":
            body = struct.pack("=QQQQQ", 0, other.guest, other.size, other.user, 0)
            front.send(Request.ADD_MEM_REG, body, [other.descriptor])
        elif message == "table":
            memory = machine.memory
            body = struct.pack("=IIQQQQ", 1, 0, memory.guest, memory.size, memory.user, 0)
            front.send(Request.SET_MEM_TABLE, body, [memory.descriptor])
        elif message == "stop":
            front.send(Request.GET_VRING_BASE, struct.pack("=II", index, 0))
        else:
            front.send(Request.SET_VRING_CALL, struct.pack("=Q", index), [front.calls[index]])

    # Both in one turn: the message's handler comes behind whoever gave the chains back.
    if index == RX:
        assert one.owner.send(BODY[:60]) > 0
        change()
        one.owner.turn()
    else:
        machine.nic.send(BODY[:60])
        one.owner.frames_ready(-1, 1, 0.0)
        assert len(one.owner.frames) == 1
        change()
        one.owner.turn()
    assert machine.front.called(index)
    other.close()


# -- messages


def test_offloads_are_told_when_they_change(bench: Callable[..., Bench]) -> None:
    one = bench()
    machine = one.machine()
    assert one.owner.offloads == []
    machine.start()
    assert one.owner.offloads == [ALL]
    machine.front.number(Request.SET_FEATURES, FEATURES)
    assert one.owner.offloads == [ALL]
    machine.front.number(Request.SET_FEATURES, FEATURES & ~(GUEST_TSO6 | GUEST_USO4 | GUEST_USO6))
    assert one.owner.offloads == [ALL, Offloads(True, True, False, False, False)]
    machine.close()
    one.machines.clear()
    one.owner.until(one.gone)
    second = one.machine()
    second.front.ask(Request.GET_FEATURES)
    assert one.owner.offloads[-1] == NONE
    second.start()
    assert one.owner.offloads[-1] == ALL


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_half_a_header_is_no_message(bench: Callable[..., Bench], cut: int) -> None:
    one = bench()
    machine = one.machine()
    machine.control.send(struct.pack("=III", 1, 1, 0)[:cut])
    one.owner.until(lambda: any("closing" in line for line in one.owner.lines))
    assert one.gone()
    assert machine.control.recv(10) == b""


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_half_a_body_is_waited_for(bench: Callable[..., Bench], cut: int) -> None:
    one = bench()
    machine = one.machine()
    body = struct.pack("=Q", FEATURES)
    machine.control.send(struct.pack("=III", Request.SET_FEATURES, 1, 8) + body[:cut])
    one.owner.settle()
    assert one.owner.rests()
    assert one.owner.offloads == []
    machine.control.send(body[cut:] + struct.pack("=III", 1, 1, 0))
    assert machine.front.reply() == struct.pack("=Q", FEATURES)
    assert one.owner.offloads == [ALL]


def test_a_body_that_comes_byte_by_byte_keeps_its_descriptors(bench: Callable[..., Bench]) -> None:
    one = bench()
    machine = one.machine()
    memory = machine.memory
    body = struct.pack("=IIQQQQ", 1, 0, memory.guest, memory.size, memory.user, 0)
    socket.send_fds(machine.control, [struct.pack("=III", 5, 1, len(body))], [memory.descriptor])
    for byte in body:
        machine.control.send(bytes([byte]))
        one.owner.turn()
    one.owner.settle()
    assert one.link.device.memory.count == 1


def test_descriptors_that_come_with_a_body_are_nobodys(bench: Callable[..., Bench]) -> None:
    one = bench()
    machine = one.machine()
    before = descriptors()
    machine.control.send(struct.pack("=III", Request.SET_FEATURES, 1, 8))
    one.owner.settle()
    socket.send_fds(machine.control, [struct.pack("=Q", FEATURES)], [machine.memory.descriptor] * 3)
    one.owner.settle()
    assert one.owner.offloads == [ALL]
    assert len(descriptors()) == len(before) + 1  # that of the control connection


@pytest.mark.parametrize("count", [31, 32, 33, 100, 253])
def test_very_many_descriptors(bench: Callable[..., Bench], count: int) -> None:
    one = bench()
    machine = one.machine()
    machine.front.ask(Request.GET_FEATURES)
    before = descriptors()
    machine.front.send(Request.GET_FEATURES, b"", [machine.memory.descriptor] * count)
    assert machine.front.reply() == struct.pack("=Q", FEATURES)
    assert descriptors() == before


@pytest.mark.parametrize("cut", [12, 13, 20, 51])
def test_a_front_end_that_vanishes_inside_a_message(bench: Callable[..., Bench], cut: int) -> None:
    """Descriptors that came with it are closed (the fixture counts), and the next front end begins from nothing."""
    one = bench()
    machine = one.running()
    memory = machine.memory
    message = struct.pack("=IIIIIQQQQ", 5, 1, 40, 1, 0, memory.guest, memory.size, memory.user, 0)
    socket.send_fds(machine.control, [message[:cut]], [memory.descriptor])
    one.owner.settle()
    machine.close()
    one.machines.clear()
    one.owner.until(one.gone)
    assert mappings() == 0
    again = one.running()
    again.send(BODY[:60])
    assert one.owner.heard(1) == [BODY[:60]]


def test_very_many_messages_at_once(bench: Callable[..., Bench]) -> None:
    one = bench()
    machine = one.machine()
    for _ in range(200):
        machine.front.send(Request.GET_FEATURES)
    for _ in range(200):
        assert machine.front.reply() == struct.pack("=Q", FEATURES)


def test_a_front_end_that_does_not_read_replies(bench: Callable[..., Bench]) -> None:
    """It is cut off; it never makes the engine wait."""
    one = bench()
    machine = one.machine()
    machine.control.setblocking(False)
    for _ in range(20_000):
        if one.gone() and one.owner.lines:
            break
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            machine.front.send(Request.GET_FEATURES)
        one.owner.turn()
    assert one.owner.lines[-1] == "--vhost-user p: disconnected"
    assert one.owner.rests()


@pytest.mark.parametrize(
    ("request_number", "body", "why"),
    [
        (99, b"", "request 99 is not known here"),
        (2, struct.pack("=Q", 1 << 32 | 1 << 28), "features 0x10000000 were not offered"),
        (2, struct.pack("=Q", 1), "the guest's driver is of before virtio 1.0, which is not served"),
        (8, b"", "a ring's state that is too short"),
        (9, bytes(40), "ring 0 is outside the guest's memory, or of a size that cannot be"),
        (37, bytes(40), "a memory region without its descriptor"),
    ],
)
def test_what_cannot_go_on_is_closed_with_a_line(
    bench: Callable[..., Bench], request_number: int, body: bytes, why: str
) -> None:
    one = bench()
    machine = one.machine()
    machine.front.send(request_number, body)
    one.owner.until(lambda: any("closing" in line for line in one.owner.lines))
    assert one.owner.lines[1:] == [f"--vhost-user p: closing: {why}", "--vhost-user p: disconnected"]
    assert machine.control.recv(1) == b""
    assert one.owner.ends == 0
    one.running()


@pytest.mark.parametrize(
    "data", [bytes(12), struct.pack("=III", 1, 2, 0), struct.pack("=III", 1, 1, 4097), b"GET / HT"]
)
def test_what_is_no_message(bench: Callable[..., Bench], data: bytes) -> None:
    one = bench()
    machine = one.machine()
    machine.control.send(data)
    one.owner.until(lambda: any("no message of vhost-user" in line for line in one.owner.lines))
    assert one.gone()


def test_failures_are_answered_where_that_was_agreed_on(bench: Callable[..., Bench]) -> None:
    one = bench()
    machine = one.running()
    assert machine.front.tell(99) == 1
    assert machine.front.state(Request.SET_VRING_NUM, 7, 1) == 1
    machine.send(BODY[:60])
    assert one.owner.heard(1) == [BODY[:60]]


@pytest.mark.parametrize("what", ["file", "pipe", "socket", "memory", "path only"])
@pytest.mark.parametrize("index", [RX, TX])
def test_kicks_that_are_no_eventfds(bench: Callable[..., Bench], what: str, index: int) -> None:
    """The connection may end of it, or the kick never come; the engine goes on."""
    one = bench()
    machine = one.running()
    made: list[int] = []
    if what == "pipe":
        made += os.pipe()
    elif what == "socket":
        made += [each.detach() for each in socket.socketpair()]
        os.write(made[1], b"x")
    elif what == "memory":
        made.append(os.memfd_create("kick"))
    else:
        made.append(os.open(__file__, os.O_PATH if what == "path only" else os.O_RDONLY))
    for request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL):
        with contextlib.suppress(BrokenPipeError):
            machine.front.send(request, struct.pack("=Q", index), [made[0]])
        one.owner.settle()
        machine.nic.send(BODY[:60])
        one.owner.send(BODY[:60])
        one.owner.settle()
    for each in made:
        os.close(each)
    machine.close()
    one.machines.clear()
    one.owner.until(one.gone)
    one.owner.frames.clear()
    again = one.running()
    again.send(BODY[:60])
    assert one.owner.heard(1) == [BODY[:60]]


# -- they come and go


def test_a_second_front_end_is_refused_while_the_first_works_on(bench: Callable[..., Bench]) -> None:
    one = bench()
    machine = one.running()
    second = one.machine()
    one.owner.until(lambda: any("refused" in line for line in one.owner.lines))
    assert second.control.recv(10) == b""
    machine.send(BODY[:60])
    assert one.owner.heard(1) == [BODY[:60]]
    machine.post(50)
    one.owner.send_all(BODY[:70])
    assert len(machine.nic.frames()) == 1
    assert one.owner.joins == 1


def test_front_ends_come_and_go(bench: Callable[..., Bench]) -> None:
    one = bench()
    for turn in range(4):
        machine = one.running()
        machine.post(50)
        machine.send(BODY[:60])
        assert one.owner.heard(1) == [BODY[:60]]
        one.owner.send_all(BODY[:70])
        assert len(machine.nic.frames()) == 1
        machine.close()
        one.machines.clear()
        one.owner.until(one.gone)
        assert mappings() == 0
        assert one.owner.send(BODY[:60]) == -errno.ENOTCONN
        assert not one.link.room()
        assert one.owner.joins == turn + 1
    assert one.owner.ends == 0


def test_a_machine_that_goes_while_its_frames_are_judged(bench: Callable[..., Bench]) -> None:
    """Payload that was lent is read to the end of the batch, from memory that is ours until then."""
    one = bench()
    machine = one.running()
    near, far = socket.socketpair()
    near.setblocking(False)
    header = struct.pack("<BBHHHHH", 1, 1, 54, 1448, 34, 16, 0)
    frame = header + bytes(12) + b"\x08\x00\x45" + bytes(8) + b"\x06" + bytes(22) + b"\x50" + bytes(7) + BODY[:20_000]

    def judged(at: int, length: int) -> None:
        if machine.front.kicks:
            machine.close()
        assert one.owner.arena.send(near, at + 66, 20_000) == 20_000
        assert far.recv(1 << 16) == BODY[:20_000]

    one.owner.during = judged
    machine.nic.send(frame)
    machine.send(frame)
    one.owner.until(one.gone)
    assert len(one.owner.frames) == 2
    one.machines.clear()
    near.close()
    far.close()


def test_one_off(bench: Callable[..., Bench]) -> None:
    one = bench(one_off=True)
    machine = one.running()
    machine.send(BODY[:60])
    assert one.owner.heard(1) == [BODY[:60]]
    assert one.owner.ends == 0
    machine.close()
    one.machines.clear()
    one.owner.until(lambda: one.owner.ends)
    assert not os.path.exists(one.path)
    assert one.owner.rests()


def test_one_off_ends_with_a_front_end_that_cannot_be(bench: Callable[..., Bench]) -> None:
    one = bench(one_off=True)
    machine = one.machine()
    machine.control.send(b"GET / HTTP/1.1\r\n\r\n")
    one.owner.until(lambda: one.owner.ends)


def test_close_is_idempotent_and_lets_go_of_everything(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.running()
    one.link.close()
    one.link.close()
    one.link.flush()
    one.link.done()
    assert one.owner.send(BODY[:60]) == -errno.ENOTCONN
    assert not os.path.exists(one.path)
    assert mappings() == 1


def test_a_link_that_was_never_started_can_be_closed(tmp_path: Path) -> None:
    before = descriptors()
    path = str(tmp_path / "vhost")
    VhostUserLink("--vhost-user p", Door(listen_at(path), path)).close()
    assert descriptors() == before


# -- the driver stops and starts


def test_a_ring_that_is_stopped_and_goes_on(bench: Callable[..., Bench]) -> None:
    """A paused machine: what it posted meanwhile is found when it goes on."""
    one = bench()
    machine = one.running()
    machine.send(BODY[:60], BODY[:61])
    assert one.owner.heard(2) == [BODY[:60], BODY[:61]]
    machine.post(50)
    one.owner.send_all(BODY[:70])
    assert (machine.front.stop(TX), machine.front.stop(RX)) == (2, 1)
    machine.nic.send(BODY[:62])
    machine.front.kick(TX)
    one.owner.settle()
    assert one.owner.frames == []
    assert one.owner.send(BODY[:60]) == -errno.ENOTCONN
    assert not one.link.room()
    for index, queue, base in ((RX, machine.nic.receiving, 1), (TX, machine.nic.sending, 2)):
        machine.front.place(index, queue, base)
        machine.front.run(index)
    assert one.owner.heard(1) == [BODY[:62]]
    one.owner.until(lambda: one.owner.rooms)
    one.owner.send_all(BODY[:71])
    assert [frame[12:] for frame in machine.nic.frames()] == [BODY[:70], BODY[:71]]


def test_a_ring_that_is_disabled_rests(bench: Callable[..., Bench]) -> None:
    one = bench()
    machine = one.running()
    machine.front.state(Request.SET_VRING_ENABLE, TX, 0)
    machine.send(BODY[:60])
    machine.front.kick(TX)
    one.owner.settle()
    assert one.owner.frames == []
    machine.front.state(Request.SET_VRING_ENABLE, TX, 1)
    assert one.owner.heard(1) == [BODY[:60]]


def test_memory_that_is_plugged_in(bench: Callable[..., Bench]) -> None:
    """Frames and buffers may lie in it at once."""
    one = bench()
    machine = one.running()
    more = Memory(1 << 16, GUEST + (1 << 30), USER + (1 << 30))
    machine.nic.sending.add([(more.guest, 60)], False)
    machine.front.kick(TX)
    one.owner.settle()
    assert one.owner.voids == [DropReason.RING_ADDRESS]
    body = struct.pack("=QQQQQ", 0, more.guest, more.size, more.user, 0)
    assert machine.front.tell(Request.ADD_MEM_REG, body, [more.descriptor]) == 0
    more.view[:60] = BODY[:60]
    machine.nic.sending.collect()
    machine.nic.sending.add([(more.guest, 60)], False)
    machine.front.kick(TX)
    assert one.owner.heard(1) == [BODY[:60]]
    assert machine.front.tell(Request.REM_MEM_REG, body) == 0
    machine.nic.sending.collect()
    machine.nic.sending.add([(more.guest, 60)], False)
    machine.front.kick(TX)
    one.owner.settle()
    assert one.owner.voids == [DropReason.RING_ADDRESS] * 2
    more.close()


@pytest.mark.parametrize("seed", range(4))
def test_both_ways_at_once(bench: Callable[..., Bench], seed: int) -> None:
    one = bench()
    chance = random.Random(seed)
    features = chance.choice((FEATURES, FEATURES & ~EVENT_IDX))
    machine = one.running(features, size=128)
    lengths = (60, 1526, 9000, 60_000)
    out = [BODY[index : index + chance.choice(lengths)] for index in range(250)]
    back = [BODY[index : index + chance.choice(lengths)] for index in range(250)]
    sent = said = 0
    heard: list[bytes] = []
    while sent < len(out) or said < len(back) or len(heard) < len(out):
        if said < len(back) and len(machine.nic.sending.free) > 4 and chance.random() < 0.7:
            machine.nic.send(back[said], (12,))
            if machine.nic.sending.wants_kick():
                machine.front.kick(TX)
            said += 1
        while sent < len(out) and chance.random() < 0.8 and one.link.room():
            assert one.owner.send(out[sent]) > 0
            sent += 1
        while machine.nic.receiving.free and chance.random() < 0.9:
            machine.post(1)
        heard += [frame[12:] for frame in machine.nic.frames()]
        machine.nic.sent()
        one.owner.turn()
    assert heard == out
    assert one.owner.heard(250) == back
    assert one.owner.rests()
