"""engine.splice: real sockets on loopback on both sides of a published port, the guest's listener in this process."""

from __future__ import annotations

import errno
import os
import random
import resource
import select
import socket
import struct
from collections.abc import Iterator

import pytest

from bucatini.base.address import Endpoint, pack
from bucatini.base.events import FlowClosed
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.engine.splice import CONNECT_TIMEOUT, REST, StreamSplices
from support.engines import GUEST_HERE, PATIENCE, Engine, free_port, here

BODY = random.Random(5).randbytes(3 << 20)


class Joined:
    """An engine with one published TCP port, a client connected to it and the guest's end of the connection."""

    def __init__(self) -> None:
        self.port = free_port()
        self.listener = socket.create_server((GUEST_HERE, 0))
        self.listener.setblocking(False)
        self.engine = Engine([f"127.0.0.1:{self.port}:{self.listener.getsockname()[1]}"], **here())
        self.client = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        self.guest = self.accepted()
        self.client.setblocking(False)
        self.engine.settle()

    def accepted(self) -> socket.socket:
        self.engine.until(lambda: select.select([self.listener], [], [], 0)[0])
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        return sock

    def received(self, sock: socket.socket, count: int) -> bytes:
        """`count` bytes, or all until the end of the stream."""
        got = bytearray()

        def step() -> bool:
            try:
                data = sock.recv(1 << 20)
            except BlockingIOError:
                return False
            got.extend(data)
            return not data or len(got) >= count

        self.engine.until(step)
        return bytes(got)

    def close(self) -> None:
        for sock in (self.client, self.guest, self.listener):
            sock.close()
        self.engine.close()


@pytest.fixture
def joined() -> Iterator[Joined]:
    made = Joined()
    yield made
    made.close()


class TestStream:
    def test_the_guest_sees_the_peers_own_address(self, joined: Joined) -> None:
        """Not its port here: guest and peer share a namespace, where the peer holds it itself."""
        assert joined.guest.getpeername()[0] == joined.client.getsockname()[0]
        (event,) = joined.engine.opened()
        assert (str(event.peer), event.direction, event.rule) == (
            f"127.0.0.1:{joined.client.getsockname()[1]}",
            "ingress",
            "test",
        )

    def test_bulk_both_ways_at_once(self, joined: Joined) -> None:
        sent = {joined.client: 0, joined.guest: 0}
        got = {joined.client: bytearray(), joined.guest: bytearray()}

        def step() -> bool:
            for sock, done in list(sent.items()):
                if done < len(BODY):
                    try:
                        sent[sock] += sock.send(BODY[done : done + (1 << 18)])
                    except BlockingIOError:
                        pass
                try:
                    got[sock] += sock.recv(1 << 18)
                except BlockingIOError:
                    pass
            return all(len(data) >= len(BODY) for data in got.values())

        joined.engine.until(step)
        assert all(bytes(data) == BODY for data in got.values())
        joined.client.close()
        joined.guest.close()
        (end,) = joined.engine.until(joined.engine.closed)
        assert (end.how, end.sent_bytes, end.received_bytes) == ("closed", len(BODY), len(BODY))

    def test_half_close_leaves_the_other_half_open(self, joined: Joined) -> None:
        joined.client.send(b"question")
        joined.client.shutdown(socket.SHUT_WR)
        assert joined.received(joined.guest, 100) == b"question"
        joined.guest.send(b"late answer")
        assert joined.received(joined.client, 11) == b"late answer"
        assert joined.engine.closed() == []
        joined.guest.shutdown(socket.SHUT_WR)
        assert joined.received(joined.client, 1) == b""
        (end,) = joined.engine.until(joined.engine.closed)
        assert (end.how, end.sent_bytes, end.received_bytes) == ("closed", 11, 8)
        assert len(joined.engine.sink.table) == 0

    def test_what_was_sent_before_the_end_arrives(self, joined: Joined) -> None:
        joined.client.setblocking(True)
        joined.client.sendall(BODY[:100_000])
        joined.client.close()
        assert joined.received(joined.guest, 1 << 30) == BODY[:100_000]

    @pytest.mark.parametrize("who", ["client", "guest"])
    def test_a_reset_is_a_reset_for_the_other(self, joined: Joined, who: str) -> None:
        one, other = (joined.client, joined.guest) if who == "client" else (joined.guest, joined.client)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
        (end,) = joined.engine.until(joined.engine.closed)
        assert end.how == ("reset by peer" if who == "client" else "reset by guest")
        with pytest.raises(ConnectionResetError):
            joined.received(other, 1)

    def test_back_pressure(self, joined: Joined) -> None:
        """Who does not read stops who sends, and no byte is lost; meanwhile nothing spins."""
        sent = 0
        idle = 0
        while idle < 20:
            try:
                sent += joined.client.send(BODY[sent % (1 << 20) : sent % (1 << 20) + (1 << 16)])
                idle = 0
            except BlockingIOError:
                idle += 1
                joined.engine.turn(0.005)
            assert sent < 64 << 20
        assert joined.engine.rests()
        joined.client.shutdown(socket.SHUT_WR)
        got = joined.received(joined.guest, 1 << 40)
        assert len(got) == sent

    def test_the_end_of_the_engine_resets_both(self, joined: Joined) -> None:
        joined.client.send(b"x")
        joined.received(joined.guest, 1)
        joined.engine.close()
        for sock in (joined.client, joined.guest):
            sock.settimeout(PATIENCE)
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert [event.how for event in joined.engine.closed()] == ["engine stopped"]


