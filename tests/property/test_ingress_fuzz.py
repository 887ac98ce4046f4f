"""The whole engine on a link of ours, fed with garbage: nothing raises, nothing grows, and all it says is well formed.

The engine runs in a child process in a network namespace of its own, with nothing but loopback in it: the gateway is
the host's loopback, where a few sockets answer, break off and misbehave. The clock jumps, so every deadline comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import io
import os
import random
import resource
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from typing import Any

import pytest
from pyroute2 import IPRoute

from bucatini.base.events import FlowClosed, FlowEvent, FlowOpened
from bucatini.base.reasons import Counters, DropReason
from bucatini.base.verdict import Request, Verdict
from bucatini.engine.build import Parts, Ports, Translator
from bucatini.forward.portspec import parse_publish_all
from bucatini.host.resolvers import HostResolvers
from bucatini.host.tap import Offloads
from bucatini.stack.reassembly import MAXIMUM_BYTES, MAXIMUM_DATAGRAMS
from support.engines import QueueLink
from support.forked import in_new_network
from support.frames import check_to_guest, settings
from support.garbage import Garbage

pytestmark = pytest.mark.root

HERE = "10.99.0.1"
FLOWS = 48
STEPS = 1500
BATCH = 6
"""Frames of one step, at most."""


class Host:
    """Sockets of the host that the guest talks to, and clients of its published ports."""

    def __init__(self, rng: random.Random) -> None:
        self.random = rng
        self.listeners = [socket.create_server((a, 7), family=f) for f, a in ((2, "127.0.0.1"), (10, "::1"))]
        self.listeners.append(socket.create_server((HERE, 7)))
        self.udp = [socket.socket(f, socket.SOCK_DGRAM) for f in (2, 10, 2)]
        for sock, place in zip(self.udp, (("127.0.0.1", 7), ("::1", 7), ("127.0.0.1", 53)), strict=True):
            sock.bind(place)
        self.streams: list[socket.socket] = []
        self.clients: list[socket.socket] = []
        for sock in (*self.listeners, *self.udp):
            sock.setblocking(False)

    def act(self) -> None:
        """One thing that may happen on the host."""
        with contextlib.suppress(OSError):
            what = self.random.random()
            if what < 0.3:
                self.streams.append(self.random.choice(self.listeners).accept()[0])
                self.streams[-1].setblocking(False)
            elif what < 0.4:
                self._connect()
            elif what < 0.5:
                sock = self.random.choice(self.udp)
                body, place = sock.recvfrom(65536)
                sock.sendto(self._answer(body), place)
            elif self.streams:
                self._stream(self.random.choice(self.streams))
        while len(self.streams) > 30:
            self.streams.pop(0).close()

    def _answer(self, body: bytes) -> bytes:
        """An echo, a DNS answer of sorts, or less."""
        if len(body) > 3 and self.random.random() < 0.7:
            return body[:2] + bytes([body[2] | 0x80]) + body[3:]
        return self.random.choice((b"", body, body[:1], self.random.randbytes(20)))

    def _connect(self) -> None:
        if self.random.random() < 0.3:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((HERE, self.random.choice((0, 40001))))
                sock.sendto(self.random.randbytes(self.random.choice((0, 10, 3000, 60000))), (HERE, 8000))
            return
        client = socket.socket()
        client.setblocking(False)
        client.bind((HERE, 0))
        client.connect_ex((HERE, 8000))
        self.streams.append(client)

    def _stream(self, sock: socket.socket) -> None:
        what = self.random.random()
        if what < 0.5:
            sock.send(self.random.randbytes(self.random.choice((1, 100, 5000, 100_000))))
        elif what < 0.8:
            sock.recv(1 << 17)
        elif what < 0.85:
            sock.send(b"!", socket.MSG_OOB)
        elif what < 0.9:
            sock.shutdown(self.random.choice((socket.SHUT_WR, socket.SHUT_RDWR)))
        else:
            if what < 0.95:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.streams.remove(sock)
            sock.close()

    def close(self) -> None:
        for sock in (*self.listeners, *self.udp, *self.streams):
            sock.close()


class Events:
    """Flows that began and ended; never the same twice, never an end without a beginning."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.opened = 0
        self.endings: Counter[str] = Counter()

    def on_event(self, event: FlowEvent, now: float) -> None:
        if isinstance(event, FlowOpened):
            assert event.flow_id == self.opened + 1
            self.opened += 1
            self.open.add(event.flow_id)
        elif isinstance(event, FlowClosed):
            self.open.remove(event.flow_id)
            self.endings[event.how] += 1
            assert event.duration >= 0
            assert event.sent_bytes >= 0
            assert event.received_bytes >= 0


class Clock:
    """`time.monotonic`, which jumps."""

    def __init__(self) -> None:
        self.real = time.monotonic
        self.ahead = 0.0

    def __call__(self) -> float:
        return self.real() + self.ahead


