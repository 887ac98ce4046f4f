"""engine.guest_sockets with a real factory: the stock, the line in front of it, and an agent that is gone."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest

from bucatini.base.errors import HostError
from bucatini.engine.guest_sockets import BATCH, LOW, MAX_WAITING, GuestSockets
from bucatini.engine.reactor import Reactor
from bucatini.host.channel import Channel, Say, pair
from bucatini.host.factory import SocketFactory, make
from support.engines import PreparedFactory


class Desk:
    """A stock, its reactor, and the agent's end of the channel."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        ours, self.agent = pair()
        self.ours: Channel = ours
        ours.set_timeout(0)
        self.agent.set_timeout(0)
        factory: SocketFactory = PreparedFactory(ours, self.agent)
        self.stock = GuestSockets(factory, self.reactor)
        self.got: list[socket.socket | None] = []

    def want(self, kind: str = "tcp4", count: int = 1) -> None:
        for _ in range(count):
            self.stock.give(kind, self.got.append)

    def answer(self) -> int:
        """Let the agent answer what it was asked; how many requests that were."""
        answered = 0
        while True:
            try:
                request = self.agent.receive()
            except (BlockingIOError, TimeoutError):
                return answered
            assert request is not None
            make(self.agent, request)
            answered += 1
            self.reactor.turn(0)

    def close(self) -> None:
        self.stock.close()
        for sock in self.got:
            if sock is not None:
                sock.close()
        self.ours.close()
        self.agent.close()
        self.reactor.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.close()


def test_a_stock_serves_at_once(desk: Desk) -> None:
    desk.stock.prepare("tcp4")
    desk.want()
    (sock,) = desk.got
    assert sock is not None
    assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
    assert desk.answer() == 0


def test_kinds_do_not_mix(desk: Desk) -> None:
    desk.stock.prepare("tcp4")
    desk.stock.prepare("udp6")
    desk.want("udp6")
    desk.want("tcp4")
    assert [(sock.family, sock.type) for sock in desk.got if sock] == [
        (socket.AF_INET6, socket.SOCK_DGRAM),
        (socket.AF_INET, socket.SOCK_STREAM),
    ]


def test_what_was_not_prepared_is_not_given(desk: Desk) -> None:
    assert desk.stock.take("tcp6") is None
    desk.want("tcp6")
    assert desk.got == [None]


def test_a_low_stock_is_filled_up_once(desk: Desk) -> None:
    desk.stock.prepare("tcp4")
    desk.want(count=BATCH - LOW)
    assert desk.answer() == 0
    desk.want(count=3)
    assert desk.answer() == 1
    desk.want(count=BATCH)
    assert None not in desk.got
    assert len({sock.fileno() for sock in desk.got if sock}) == 2 * BATCH - LOW + 3


def test_who_comes_to_an_empty_stock_waits_in_line(desk: Desk) -> None:
    desk.stock.prepare("tcp4")
    order: list[int] = []
    for number in range(BATCH + 100):
        desk.stock.give("tcp4", lambda sock, number=number: (order.append(number), desk.got.append(sock)))  # type: ignore[misc]
    assert order == list(range(BATCH))
    while len(order) < BATCH + 100:
        assert desk.answer() > 0
    assert order == list(range(BATCH + 100))
    assert None not in desk.got


def test_the_line_is_bounded(desk: Desk) -> None:
    desk.stock.prepare("tcp4")
    desk.want(count=BATCH + MAX_WAITING)
    assert len(desk.got) == BATCH
    desk.want(count=5)
    assert desk.got[BATCH:] == [None] * 5


def test_a_taker_does_not_wait(desk: Desk) -> None:
    desk.stock.prepare("udp4")
    desk.got += [desk.stock.take("udp4") for _ in range(BATCH)]
    assert None not in desk.got
    assert desk.stock.take("udp4") is None
    desk.answer()
    desk.got.append(desk.stock.take("udp4"))
    assert desk.got[-1] is not None


def test_an_agent_that_has_none_leaves_nobody_waiting(desk: Desk) -> None:
    desk.stock.prepare("tcp4")
    desk.want(count=BATCH + 3)
    desk.agent.send(Say.SOCKETS, bytes([0, 24]))
    desk.reactor.turn(0)
    assert desk.got[BATCH:] == [None] * 3
    desk.want()
    assert len(desk.got) == BATCH + 3
    desk.answer()
    assert len(desk.got) > BATCH + 3
    assert desk.got[-1] is not None


def test_an_agent_that_is_gone_leaves_nobody_waiting(desk: Desk) -> None:
    desk.stock.prepare("tcp4")
    desk.want(count=BATCH + 3)
    desk.agent.close()
    desk.reactor.turn(0)
    assert desk.got[BATCH:] == [None] * 3
    desk.want()
    assert desk.got[BATCH:] == [None] * 4
    desk.reactor.attach(lambda now: float("inf"))
    desk.reactor.turn(0)
    start = time.monotonic()
    desk.reactor.turn(0.1)
    assert time.monotonic() - start >= 0.09


def test_close_closes_the_stock(desk: Desk) -> None:
    before = len(os.listdir("/proc/self/fd"))
    desk.stock.prepare("tcp4")
    desk.stock.prepare("udp6")
    assert len(os.listdir("/proc/self/fd")) == before + 2 * BATCH
    desk.stock.close()
    desk.stock.close()
    assert len(os.listdir("/proc/self/fd")) == before


class TestFetch:
    """Sockets that are waited for."""

    def test_one_at_a_time_beyond_a_batch(self, desk: Desk) -> None:
        made = [desk.stock.fetch("udp4") for _ in range(BATCH + 3)]
        assert len({sock.fileno() for sock in made}) == BATCH + 3
        for sock in made:
            sock.close()

    def test_what_was_asked_before_goes_where_it_belongs(self, desk: Desk) -> None:
        desk.stock.prepare("tcp4")
        desk.want(count=BATCH - LOW + 1)
        pending = desk.agent.receive()
        assert pending is not None
        make(desk.agent, pending)
        (diag,) = desk.stock.obtain("diag", 1)
        assert diag.family == socket.AF_NETLINK
        diag.close()
        assert all(sock is not None for sock in desk.got)
        desk.want(count=LOW)
        assert all(sock is not None for sock in desk.got)

    def test_an_agent_that_does_not_answer(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bucatini.engine.guest_sockets.PATIENCE", 0.05)
        desk.stock.prepare("tcp4")
        desk.want(count=BATCH - LOW + 1)
        with pytest.raises(HostError, match="does not answer"):
            desk.stock.obtain("udp4", 1)

    def test_without_a_namespace(self) -> None:
        stock = GuestSockets(None, Reactor())
        assert not stock.available
        with pytest.raises(HostError, match="no namespace"):
            stock.fetch("tcp4")
        stock.close()
