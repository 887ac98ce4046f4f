"""engine.filter.filter: turns, with sockets for the guest's link and for the TAP, and the leases' clock handed in."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from bucatini.base.address import pack
from bucatini.base.events import FlowRefused, FrameDropped
from bucatini.base.reasons import DropReason
from bucatini.engine.filter.filter import Filter, FilterParts
from bucatini.engine.filter.refusals import NOT_OPEN
from bucatini.engine.layout import BATCH
from bucatini.guard.binding import Binding
from bucatini.guard.live_policy import LivePolicy
from bucatini.guard.rule_grammar import parse_rule
from bucatini.links.listening import Door, listen_at
from bucatini.links.socket_link import OFFLOADS
from bucatini.links.unix_dgram import UnixDatagramLink
from bucatini.links.unix_stream import UnixStreamLink
from bucatini.links.vhost_user import VhostUserLink
from bucatini.links.vhost_user.device import EVENT_IDX, FEATURES
from support.frames import NEEDS_CSUM, vnet
from support.ring_driver import FrontEnd, Memory, Nic

MAC, HOST_MAC = "02:00:00:00:00:07", "02:00:00:00:00:01"
GUEST, GATEWAY, PUBLIC = "10.0.0.7", "10.0.0.1", "8.8.8.8"
EMPTY = bytes(12)
OUT = bytes(Ether(src=MAC, dst=HOST_MAC) / IP(src=GUEST, dst=PUBLIC) / TCP(sport=4000, dport=80, flags="S"))
FORGED = bytes(Ether(src=MAC, dst=HOST_MAC) / IP(src=GATEWAY, dst=PUBLIC) / UDP())
INTO = bytes(Ether(src=HOST_MAC, dst=MAC) / IP(src=PUBLIC, dst=GUEST) / UDP(sport=53, dport=53) / Raw(bytes(1200)))


class Watched:
    """In the place of `Exposures`: counts looks."""

    def __init__(self) -> None:
        self.looks = 0
        self.due = float("inf")

    def look(self, now: float) -> float:
        self.looks += 1
        return self.due


class Bench:
    def __init__(self, stream: bool = False, link: Any = None, **parts: Any) -> None:
        kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
        near, self.guest = socket.socketpair(socket.AF_UNIX, kind)
        if link is None:
            link = (UnixStreamLink if stream else UnixDatagramLink)("--fd 5", sock=near)
        else:
            near.close()
        self._tap, self.host = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (self._tap, self.host, self.guest):
            sock.setblocking(False)
        self.binding = Binding(bytes.fromhex(MAC.replace(":", "")), [pack(GATEWAY)])
        self.now = 1000.0
        self.binding.lease(pack(GUEST), 600, self.now)
        live = LivePolicy((), parts.pop("block", ()), [pack(GATEWAY)])
        self.filter = Filter(
            FilterParts(link, OFFLOADS, self._tap.fileno(), self.binding, live, clock=lambda: self.now, **parts)
        )
        self.filter.start()

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.filter.reactor.turn(0.0)

    def dropped(self, reason: DropReason) -> int:
        return self.filter.counters[reason]

    def close(self) -> None:
        self.filter.close()
        for sock in (self._tap, self.host, self.guest):
            sock.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def received(sock: socket.socket) -> list[bytes]:
    found = []
    try:
        while frame := sock.recv(70000):
            found.append(frame)
    except BlockingIOError:
        pass
    return found


def test_both_ways(bench: Bench) -> None:
    bench.guest.send(OUT)
    bench.guest.send(FORGED)
    bench.host.send(EMPTY + INTO)
    bench.turn(3)
    assert received(bench.host) == [EMPTY + OUT]
    assert received(bench.guest) == [INTO]
    assert bench.dropped(DropReason.SOURCE_NOT_GUEST) == 1
    assert bench.filter.counters.total == 1


def test_frames_of_a_stream_that_were_read_together() -> None:
    """The empty header is written over what lies before a frame: never over one that is still to come."""
    bench = Bench(stream=True)
    frames = [OUT + bytes([number]) for number in range(2 * BATCH + 3)]
    bench.guest.setblocking(True)
    bench.guest.sendall(b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames))
    bench.turn(8)
    assert received(bench.host) == [EMPTY + frame for frame in frames]
    bench.close()


def test_a_guest_whose_frames_are_in_its_own_memory(tmp_path: Path) -> None:
    """Superframes both ways; what the host gets is what was judged, and no longer in the guest's hands."""
    path = str(tmp_path / "socket")
    bench = Bench(link=VhostUserLink("--vhost-user p", Door(listen_at(path), path)))
    memory = Memory(1 << 21)
    nic = Nic(memory, 64)
    control = socket.socket(socket.AF_UNIX)
    control.connect(path)
    front = FrontEnd(control, bench.turn)
    front.start(nic, FEATURES & ~EVENT_IDX, 1 << 3)
    body = random.Random(3).randbytes(40000)
    header = vnet(NEEDS_CSUM, 1, size=1448, start=34, offset=16)
    frame = Ether(src=MAC, dst=HOST_MAC) / IP(src=GUEST, dst=PUBLIC) / TCP(sport=4000, dport=80, flags="S") / Raw(body)
    nic.send(header + bytes(frame), (12, 54))
    nic.send(EMPTY + FORGED)
    front.kick(1)
    for _ in range(60):
        nic.post(1526)
    front.kick(0)
    answer = Ether(src=HOST_MAC, dst=MAC) / IP(src=PUBLIC, dst=GUEST) / TCP(sport=80, dport=4000, flags="A") / Raw(body)
    bench.turn(4)
    bench.host.send(header + bytes(answer))
    bench.turn(4)
    assert received(bench.host) == [header + bytes(frame)]
    assert nic.sent() == 2
    assert [each[12:] for each in nic.frames()] == [bytes(answer)]
    assert bench.filter.counters.total == bench.dropped(DropReason.SOURCE_NOT_GUEST) == 1
    front.close()
    bench.close()
    memory.close()