class Fuzz:
    """One engine and one seed."""

    def __init__(self, seed: int, folder: str) -> None:
        self.random = random.Random(seed)
        self.garbage = Garbage(seed, HERE)
        self.link = QueueLink(refuse=0.02, seed=seed)
        self.host = Host(self.random)
        self.events = Events()
        self.trouble: list[Any] = []
        resolv = os.path.join(folder, "resolv.conf")
        with open(resolv, "w", encoding="ascii") as file:
            file.write("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        offloads = self.random.choice((Offloads(), Offloads(uso4=False, uso6=False), Offloads.from_mask(0)))
        segmented = settings(
            tso4=offloads.tso4, tso6=offloads.tso6, flow_limit=FLOWS, mtu=self.random.choice((1280, 1500, 65520))
        )
        forwards = (Ports("--publish", parse_publish_all([f"{HERE}:8000:8000", f"{HERE}:8000:8000/udp"])),)
        parts = Parts(
            self.link, offloads, segmented, self._decide, forwards, None, (self.events,),
            peek_offset=self.random.choice((None, False)), resolvers=HostResolvers(resolv),
        )  # fmt: skip
        self.translator = Translator(parts)
        self.translator.loop.set_exception_handler(lambda loop, context: self.trouble.append(context))
        self.translator.start()
        self.clock = Clock()
        time.monotonic = self.clock
        self.fed = self.seen = 0
        self.kinds: Counter[str] = Counter()

    def _decide(self, request: Request) -> Verdict:
        return Verdict(request.port != 80, "fuzz")

    def step(self) -> None:
        for _ in range(self.random.randrange(BATCH)):
            self.link.put(self.garbage.frame())
            self.fed += 1
        for _ in range(self.random.randrange(3)):
            self.host.act()
        if self.random.random() < 0.05:
            self.clock.ahead += self.random.choice((0.001, 0.3, 1.5, 4, 70, 200, 8000))
        self.translator.loop.run_until_complete(asyncio.sleep(0))
        assert not self.trouble, self.trouble
        assert not self.translator.counters[DropReason.BUG], sys.stderr.getvalue()  # type: ignore[attr-defined]
        for frame in self.link.sent:
            parsed = check_to_guest(frame, mtu=65575)
            self.kinds[parsed.payload.payload.name] += 1
            self.garbage.hear(frame)
        self.seen += len(self.link.sent)
        self.link.sent.clear()
        self.bounds()

    def bounds(self) -> None:
        sink = self.translator.sink
        assert len(sink.table) <= FLOWS
        assert len(sink.flows) <= FLOWS
        assert len(sink.deadlines) <= 1024 + 4 * FLOWS
        assert len(sink.gateway.reassembler) <= MAXIMUM_DATAGRAMS
        assert sink.gateway.reassembler.held_bytes <= MAXIMUM_BYTES
        assert sink.sent_frames == self.seen
        assert len(self.events.open) == len(sink.table)
        counters = self.translator.counters
        assert counters[DropReason.NONE] == 0
        assert counters[DropReason.LINK_FULL] == self.link.refused[errno.EAGAIN]
        assert counters[DropReason.LINK_WRITE_FAILED] == self.link.refused[errno.EIO]

    def finish(self) -> dict[str, Any]:
        while self.link.queue:
            self.translator.loop.run_until_complete(asyncio.sleep(0))
        assert self.translator.reader.frames == self.fed
        counters: Counters = self.translator.counters
        self.translator.close()
        self.host.close()
        time.monotonic = self.clock.real
        assert self.events.open == set()
        return {
            "fed": self.fed,
            "seen": self.seen,
            "flows": self.events.opened,
            "endings": dict(self.events.endings),
            "kinds": dict(self.kinds),
            "drops": counters.snapshot(),
        }


def descriptors() -> list[str]:
    names = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            names.append(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return names


def run(seed: int, steps: int) -> dict[str, Any]:
    """In the child: prepare the namespace, run, and say what happened; a failure names seed and step."""
    with IPRoute() as route:
        route.link("set", index=1, state="up")
        if not route.get_addr(address=HERE):
            route.addr("add", index=1, address=HERE, prefixlen=32)
    with open("/proc/sys/net/ipv4/ping_group_range", "w", encoding="ascii") as file:
        file.write("0 0")
    return fuzz(seed, steps)


def fuzz(seed: int, steps: int) -> dict[str, Any]:
    step = -1
    sys.stderr = io.StringIO()
    before = len(descriptors())
    try:
        with tempfile.TemporaryDirectory() as folder:
            one = Fuzz(seed, folder)
            for step in range(steps):
                one.step()
                if step == steps // 3:
                    gc.collect()
                    early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            outcome = one.finish()
        del one
        gc.collect()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - early < 64 << 10  # KiB
        assert len(descriptors()) <= before, descriptors()
    except BaseException as error:
        error.add_note(f"seed {seed}, step {step}")
        raise
    return outcome


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_garbage(seed: int) -> None:
    outcome = in_new_network(lambda: run(seed, STEPS))
    assert outcome["fed"] > STEPS
    assert outcome["seen"] > STEPS // 2
    assert outcome["flows"] > 50
    assert len(outcome["endings"]) >= 4, outcome
    assert len(outcome["drops"]) >= 15, outcome


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_garbage_for_minutes() -> None:
    """New seeds each time."""
    end = time.monotonic() + float(os.environ.get("BUCATINI_FUZZ_SECONDS", "120"))
    while time.monotonic() < end:
        seed = int.from_bytes(os.urandom(4), "big")
        in_new_network(lambda seed=seed: run(seed, 4 * STEPS))  # type: ignore[misc]
