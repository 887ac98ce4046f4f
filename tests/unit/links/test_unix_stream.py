"""links.unix_stream: frames behind their lengths, cut anywhere, from guests that come, go and misbehave."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucatini.base.reasons import DropReason
from bucatini.engine.layout import BATCH, STRIDE
from bucatini.links.listening import Door, listen_at
from bucatini.links.unix_stream import UnixStreamLink
from support.frames import NEEDS_CSUM, vnet
from support.link_owner import Owner, descriptors

BODY = random.Random(4).randbytes(1 << 17)
SMALL, LARGEST = BODY[:14], BODY[:65549]


def prefixed(*frames: bytes) -> bytes:
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


class Served:
    """A link at a path, with its owner, and guests that connect to it."""

    def __init__(self, path: str, closing: ExitStack, **named: Any) -> None:
        self.path = path
        self.closing = closing
        self.link = UnixStreamLink("--socket p", Door(listen_at(path), path), **named)
        self.owner = closing.enter_context(Owner(self.link))

    def guest(self) -> socket.socket:
        """A guest that is connected, and that the link has let in."""
        made = self.client()
        self.owner.until(lambda: self.link.fd >= 0)
        return made

    def client(self) -> socket.socket:
        made: socket.socket = self.closing.enter_context(socket.socket(socket.AF_UNIX))
        made.settimeout(5)
        made.connect(self.path)
        return made


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    with ExitStack() as closing:
        yield lambda **named: Served(str(tmp_path / "s"), closing, **named)


@pytest.fixture
def pair() -> Iterator[tuple[Owner, socket.socket]]:
    """A link by an inherited descriptor, and the guest's end."""
    ours, theirs = socket.socketpair()
    with theirs, Owner(UnixStreamLink("--fd 3", sock=ours)) as owner:
        theirs.settimeout(5)
        yield owner, theirs


def read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        assert part, "the link closed the connection"
        data += part
    return data


def drained(sock: socket.socket, owner: Owner) -> list[bytes]:
    """All frames that there are, read while the link goes on sending."""
    sock.setblocking(False)
    data = b""
    idle = 0
    while idle < 3:
        try:
            data += sock.recv(1 << 20)
            idle = 0
        except BlockingIOError:
            idle += 1
            owner.turn()
    frames = []
    while data:
        length = int.from_bytes(data[:4], "big")
        assert len(data) >= 4 + length
        frames.append(data[4 : 4 + length])
        data = data[4 + length :]
    return frames


# -- from the guest


def test_frames_that_come_together(pair: tuple[Owner, socket.socket]) -> None:
    owner, guest = pair
    frames = [SMALL, BODY[:60], BODY[:1514], LARGEST, SMALL]
    guest.sendall(prefixed(*frames))
    assert owner.heard(5) == frames
    assert owner.link.header == 0


@pytest.mark.parametrize("cut", range(1, 2 * 4 + 14 + 20))
def test_the_stream_is_cut_anywhere(pair: tuple[Owner, socket.socket], cut: int) -> None:
    owner, guest = pair
    stream = prefixed(BODY[:14], BODY[14:34])
    guest.sendall(stream[:cut])
    owner.settle()
    assert owner.rests()
    early = len(owner.frames)
    assert early == (cut >= 18)
    guest.sendall(stream[cut:] + prefixed(BODY[40:70]))
    assert owner.heard(3) == [BODY[:14], BODY[14:34], BODY[40:70]]


def test_byte_by_byte(pair: tuple[Owner, socket.socket]) -> None:
    owner, guest = pair
    for byte in prefixed(BODY[:14], BODY[14:60], BODY[:15]):
        guest.sendall(bytes([byte]))
        owner.turn()
    assert owner.heard(3) == [BODY[:14], BODY[14:60], BODY[:15]]


def test_a_largest_frame_that_comes_slowly_behind_small_ones(pair: tuple[Owner, socket.socket]) -> None:
    owner, guest = pair
    stream = prefixed(SMALL, LARGEST, SMALL, LARGEST, LARGEST)
    for at in range(0, len(stream), 7001):
        guest.sendall(stream[at : at + 7001])
        owner.turn()
    assert owner.heard(5) == [SMALL, LARGEST, SMALL, LARGEST, LARGEST]


