"""host.factory: both ends together, and what the engine makes of an agent that lies."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator

import pytest

from bucatini.base.errors import HostError
from bucatini.host.channel import Channel, Say, pair
from bucatini.host.factory import KINDS, SocketFactory, make


@pytest.fixture
def ends() -> Iterator[tuple[SocketFactory, Channel]]:
    ours, theirs = pair()
    ours.set_timeout(0)
    yield SocketFactory(ours), theirs
    ours.close()
    theirs.close()


def answer(agent: Channel) -> None:
    request = agent.receive()
    assert request is not None
    make(agent, request)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_is_as_asked(ends: tuple[SocketFactory, Channel], kind: str) -> None:
    factory, agent = ends
    assert factory.take() is None
    factory.request(kind, 3)
    factory.request(kind, 1)
    answer(agent)
    answer(agent)
    batches = [factory.take(), factory.take()]
    assert [len(batch.sockets) for batch in batches if batch] == [3, 1]
    for made in [made for batch in batches if batch for made in batch.sockets]:
        assert (made.family, made.type, made.proto) == KINDS[kind]
        assert made.getblocking() is False
        assert made.get_inheritable() is False
        made.close()


def test_agent_keeps_nothing(ends: tuple[SocketFactory, Channel]) -> None:
    factory, agent = ends
    before = len(os.listdir("/proc/self/fd"))
    factory.request("tcp4", 64)
    answer(agent)
    batch = factory.take()
    assert batch is not None
    for made in batch.sockets:
        made.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_shortage_is_told(ends: tuple[SocketFactory, Channel]) -> None:
    factory, agent = ends
    factory.request("tcp4", 64)
    request = agent.receive()
    assert request is not None
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free() + 8, limits[1]))
        make(agent, request)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    batch = factory.take()
    assert batch is not None
    for made in batch.sockets:
        made.close()
    assert len(batch.sockets) == 8
    assert batch.reason == "Too many open files"


def test_our_own_shortage_is_told_too(ends: tuple[SocketFactory, Channel]) -> None:
    factory, agent = ends
    factory.request("tcp4", 64)
    answer(agent)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free() + 8, limits[1]))
        batch = factory.take()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert batch is not None
    for made in batch.sockets:
        made.close()
    assert len(batch.sockets) == 8
    assert batch.reason == "Too many open files"


def lowest_free() -> int:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


def test_gone_agent_is_an_error(ends: tuple[SocketFactory, Channel]) -> None:
    factory, agent = ends
    agent.close()
    with pytest.raises(HostError, match="cannot ask for sockets"):
        factory.request("tcp4", 1)
    with pytest.raises(HostError, match="agent is gone"):
        factory.take()


def test_create_refuses_less_than_asked(ends: tuple[SocketFactory, Channel]) -> None:
    factory, agent = ends
    agent.send(Say.SOCKETS, bytes([0, 24]))
    with pytest.raises(HostError, match="cannot make 2 tcp4 sockets in the guest: Too many open files"):
        factory.create("tcp4", 2)


class TestLies:
    """Whatever the agent sends, nothing but the socket asked for gets through, and nothing stays open."""

    @pytest.fixture
    def pipe(self) -> Iterator[tuple[int, int]]:
        reading, writing = os.pipe()
        yield reading, writing
        os.close(reading)

    @pytest.mark.parametrize(
        ("say", "payload"),
        [(Say.TAP, b"\0\0"), (Say.SOCKETS, b""), (Say.SOCKETS, b"\0\0\0"), (Say.SOCKETS, b"\x09\0"), (b"?", b"\0\0")],
    )
    def test_other_message(
        self, ends: tuple[SocketFactory, Channel], pipe: tuple[int, int], say: bytes, payload: bytes
    ) -> None:
        factory, agent = ends
        reading, writing = pipe
        agent.send(say, payload, [writing])
        os.close(writing)
        with pytest.raises(HostError):
            factory.take()
        assert os.read(reading, 1) == b""

    def test_no_socket(self, ends: tuple[SocketFactory, Channel], pipe: tuple[int, int]) -> None:
        factory, agent = ends
        reading, writing = pipe
        agent.send(Say.SOCKETS, bytes(2), [writing])
        os.close(writing)
        with pytest.raises(HostError, match="no socket"):
            factory.take()
        assert os.read(reading, 1) == b""

    def test_other_kind_of_socket(self, ends: tuple[SocketFactory, Channel]) -> None:
        factory, agent = ends
        good = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        bad, watch = socket.socketpair()
        agent.send(Say.SOCKETS, bytes(2), [good.fileno(), bad.fileno(), good.fileno()])
        bad.close()
        with pytest.raises(HostError, match="another socket than tcp4"):
            factory.take()
        assert watch.recv(1) == b""
        watch.close()
        good.close()