def test_nobody_listens_in_the_guest() -> None:
    port, closed = free_port(), free_port(address=GUEST_HERE)
    with Engine([f"127.0.0.1:{port}:{closed}"], **here()) as engine:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            (end,) = engine.until(engine.closed)
            assert end.how in ("refused by peer", "reset by guest")
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert len(engine.sink.table) == 0


def test_the_peers_port_is_taken_in_the_guest() -> None:
    """Then the namespace chooses another: a connection from the same port to the same place exists there."""
    port = free_port()
    with socket.create_server((GUEST_HERE, 0)) as listener:
        place = listener.getsockname()
        with socket.socket() as holder, socket.socket() as client:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", 0))
            holder.connect(place)
            held, _ = listener.accept()
            with held, Engine([f"127.0.0.1:{port}:{place[1]}"], **here()) as engine:
                client.settimeout(PATIENCE)
                client.bind(holder.getsockname())
                client.connect(("127.0.0.1", port))
                listener.setblocking(False)
                engine.until(lambda: select.select([listener], [], [], 0)[0] or engine.closed())
                assert engine.closed() == []
                guest, peer = listener.accept()
                with guest:
                    assert peer != holder.getsockname()
                    client.send(b"hello")
                    engine.until(lambda: select.select([guest], [], [], 0)[0])
                    assert guest.recv(10) == b"hello"


class Entry:
    """A `SpliceEntry` whose answers the test chooses."""

    direction = EGRESS
    far_kind = "tcp4"
    guest = Endpoint(pack("10.0.0.1"), 80)
    keep_address = False
    spliced = True

    def __init__(self, *targets: socket.socket, **changed: object) -> None:
        self.targets = tuple(endpoint(target.getsockname()) for target in targets)
        self.rule: str | None = "the rule"
        self.asked: list[Endpoint] = []
        self.given: list[tuple[socket.socket, Endpoint]] = []
        for name, value in changed.items():
            setattr(self, name, value)

    def admit(self, peer: Endpoint) -> str | None:
        self.asked.append(peer)
        return self.rule

    def accepted(self, sock: socket.socket, peer: Endpoint, now: float) -> None:
        self.given.append((sock, peer))