@pytest.mark.parametrize("count", [BATCH - 1, BATCH, BATCH + 1, 3 * BATCH, 3 * BATCH + 7, 1000])
def test_more_frames_in_one_read_than_a_batch_has(pair: tuple[Owner, socket.socket], count: int) -> None:
    owner, guest = pair
    frames = [index.to_bytes(2, "big") * 20 for index in range(count)]
    guest.sendall(prefixed(*frames))
    owner.turn()
    assert len(owner.frames) in range(min(count, BATCH), 2 * BATCH + 1)
    assert owner.heard(count) == frames
    assert owner.rests()


def test_more_frames_than_a_batch_and_half_a_one_behind(pair: tuple[Owner, socket.socket]) -> None:
    """What is handed out later is not overwritten by what is read meanwhile."""
    owner, guest = pair
    frames = [index.to_bytes(2, "big") * 300 for index in range(200)]
    stream = prefixed(*frames)
    for at in range(0, len(stream), 40_007):
        guest.sendall(stream[at : at + 40_007])
        owner.turn()
    assert owner.heard(200) == frames


def test_all_slots_are_one_buffer(pair: tuple[Owner, socket.socket]) -> None:
    """As much as the arena's front holds is read at once, and not a byte more."""
    owner, guest = pair
    guest.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
    guest.setblocking(False)
    marks = b"\xa5" * 64
    end = BATCH * STRIDE
    owner.arena.view[end : end + 64] = marks
    frames: list[bytes] = []
    waiting = b""
    while len(frames) < 300:
        frame = BODY[len(frames) : 65_549]
        frames.append(frame)
        waiting += prefixed(frame)
        while waiting:
            try:
                waiting = waiting[guest.send(waiting) :]
            except BlockingIOError:
                owner.turn()
    assert owner.heard(300) == frames
    assert bytes(owner.arena.view[end : end + 64]) == marks


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([14, 15, 60, 1514, 9000, 65_549]), min_size=1, max_size=120),
    st.lists(st.sampled_from([1, 2, 3, 4, 5, 17, 18, 19, 4000, 66_000]), min_size=1, max_size=30),
)
def test_any_frames_in_any_pieces(lengths: list[int], cuts: list[int]) -> None:
    ours, theirs = socket.socketpair()
    with theirs, Owner(UnixStreamLink("--fd 3", sock=ours)) as owner:
        theirs.setblocking(False)
        frames = [BODY[index : index + length] for index, length in enumerate(lengths)]
        stream = memoryview(prefixed(*frames))
        turn = 0
        while stream:
            try:
                stream = stream[theirs.send(stream[: cuts[turn % len(cuts)]]) :]
            except BlockingIOError:
                owner.turn()
            turn += 1
            if turn % 3 == 0:
                owner.turn()
            if turn > 200:
                cuts = [66_000]
        assert owner.heard(len(frames)) == frames


# -- what cannot be


