"""links.tap: one frame per read and write, on a socket pair that keeps frames apart as the device does."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from bucatini.links.tap import TapLink
from bucatini.native import Arena

STRIDE = 4096


@pytest.fixture
def ends() -> Iterator[tuple[TapLink, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    link = TapLink(ours.detach())
    with theirs:
        yield link, theirs
    link.close()


def test_frames_come_into_slots_of_their_own(ends: tuple[TapLink, socket.socket]) -> None:
    link, guest = ends
    arena, lengths = Arena(8 * STRIDE), [0] * 4
    for frame in (b"one", b"second", b"third one"):
        guest.send(frame)
    assert link.receive(arena, STRIDE, STRIDE, 4, lengths) == 3
    assert lengths[:3] == [3, 6, 9]
    slots = [bytes(arena.view[STRIDE * (1 + index) :][: lengths[index]]) for index in range(3)]
    assert slots == [b"one", b"second", b"third one"]


def test_no_more_than_asked_for(ends: tuple[TapLink, socket.socket]) -> None:
    link, guest = ends
    arena, lengths = Arena(4 * STRIDE), [0] * 4
    for _ in range(3):
        guest.send(b"frame")
    assert [link.receive(arena, 0, STRIDE, 2, lengths) for _ in range(2)] == [2, 1]


def test_nothing_there_and_the_end(ends: tuple[TapLink, socket.socket]) -> None:
    link, guest = ends
    arena, lengths = Arena(STRIDE), [0]
    assert link.receive(arena, 0, STRIDE, 1, lengths) == -errno.EAGAIN
    guest.close()
    assert link.receive(arena, 0, STRIDE, 1, lengths) == 0


def test_transmit_is_one_frame(ends: tuple[TapLink, socket.socket]) -> None:
    link, guest = ends
    arena = Arena(STRIDE)
    arena.view[10:15] = b"hello"
    assert link.transmit(arena, 10, 5) == 5
    assert guest.recv(100) == b"hello"


def test_full_link_says_so(ends: tuple[TapLink, socket.socket]) -> None:
    link, _ = ends
    arena = Arena(STRIDE)
    answers = {link.transmit(arena, 0, STRIDE) for _ in range(10000)}
    assert answers == {STRIDE, -errno.EAGAIN}


def test_close_is_idempotent_and_closes_the_descriptor(ends: tuple[TapLink, socket.socket]) -> None:
    link, _ = ends
    descriptor = link.descriptor
    link.close()
    link.close()
    assert link.descriptor == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
