"""engine.splice_datagrams: one conversation between two sockets of this host."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from bucatini.base.address import Endpoint, pack
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.engine.splice_datagrams import MAX_EARLY, MAX_EARLY_BYTES, UDP_TIMEOUT, SplicedDatagrams
from support.engines import PATIENCE, Engine, free_port, here

LOOPBACK = "127.0.0.1"
OTHER = "127.0.0.7"


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(**here()) as made:
        yield made


class Talk:
    """A client, a conversation, and the places where a server may be."""

    def __init__(self, engine: Engine, direction: str = INGRESS) -> None:
        self.engine = engine
        self.client = udp(LOOPBACK)
        self.port = free_port(socket.SOCK_DGRAM)
        self.near = udp(LOOPBACK)
        self.near.setblocking(False)
        self.near.connect(self.client.getsockname())
        self.client.connect(self.near.getsockname())
        self.far = udp("0.0.0.0")
        self.far.setblocking(False)
        self.ended: list[Endpoint] = []
        targets = tuple(Endpoint(pack(address), self.port) for address in (LOOPBACK, OTHER))
        name = Endpoint(pack(LOOPBACK), self.client.getsockname()[1])
        self.flow = SplicedDatagrams(
            engine.sink, direction, Endpoint(pack("10.0.0.1"), 80), name, Endpoint(pack(LOOPBACK), 7), targets, "rule",
            self.ended.append, near=self.near,
        )  # fmt: skip
        engine.sink.table.add_spliced(self.flow)
        engine.sink.announce(self.flow)

    def begin(self) -> None:
        self.flow.far = self.far
        self.flow.begin()

    def server(self, address: str) -> socket.socket:
        sock = udp(address, self.port)
        sock.settimeout(0.01)
        return sock

    def hears(self, server: socket.socket) -> bytes:
        def heard() -> tuple[bytes] | None:
            try:
                payload, self.seen = server.recvfrom(70000)
            except TimeoutError:
                return None
            return (payload,)

        got: tuple[bytes] = self.engine.until(heard)
        return got[0]

    def answered(self) -> bytes:
        def came() -> bool:
            return bool(select.select([self.client], [], [], 0)[0])

        self.engine.until(came)
        return self.client.recv(70000)

    def close(self) -> None:
        self.flow.close("closed")
        self.client.close()
        self.far.close()


def udp(address: str, port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, port))
    sock.settimeout(PATIENCE)
    return sock


@pytest.fixture
def talk(engine: Engine) -> Iterator[Talk]:
    made = Talk(engine)
    yield made
    made.close()


def test_both_ways_and_what_is_counted(talk: Talk) -> None:
    with talk.server(LOOPBACK) as server:
        talk.flow.deliver(b"early")
        talk.begin()
        assert talk.hears(server) == b"early"
        talk.client.send(b"")
        talk.client.send(b"later")
        assert [talk.hears(server), talk.hears(server)] == [b"", b"later"]
        server.sendto(b"answer", talk.seen)
        assert talk.answered() == b"answer"
    assert (talk.flow.received, talk.flow.sent) == (10, 6)
    talk.flow.close("closed")
    talk.flow.close("closed")
    (event,) = talk.engine.closed()
    assert (event.sent_bytes, event.received_bytes, event.how) == (6, 10, "closed")
    assert talk.ended == [talk.flow.client]
    assert (talk.near.fileno(), talk.far.fileno()) == (-1, -1)


def test_outward_counts_the_other_way_and_names_the_host(engine: Engine) -> None:
    talk = Talk(engine, EGRESS)
    with talk.server(LOOPBACK) as server:
        talk.begin()
        talk.flow.deliver(b"four")
        assert talk.hears(server) == b"four"
    assert (talk.flow.sent, talk.flow.received) == (4, 0)
    (opened,) = engine.opened()
    assert (opened.direction, opened.peer.port, opened.host.port) == (EGRESS, 7, talk.port)
    talk.close()


def test_the_second_target_hears_what_the_first_refused(talk: Talk) -> None:
    with talk.server(OTHER) as server:
        for number in range(10):
            talk.flow.deliver(bytes([number]))
        talk.begin()
        assert [talk.hears(server)[0] for _ in range(10)] == list(range(10))
        talk.client.send(b"three")
        assert talk.hears(server) == b"three"
        server.sendto(b"answer", talk.seen)
        assert talk.answered() == b"answer"


def test_a_server_that_starts_late_at_either_target(talk: Talk) -> None:
    talk.begin()
    for address in (OTHER, LOOPBACK):
        for _ in range(3):
            talk.client.send(b"nobody hears this")
            talk.engine.settle()
        with talk.server(address) as server:
            talk.client.send(b"now")
            assert talk.hears(server) == b"now"


def test_an_answer_settles_the_target(talk: Talk) -> None:
    talk.begin()
    with talk.server(LOOPBACK) as server:
        talk.client.send(b"x")
        assert talk.hears(server) == b"x"
        server.sendto(b"y", talk.seen)
        assert talk.answered() == b"y"
    with talk.server(OTHER) as other:
        talk.client.send(b"refused")
        talk.engine.settle()
        with pytest.raises(TimeoutError):
            other.recv(10)
    assert not talk.flow.closed


def test_early_datagrams_have_a_bound(talk: Talk) -> None:
    for number in range(MAX_EARLY + 5):
        talk.flow.deliver(bytes([number]))
    assert talk.engine.drops() == {"host-buffer-full": 5}
    with talk.server(LOOPBACK) as server:
        talk.begin()
        assert [talk.hears(server)[0] for _ in range(MAX_EARLY)] == list(range(MAX_EARLY))


def test_early_bytes_have_a_bound(talk: Talk) -> None:
    for _ in range(10):
        talk.flow.deliver(bytes(MAX_EARLY_BYTES // 4))
    assert talk.engine.drops() == {"host-buffer-full": 6}


def test_bursts_to_a_server_that_went_away_are_counted(talk: Talk) -> None:
    talk.begin()
    with talk.server(LOOPBACK) as server:
        talk.client.send(b"x")
        talk.hears(server)
        server.sendto(b"y", talk.seen)
        talk.answered()
    for _ in range(20):
        talk.client.send(b"z")
    talk.engine.settle(30)
    assert talk.engine.drops()["host-send-failed"] > 0
    assert not talk.flow.closed


def test_silence_ends_it_and_traffic_does_not(talk: Talk) -> None:
    talk.begin()
    now = talk.engine.sink.now
    talk.flow.last_active = now + 100
    talk.flow.due(now + UDP_TIMEOUT)
    assert not talk.flow.closed
    assert talk.flow.deadline == now + 100 + UDP_TIMEOUT
    talk.flow.due(now + 100 + UDP_TIMEOUT)
    assert [event.how for event in talk.engine.closed()] == ["closed"]


def test_no_way_there(engine: Engine) -> None:
    talk = Talk(engine)
    talk.flow.targets = (Endpoint(pack("255.255.255.255"), 9),)
    talk.begin()
    assert [event.how for event in engine.closed()] == ["unreachable"]
    talk.close()