@pytest.mark.parametrize("length", [0, 1, 13, 65_550, 65_551, 1 << 24, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("good", [0, 1, 5])
@pytest.mark.parametrize("behind", [b"", b"more" * 100], ids=["last", "more"])
def test_a_length_that_cannot_be_closes(serve: Callable[..., Served], length: int, good: int, behind: bytes) -> None:
    """Also when it comes together with frames that are good, and nothing comes behind it."""
    one = serve()
    guest = one.guest()
    guest.sendall(prefixed(*[SMALL] * good) + length.to_bytes(4, "big") + behind)
    one.owner.until(lambda: one.link.fd < 0)
    assert one.owner.frames == [SMALL] * good
    assert [line for line in one.owner.lines if "cannot be" in line] == [
        f"--socket p: a frame of {length} bytes cannot be, closing"
    ]
    with pytest.raises((ConnectionResetError, AssertionError)):
        read(guest, 1)
    assert one.owner.ends == 0
    one.owner.frames.clear()
    again = one.guest()
    again.sendall(prefixed(SMALL))
    assert one.owner.heard(1) == [SMALL]


def test_a_length_that_cannot_be_ends_a_one_off_link(pair: tuple[Owner, socket.socket]) -> None:
    owner, guest = pair
    guest.sendall(prefixed(SMALL) + bytes(4))
    owner.until(lambda: owner.ends)
    assert owner.frames == [SMALL]
    assert owner.link.fd == -1


@pytest.mark.parametrize("length", [14, 65_535, 65_536, 65_549])
def test_lengths_that_just_can_be(pair: tuple[Owner, socket.socket], length: int) -> None:
    owner, guest = pair
    guest.sendall(prefixed(BODY[:length]))
    assert owner.heard(1) == [BODY[:length]]


# -- guests come and go


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 17, 4 + 13])
def test_half_a_frame_of_an_earlier_guest_is_forgotten(serve: Callable[..., Served], cut: int) -> None:
    one = serve()
    first = one.guest()
    first.sendall(prefixed(BODY[:60]) + prefixed(BODY[:20])[:cut])
    assert one.owner.heard(1) == [BODY[:60]]
    first.close()
    one.owner.until(lambda: one.link.fd < 0)
    second = one.guest()
    second.sendall(prefixed(BODY[100:130]))
    assert one.owner.heard(1) == [BODY[100:130]]
    assert one.owner.joins == 2
    assert one.owner.ends == 0


def test_whole_frames_before_the_end_are_heard(serve: Callable[..., Served]) -> None:
    one = serve()
    guest = one.guest()
    guest.sendall(prefixed(*[SMALL] * 200))
    guest.close()
    assert one.owner.heard(200) == [SMALL] * 200
    one.owner.until(lambda: one.link.fd < 0)
    assert [line.split(": ")[1].partition(",")[0] for line in one.owner.lines] == ["connected", "disconnected"]


def test_what_was_for_an_earlier_guest_is_forgotten(serve: Callable[..., Served]) -> None:
    one = serve()
    first = one.guest()
    one.owner.stuff()
    first.close()
    one.owner.until(lambda: one.link.fd < 0)
    second = one.guest()
    one.owner.send_all(b"y" * 20)
    assert read(second, 24) == prefixed(b"y" * 20)


def test_a_guest_that_shuts_its_sending_side(serve: Callable[..., Served]) -> None:
    one = serve()
    guest = one.guest()
    guest.shutdown(socket.SHUT_WR)
    one.owner.until(lambda: one.link.fd < 0)


def test_a_guest_that_resets(serve: Callable[..., Served]) -> None:
    """It closes with bytes of ours unread: so a UNIX socket says ECONNRESET."""
    one = serve()
    guest = one.guest()
    one.owner.send_all(b"x" * 20)
    guest.sendall(prefixed(SMALL))
    guest.close()
    one.owner.until(lambda: one.link.fd < 0)
    assert one.owner.ends == 0
    one.guest()


def test_a_guest_that_is_gone_is_noticed_while_sending(serve: Callable[..., Served]) -> None:
    one = serve()
    guest = one.guest()
    guest.close()
    for _ in range(3):
        one.owner.send(BODY[:20_000])
    assert one.link.fd == -1
    assert one.owner.send(b"x" * 20) == -errno.ENOTCONN
    one.owner.settle()
    one.guest()


def test_a_guest_that_is_gone_while_its_frames_are_judged(serve: Callable[..., Served]) -> None:
    """Answers to frames of a batch are sent while the batch is still read."""
    one = serve()
    guest = one.guest()
    answers: list[int] = []
    one.owner.during = lambda at, length: answers.append(one.owner.send(BODY[:20_000]))
    guest.sendall(prefixed(*[BODY[index : index + 60] for index in range(100)]))
    guest.close()
    one.owner.until(lambda: one.link.fd < 0)
    assert one.owner.frames == [BODY[index : index + 60] for index in range(len(one.owner.frames))]
    assert set(answers) <= {-errno.EPIPE, -errno.ECONNRESET, -errno.ENOTCONN}
    one.owner.during = None
    one.owner.frames.clear()
    one.guest().sendall(prefixed(SMALL))
    assert one.owner.heard(1) == [SMALL]


