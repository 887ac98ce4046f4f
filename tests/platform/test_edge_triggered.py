"""Edge-triggered epoll (epoll(7)): `EPOLL_CTL_MOD` looks again; so `Reactor.rewatch` asks whether there is room now.

A flow that waits for room renews its interest: if there is room the call comes at once, else the next edge brings it.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

INTEREST = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname(), timeout=5) as near:
            far, _ = listener.accept()
            with far:
                near.setblocking(False)
                yield near, far


def fill(sock: socket.socket) -> None:
    for _ in range(1000):
        try:
            sock.send(bytes(65536))
        except BlockingIOError:
            return
    pytest.fail("a socket without an end")


def test_modify_reports_what_was_reported_before(pair: tuple[socket.socket, socket.socket]) -> None:
    near, _ = pair
    with select.epoll() as epoll:
        epoll.register(near, INTEREST)
        assert epoll.poll(1) == [(near.fileno(), select.EPOLLOUT)]
        assert epoll.poll(0) == []
        epoll.modify(near, INTEREST)
        assert epoll.poll(1) == [(near.fileno(), select.EPOLLOUT)]


def test_modify_without_room_reports_the_room_when_it_comes(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.settimeout(1)
    with select.epoll() as epoll:
        epoll.register(near, INTEREST)
        epoll.poll(1)
        fill(near)
        epoll.modify(near, INTEREST)
        assert epoll.poll(0) == []
        ready: list[tuple[int, int]] = []
        for _ in range(1000):
            if ready := epoll.poll(0):
                break
            far.recv(1 << 20)
        assert ready == [(near.fileno(), select.EPOLLOUT)]