class Splices:
    """The engine's parts around `StreamSplices`, and one listener of it."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.engine = Engine([f"127.0.0.1:{free_port()}:9"], **here())
        self.sink = self.engine.sink
        self.splices = StreamSplices(self.sink, self.engine.translator.guest_sockets)
        self.listener = server()
        self.splices.listen(self.listener, entry)

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.listener.getsockname(), timeout=PATIENCE)
        client.setblocking(False)
        return client

    def end(self) -> FlowClosed:
        (event,) = self.engine.until(self.engine.closed)
        assert len(self.sink.table) == 0
        return event

    def close(self) -> None:
        self.splices.close()
        self.engine.close()
        self.listener.close()


def server(backlog: int = 16) -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(backlog)
    sock.setblocking(False)
    return sock


def endpoint(name: tuple[str, int]) -> Endpoint:
    return Endpoint(pack(name[0]), name[1])


@pytest.fixture
def target() -> Iterator[socket.socket]:
    with server() as sock:
        yield sock


@pytest.fixture
def made() -> Iterator[list[Splices]]:
    """Whatever the test puts in is closed; nothing is left open."""
    before = set(os.listdir("/proc/self/fd"))
    kept: list[Splices] = []
    yield kept
    for each in kept:
        each.close()
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def outward(made: list[Splices], target: socket.socket) -> Splices:
    """A port of the guest's loopback that leads to `target` on the host's."""
    made.append(Splices(Entry(target)))
    return made[0]


def far_end(splices: Splices, target: socket.socket) -> socket.socket:
    splices.engine.until(lambda: select.select([target], [], [], 0)[0])
    sock, _ = target.accept()
    sock.setblocking(False)
    return sock


class TestOutward:
    def test_what_is_reported(self, outward: Splices, target: socket.socket) -> None:
        with outward.connect() as client, far_end(outward, target) as far:
            (event,) = outward.engine.opened()
            assert (event.protocol, event.direction, event.rule) == ("tcp", "egress", "the rule")
            assert (event.guest, event.peer, event.host) == tuple(
                endpoint(sock.getsockname()) for sock in (client, outward.listener, target)
            )
            assert outward.entry.asked == [event.guest]
            client.send(b"question")
            far.setblocking(True)
            outward.engine.until(lambda: select.select([far], [], [], 0)[0])
            assert far.recv(100) == b"question"
            far.send(b"the answer")
            outward.engine.until(lambda: select.select([client], [], [], 0)[0])
            assert client.recv(100) == b"the answer"
        end = outward.end()
        assert (end.how, end.sent_bytes, end.received_bytes, end.flow_id) == ("closed", 8, 10, event.flow_id)

    def test_a_wildcard_listener_is_reported_as_loopback(self, made: list[Splices], target: socket.socket) -> None:
        made.append(splices := Splices(Entry(target)))
        with socket.socket() as wide:
            wide.bind(("", 0))
            wide.listen()
            wide.setblocking(False)
            splices.splices.listen(wide, splices.entry)
            with socket.create_connection(("127.0.0.2", wide.getsockname()[1]), timeout=PATIENCE):
                splices.engine.until(splices.engine.opened)
            assert str(splices.engine.opened()[0].peer) == f"127.0.0.1:{wide.getsockname()[1]}"
            splices.splices.unlisten(wide)

    @pytest.mark.parametrize("who", ["guest", "peer"])
    def test_who_resets(self, outward: Splices, target: socket.socket, who: str) -> None:
        with outward.connect() as client, far_end(outward, target) as far:
            one = client if who == "guest" else far
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
            assert outward.end().how == f"reset by {who}"

    def test_refused(self, outward: Splices, target: socket.socket) -> None:
        target.close()
        with outward.connect() as client:
            assert outward.end().how == "refused by peer"
            with pytest.raises(ConnectionResetError):
                client.recv(1)

    def test_targets_are_tried_in_order(self, made: list[Splices], target: socket.socket) -> None:
        with server() as closed:
            entry = Entry(closed, target)
        made.append(splices := Splices(entry))
        with splices.connect(), far_end(splices, target):
            assert splices.engine.closed() == []

    def test_a_handshake_that_is_swallowed(self, made: list[Splices]) -> None:
        """Its queue is full: the kernel over there takes no SYN."""
        with server(0) as full, socket.create_connection(full.getsockname(), timeout=PATIENCE):
            made.append(splices := Splices(Entry(full)))
            with splices.connect() as client:
                splices.engine.until(splices.engine.opened)
                splices.engine.settle()
                assert splices.engine.closed() == []
                splices.sink.end_of_turn(splices.sink.now + CONNECT_TIMEOUT + 0.01)
                assert splices.end().how == "refused by peer"
                with pytest.raises(ConnectionResetError):
                    client.recv(1)

    def test_a_handshake_that_is_over_is_left_alone(self, outward: Splices, target: socket.socket) -> None:
        with outward.connect(), far_end(outward, target):
            outward.sink.end_of_turn(outward.sink.now + 10 * CONNECT_TIMEOUT)
            assert outward.engine.closed() == []

    def test_the_source(self, made: list[Splices], target: socket.socket) -> None:
        """Another address than the guest's would not be let in by a server that looks at it."""
        made.append(splices := Splices(Entry(target, keep_address=True)))
        with socket.socket() as client:
            client.settimeout(PATIENCE)
            client.bind(("127.0.0.77", 0))
            client.connect(splices.listener.getsockname())
            with far_end(splices, target) as far:
                assert far.getpeername()[0] == "127.0.0.77"


