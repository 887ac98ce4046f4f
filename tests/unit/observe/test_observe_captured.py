"""observe.captured around a link: what passes is written, with direction and verdict, and nothing else changes."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from scapy.utils import PcapNgReader, RawPcapNgReader

from bucatini.base.reasons import DropReason
from bucatini.native import Arena
from bucatini.observe.captured import CapturedLink
from bucatini.observe.pcapng import PcapngWriter
from support.engines import QueueLink
from support.frames import VNET


class Desk:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.arena = Arena(1 << 17)
        self.link = QueueLink()
        self.trouble: list[str] = []
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        self.writer = PcapngWriter(descriptor, name=str(path), on_failure=self.trouble.append)
        self.captured = CapturedLink(
            self.link, self.writer, lambda reason: DropReason(reason).label if reason else None
        )

    def read(self) -> list[tuple[bytes, int, str | None]]:
        """Each frame with its direction flag and comment, by scapy."""
        self.writer.close()
        assert self.trouble == []
        with RawPcapNgReader(str(self.path)) as reader:
            return [
                (body, told.direction, told.comments[0].decode() if told.comments else None) for body, told in reader
            ]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "capture.pcapng")


def frame(number: int, length: int = 60) -> bytes:
    return bytes([number]) * 12 + b"\x08\x00" + bytes(length - 14)


def test_frames_from_the_guest_are_written_when_they_are_judged(desk: Desk) -> None:
    desk.link.put(VNET + frame(2), VNET + frame(4))
    lengths = [0] * 4
    assert desk.captured.receive(desk.arena, 10, 200, 4, lengths) == 2
    assert lengths[:2] == [72, 72]
    desk.captured.judged(desk.arena, 10, 72, 0)
    desk.captured.judged(desk.arena, 210, 72, int(DropReason.VLAN))
    assert desk.read() == [(frame(2), 2, None), (frame(4), 2, "vlan")]


def test_frames_to_the_guest_are_written_as_sent(desk: Desk) -> None:
    desk.arena.view[5 : 5 + 72] = b"\1" * 12 + frame(6)
    assert desk.captured.transmit(desk.arena, 5, 72) == 72
    assert desk.link.sent == [b"\1" * 12 + frame(6)]
    assert desk.read() == [(frame(6), 1, None)]


def test_a_frame_that_the_link_refuses_is_written_with_a_comment(desk: Desk) -> None:
    desk.link.refuse = 1.0
    desk.arena.view[0:72] = VNET + frame(6)
    assert desk.captured.transmit(desk.arena, 0, 72) in (-errno.EAGAIN, -errno.EIO)
    assert desk.read() == [(frame(6), 1, "link refused the frame")]


def test_superframes_are_whole(desk: Desk) -> None:
    desk.arena.view[0 : 12 + 60000] = VNET + frame(8, 60000)
    desk.captured.transmit(desk.arena, 0, 12 + 60000)
    ((body, _, _),) = desk.read()
    assert body == frame(8, 60000)


@pytest.mark.parametrize("length", [0, 5, 12, 13])
def test_less_than_a_frame(desk: Desk, length: int) -> None:
    desk.arena.view[0:100] = b"\xee" * 100
    desk.captured.judged(desk.arena, 0, length, int(DropReason.TRUNCATED))
    ((body, direction, comment),) = desk.read()
    assert (body, direction, comment) == (b"\xee" * max(0, length - 12), 2, "truncated")


def test_the_clock_is_the_walls(desk: Desk) -> None:
    before = time.time()
    desk.captured.judged(desk.arena, 0, 72, 0)
    desk.writer.close()
    with PcapNgReader(str(desk.path)) as reader:
        (packet,) = list(reader)
    assert before - 0.001 <= float(packet.time) <= time.time() + 0.001


def test_it_is_the_link_to_everybody_else(desk: Desk) -> None:
    assert desk.captured.header == desk.link.header
    assert desk.captured.receive(desk.arena, 0, 200, 4, [0] * 4) == -errno.EAGAIN
    desk.captured.close()
    assert desk.link.descriptor == -1
    assert desk.read() == []
