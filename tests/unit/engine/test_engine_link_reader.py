"""engine.link_reader: batches, counts, what a capture is told, and the end of a link."""

from __future__ import annotations

import errno
import os
import time
from typing import Any

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import UDP

from bucatini.base.reasons import DropReason
from bucatini.engine.layout import ARENA_SIZE, BATCH
from bucatini.engine.link_reader import LinkReader
from bucatini.engine.reactor import Reactor
from bucatini.host.tap import Offloads, open_tap
from bucatini.links.tap import TapLink
from bucatini.native import Arena
from bucatini.stack.classify import Packet
from bucatini.wire.checksum import partial
from support.engines import QueueLink
from support.forked import in_new_network
from support.frames import VNET, Bench, ether, ip


class Desk:
    """A reader on a link of ours, with the stack of a `Bench` behind it. Slots are as large as in the engine."""

    def __init__(self, judged: bool = False) -> None:
        self.bench = Bench()
        self.arena = Arena(ARENA_SIZE)
        self.bench.arena = self.bench.out.arena = self.arena
        self.bench.ingress.packet = Packet(self.arena.view, self.bench.settings.gateway_mac, partial)
        self.link = QueueLink()
        self.judged: list[tuple[bytes, int]] = []
        self.ends = 0
        self.bench.out.gateway.now = -1.0
        self.reader = LinkReader(
            self.link, self.arena, self.bench.ingress, self.bench.out, self.bench.counters,
            self._judged if judged else None, self._ended,
        )  # fmt: skip

    def _judged(self, arena: Any, at: int, length: int, reason: int) -> None:
        self.judged.append((bytes(arena.view[at : at + length]), reason))

    def _ended(self) -> None:
        self.ends += 1

    def ready(self, now: float = 1.0) -> None:
        self.reader.ready(self.link.descriptor, 1, now)


GOOD = ether(ip(4) / UDP(sport=1, dport=2) / b"x")
BAD = ether(ip(4, ttl=0) / UDP(sport=1, dport=2) / b"x")


def test_frames_are_judged_and_counted() -> None:
    desk = Desk()
    desk.link.put(*[VNET + frame for frame in (GOOD, BAD, GOOD, b"short", BAD)])
    while desk.link.queue:
        desk.ready()
    assert desk.reader.frames == 5
    assert desk.bench.counters.snapshot() == {"truncated": 1, "hop-limit": 2}
    assert len(desk.bench.out.named("send_datagram")) == 2


def test_datagrams_leave_before_their_slots_are_used_again() -> None:
    desk = Desk()
    desk.link.put(VNET + GOOD)
    desk.ready()
    assert desk.bench.out.calls[-1] == ("flush_datagrams",)


def test_the_instant_of_the_turn_is_told() -> None:
    desk = Desk()
    desk.link.put(VNET + GOOD)
    desk.ready(now=77.0)
    assert (desk.bench.out.now, desk.bench.gateway.now) == (77.0, 77.0)


def test_a_capture_hears_of_every_frame() -> None:
    desk = Desk(judged=True)
    desk.link.put(VNET + GOOD, VNET + BAD)
    while desk.link.queue:
        desk.ready()
    assert desk.judged == [(VNET + GOOD, 0), (VNET + BAD, int(DropReason.HOP_LIMIT))]


def test_batches_grow_with_the_load_and_are_bounded() -> None:
    desk = Desk()
    desk.link.put(*[VNET + GOOD] * 1000)
    while desk.link.queue:
        desk.ready()
    asked = desk.link.receives
    assert max(asked) == BATCH
    assert len(asked) < 30
    assert desk.reader.frames == 1000
    for _ in range(3):
        desk.ready()
    assert desk.link.receives[-1] == 1


def test_nothing_there() -> None:
    desk = Desk()
    desk.ready()
    assert (desk.reader.frames, desk.ends, desk.bench.out.calls) == (0, 0, [])


def test_the_end_of_the_link() -> None:
    desk = Desk()
    desk.link.end()
    desk.ready()
    assert desk.ends == 1


@pytest.mark.parametrize("error", [errno.EIO, errno.EBADFD, errno.ENODEV])
def test_a_broken_link_ends(error: int) -> None:
    """Its descriptor stays ready for ever: whoever goes on reading spins."""
    desk = Desk()
    desk.link.error = error
    desk.ready()
    assert desk.ends == 1


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EINTR])
def test_an_interrupted_read_does_not_end_it(error: int) -> None:
    desk = Desk()
    desk.link.error = error
    desk.ready()
    assert desk.ends == 0


@pytest.mark.root
@pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="needs /dev/net/tun")
def test_a_tap_that_the_guest_removes_ends() -> None:
    """A guest may delete its own interface; the descriptor then has errors to tell for ever."""

    def remove() -> tuple[int, float]:
        tap = open_tap("eth0", Offloads())
        desk = Desk()
        desk.reader.link = TapLink(tap.descriptor)
        reactor = Reactor(lambda now: float("inf"))
        reactor.watch(tap.descriptor, desk.reader.ready, 1)

        def ended() -> None:
            desk.ends += 1
            reactor.unwatch(tap.descriptor)

        desk.reader.on_end = ended
        with IPRoute() as route:
            index = route.link_lookup(ifname="eth0")[0]
            route.link("set", index=index, state="up")
            for _ in range(20):
                reactor.turn(0)
            assert desk.ends == 0
            route.link("del", index=index)
        reactor.turn(1)
        start = time.monotonic()
        reactor.turn(0.2)
        return desk.ends, time.monotonic() - start

    ends, waited = in_new_network(remove)
    assert ends == 1
    assert waited > 0.15
