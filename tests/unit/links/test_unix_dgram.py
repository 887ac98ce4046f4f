"""links.unix_dgram: bare frames, with connections (seqpacket) and without (datagrams); guests that are started anew."""

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

from bucatini.engine.layout import STRIDE
from bucatini.links.listening import Door, listen_at
from bucatini.links.unix_dgram import UnixDatagramLink, UnixSeqpacketLink
from support.frames import NEEDS_CSUM, vnet
from support.link_owner import Owner, descriptors

BODY = random.Random(6).randbytes(1 << 17)
FRAMES = [BODY[index : index + length] for index, length in enumerate((14, 60, 1514, 9000, 65_535, 14, 3000))]
MANY = [index.to_bytes(2, "big") * 50 for index in range(300)]
GREETING = b"VFKT"
PATIENCE = 5


def heard_by(sock: socket.socket, owner: Owner, count: int) -> list[bytes]:
    """The next `count` frames that reach the guest, and no more."""
    sock.setblocking(False)
    found: list[bytes] = []

    def more() -> bool:
        try:
            while True:
                found.append(sock.recv(1 << 17))
        except BlockingIOError:
            return len(found) >= count

    owner.until(more)
    owner.settle()
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    return found


def send(sock: socket.socket, owner: Owner, *frames: bytes) -> None:
    """The guest sends frames, as fast as they are taken."""
    sock.setblocking(False)
    for frame in frames:

        def sent(frame: bytes = frame) -> bool:
            try:
                return sock.send(frame) == len(frame)
            except BlockingIOError:
                return False

        owner.until(sent)
    sock.settimeout(PATIENCE)


# -- what is the same for both


