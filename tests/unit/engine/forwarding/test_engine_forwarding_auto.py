"""engine.forwarding.auto: scans that are written down, ports that are really opened."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator

import pytest

from bucatini.base.errors import HostError
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.engine.forwarding import Publisher
from bucatini.engine.forwarding.auto import INTERVAL, RETRY, Automatic
from bucatini.forward.portspec import Forward
from bucatini.host.port_scan import BoundPorts
from support.engines import Engine, free_port, here

NOTHING = BoundPorts(frozenset(), frozenset())


class Scan:
    """What the namespace holds is `found`; `parts` advances come before the answer. An exception is raised."""

    def __init__(self) -> None:
        self.found: BoundPorts | HostError = NOTHING
        self.parts: deque[None] = deque()
        self.begun = 0
        self.closed = False

    def begin(self) -> None:
        self.begun += 1

    def advance(self) -> BoundPorts | None:
        if self.parts:
            return self.parts.popleft()
        if isinstance(self.found, HostError):
            raise self.found
        return self.found

    def close(self) -> None:
        self.closed = True


class Desk:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.publisher: Publisher = engine.translator.publisher
        self.host, self.guest = Scan(), Scan()
        self.auto = Automatic(self.publisher, lambda: self.host, lambda: self.guest)  # type: ignore[arg-type,return-value]
        self.publisher.auto = self.auto

    def look(self) -> list[tuple[str, int, int]]:
        self.auto.due(self.engine.sink.now)
        return [(each.direction, each.protocol, each.host_port) for each in self.publisher.forwards()]


@pytest.fixture
def desk() -> Iterator[Desk]:
    with Engine([f"127.0.0.1:{free_port()}:1"], **here()) as engine:
        (first,) = engine.translator.publisher.forwards()
        engine.translator.publisher.remove(first)
        yield Desk(engine)


def bound(tcp: tuple[int, ...] = (), udp: tuple[int, ...] = ()) -> BoundPorts:
    return BoundPorts(frozenset(tcp), frozenset(udp))


def test_ports_open_and_close(desk: Desk) -> None:
    port, other = free_port(), free_port(socket.SOCK_DGRAM)
    desk.auto.enable(6, INGRESS)
    desk.guest.found = bound((port,), (other,))
    assert desk.look() == [(INGRESS, 6, port)]
    assert desk.publisher.is_automatic(desk.publisher.forwards()[0])
    desk.auto.enable(17, INGRESS)
    assert desk.look() == [(INGRESS, 6, port), (INGRESS, 17, min(port, other)), (INGRESS, 17, max(port, other))]
    desk.guest.found = NOTHING
    assert desk.look() == []


def test_what_we_listen_on_over_there_is_left_alone(desk: Desk) -> None:
    port = free_port()
    desk.publisher.add(Forward(6, None, port, port, EGRESS))
    desk.auto.enable(6, INGRESS)
    desk.guest.found = bound((port,))
    assert desk.look() == [(EGRESS, 6, port)]


def test_a_port_that_is_taken_is_tried_again(desk: Desk) -> None:
    desk.auto.enable(6, INGRESS)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        desk.guest.found = bound((port,))
        assert desk.look() == []
    assert desk.look() == []
    desk.engine.sink.now += RETRY
    assert desk.look() == [(INGRESS, 6, port)]


def test_an_explicit_forward_stays(desk: Desk) -> None:
    port = free_port()
    explicit = Forward(6, None, port, 99)
    desk.publisher.add(explicit)
    desk.auto.enable(6, INGRESS)
    desk.guest.found = bound((port,))
    desk.look()
    desk.guest.found = NOTHING
    desk.look()
    assert desk.publisher.forwards() == [explicit]
    assert not desk.publisher.is_automatic(explicit)


def test_switched_off(desk: Desk) -> None:
    port = free_port()
    desk.auto.enable(6, INGRESS)
    desk.auto.enable(17, INGRESS)
    desk.guest.found = bound((port,))
    assert len(desk.look()) == 2
    assert desk.publisher.manual(6, INGRESS) is True
    assert desk.publisher.manual(6, INGRESS) is False
    assert desk.look() == [(INGRESS, 17, port)]
    assert desk.publisher.manual(17, INGRESS) is True
    assert desk.guest.closed
    assert desk.look() == []


def test_a_long_scan_is_read_in_parts(desk: Desk) -> None:
    port = free_port()
    desk.auto.enable(6, INGRESS)
    desk.guest.found = bound((port,))
    desk.guest.parts.extend([None, None])
    desk.auto.start()
    now = desk.engine.sink.now
    for expected in ([], []):
        assert desk.look() == expected
        assert desk.auto.deadline == now
    assert desk.look() == [(INGRESS, 6, port)]
    assert desk.auto.deadline == now + INTERVAL


def test_a_scan_that_fails_leaves_what_is_open(desk: Desk) -> None:
    port = free_port()
    desk.auto.enable(6, INGRESS)
    desk.guest.found = bound((port,))
    desk.look()
    desk.guest.found = HostError("no")
    assert desk.look() == [(INGRESS, 6, port)]
    assert desk.auto.failures == 1


def test_it_runs_by_itself_once_started(desk: Desk) -> None:
    desk.auto.enable(6, INGRESS)
    desk.auto.start()
    desk.engine.until(lambda: desk.guest.begun >= 2)
    desk.auto.close()
    assert desk.guest.closed


def test_many_are_bounded_and_counted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bucatini.engine.forwarding.auto.DEFAULT_LIMIT", 2)
    ports = sorted({free_port() for _ in range(5)})
    desk.auto.enable(6, INGRESS)
    desk.guest.found = bound(tuple(ports))
    assert [port for _, _, port in desk.look()] == ports[:2]
    assert desk.auto.dropped == len(ports) - 2


def test_both_protocols_from_the_real_kernel() -> None:
    """One namespace is guest and host here: what listens is ours by then, and nothing is opened twice."""
    with Engine([f"127.0.0.1:{free_port()}:1"], **here()) as engine:
        publisher = engine.translator.publisher
        publisher.automatic(6, EGRESS)
        publisher.automatic(6, INGRESS)
        assert publisher.auto is not None
        engine.until(lambda: publisher.auto.deadline > engine.sink.now)
        assert publisher.auto.failures == 0