def test_one_off_ends_with_the_first_connection(serve: Callable[..., Served]) -> None:
    before = descriptors()
    one = serve(one_off=True)
    assert one.owner.rests()
    guest = one.guest()
    guest.sendall(prefixed(SMALL))
    assert one.owner.heard(1) == [SMALL]
    assert one.owner.ends == 0
    guest.close()
    one.owner.until(lambda: one.owner.ends)
    assert not os.path.exists(one.path)
    assert one.owner.rests()
    one.closing.close()
    assert descriptors() == before


def test_an_inherited_socket_ends_with_its_connection(pair: tuple[Owner, socket.socket]) -> None:
    owner, guest = pair
    assert owner.joins == 1
    guest.close()
    owner.until(lambda: owner.ends)
    assert owner.link.fd == -1


def test_close_is_idempotent_and_closes_everything(serve: Callable[..., Served]) -> None:
    before = descriptors()
    one = serve()
    guest = one.guest()
    one.owner.stuff()
    one.link.close()
    one.link.close()
    one.link.flush()
    assert one.owner.send(b"x" * 20) == -errno.ENOTCONN
    guest.close()
    one.closing.close()
    assert descriptors() == before


def test_a_link_that_was_never_started_can_be_closed(tmp_path: Path) -> None:
    before = descriptors()
    ours, theirs = socket.socketpair()
    UnixStreamLink("--fd 3", sock=ours).close()
    path = str(tmp_path / "s")
    UnixStreamLink("--socket p", Door(listen_at(path), path)).close()
    theirs.close()
    assert descriptors() == before


# -- to the guest


def test_frames_go_out_at_the_end_of_a_turn(pair: tuple[Owner, socket.socket]) -> None:
    owner, guest = pair
    frames = [BODY[:14], BODY[:1514], BODY[:60]]
    for frame in frames:
        assert owner.send(frame) == 12 + len(frame)
    guest.setblocking(False)
    with pytest.raises(BlockingIOError):
        guest.recv(1)
    owner.turn()
    assert guest.recv(1 << 17) == prefixed(*frames)


def test_superframes_are_cut_and_checksums_completed(pair: tuple[Owner, socket.socket]) -> None:
    owner, guest = pair
    frame = bytes(12) + b"\x08\x00\x45" + bytes(8) + b"\x06" + bytes(22) + b"\x50" + bytes(7) + BODY[:3000]
    assert len(frame) == 54 + 3000
    assert owner.send(frame, vnet(NEEDS_CSUM, 1, 54, 1000, 34, 16)) == 12 + len(frame)
    owner.turn()
    data = read(guest, 3 * (4 + 54 + 1000))
    assert [data[at : at + 4] for at in range(0, len(data), 1058)] == [struct.pack(">I", 1054)] * 3
    assert b"".join(data[at + 58 : at + 1058] for at in range(0, len(data), 1058)) == BODY[:3000]


def test_a_frame_that_contradicts_itself_is_refused_and_nobody_is_lost(pair: tuple[Owner, socket.socket]) -> None:
    owner, guest = pair
    assert owner.send(bytes(60), vnet(NEEDS_CSUM, 1, 54, 0, 34, 16)) == -errno.EINVAL
    owner.send_all(b"x" * 20)
    assert read(guest, 24) == prefixed(b"x" * 20)


def test_without_a_guest_there_is_no_room(serve: Callable[..., Served]) -> None:
    one = serve()
    assert one.owner.send(b"x" * 20) == -errno.ENOTCONN
    assert not one.link.room()
    one.owner.settle()
    assert one.owner.rooms == 0
    one.guest()
    assert one.owner.rooms == 1
    assert one.link.room()
    one.owner.settle()
    assert one.owner.rooms == 1


def test_a_reader_that_stalls(pair: tuple[Owner, socket.socket]) -> None:
    """Room ends before the buffer does; what small frames add still finds place, and all that was taken arrives."""
    owner, guest = pair
    count = owner.fill()
    assert count > 4
    assert not owner.link.room()
    small = [index.to_bytes(2, "big") * 700 for index in range(100)]
    for frame in small:
        assert owner.send(frame) == 12 + len(frame)
    owner.settle()
    assert owner.rests()
    assert owner.rooms == 0
    frames = drained(guest, owner)
    assert frames == [index.to_bytes(4, "big") * 15_000 for index in range(count)] + small
    assert owner.rooms == 1
    assert owner.link.room()
    assert owner.rests()


