"""engine.datagrams: trains are found, cut and joined rightly, and errors of the host come back as ICMP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, UDP, UDPerror

from bucatini.engine.datagrams import MAX_TRAIN, MAX_TRAIN_BYTES, _train
from bucatini.host.tap import Offloads
from support.engines import Engine
from support.frames import GATEWAY4, ether, ip, payload_of, vnet

PLAIN = Offloads(uso4=False, uso6=False)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        yield sock


def to(server: socket.socket, body: bytes, sport: int = 40000) -> bytes:
    return ether(ip(4, dst=GATEWAY4) / UDP(sport=sport, dport=server.getsockname()[1]) / body)


def received(server: socket.socket, count: int) -> list[bytes]:
    return [server.recv(65536) for _ in range(count)]


def is_silent(server: socket.socket) -> bool:
    server.setblocking(False)
    try:
        server.recv(1)
    except BlockingIOError:
        return True
    finally:
        server.settimeout(5)
    return False


# -- trains towards the host


@given(st.lists(st.sampled_from([0, 1, 5, 100, 100, 100, 1000, 40000]), min_size=1, max_size=200))
def test_trains_cover_everything_once(lengths: list[int]) -> None:
    pieces = [number for index, length in enumerate(lengths) for number in (index * 50000, length)]
    start = 0
    while start < len(lengths):
        count, size = _train(pieces, start, len(lengths))
        cars = lengths[start : start + count]
        assert 1 <= count <= MAX_TRAIN
        assert size == cars[0]
        assert all(car == size for car in cars[:-1])
        assert cars[-1] <= size
        assert count == 1 or (sum(cars) <= MAX_TRAIN_BYTES and 0 not in cars)
        start += count
    assert start == len(lengths)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([100], (1, 100)),
        ([0, 0], (1, 0)),
        ([100, 100, 40, 100], (3, 100)),
        ([100, 200], (1, 100)),
        ([100, 0], (1, 100)),
        ([100] * 70, (64, 100)),
        ([30000, 30000, 30000], (2, 30000)),
        ([65507, 65507], (1, 65507)),
    ],
)
def test_train(lengths: list[int], expected: tuple[int, int]) -> None:
    pieces = [number for length in lengths for number in (7, length)]
    assert tuple(_train(pieces, 0, len(lengths))) == expected


def test_datagrams_of_one_turn_arrive_in_order(server: socket.socket) -> None:
    bodies = [bytes([number]) * length for number, length in enumerate((100, 100, 100, 40, 100, 0, 500, 500, 1, 1472))]
    with Engine() as engine:
        engine.feed(*(to(server, body) for body in bodies))
        engine.settle()
        assert received(server, len(bodies)) == bodies
        assert engine.drops() == {}
        assert len(engine.opened()) == 1


def test_a_train_of_the_guest_is_cut_again(server: socket.socket) -> None:
    body = bytes(range(250))
    with Engine() as engine:
        engine.feed(to(server, body), header=vnet(1, 5, 42, 100, 34, 6))
        engine.settle()
        assert received(server, 3) == [body[:100], body[100:200], body[200:]]


def test_a_train_larger_than_the_route_takes_goes_singly(server: socket.socket) -> None:
    """Cars of 30000 bytes: whatever the kernel says to that, all arrive."""
    bodies = [bytes([number]) * 30000 for number in range(4)]
    with Engine() as engine:
        engine.feed(*(to(server, body) for body in bodies))
        engine.settle()
        assert received(server, 4) == bodies


def test_a_train_of_too_many_cars_is_refused(server: socket.socket) -> None:
    """One frame of the guest must not cost a system call per byte: the kernel's own bound is 128 (UDP_MAX_SEGMENTS)."""
    with Engine() as engine:
        engine.feed(to(server, bytes(20000)), header=vnet(1, 5, 42, 1, 34, 6))
        engine.settle()
        assert engine.drops() == {"offload": 1}
        assert is_silent(server)


def test_flows_of_one_turn_do_not_mix(server: socket.socket) -> None:
    with Engine() as engine:
        frames = [
            to(server, bytes([flow, number]) * 20, sport=41000 + flow) for number in range(5) for flow in range(4)
        ]
        engine.feed(*frames)
        engine.settle()
        seen: dict[int, list[int]] = {}
        for _ in range(20):
            body, (_, port) = server.recvfrom(100)
            seen.setdefault(port, []).append(body[1])
            assert body == body[:2] * 20
        assert list(seen.values()) == [[0, 1, 2, 3, 4]] * 4
        assert len(engine.opened()) == 4


