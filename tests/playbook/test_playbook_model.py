"""Two streams over a bad link: a guest's TCP made for this test, a link that loses, doubles and reorders, a slow host.

The guest is written from RFC 9293 alone and keeps what arrives out of order. Whatever the link does, both streams
arrive whole, both ends see the end of stream, and the flow closes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucatini.flows.sequence import distance
from bucatini.flows.tcp_flow import TcpFlow
from bucatini.wire.tcp import ACK, FIN, PSH, SYN
from support.playbook import Playbook, Recorder, guest, host, pattern

RTO = 0.3
PATIENCE = 600.0
"""Seconds of the model's clock."""


@dataclass(frozen=True)
class World:
    """What one run is like. Chances are of each segment; sizes in bytes."""

    seed: int
    loss: float
    doubled: float
    reordered: float
    upload: int
    download: int
    guest_buffer: int
    host_buffer: int
    mss: int = 1460
    scale: int = 7
    segmented: bool = True
    peek_skips: bool = False
    published: bool = False
    iss: int = 2**32 - 5000
    irs: int = 2**32 - 7000
    budget: int = 1 << 22


class Wire(Recorder):
    """Hands what the guest would see to the link."""

    def __init__(self) -> None:
        super().__init__()
        self.send: Callable[[int, int, int, int, bytes], None] | None = None

    def _hand_over(self, flow: TcpFlow, flags: int, seq: int, payload: bytes) -> None:
        assert self.send is not None
        window = distance(flow.rcv_edge, flow.rcv_nxt)
        if not flags & SYN:
            window = window >> flow.rcv_scale << flow.rcv_scale
        self.send(flags, distance(seq, flow.iss), distance(flow.rcv_nxt, flow.irs), window, payload)

    def syn(self, flow: TcpFlow, flags: int) -> None:
        super().syn(flow, flags)
        self._hand_over(flow, flags, flow.iss, b"")

    def segment(self, flow: TcpFlow, flags: int, seq: int, length: int) -> None:
        payload = self._pulled
        super().segment(flow, flags, seq, length)
        self._hand_over(flow, flags, seq, payload)


class Guest:
    """A TCP that sends `pattern(0, upload)`, keeps everything that arrives, and ends when all is sent."""

    def __init__(self, world: World, rng: Random, send: Callable[..., None]) -> None:
        self.world, self.rng, self.send = world, rng, send
        self.una = self.nxt = self.max = 0
        self.window = 0
        self.duplicates = 0
        self.timer = float("inf")
        self.received = bytearray()
        self.read = 0
        self.pieces: dict[int, bytes] = {}
        self.end_at = -1
        """The number of the other end's FIN, once it is known."""
        self.rcv_nxt = 0
        self.open = False

    @property
    def room(self) -> int:
        return self.world.guest_buffer - (len(self.received) - self.read)

    def acknowledge(self, seq: int | None = None, length: int = 0, flags: int = ACK) -> None:
        self.send(flags, self.max if seq is None else seq, self.rcv_nxt, max(self.room, 0), length)

    def begin(self, now: float) -> None:
        if not self.world.published:
            self.send(SYN, 0, 0, self.room, 0)
            self.timer = now + 1

    def time(self, now: float) -> None:
        """The retransmission timer: go back."""
        self.timer = now + RTO
        if not self.open:
            if self.rcv_nxt or not self.world.published:
                self.send(SYN | (ACK if self.world.published else 0), 0, self.rcv_nxt, self.room, 0)
            return
        if self.una < self.end + 1:
            self.nxt = self.una
            self.pump(now, probe=True)

    @property
    def end(self) -> int:
        return self.world.upload + 1

    def pump(self, now: float, probe: bool = False) -> None:
        """Send as far as the window goes; `probe`: at least one byte."""
        edge = self.una + max(self.window, 1 if probe else 0)
        while self.nxt < min(edge, self.end):
            length = min(self.rng.choice((1, 1000, 1460, 30_000)), self.end - self.nxt, edge - self.nxt)
            last = self.nxt + length == self.end and self.rng.random() < 0.5
            self.acknowledge(self.nxt, length, ACK | PSH | (FIN if last else 0))
            self.nxt += length + last
            self.max = max(self.max, self.nxt)
        if self.nxt == self.end:
            self.acknowledge(self.nxt, 0, ACK | FIN)
            self.nxt += 1
            self.max = max(self.max, self.nxt)
        if self.una < self.end + 1 and self.timer == float("inf"):
            self.timer = now + RTO

    def arrives(self, flags: int, seq: int, ack: int, window: int, payload: bytes, now: float) -> None:
        if flags & SYN:
            self.synchronize(flags, now)
            return
        if not self.open and (ack < 1 or seq + len(payload) < self.rcv_nxt):
            return
        if not self.open:
            self.open, self.una, self.nxt, self.max = True, 1, 1, 1
            self.timer = float("inf")
        if seq + len(payload) < self.rcv_nxt or seq > self.rcv_nxt + self.world.guest_buffer:
            self.acknowledge()
            return
        self.take_ack(ack, window, not payload and not flags & FIN, now)
        if payload or flags & FIN:
            self.take_text(flags, seq, payload)
        self.pump(now)

    def synchronize(self, flags: int, now: float) -> None:
        if not self.rcv_nxt:
            self.rcv_nxt = 1
        if flags & ACK:
            if not self.open:
                self.open, self.una, self.nxt, self.max, self.window = True, 1, 1, 1, 65535
                self.timer = float("inf")
            self.acknowledge()
            self.pump(now)
        elif not self.open:
            self.send(SYN | ACK, 0, 1, self.room, 0)
            self.timer = now + 1

    def take_ack(self, ack: int, window: int, bare: bool, now: float) -> None:
        assert ack <= self.max
        if ack > self.una:
            self.una, self.duplicates = ack, 0
            self.nxt = max(self.nxt, ack)
            self.timer = now + RTO if ack < self.end + 1 else float("inf")
        elif ack == self.una and bare and window == self.window and self.max > self.una:
            self.duplicates += 1
            if self.duplicates == 3:
                self.nxt = self.una
        if ack == self.una:
            self.window = window

    def take_text(self, flags: int, seq: int, payload: bytes) -> None:
        if flags & FIN:
            self.end_at = seq + len(payload)
        for at in range(len(payload) and 1):
            kept = payload[: max(0, self.rcv_nxt + self.room - seq)]
            if len(kept) > len(self.pieces.get(seq, b"")):
                self.pieces[seq + at] = kept
        for begin in sorted(self.pieces):
            piece = self.pieces[begin]
            if begin <= self.rcv_nxt:
                fresh = piece[self.rcv_nxt - begin :]
                self.received += fresh
                self.rcv_nxt += len(fresh)
                del self.pieces[begin]
        if self.rcv_nxt == self.end_at:
            self.rcv_nxt += 1
        self.acknowledge()

    def reads(self) -> None:
        """The program takes some; the window is told when it was shut or has grown by much."""
        shut = self.room < 2 * self.world.mss
        self.read += self.rng.randint(0, len(self.received) - self.read)
        if shut and self.open:
            self.acknowledge()