def test_it_never_connects_to_itself(made: list[Splices]) -> None:
    """A client that comes from the port it goes to, and nobody listens over there."""
    with server() as closed:
        nobody = closed.getsockname()
        entry = Entry(closed, keep_address=True)
    made.append(splices := Splices(entry))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.settimeout(PATIENCE)
        client.bind(nobody)
        client.connect(splices.listener.getsockname())
        assert splices.end().how == "refused by peer"


def test_who_is_not_let_in_is_reset(outward: Splices) -> None:
    outward.entry.rule = None
    with outward.connect() as client:
        outward.engine.until(lambda: outward.entry.asked)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert outward.engine.events == []
    assert len(outward.sink.table) == 0


def test_what_is_not_spliced_is_given_away(outward: Splices) -> None:
    outward.entry.spliced = False
    with outward.connect() as client:
        outward.engine.until(lambda: outward.entry.given)
        ((sock, peer),) = outward.entry.given
        with sock:
            assert peer == endpoint(client.getsockname())
            assert not sock.getblocking()
            sock.send(b"mine now")
            assert client.recv(100) == b"mine now"
    assert outward.entry.asked == []


def test_without_listeners_for_flows_nothing_is_told(outward: Splices, target: socket.socket) -> None:
    outward.sink.flow_events = False
    with outward.connect(), far_end(outward, target):
        assert len(outward.sink.table) == 1
    outward.engine.until(lambda: not len(outward.sink.table))
    assert outward.engine.events == []


def test_no_socket_in_the_guest(made: list[Splices], target: socket.socket) -> None:
    """Its agent is gone."""
    made.append(splices := Splices(Entry(target, direction=INGRESS)))
    splices.engine.answers = False
    splices.engine.agent.close()
    stock = splices.engine.translator.guest_sockets
    while (taken := stock.take("tcp4")) is not None:
        taken.close()
    with splices.connect() as client:
        assert splices.end().how == "failed"
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_listener_rests_when_there_is_no_descriptor(outward: Splices, target: socket.socket) -> None:
    client = outward.connect()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        for _ in range(5):
            outward.engine.turn()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert outward.engine.drops()["sockets-exhausted"] == 1
    outward.engine.settle()
    assert outward.engine.opened() == []
    outward.sink.end_of_turn(outward.sink.now + REST + 0.01)
    with client, far_end(outward, target):
        assert len(outward.engine.opened()) == 1


def test_a_listener_that_goes_while_it_rests_stays_away(outward: Splices) -> None:
    outward.splices.exhausted(outward.splices._listeners[outward.listener.fileno()], errno.EMFILE)
    outward.splices.unlisten(outward.listener)
    outward.sink.end_of_turn(outward.sink.now + REST + 0.01)
    with outward.connect():
        outward.engine.settle()
    assert outward.entry.asked == []


def test_streams_live_on_without_their_listener(outward: Splices, target: socket.socket) -> None:
    with outward.connect() as client, far_end(outward, target) as far:
        outward.splices.unlisten(outward.listener)
        outward.splices.unlisten(outward.listener)
        client.send(b"still here")
        outward.engine.until(lambda: select.select([far], [], [], 0)[0])
        assert far.recv(100) == b"still here"


def test_the_engine_stops(outward: Splices, target: socket.socket) -> None:
    with outward.connect() as client, far_end(outward, target) as far:
        outward.splices.close()
        outward.splices.close()
        assert outward.engine.closed() == []
        outward.engine.close()
        assert [event.how for event in outward.engine.closed()] == ["engine stopped"]
        for sock in (client, far):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
