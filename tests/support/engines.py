"""A translator on a link of ours, in this process: the test is the guest, and sockets on loopback are the world.

With `publish` there is a namespace's agent too, at the other end of a real channel; it makes its sockets here, so the
guest of a spliced connection is whoever listens on `GUEST_HERE`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self

from bucatini.base.address import pack
from bucatini.base.events import FlowClosed, FlowEvent, FlowOpened, FlowRefused
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import Request, Verdict
from bucatini.engine.build import Parts, Ports, Translator
from bucatini.forward.portspec import parse_publish_all
from bucatini.host.channel import pair
from bucatini.host.factory import SocketFactory, make
from bucatini.host.resolvers import HostResolvers
from bucatini.host.tap import Offloads
from support.frames import VNET, check_to_guest, is_said_to_all, settings

GUEST_HERE = "127.0.0.9"
PATIENCE = 10.0
"""Seconds until a test gives up waiting."""


class QueueLink:
    """Frames from a queue, readable by an eventfd; keeps what is sent. `refuse` is a number between 0 and 1."""

    def __init__(self, refuse: float = 0.0, seed: int = 0) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK)
        self.random = random.Random(seed)
        self.refuse = refuse
        self.queue: deque[bytes] = deque()
        self.sent: list[bytes] = []
        self.refused: dict[int, int] = {errno.EAGAIN: 0, errno.EIO: 0}
        self.ended = False
        self.error = 0
        self.receives: list[int] = []
        self.header = 12
        self.positions: list[int] | None = None
        self.more = False
        self.owner: Any = None

    def start(self, owner: Any) -> None:
        self.owner = owner
        owner.reactor.watch(self.descriptor, owner.frames_ready, select.EPOLLIN)

    def done(self) -> None:
        pass

    def room(self) -> bool:
        return True

    def flush(self) -> None:
        pass

    def put(self, *frames: bytes) -> None:
        self.queue.extend(frames)
        os.eventfd_write(self.descriptor, 1)

    def end(self) -> None:
        self.ended = True
        os.eventfd_write(self.descriptor, 1)

    def receive(self, arena: Any, at: int, stride: int, count: int, lengths: list[int]) -> int:
        self.receives.append(count)
        if self.error:
            return -self.error
        taken = 0
        while taken < count and self.queue:
            frame = self.queue.popleft()
            assert len(frame) <= stride
            arena.view[at + taken * stride : at + taken * stride + len(frame)] = frame
            lengths[taken] = len(frame)
            taken += 1
        if not self.queue and not self.ended:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.descriptor)
        return taken or (0 if self.ended else -errno.EAGAIN)

    def transmit(self, arena: Any, at: int, length: int) -> int:
        frame = bytes(arena.view[at : at + length])
        assert len(frame) == length
        if self.refuse and self.random.random() < self.refuse:
            error = self.random.choice((errno.EAGAIN, errno.EIO))
            self.refused[error] += 1
            return -error
        self.sent.append(frame)
        return length

    def close(self) -> None:
        if self.descriptor >= 0:
            if self.owner is not None:
                self.owner.reactor.unwatch(self.descriptor)
            os.close(self.descriptor)
            self.descriptor = -1


class Engine:
    """One translator. Everything happens in `turn`, which the test calls."""

    def __init__(
        self,
        publish: Sequence[str] = (),
        allow: Callable[[Request], Verdict] | None = None,
        offloads: Offloads | None = None,
        peek_offset: bool | None = None,
        agent: bool = True,
        **changed: Any,
    ) -> None:
        self.link = QueueLink()
        self.events: list[FlowEvent] = []
        ours, self.agent = pair()
        ours.set_timeout(0)
        self.agent.set_timeout(0)
        self.answers = agent
        self._channel = ours
        factory = PreparedFactory(ours, self.agent) if publish and agent else None
        parts = Parts(
            self.link,
            offloads or Offloads(),
            settings(**changed),
            allow or (lambda request: Verdict(True, "test")),
            (Ports("--publish", parse_publish_all(publish)),),
            factory,
            (self,),
            peek_offset=peek_offset,
            resolvers=HostResolvers(os.devnull),
        )
        try:
            self.translator = Translator(parts)
        except BaseException:
            self.link.close()
            ours.close()
            self.agent.close()
            raise
        self.translator.start()

    def on_event(self, event: FlowEvent, now: float) -> None:
        self.events.append(event)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        self.translator.close()
        self._channel.close()
        self.agent.close()

    @property
    def sink(self) -> Any:
        return self.translator.sink

    def drops(self) -> dict[str, int]:
        return self.translator.counters.snapshot()

    def opened(self) -> list[FlowOpened]:
        return [event for event in self.events if isinstance(event, FlowOpened)]

    def closed(self) -> list[FlowClosed]:
        return [event for event in self.events if isinstance(event, FlowClosed)]

    def refusals(self) -> list[FlowRefused]:
        return [event for event in self.events if isinstance(event, FlowRefused)]

    def turn(self, seconds: float = 0.0) -> None:
        self.translator.reactor.turn(seconds)
        if self.answers:
            with contextlib.suppress(BlockingIOError, TimeoutError):
                request = self.agent.receive()
                if request is not None:
                    make(self.agent, request)
        assert self.translator.counters[DropReason.BUG] == 0

    def until(self, done: Callable[[], Any]) -> Any:
        """Turn until `done` gives something true."""
        end = time.monotonic() + PATIENCE
        while not (result := done()):
            assert time.monotonic() < end, "nothing happened"
            self.turn(0.01)
        return result

    def rests(self) -> bool:
        """Whether the engine waits rather than spins: a few turns in a quarter of a second, not thousands."""
        end = time.monotonic() + 0.25
        turns = 0
        while time.monotonic() < end:
            self.turn(0.05)
            turns += 1
        return turns < 25

    def settle(self, turns: int = 5) -> None:
        for _ in range(turns):
            self.turn()

    def feed(self, *frames: bytes, header: bytes = VNET) -> None:
        """Frames of the guest, and the turns that take them."""
        self.link.put(*(header + frame for frame in frames))
        while self.link.queue:
            self.turn()

    def heard(self) -> list[Any]:
        """What the guest got since it was asked last, each frame looked at; without what is said to all."""
        frames, self.link.sent = self.link.sent, []
        looked_at = [(check_to_guest(frame, mtu=65575), frame) for frame in frames]
        return [parsed for parsed, frame in looked_at if not is_said_to_all(frame)]


class PreparedFactory(SocketFactory):
    """The factory; while the translator is built, the first batches are made at once: this process is the agent too."""

    def __init__(self, ours: Any, agent: Any) -> None:
        super().__init__(ours)
        self._agent = agent

    def create(self, kind: str, count: int) -> list[socket.socket]:
        self.request(kind, count)
        request = self._agent.receive()
        assert request is not None
        make(self._agent, request)
        batch = self.take()
        assert batch is not None
        return batch.sockets


def free_port(kind: int = socket.SOCK_STREAM, address: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind((address, 0))
        port: int = sock.getsockname()[1]
        return port


def here(**changed: Any) -> dict[str, Any]:
    """Settings of a guest whose address is `GUEST_HERE`, IPv4 only."""
    return {"guest_ipv4": pack(GUEST_HERE), "guest_ipv6": None, "gateway_ipv6": None, **changed}