@pytest.fixture(params=[socket.SOCK_SEQPACKET, socket.SOCK_DGRAM], ids=["seqpacket", "dgram"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Owner, socket.socket]]:
    """A link on one end of an inherited pair, and the guest at the other."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, request.param)
    theirs.settimeout(PATIENCE)
    kind = UnixSeqpacketLink if request.param == socket.SOCK_SEQPACKET else None
    with theirs, Owner(kind("--fd 3", sock=ours) if kind else UnixDatagramLink("--fd 3", ours)) as owner:
        yield owner, theirs


def test_frames_both_ways(pair: tuple[Owner, socket.socket]) -> None:
    owner, guest = pair
    send(guest, owner, *FRAMES)
    assert owner.heard(len(FRAMES)) == FRAMES
    owner.send_all(*FRAMES)
    assert heard_by(guest, owner, len(FRAMES)) == FRAMES
    assert (owner.link.header, owner.joins, owner.ends) == (0, 1, 0)


def test_many_frames_both_ways(pair: tuple[Owner, socket.socket]) -> None:
    owner, guest = pair
    send(guest, owner, *MANY)
    assert owner.heard(len(MANY)) == MANY
    for frame in MANY:
        assert owner.send(frame) > 0
    assert heard_by(guest, owner, len(MANY)) == MANY
    assert owner.rests()


@pytest.mark.parametrize("length", [STRIDE + 1, STRIDE + 5000, 120_000])
def test_a_frame_that_is_larger_than_any_is_counted(pair: tuple[Owner, socket.socket], length: int) -> None:
    owner, guest = pair
    send(guest, owner, BODY[:60], BODY[:length], BODY[:61])
    assert owner.heard(2) == [BODY[:60], BODY[:61]]
    assert owner.voids == [errno.EMSGSIZE]


def test_superframes_are_cut(pair: tuple[Owner, socket.socket]) -> None:
    owner, guest = pair
    frame = bytes(12) + b"\x08\x00\x45" + bytes(8) + b"\x11" + bytes(18) + BODY[:2500]
    assert owner.send(frame, vnet(NEEDS_CSUM, 5, 42, 1000, 34, 6)) == 12 + len(frame)
    got = heard_by(guest, owner, 3)
    assert [len(each) for each in got] == [1042, 1042, 542]
    assert b"".join(each[42:] for each in got) == BODY[:2500]


def test_a_reader_that_stalls(pair: tuple[Owner, socket.socket]) -> None:
    owner, guest = pair
    count = owner.fill(9000)
    assert count > 10
    assert not owner.link.room()
    owner.settle()
    assert owner.rests()
    assert owner.rooms == 0
    frames = heard_by(guest, owner, count)
    assert frames == [index.to_bytes(4, "big") * 2250 for index in range(count)]
    assert owner.rooms == 1
    assert owner.link.room()
    assert owner.rests()


def test_a_reader_that_stalls_until_the_buffer_is_full(pair: tuple[Owner, socket.socket]) -> None:
    owner, guest = pair
    count = owner.stuff()
    send(guest, owner, BODY[:60])
    assert owner.heard(1) == [BODY[:60]]
    assert heard_by(guest, owner, count) == [index.to_bytes(4, "big") * 2250 for index in range(count)]
    owner.send_all(BODY[:20])
    assert heard_by(guest, owner, 1) == [BODY[:20]]


def test_close_is_idempotent(pair: tuple[Owner, socket.socket]) -> None:
    owner, _ = pair
    owner.stuff()
    owner.link.close()
    owner.link.close()
    owner.link.flush()
    assert owner.send(b"x" * 20) == -errno.ENOTCONN
    assert not owner.link.room()


# -- seqpacket


class Served:
    """A seqpacket link at a path, and guests that connect to it."""

    def __init__(self, path: str, closing: ExitStack, **named: Any) -> None:
        self.path = path
        self.closing = closing
        self.link = UnixSeqpacketLink("--seqpacket p", Door(listen_at(path, socket.SOCK_SEQPACKET), path), **named)
        self.owner = closing.enter_context(Owner(self.link))

    def guest(self) -> socket.socket:
        made = self.client()
        self.owner.until(lambda: self.link.fd >= 0)
        return made

    def client(self) -> socket.socket:
        made: socket.socket = self.closing.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        made.settimeout(PATIENCE)
        made.connect(self.path)
        return made


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    with ExitStack() as closing:
        yield lambda **named: Served(str(tmp_path / "s"), closing, **named)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 20, 63, 64, 65, 90])
def test_the_end_of_a_connection_is_heard_behind_its_frames(serve: Callable[..., Served], count: int) -> None:
    """However many frames are asked for in one call: the kernel says the end for each that is not there."""
    one = serve()
    guest = one.guest()
    send(guest, one.owner, *MANY[:count])
    guest.close()
    one.owner.until(lambda: one.link.fd < 0)
    assert one.owner.frames == MANY[:count]
    assert one.owner.rests()
    assert one.owner.ends == 0
    one.guest().send(b"next" * 5)
    one.owner.frames.clear()
    assert one.owner.heard(1) == [b"next" * 5]


def test_the_end_after_a_burst_that_was_read_already(serve: Callable[..., Served]) -> None:
    one = serve()
    guest = one.guest()
    for frame in MANY[:60]:
        guest.send(frame)
    assert one.owner.heard(60) == MANY[:60]
    guest.send(MANY[60])
    guest.close()
    one.owner.until(lambda: one.link.fd < 0)
    assert one.owner.frames == [MANY[60]]


def test_a_packet_of_no_bytes_is_the_end(serve: Callable[..., Served]) -> None:
    one = serve()
    guest = one.guest()
    guest.send(b"")
    one.owner.until(lambda: one.link.fd < 0)
    assert one.owner.frames == []


def test_a_second_guest_is_refused_and_the_first_hears_nothing_of_it(serve: Callable[..., Served]) -> None:
    one = serve()
    first = one.guest()
    second = one.client()
    one.owner.until(lambda: any("refused" in line for line in one.owner.lines))
    assert second.recv(10) == b""
    first.send(BODY[:60])
    assert one.owner.heard(1) == [BODY[:60]]


def test_a_guest_that_resets(serve: Callable[..., Served]) -> None:
    one = serve()
    guest = one.guest()
    one.owner.send_all(BODY[:60])
    guest.close()
    one.owner.until(lambda: one.link.fd < 0)
    one.guest()
    assert one.owner.joins == 2


def test_a_connection_that_is_gone_while_sending(serve: Callable[..., Served]) -> None:
    one = serve()
    one.guest().close()
    one.owner.send(BODY[:20_000])
    assert one.link.fd == -1
    assert not one.link.room()
    one.guest()
    assert one.owner.rooms == 1


def test_one_off(serve: Callable[..., Served]) -> None:
    before = descriptors()
    one = serve(one_off=True)
    guest = one.guest()
    for frame in MANY[:7]:
        guest.send(frame)
    guest.close()
    one.owner.until(lambda: one.owner.ends)
    assert one.owner.frames == MANY[:7]
    assert not os.path.exists(one.path)
    one.closing.close()
    assert descriptors() == before


# -- datagrams


class Post:
    """A datagram link at a path, and guests at theirs."""

    def __init__(self, folder: Path, closing: ExitStack, remote: str = "") -> None:
        self.folder = folder
        self.closing = closing
        self.local = str(folder / "local")
        self.remote = str(folder / remote) if remote else ""
        sock = listen_at(self.local, socket.SOCK_DGRAM)
        self.link = UnixDatagramLink("--dgram p", sock, local=self.local, remote=self.remote)
        self.owner = closing.enter_context(Owner(self.link))

    def guest(self, name: str | bytes | None, connected: bool = True) -> socket.socket:
        """A guest whose socket is at `name`: a file of the folder, an abstract name, or nowhere."""
        made: socket.socket = self.closing.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        made.settimeout(PATIENCE)
        if isinstance(name, bytes):
            made.bind(name)
        elif name is not None:
            made.bind(str(self.folder / name))
        if connected:
            made.connect(self.local)
        return made

    def met(self) -> None:
        """Until the link knows its guest."""
        self.owner.until(lambda: self.link.known)


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Callable[..., Post]]:
    with ExitStack() as closing:
        yield lambda *arguments: Post(tmp_path, closing, *arguments)


@pytest.mark.parametrize("greeted", [True, False])
@pytest.mark.parametrize("name", ["guest", b"\0bucatini-test-guest", b""])
def test_a_guest_is_known_by_its_first_datagram(post: Callable[..., Post], greeted: bool, name: Any) -> None:
    """At a path, at an abstract name, or at one that the kernel chose."""
    one = post()
    assert one.owner.send(BODY[:60]) == -errno.ENOTCONN
    assert one.owner.joins == 0
    guest = one.guest(name)
    if greeted:
        guest.send(GREETING)
        one.met()
    guest.send(BODY[:60])
    assert one.owner.heard(1) == [BODY[:60]]
    assert one.owner.joins == 1
    one.owner.send_all(*FRAMES)
    assert heard_by(guest, one.owner, len(FRAMES)) == FRAMES
    one.owner.loop.fire()
    guest.send(BODY[:61])
    assert one.owner.heard(1) == [BODY[:61]]


def test_greeting_and_frames_that_were_queued_together(post: Callable[..., Post]) -> None:
    one = post()
    guest = one.guest("guest")
    guest.send(GREETING)
    for frame in MANY[:5]:
        guest.send(frame)
    assert one.owner.heard(5) == MANY[:5]


def test_a_greeting_to_a_link_that_knows_its_guest(post: Callable[..., Post]) -> None:
    """vfkit was started anew at the same path; nothing of its greeting is taken for a frame."""
    one = post("guest")
    guest = one.guest("guest")
    one.owner.loop.fire()
    assert one.link.known
    for words in ((GREETING,), (GREETING, BODY[:60]), (BODY[:60], GREETING), (BODY[:60], GREETING, BODY[:61])):
        for word in words:
            guest.send(word)
        expected = [word for word in words if word != GREETING]
        if expected:
            got = [frame for frame in one.owner.heard_at_least(len(expected)) if frame != GREETING]
            assert got == expected
        one.owner.settle()


def test_four_bytes_that_are_no_greeting(post: Callable[..., Post]) -> None:
    one = post()
    guest = one.guest("guest")
    guest.send(b"VFKU")
    assert one.owner.heard(1) == [b"VFKU"]


def test_a_sender_without_an_address_is_heard_and_cannot_be_answered(post: Callable[..., Post]) -> None:
    one = post()
    guest = one.guest(None)
    guest.send(BODY[:60])
    assert one.owner.heard(1) == [BODY[:60]]
    assert one.owner.send(BODY[:60]) == -errno.ENOTCONN
    other = one.guest("guest")
    other.send(BODY[:61])
    assert one.owner.heard(1) == [BODY[:61]]
    one.owner.send_all(BODY[:62])
    assert other.recv(1000) == BODY[:62]


def test_who_sends_first_is_the_guest_and_others_are_not_heard(post: Callable[..., Post]) -> None:
    one = post()
    guest, other = one.guest("guest"), one.guest("other", connected=False)
    guest.send(BODY[:60])
    assert one.owner.heard(1) == [BODY[:60]]
    with pytest.raises(PermissionError):
        other.sendto(BODY[:61], one.local)
    guest.send(BODY[:62])
    assert one.owner.heard(1) == [BODY[:62]]


def test_a_guest_whose_path_is_given(post: Callable[..., Post]) -> None:
    one = post("guest")
    assert not one.link.room()
    one.owner.loop.fire()
    assert not one.link.known
    rooms = one.owner.rooms
    guest = one.guest("guest")
    assert one.owner.loop.fire() == 1
    assert one.link.known
    assert (one.owner.joins, one.owner.rooms) == (1, rooms + 1)
    one.owner.send_all(BODY[:60])
    assert guest.recv(1000) == BODY[:60]
    one.owner.loop.fire()
    assert (one.owner.joins, one.owner.rooms) == (1, rooms + 1)


def test_a_guest_that_is_there_already(post: Callable[..., Post], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as guest:
        guest.bind(str(tmp_path / "guest"))
        one = post("guest")
        assert one.link.known
        assert one.owner.joins == 1
        one.owner.send_all(BODY[:60])
        assert guest.recv(1000) == BODY[:60]


def test_who_speaks_before_the_guest_whose_path_is_given(post: Callable[..., Post]) -> None:
    one = post("guest")
    other = one.guest("other")
    other.send(BODY[:60])
    one.owner.settle()
    assert not one.link.known
    assert one.link.remote == one.remote
    guest = one.guest("guest")
    one.owner.loop.fire()
    one.owner.send_all(BODY[:61])
    assert guest.recv(1000) == BODY[:61]


def test_a_guest_that_does_not_connect_to_us_may_send_many(post: Callable[..., Post]) -> None:
    """QEMU only names its target. We are connected, so the kernel bounds neither queue by net.unix.max_dgram_qlen."""
    one = post("guest")
    guest = one.guest("guest", connected=False)
    one.owner.loop.fire()
    for frame in MANY[:60]:
        guest.sendto(frame, socket.MSG_DONTWAIT, one.local)
    assert one.owner.heard(60) == MANY[:60]


def test_a_guest_that_does_not_connect_to_us_gets_all(post: Callable[..., Post]) -> None:
    one = post("guest")
    guest = one.guest("guest", connected=False)
    one.owner.loop.fire()
    for frame in MANY:
        assert one.owner.send(frame) > 0
    assert heard_by(guest, one.owner, len(MANY)) == MANY
    assert one.owner.rests()


@pytest.mark.parametrize("given", [True, False])
def test_a_guest_that_is_started_anew_at_its_path(post: Callable[..., Post], given: bool) -> None:
    one = post("guest" if given else "")
    for turn in range(3):
        guest = one.guest("guest")
        if not given and not turn:
            guest.send(BODY[:59])
            assert one.owner.heard(1) == [BODY[:59]]
        one.owner.loop.fire()
        assert one.link.known
        guest.send(BODY[:60])
        assert one.owner.heard(1) == [BODY[:60]]
        one.owner.send_all(BODY[:61])
        assert guest.recv(1000) == BODY[:61]
        guest.close()
        os.unlink(one.folder / "guest")
        one.owner.loop.fire()
        assert not one.link.known
        assert not one.link.room()
        assert one.owner.send(BODY[:60]) == -errno.ENOTCONN
    assert one.owner.joins == 3


def test_a_guest_that_is_started_anew_between_two_looks(post: Callable[..., Post]) -> None:
    """Its file is another one: that is seen though there was never none."""
    one = post("guest")
    first = one.guest("guest")
    one.owner.loop.fire()
    first.close()
    os.unlink(one.folder / "guest")
    second = one.guest("guest", connected=False)
    one.owner.loop.fire()
    assert one.link.known
    one.owner.send_all(BODY[:61])
    assert second.recv(1000) == BODY[:61]


def test_a_guest_that_is_started_anew_elsewhere(post: Callable[..., Post]) -> None:
    """vfkit binds a path of its own choice each time: who is learned once is learned again."""
    one = post()
    for turn in range(3):
        guest = one.guest(f"guest-{turn}", connected=False)
        guest.sendto(GREETING, one.local)
        one.met()
        guest.sendto(BODY[:60], one.local)
        assert one.owner.heard(1) == [BODY[:60]]
        one.owner.send_all(BODY[:61])
        assert guest.recv(1000) == BODY[:61]
        guest.close()
        os.unlink(one.folder / f"guest-{turn}")
        one.owner.loop.fire()
        assert not one.link.known
    assert one.owner.joins == 3


def test_a_guest_that_is_gone_while_sending(post: Callable[..., Post]) -> None:
    """Its file is still there: it is asked again at the next look, and ours is heard at all the while."""
    one = post("guest")
    guest = one.guest("guest")
    one.owner.loop.fire()
    guest.close()
    for _ in range(3):
        one.owner.send(BODY[:60])
        one.owner.turn()
    assert not one.link.known
    assert one.owner.ends == 0
    one.owner.loop.fire()
    assert not one.link.known
    os.unlink(one.folder / "guest")
    again = one.guest("guest")
    one.owner.loop.fire()
    one.owner.send_all(BODY[:61])
    assert again.recv(1000) == BODY[:61]


def test_what_was_for_an_earlier_guest_is_forgotten(post: Callable[..., Post]) -> None:
    one = post("guest")
    first = one.guest("guest")
    one.owner.loop.fire()
    one.owner.stuff()
    assert not one.link.room()
    one.owner.settle()
    first.close()
    os.unlink(one.folder / "guest")
    second = one.guest("guest", connected=False)
    rooms = one.owner.rooms
    one.owner.loop.fire()
    assert one.owner.rooms == rooms + 1
    assert one.link.room()
    one.owner.send_all(BODY[:61])
    assert heard_by(second, one.owner, 1) == [BODY[:61]]
    assert one.owner.rests()


def test_a_guest_that_comes_while_somebody_waits_for_room(post: Callable[..., Post]) -> None:
    one = post()
    assert not one.link.room()
    rooms = one.owner.rooms
    guest = one.guest("guest")
    guest.send(GREETING)
    one.met()
    assert one.owner.rooms == rooms + 1
    assert one.link.room()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM])
def test_the_other_end_of_a_pair_is_gone(kind: int) -> None:
    """Nothing tells, until something is sent; then the link is over."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with Owner(UnixDatagramLink("--fd 3", ours)) as owner:
        theirs.close()
        owner.settle()
        assert owner.ends == 0
        owner.send(BODY[:60])
        owner.settle()
        assert owner.ends >= 1
        assert owner.link.fd == -1