def test_leases_run_on_the_clock_that_is_handed_in(bench: Bench) -> None:
    bench.guest.send(OUT)
    bench.turn()
    bench.now += 600
    bench.guest.send(OUT)
    bench.turn()
    assert len(received(bench.host)) == 1
    assert bench.dropped(DropReason.LEASE_EXPIRED) == 1


def test_a_guest_that_takes_nothing(bench: Bench) -> None:
    """Its frames are counted, and it is heard all the same."""
    for _ in range(2000):
        for _ in range(10):
            bench.host.send(EMPTY + INTO)
        bench.turn(2)
        if bench.dropped(DropReason.LINK_FULL):
            break
    assert bench.dropped(DropReason.LINK_FULL)
    bench.guest.send(OUT)
    bench.turn(3)
    assert received(bench.host) == [EMPTY + OUT]
    assert not bench.filter.ended.is_set()


def test_a_flood_holds_nobody_up() -> None:
    """However much one side has, each turn ends after a batch, with a look at everything else."""
    watched = Watched()
    bench = Bench(exposures=watched)
    heard = 0
    for turn in range(100):
        for _ in range(40):
            try:
                bench.guest.send(FORGED)
            except BlockingIOError:
                break
        bench.host.send(EMPTY + INTO)
        before = bench.filter.counters.total
        bench.turn()
        assert bench.filter.counters.total - before <= BATCH
        assert watched.looks == turn + 1
        heard += len(received(bench.guest))
    bench.turn()
    assert heard + len(received(bench.guest)) == 100
    bench.close()


def test_what_is_due_ends_the_wait() -> None:
    watched = Watched()
    bench = Bench(exposures=watched)
    watched.due = bench.now + 0.05
    bench.turn()
    assert bench.filter.reactor.turn(30.0) == []
    assert watched.looks == 2
    bench.close()


def test_drops_are_told_now_and_then() -> None:
    told: list[FrameDropped] = []
    bench = Bench(tell=lambda event, now: told.append(event))
    for _ in range(20):
        bench.guest.send(FORGED)
    bench.turn(5)
    assert [(each.reason, each.source) for each in told] == [(DropReason.SOURCE_NOT_GUEST, pack(GATEWAY))]
    bench.close()


def test_whom_the_policy_keeps_the_guest_from_is_told() -> None:
    """At once, the rest counted; at the end what was not told yet."""
    told: list[FlowRefused | FrameDropped] = []
    hear = lambda event, now: told.append(event)  # noqa: E731
    bench = Bench(tell=hear, tell_refused=hear)
    syn = Ether(src=MAC, dst=HOST_MAC) / IP(src=GUEST, dst="10.9.9.9") / TCP(sport=4000, dport=22, flags="S")
    for _ in range(4):
        bench.guest.send(bytes(syn))
    bench.turn(5)
    assert bench.dropped(DropReason.POLICY_DENIED) == 4
    bench.close()
    first, rest = told
    assert isinstance(first, FlowRefused)
    assert (first.protocol, first.peer, first.rule, first.times) == ("tcp", (pack("10.9.9.9"), 22), NOT_OPEN, 1)
    assert rest == first._replace(times=3)


def test_who_may_not_come_in_is_told() -> None:
    told: list[FlowRefused] = []
    bench = Bench(tell_refused=lambda event, now: told.append(event), block=[parse_rule("in 8.8.8.8", "--block")])
    bench.host.send(EMPTY + INTO)
    bench.turn(2)
    (event,) = told
    assert (event.direction, event.guest, event.peer) == ("ingress", (pack(GUEST), 53), (pack(PUBLIC), 53))
    assert event.rule.startswith("--block")
    bench.close()


def test_end_of_a_stream() -> None:
    bench = Bench(stream=True)
    bench.guest.close()
    bench.turn(2)
    assert bench.filter.ended.is_set()
    assert bench.filter.failure == ""
    bench.close()


def test_end_of_a_datagram_socket_shows_when_something_is_sent(bench: Bench) -> None:
    bench.guest.close()
    bench.turn(2)
    assert not bench.filter.ended.is_set()
    bench.host.send(EMPTY + INTO)
    bench.turn(2)
    assert bench.filter.ended.is_set()


def test_end_of_the_tap(bench: Bench) -> None:
    bench.host.close()
    bench.turn(2)
    assert bench.filter.ended.is_set()
    assert bench.filter.failure == "the interface on the bridge is gone"


def test_a_bug_is_said_once(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def from_guest(self, frame: Any, now: float) -> int:
            raise ZeroDivisionError

    bench.filter.passage.snoop = Broken()  # type: ignore[assignment]
    for _ in range(5):
        bench.guest.send(OUT)
    bench.turn(5)
    assert bench.dropped(DropReason.BUG) == 5
    assert capsys.readouterr().err.count("please report it") == 1
    assert not bench.filter.ended.is_set()


def test_the_loop_hears_its_own(bench: Bench) -> None:
    async def wait() -> bool:
        bench.guest.send(OUT)
        await asyncio.sleep(0.01)
        return True

    assert bench.filter.loop.run_until_complete(wait())
    assert received(bench.host) == [EMPTY + OUT]