class Simulation:
    """Everything of a `World`, in order of time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = Random(world.seed)
        self.now = 0.0
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        wire = Wire()
        wire.send = self.to_guest
        self.play = Playbook(world.iss, world.irs, segmented=world.segmented, peek_skips=world.peek_skips, out=wire)
        self.guest = Guest(world, self.rng, self.to_engine)
        self.unsent = world.download
        wire.budget = world.budget
        self.play.out.socket.room = self.play.out.socket.space = world.host_buffer

    def at(self, when: float, what: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.agenda, (when, self.count, what))

    def carry(self, deliver: Callable[[], None]) -> None:
        """One segment over the link."""
        if self.rng.random() < self.world.loss:
            return
        for _ in range(2 if self.rng.random() < self.world.doubled else 1):
            late = self.rng.random() * 0.02 if self.rng.random() < self.world.reordered else 0.0
            self.at(self.now + 0.0005 + late, deliver)

    def to_guest(self, *segment: Any) -> None:
        self.carry(lambda: self.guest.arrives(*segment, now=self.now))

    def to_engine(self, flags: int, seq: int, ack: int, window: int, length: int) -> None:
        fields = {"mss": self.world.mss, "scale": self.world.scale, "length": length, "win": window}

        def deliver() -> None:
            if self.play.flow is None or self.play.state != "CLOSED":
                self.do(guest.segment(flags, seq=seq, ack=ack, **fields))

        self.carry(deliver)

    def do(self, event: Any) -> None:
        known = self.play.flow is not None
        self.play.out.now = self.now
        self.play.skip() >> event
        if not known and not self.world.published:
            self.at(self.now + 0.01, lambda: self.do(host.connected()))

    def host_lives(self) -> None:
        """The peer sends a little, and its kernel takes a little out of our send buffer."""
        play, socket = self.play, self.play.out.socket
        if play.flow is not None and play.state not in ("CONNECTING", "SYN_SENT", "CLOSED", "TIME_WAIT"):
            length = min(self.unsent, self.rng.choice((1, 1000, 30_000, 100_000)))
            if length and len(socket.stream) - socket.discarded < 300_000:
                self.unsent -= length
                self.do(host.sends(length))
            elif not self.unsent and not socket.ended:
                self.do(host.ends())
            room = min(self.world.host_buffer, socket.room + self.rng.choice((0, 1000, 50_000)))
            wanted = play.tcp.await_space and room >= self.world.host_buffer // 3
            self.do((host.writable if wanted else host.takes)(room, space=room))
        self.guest.reads()
        self.at(self.now + 0.003, self.host_lives)

    def run(self) -> None:
        if self.world.published:
            self.do(host.accepts())
        self.guest.begin(self.now)
        self.host_lives()
        while self.play.flow is None or self.play.state != "CLOSED":
            due = self.agenda[0][0]
            engine = self.play.out.next()
            self.now = max(self.now, min(due, engine, self.guest.timer))
            assert self.now < PATIENCE, f"{self.play.tcp}, guest at {self.guest.una} of {self.guest.end}"
            if due <= self.now:
                heapq.heappop(self.agenda)[2]()
            elif self.guest.timer <= self.now:
                self.guest.time(self.now)
            else:
                self.play.out.now = self.now
                self.play.run_turn()


def run(world: World) -> None:
    simulation = Simulation(world)
    simulation.run()
    socket = simulation.play.out.socket
    last = simulation.play.out.log[-1][1]
    assert last.text() == "host close how=closed"
    assert socket.received == pattern(0, world.upload)
    assert socket.is_shut
    assert simulation.guest.received == socket.stream
    assert len(socket.stream) == world.download
    assert simulation.guest.rcv_nxt == world.download + 2
    assert socket.discarded == world.download
    assert simulation.play.out.kept == 0


CLEAN = World(1, 0, 0, 0, 300_000, 300_000, 1 << 20, 1 << 20)
SLOW = World(2, 0, 0, 0, 200_000, 200_000, 20_000, 30_000)
BAD = World(3, 0.1, 0.05, 0.1, 200_000, 200_000, 200_000, 200_000)
WORLDS = {
    "clean": CLEAN,
    "published": World(1, 0, 0, 0, 300_000, 300_000, 1 << 20, 1 << 20, published=True),
    "segments": World(4, 0, 0, 0, 100_000, 300_000, 1 << 20, 1 << 20, segmented=False),
    "slow": SLOW,
    "bad": BAD,
    "without a peek offset": World(5, 0.1, 0.05, 0.1, 10_000, 300_000, 200_000, 200_000, peek_skips=True),
    "no budget": World(9, 0.1, 0.05, 0.1, 100_000, 1000, 200_000, 30_000, budget=0),
    "little budget": World(10, 0.1, 0.05, 0.1, 100_000, 1000, 200_000, 30_000, budget=3000),
    "nothing": World(6, 0.1, 0.1, 0.1, 0, 0, 65_535, 65_535),
    "only up": World(7, 0.05, 0.05, 0.05, 400_000, 0, 65_535, 65_535, scale=-1),
    "only down": World(8, 0.05, 0.05, 0.05, 0, 400_000, 65_535, 65_535, scale=-1, segmented=False),
}


def test_the_bad_link_makes_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the model would prove nothing about what is kept."""
    kept: list[int] = []
    keep = Recorder.keep

    def counted(self: Recorder, at: int, length: int) -> bytes | None:
        kept.append(length)
        return keep(self, at, length)

    monkeypatch.setattr(Recorder, "keep", counted)
    run(BAD)
    assert len(kept) > 10


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_both_streams_arrive(world: World) -> None:
    run(world)


@settings(max_examples=60)
@given(
    st.builds(
        World,
        seed=st.integers(0, 2**32),
        loss=st.sampled_from([0, 0.01, 0.1, 0.2]),
        doubled=st.sampled_from([0, 0.1]),
        reordered=st.sampled_from([0, 0.05, 0.3]),
        upload=st.sampled_from([0, 1, 5000, 100_000]),
        download=st.sampled_from([0, 1, 5000, 100_000]),
        guest_buffer=st.sampled_from([5000, 65_535, 1 << 20]),
        host_buffer=st.sampled_from([10_000, 65_535, 1 << 20]),
        mss=st.sampled_from([536, 1460]),
        scale=st.sampled_from([-1, 0, 7]),
        segmented=st.booleans(),
        peek_skips=st.booleans(),
        published=st.booleans(),
        iss=st.sampled_from([0, 2**31 - 5000, 2**32 - 5000]),
        irs=st.sampled_from([0, 2**31 - 5000, 2**32 - 5000]),
        budget=st.sampled_from([0, 3000, 1 << 22]),
    )
)
def test_both_streams_arrive_in_any_world(world: World) -> None:
    run(world)