def test_the_guests_port_is_kept(server: socket.socket) -> None:
    with Engine() as engine:
        engine.feed(to(server, b"x", sport=47123))
        engine.settle()
        assert server.recvfrom(10)[1] == ("127.0.0.1", 47123)


# -- towards the guest


def answers(engine: Engine, server: socket.socket, bodies: list[bytes]) -> list[Any]:
    """The frames that `bodies`, sent by the server at once, become."""
    engine.feed(to(server, b"hello"))
    engine.settle()
    _, peer = server.recvfrom(10)
    for body in bodies:
        server.sendto(body, peer)
    total = sum(map(len, bodies))
    engine.until(lambda: sum(flow.received for flow in engine.sink.table.all()) >= total)
    engine.settle()
    return engine.heard()


def test_answers_come_one_by_one_without_trains(server: socket.socket) -> None:
    bodies = [b"a" * 100, b"b" * 100, b"", b"c" * 3000, b"d"]
    with Engine(offloads=PLAIN) as engine:
        frames = answers(engine, server, bodies)
        assert [payload_of(frame) for frame in frames] == bodies
        assert {(frame[UDP].sport, frame[UDP].dport) for frame in frames} == {(server.getsockname()[1], 40000)}


@pytest.mark.parametrize(
    "bodies",
    [
        [b"a" * 100, b"b" * 100, b"c" * 100],
        [b"a" * 100, b"b" * 100, b"c" * 40, b"d" * 100],
        [b"a" * 40, b"b" * 100],
        [b"a" * 100, b"", b"b" * 100, b"c" * 100],
        [bytes([number]) * 1472 for number in range(32)],
        [bytes([number]) * 1472 for number in range(50)],
        [b"a" * 60000, b"b" * 60000],
        [b"", b""],
    ],
)
def test_equal_answers_are_joined(server: socket.socket, bodies: list[bytes]) -> None:
    """Cut at the size that the frame says, they are the datagrams that were sent."""
    with Engine() as engine:
        engine.feed(to(server, b"hello"))
        engine.settle()
        engine.heard()
        _, peer = server.recvfrom(10)
        for body in bodies:
            server.sendto(body, peer)
        got: list[bytes] = []
        frames = 0

        def all_there() -> bool:
            nonlocal frames
            for frame in engine.link.sent:
                frames += 1
                size = int.from_bytes(frame[4:6], "little")
                body = frame[12 + 42 :]
                got.extend([body[at : at + size] for at in range(0, len(body), size)] if size else [body])
            engine.heard()
            return len(got) >= len(bodies)

        engine.until(all_there)
        assert got == bodies
        equal = len(set(map(len, bodies))) == 1 and 0 < len(bodies[0]) < 2000
        assert not equal or frames <= 1 + len(bodies) // 32


# -- errors


def test_a_closed_port_is_told_by_icmp(server: socket.socket) -> None:
    frame = to(server, b"anybody?")
    port = server.getsockname()[1]
    server.close()
    with Engine() as engine:
        engine.feed(frame)
        (answer,) = engine.until(engine.heard)
        assert (answer[ICMP].type, answer[ICMP].code) == (3, 3)
        assert (answer[UDPerror].sport, answer[UDPerror].dport) == (40000, port)
        assert engine.rests()
        assert engine.heard() == []


def test_a_datagram_behind_a_report_is_not_lost(server: socket.socket) -> None:
    """The kernel returns the report of the first in place of the result of the second (ip(7)): it is sent again."""
    port = server.getsockname()[1]
    frame = to(server, b"one")
    server.close()
    with Engine() as engine:
        engine.feed(frame)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(("127.0.0.1", port))
            again.settimeout(5)
            engine.link.put(bytes(12) + frame)
            engine.until(lambda: not engine.link.queue)
            engine.settle()
            assert again.recv(10) == b"one"


def test_silence_ends_a_flow(server: socket.socket) -> None:
    with Engine() as engine:
        engine.feed(to(server, b"hello"))
        engine.settle()
        (flow,) = engine.sink.table.all()
        descriptors = len(engine.sink.flows)
        engine.translator.sink.end_of_turn(flow.last_active + flow.timeout - 1)
        assert len(engine.sink.table) == 1
        engine.translator.sink.end_of_turn(flow.last_active + flow.timeout + 1)
        assert len(engine.sink.table) == 0
        assert len(engine.sink.flows) == descriptors - 1
        (end,) = engine.closed()
        assert (end.how, end.sent_bytes, end.received_bytes) == ("closed", 5, 0)