def test_a_reader_that_stalls_until_the_buffer_is_full(pair: tuple[Owner, socket.socket]) -> None:
    owner, guest = pair
    count = owner.stuff()
    assert count > 50
    assert not owner.link.room()
    frames = drained(guest, owner)
    assert frames == [index.to_bytes(4, "big") * 2250 for index in range(count)]
    assert owner.rooms == 1
    owner.send_all(b"x" * 20)
    assert drained(guest, owner) == [b"x" * 20]


def test_room_is_told_once_each_time(pair: tuple[Owner, socket.socket]) -> None:
    owner, guest = pair
    for turn in range(5):
        owner.fill()
        assert not owner.link.room()
        drained(guest, owner)
        assert owner.rooms == turn + 1


def test_a_reader_that_stalls_does_not_keep_us_from_hearing_it(pair: tuple[Owner, socket.socket]) -> None:
    owner, guest = pair
    owner.fill()
    guest.sendall(prefixed(SMALL))
    assert owner.heard(1) == [SMALL]
    owner.stuff()
    guest.sendall(prefixed(SMALL))
    assert owner.heard(1) == [SMALL]


def test_a_reader_that_stalls_and_vanishes(serve: Callable[..., Served]) -> None:
    """Who waited for room is told when another guest has come, and not before."""
    one = serve()
    guest = one.guest()
    one.owner.fill()
    assert not one.link.room()
    guest.close()
    one.owner.until(lambda: one.link.fd < 0)
    one.owner.settle()
    assert one.owner.rooms == 0
    assert not one.link.room()
    second = one.guest()
    assert one.owner.rooms == 1
    assert one.link.room()
    one.owner.send_all(b"x" * 20)
    assert read(second, 24) == prefixed(b"x" * 20)
    assert one.owner.rests()


def test_a_guest_that_vanishes_while_we_wait_for_room(serve: Callable[..., Served]) -> None:
    """The wait ends with it: the next guest's socket is not asked for room that nobody needs."""
    one = serve()
    guest = one.guest()
    one.owner.stuff()
    one.owner.settle()
    guest.close()
    one.owner.until(lambda: one.link.fd < 0)
    second = one.guest()
    assert one.owner.rests()
    one.owner.fill()
    drained(second, one.owner)
    assert one.link.room()


@pytest.mark.parametrize("seed", range(4))
def test_both_ways_at_once(seed: int) -> None:
    """Frames of all sizes, read and written in all pieces: all arrive, in order, and the link rests at the end."""
    chance = random.Random(seed)
    ours, theirs = socket.socketpair()
    with theirs, Owner(UnixStreamLink("--fd 3", sock=ours)) as owner:
        theirs.setblocking(False)
        lengths = (14, 60, 1514, 9000, 60_000)
        out = [BODY[index : index + chance.choice(lengths)] for index in range(400)]
        back = [BODY[index : index + chance.choice(lengths)] for index in range(400)]
        waiting, heard, sent = memoryview(prefixed(*back)), b"", 0
        while waiting or sent < len(out) or owner.link.outbox.pending:
            try:
                waiting = waiting[theirs.send(waiting[: chance.choice((1, 5, 1000, 100_000))]) :]
            except BlockingIOError:
                pass
            while sent < len(out) and chance.random() < 0.8 and owner.link.room():
                assert owner.send(out[sent]) > 0
                sent += 1
            if chance.random() < 0.7:
                try:
                    heard += theirs.recv(chance.choice((10, 1000, 1 << 18)))
                except BlockingIOError:
                    pass
            owner.turn()
        theirs.settimeout(5)
        assert heard + read(theirs, len(prefixed(*out)) - len(heard)) == prefixed(*out)
        assert owner.heard(400) == back
        assert owner.rests()
        assert owner.counters[DropReason.BUG] == 0
