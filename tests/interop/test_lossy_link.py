"""A link that loses one frame in a hundred and reorders another: every byte arrives all the same.

Downloads are as large as in `test_transfers`. Uploads are smaller: the guest's own retransmission recovers them,
and its clock waits 0.2 s at least. BUCATINI_LOSSY_MIB gives both another size.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from bucatini import _build
from bucatini.links.tap import TapLink
from bucatini.native import Arena
from support.inprocess import Host, Scenario
from support.lossy import HELD, LossyLink
from support.transfer import Job, expected

needs_tun = pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun")

MIB = {"up": 1024, "down": 1024} if _build.form() == "compiled" else {"up": 128, "down": 128}
SHARE = 0.01


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


@pytest.mark.root
@needs_tun
@pytest.mark.timeout(150)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_bytes_arrive_over_a_lossy_link(host: Host, direction: str, family: int) -> None:
    size = int(os.environ.get("BUCATINI_LOSSY_MIB", MIB[direction])) << 20
    jobs = [Job("lossy", family, direction, size)]
    with host.serve() as server:
        outcome = host.run(Scenario(server.command(jobs), loss=SHARE, seed=family), timeout=100)
    assert outcome.status == 0, outcome.stderr
    results = outcome.results() + server.results
    assert [(result.error, result.bytes) for result in results] == [("", size)] * 2
    assert expected(0, size) in {result.digest for result in results}
    assert (outcome.tcp_left, outcome.sockets_left) == (0, 0)
    for way in ("up", "down"):
        total = sum(outcome.link[f"{way}_{fate}"] for fate in ("passed", "dropped", "reordered"))
        for fate in ("dropped", "reordered"):
            if total > 2000:  # else too few to say
                assert 0.3 * SHARE < outcome.link[f"{way}_{fate}"] / total < 3 * SHARE


class TestWrapper:
    """The link that loses loses what it says, and nothing else; else the test above shows nothing."""

    COUNT = 5000

    @staticmethod
    def frames(count: int) -> list[bytes]:
        return [b"%d " % number + bytes(number % 50) for number in range(count)]

    def pair(self, **shares: float) -> tuple[LossyLink, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        return LossyLink(TapLink(ours.detach()), **shares), theirs  # type: ignore[arg-type]

    def down(self, count: int, **shares: float) -> list[bytes]:
        """Frames that arrive at the guest of those sent."""
        link, guest = self.pair(**shares)
        arena, arrived = Arena(4096), []
        with guest:
            for frame in self.frames(count):
                arena.view[100 : 100 + len(frame)] = frame
                assert link.transmit(arena, 100, len(frame)) == len(frame)
                assert bytes(arena.view[100 : 100 + len(frame)]) == frame
                arrived += received(guest)
            link.receive(arena, 0, 1024, 1, [0])
            arrived += received(guest)
            link.close()
        return arrived

    def up(self, count: int, batch: int, **shares: float) -> list[bytes]:
        """Frames that the reader gets of those the guest sent, at most `batch` at a time."""
        link, guest = self.pair(**shares)
        arena, lengths, arrived = Arena(batch * 1024), [0] * batch, []
        with guest:
            for frame in self.frames(count):
                guest.send(frame)
                got = link.receive(arena, 0, 1024, batch, lengths)
                assert got <= batch
                assert got > 0 or got == -errno.EAGAIN
                arrived += [bytes(arena.view[1024 * slot :][: lengths[slot]]) for slot in range(max(got, 0))]
            link.close()
        return arrived

    @pytest.mark.parametrize("batch", [1, 16])
    def test_without_shares_it_is_not_there(self, batch: int) -> None:
        assert self.up(100, batch, drop=0, reorder=0) == self.down(100, drop=0, reorder=0) == self.frames(100)

    def test_drops(self) -> None:
        for arrived in (self.up(self.COUNT, 1, drop=0.1, reorder=0), self.down(self.COUNT, drop=0.1, reorder=0)):
            assert 0.85 * self.COUNT < len(arrived) < 0.95 * self.COUNT
            kept = set(arrived)
            assert arrived == [frame for frame in self.frames(self.COUNT) if frame in kept]

    def test_reorders_and_loses_none(self) -> None:
        sent = self.frames(self.COUNT)
        arrived = self.down(self.COUNT, drop=0, reorder=0.1)
        assert arrived != sent
        assert sorted(arrived) == sorted(sent)
        up = self.up(self.COUNT, 4, drop=0, reorder=0.1)
        assert len(set(up)) == len(up) >= self.COUNT - 2 * HELD
        assert max(abs(sent.index(frame) - place) for place, frame in enumerate(up[:1000])) <= 2 * HELD

    def test_same_seed_same_fate(self) -> None:
        assert self.down(500, drop=0.1, reorder=0.1, seed=3) == self.down(500, drop=0.1, reorder=0.1, seed=3)
        assert self.down(500, drop=0.1, reorder=0.1, seed=3) != self.down(500, drop=0.1, reorder=0.1, seed=4)


def received(guest: socket.socket) -> list[bytes]:
    frames = []
    while True:
        try:
            frames.append(guest.recv(65536))
        except BlockingIOError:
            return frames