def test_close_removes_the_file_and_stops_looking(post: Callable[..., Post]) -> None:
    before = descriptors()
    one = post("guest")
    one.owner.loop.fire()
    one.link.close()
    one.link.close()
    assert not os.path.exists(one.local)
    assert one.owner.loop.fire() == 0
    one.closing.close()
    assert descriptors() == before


def test_close_leaves_a_file_that_is_not_ours_any_more(post: Callable[..., Post]) -> None:
    one = post()
    os.unlink(one.local)
    with listen_at(one.local, socket.SOCK_DGRAM):
        one.link.close()
        assert os.path.exists(one.local)


def test_a_file_whose_mode_was_changed_is_still_ours(post: Callable[..., Post]) -> None:
    one = post()
    os.chmod(one.local, 0o666)
    one.link.close()
    assert not os.path.exists(one.local)


def test_a_large_datagram_of_somebody_unknown_is_void(post: Callable[..., Post]) -> None:
    one = post()
    guest = one.guest("guest")
    send(guest, one.owner, BODY[: STRIDE + 1], BODY[:60])
    one.owner.until(lambda: one.owner.frames)
    assert one.owner.frames == [BODY[:60]]
    assert one.owner.voids == [errno.EMSGSIZE]


def test_a_frame_that_the_kernel_cannot_take_costs_only_itself(pair: tuple[Owner, socket.socket]) -> None:
    """A datagram above the send buffer's size is refused (EMSGSIZE), whoever the guest is."""
    owner, guest = pair
    owner.link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8000)
    assert owner.send(BODY[:60_000]) == -errno.EMSGSIZE
    owner.send_all(BODY[:60])
    assert owner.ends == 0
    assert heard_by(guest, owner, 1) == [BODY[:60]]


@pytest.mark.parametrize("seed", range(4))
def test_both_ways_at_once(pair: tuple[Owner, socket.socket], seed: int) -> None:
    owner, guest = pair
    chance = random.Random(seed)
    lengths = (14, 60, 1514, 9000, 60_000)
    out = [BODY[index : index + chance.choice(lengths)] for index in range(300)]
    back = [struct.pack(">H", index) + BODY[: chance.choice(lengths)] for index in range(300)]
    guest.setblocking(False)
    sent = said = 0
    heard: list[bytes] = []
    while sent < len(out) or said < len(back) or len(heard) < len(out):
        if said < len(back):
            try:
                guest.send(back[said])
                said += 1
            except BlockingIOError:
                pass
        while sent < len(out) and chance.random() < 0.8 and owner.link.room():
            assert owner.send(out[sent]) > 0
            sent += 1
        if chance.random() < 0.7:
            try:
                heard.append(guest.recv(1 << 17))
            except BlockingIOError:
                pass
        owner.turn()
    assert heard == out
    assert owner.heard(300) == back
    assert owner.rests()
