"""One suite for both twins of the splicer: real sockets on loopback at all four ends, everything in this process."""

from __future__ import annotations

import errno
import importlib
import os
import random
import resource
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucatini.native import slow_splices

PATIENCE = 10.0
HERE = bytes((127, 0, 0, 1))
HERE6 = bytes(15) + b"\x01"
BODY = random.Random(9).randbytes(4 << 20)


def fast_or_none() -> ModuleType | None:
    try:
        return importlib.import_module("bucatini.native.fast_splices")
    except ImportError:
        return None


FAST = fast_or_none()
NOT_BUILT = pytest.mark.skipif(FAST is None, reason="native.fast_splices is not built")
TWINS = [pytest.param(slow_splices, id="slow"), pytest.param(FAST, id="fast", marks=NOT_BUILT)]


@pytest.mark.skipif(os.environ.get("BUCATINI_TEST_FORM") != "compiled", reason="the compiled form is not asked for")
def test_fast_is_there_when_the_compiled_form_is_under_test() -> None:
    assert FAST is not None


class Owner:
    """Splices whatever arrives to `target`; keeps what it is told. `twin` is the module under test."""

    def __init__(self, twin: Any, family: int = socket.AF_INET) -> None:
        self.twin = twin
        self.address = HERE if family == socket.AF_INET else HERE6
        self.splicer = twin.Splicer(self)
        self.listener = self.bound(family)
        self.server = self.bound(family)
        self.target = (self.address, self.server.getsockname()[1])
        self.source: bytes | None = None
        self.arrivals: list[tuple[Any, bytes, int]] = []
        self.pairs: list[Any] = []
        self.endings: list[int] = []
        self.errors: list[int] = []
        self.complaints: list[int] = []
        self.bugs: list[Exception] = []
        self.open: list[socket.socket] = []
        self.splicer.listen(self.listener.fileno(), "key")

    def bound(self, family: int, backlog: int = 64) -> socket.socket:
        sock = socket.socket(family)
        sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        sock.listen(backlog)
        sock.setblocking(False)
        return sock

    # -- the splicer's owner

    def arrived(self, key: Any, fd: int, address: bytes, port: int) -> None:
        self.arrivals.append((key, address, port))
        pair = self.twin.Pair()
        self.pairs.append(pair)
        self.splicer.adopt(pair, fd)
        error = self.splicer.reach(pair, -1, self.target, self.source)
        if error:
            self.unreached(pair, error)

    def unreached(self, pair: Any, error: int) -> None:
        self.errors.append(error)
        self.splicer.end(pair, True)

    def ended(self, pair: Any, how: int) -> None:
        assert not pair.live
        self.endings.append(how)

    def exhausted(self, key: Any, error: int) -> None:
        self.complaints.append(error)

    def bug(self, error: Exception) -> None:
        self.bugs.append(error)

    # -- the test's side

    def until(self, done: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE
        while not (result := done()):
            assert time.monotonic() < end, "nothing happened"
            if not self.splicer.turn():
                select.select([self.splicer], [], [], 0.005)
        return result

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.listener.getsockname()[:2], timeout=PATIENCE)
        client.setblocking(False)
        self.open.append(client)
        return client

    def accept(self) -> socket.socket:
        self.until(lambda: select.select([self.server], [], [], 0)[0])
        sock, self.seen = self.server.accept()
        sock.setblocking(False)
        self.open.append(sock)
        return sock

    def joined(self) -> tuple[socket.socket, socket.socket]:
        client = self.connect()
        return client, self.accept()

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

        self.until(step)
        return bytes(got)

    def rests(self) -> bool:
        """After what is under way has come to an end there is nothing to do."""
        return any(not self.splicer.turn() and not select.select([self.splicer], [], [], 0.02)[0] for _ in range(50))

    def close(self) -> None:
        self.splicer.close()
        assert not self.bugs
        for sock in (self.listener, self.server, *self.open):
            sock.close()


@pytest.fixture(params=TWINS)
def twin(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def owner(twin: Any) -> Iterator[Owner]:
    before = set(os.listdir("/proc/self/fd"))
    made = Owner(twin)
    yield made
    made.close()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_what_arrives_is_told(owner: Owner) -> None:
    client, _ = owner.joined()
    assert owner.arrivals == [("key", HERE, client.getsockname()[1])]
    assert len(owner.splicer) == 1
    assert (owner.pairs[0].live, owner.pairs[0].connected) == (True, True)


def test_ipv6(twin: Any) -> None:
    owner = Owner(twin, socket.AF_INET6)
    try:
        client, server = owner.joined()
        assert owner.arrivals == [("key", HERE6, client.getsockname()[1])]
        client.send(b"six")
        assert owner.received(server, 3) == b"six"
    finally:
        owner.close()


def test_what_is_there_before_the_connection_is_accepted_is_carried(owner: Owner) -> None:
    client = owner.connect()
    client.send(b"early")
    client.shutdown(socket.SHUT_WR)
    server = owner.accept()
    assert owner.received(server, 100) == b"early"
    server.close()
    owner.until(lambda: owner.endings)
    assert owner.endings == [owner.twin.CLOSED]
    assert (owner.pairs[0].onward, owner.pairs[0].back) == (5, 0)


def test_a_server_that_speaks_first(owner: Owner) -> None:
    client, server = owner.joined()
    server.send(b"220 hello")
    assert owner.received(client, 9) == b"220 hello"


def test_half_close(owner: Owner) -> None:
    client, server = owner.joined()
    client.send(b"question")
    client.shutdown(socket.SHUT_WR)
    assert owner.received(server, 100) == b"question"
    server.send(b"answer")
    assert owner.received(client, 6) == b"answer"
    assert owner.pairs[0].live
    server.close()
    assert owner.received(client, 1) == b""
    owner.until(lambda: owner.endings)
    assert owner.endings == [owner.twin.CLOSED]
    assert (owner.pairs[0].onward, owner.pairs[0].back, len(owner.splicer)) == (8, 6, 0)


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_is_passed_on(owner: Owner, who: str) -> None:
    client, server = owner.joined()
    one, other = (client, server) if who == "client" else (server, client)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
    owner.until(lambda: owner.endings)
    assert owner.endings == [owner.twin.NEAR_RESET if who == "client" else owner.twin.FAR_RESET]
    with pytest.raises(ConnectionResetError):
        other.recv(1)


@pytest.mark.parametrize("who", ["client", "server"])
def test_who_closes_without_reading_resets(owner: Owner, who: str) -> None:
    """The kernel answers bytes for a socket that nobody has with RST (RFC 1122 4.2.2.13): the writer learns of it."""
    client, server = owner.joined()
    one, other = (client, server) if who == "client" else (server, client)
    one.close()

    def written() -> bool:
        try:
            other.send(b"x" * 1000)
        except ConnectionError:
            return True
        return False

    owner.until(written)
    assert owner.until(lambda: owner.endings) == [owner.twin.NEAR_RESET if who == "client" else owner.twin.FAR_RESET]


def test_bulk_both_ways_at_once(owner: Owner) -> None:
    ends = owner.joined()
    sent = dict.fromkeys(ends, 0)
    got = {sock: bytearray() for sock in ends}

    def step() -> bool:
        for sock in ends:
            try:
                sent[sock] += sock.send(BODY[sent[sock] : sent[sock] + (1 << 18)])
                got[sock] += sock.recv(1 << 18)
            except BlockingIOError:
                pass
        return all(len(data) == len(BODY) for data in got.values())

    owner.until(step)
    assert all(bytes(data) == BODY for data in got.values())
    assert (owner.pairs[0].onward, owner.pairs[0].back) == (len(BODY), len(BODY))


@pytest.mark.parametrize("size", [100, 65536, 200_000])
def test_back_pressure(owner: Owner, size: int) -> None:
    """Who does not read stops who writes, nothing spins meanwhile, and no byte is lost."""
    client, server = owner.joined()
    sent = idle = 0
    while idle < 20:
        try:
            sent += client.send(BODY[sent % 1000 : sent % 1000 + size])
            idle = 0
        except BlockingIOError:
            idle += 1
            owner.splicer.turn()
            select.select([owner.splicer], [], [], 0.005)
        assert sent < 64 << 20
    assert owner.rests()
    client.shutdown(socket.SHUT_WR)
    assert len(owner.received(server, 1 << 40)) == sent
    server.close()
    assert owner.until(lambda: owner.endings) == [owner.twin.CLOSED]
    assert owner.pairs[0].onward == sent


def test_a_pair_that_ends_while_bytes_wait_frees_everything(owner: Owner) -> None:
    client, server = owner.joined()
    for _ in range(200):
        try:
            client.send(BODY[:100_000])
        except BlockingIOError:
            owner.splicer.turn()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    assert owner.until(lambda: owner.endings) == [owner.twin.FAR_RESET]
    assert owner.rests()


@pytest.mark.parametrize("who", ["client", "server"])
def test_urgent_bytes_stay_in_the_stream(owner: Owner, who: str) -> None:
    client, server = owner.joined()
    one, other = (client, server) if who == "client" else (server, client)
    one.send(b"before")
    one.send(b"!", socket.MSG_OOB)
    one.send(b"after")
    assert owner.received(other, 12) == b"before!after"
    one.send(b"!", socket.MSG_OOB)
    assert owner.received(other, 1) == b"!"
    assert owner.rests()


@pytest.mark.parametrize("behind", [300_000, 1000, 0])
def test_an_urgent_byte_behind_many(owner: Owner, behind: int) -> None:
    client, server = owner.joined()
    wanted = BODY[:300_000] + b"!" + BODY[:behind]
    parts = [(BODY[:300_000], 0), (b"!", socket.MSG_OOB), (BODY[:behind], 0)]
    got = bytearray()

    def step() -> bool:
        try:
            if parts:
                data, flags = parts.pop(0)
                sent = client.send(data, flags)
                if sent < len(data):
                    parts.insert(0, (data[sent:], flags))
                elif not parts:
                    client.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            parts.insert(0, (data, flags))
        try:
            got.extend(server.recv(1 << 20))
        except BlockingIOError:
            pass
        return len(got) >= len(wanted)

    owner.until(step)
    assert got == wanted
    assert owner.received(server, 1) == b""


def test_an_urgent_byte_that_is_there_before_the_connection_is_accepted(owner: Owner) -> None:
    client = owner.connect()
    client.send(b"be")
    client.send(b"!", socket.MSG_OOB)
    client.send(b"fore")
    client.shutdown(socket.SHUT_WR)
    assert owner.received(owner.accept(), 100) == b"be!fore"


def test_nothing_waits_for_more(owner: Owner) -> None:
    """Two small writes each way, neither answered in between: Nagle's algorithm would hold the second for 40 ms."""
    client, server = owner.joined()
    for sock in (client, server):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    slow = 0
    for _ in range(40):
        begun = time.monotonic()
        for one, other in ((client, server), (server, client)):
            one.send(b"a")
            owner.until(lambda other=other: select.select([other], [], [], 0)[0])
            one.send(b"b")
            got = b""
            while len(got) < 2:
                got += owner.received(other, 1)
            assert got == b"ab"
        slow += time.monotonic() - begun > 0.035
    assert slow < 20


def test_the_source(owner: Owner) -> None:
    owner.source = bytes((127, 0, 0, 77))
    owner.joined()
    assert owner.seen is not None
    assert owner.seen[0] == "127.0.0.77"


def test_a_source_that_cannot_be_had_is_done_without(owner: Owner) -> None:
    owner.source = bytes((198, 51, 100, 77))
    client, server = owner.joined()
    assert owner.seen is not None
    assert owner.seen[0] == "127.0.0.1"
    client.send(b"x")
    assert owner.received(server, 1) == b"x"


class TestReach:
    def test_refused(self, owner: Owner) -> None:
        owner.server.close()
        client = owner.connect()
        owner.until(lambda: owner.errors)
        assert owner.errors == [errno.ECONNREFUSED]
        with pytest.raises(ConnectionResetError):
            client.recv(1)

    def test_a_second_target(self, owner: Owner) -> None:
        """What the client has sent meanwhile is not lost."""
        target, owner.target = owner.target, (HERE, 1)
        owner.unreached = lambda pair, error: owner.splicer.reach(pair, -1, target)  # type: ignore[method-assign]
        client = owner.connect()
        client.send(b"to whom it may concern")
        assert owner.received(owner.accept(), 22) == b"to whom it may concern"

    def test_a_socket_that_is_given(self, owner: Owner) -> None:
        far = socket.socket()
        far.setblocking(False)
        far.bind(("127.0.0.5", 0))
        client = owner.connect()
        pair = owner.twin.Pair()
        owner.arrived = lambda key, fd, address, port: owner.splicer.adopt(pair, fd)  # type: ignore[method-assign]
        owner.until(lambda: pair.live)
        assert owner.splicer.reach(pair, far.detach(), owner.target) == 0
        server = owner.accept()
        assert owner.seen[0] == "127.0.0.5"
        client.send(b"x")
        assert owner.received(server, 1) == b"x"

    def test_a_handshake_that_takes_long(self, owner: Owner) -> None:
        """The server's queue is full: the kernel there drops the SYN, and it comes again after a second."""
        full = owner.bound(socket.AF_INET, 0)
        owner.open.append(full)
        owner.target = (HERE, full.getsockname()[1])
        with socket.create_connection(full.getsockname(), timeout=PATIENCE):
            client = owner.connect()
            client.send(b"patient")
            (pair,) = owner.until(lambda: owner.pairs)
            assert not pair.connected
            assert owner.rests()
            full.accept()[0].close()
            owner.until(lambda: pair.connected)
            server, _ = full.accept()
            owner.open.append(server)
            server.setblocking(False)
            assert owner.received(server, 7) == b"patient"

    def test_a_handshake_that_fails_in_the_end(self, owner: Owner) -> None:
        full = owner.bound(socket.AF_INET, 0)
        owner.target = (HERE, full.getsockname()[1])
        with socket.create_connection(full.getsockname(), timeout=PATIENCE):
            owner.connect()
            owner.until(lambda: owner.pairs)
            full.close()
            assert owner.until(lambda: owner.errors) == [errno.ECONNREFUSED]
        assert not owner.pairs[0].live

    def test_misuse(self, owner: Owner) -> None:
        owner.joined()
        (pair,) = owner.pairs
        with pytest.raises(ValueError, match="used once"):
            owner.splicer.adopt(pair, 0)
        with pytest.raises(ValueError, match="open already"):
            owner.splicer.reach(pair, -1, owner.target)
        with pytest.raises(ValueError, match="open already, or none"):
            owner.splicer.reach(owner.twin.Pair(), -1, owner.target)


class TestListener:
    def test_unlisten(self, owner: Owner) -> None:
        client, server = owner.joined()
        owner.splicer.unlisten(owner.listener.fileno())
        owner.splicer.unlisten(owner.listener.fileno())
        owner.connect()
        assert owner.rests()
        assert len(owner.arrivals) == 1
        client.send(b"lives on")
        assert owner.received(server, 8) == b"lives on"
        owner.splicer.listen(owner.listener.fileno(), "again")
        owner.until(lambda: len(owner.arrivals) == 2)
        assert owner.arrivals[1][0] == "again"

    def test_unlisten_while_accepting(self, owner: Owner) -> None:
        fd = owner.listener.fileno()
        taken: list[int] = []

        def arrived(key: Any, near: int, address: bytes, port: int) -> None:
            taken.append(port)
            os.close(near)
            owner.splicer.unlisten(fd)

        owner.arrived = arrived  # type: ignore[method-assign]
        owner.connect()
        owner.connect()
        owner.until(lambda: taken)
        assert owner.rests()
        assert len(taken) == 1

    def test_no_descriptor_left(self, owner: Owner) -> None:
        owner.connect()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            owner.splicer.turn()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert owner.complaints
        assert set(owner.complaints) == {errno.EMFILE}
        assert owner.arrivals == []
        owner.accept()


def test_pipes_are_kept_for_reuse_and_only_so_many(owner: Owner) -> None:
    assert owner.splicer.idle_pipes == 0
    before = len(os.listdir("/proc/self/fd"))
    ends = [owner.joined() for _ in range(owner.twin.IDLE_PIPES + 3)]
    for client, _ in ends:
        client.send(BODY[:150_000])
    for _, server in ends:
        assert owner.received(server, 150_000) == BODY[:150_000]
        server.close()
    for client, _ in ends:
        client.close()
    owner.until(lambda: len(owner.endings) == len(ends))
    assert 0 < owner.splicer.idle_pipes <= owner.twin.IDLE_PIPES
    assert len(os.listdir("/proc/self/fd")) == before + 2 * owner.splicer.idle_pipes


def test_a_turn_has_an_end(owner: Owner) -> None:
    """Who sends without end does not keep the others waiting; `turn` says that it wants to go on."""
    client, server = owner.joined()
    other, other_server = owner.joined()
    pid = os.fork()
    if pid == 0:  # The server reads as fast as it can, so that there is always room.
        try:
            server.setblocking(True)
            while server.recv(1 << 20):
                pass
        finally:
            os._exit(0)
    writer = os.fork()
    if writer == 0:
        try:
            client.setblocking(True)
            while True:
                client.send(BODY)
        except OSError:
            pass
        finally:
            os._exit(0)
    try:
        owner.until(lambda: owner.pairs[0].onward > 8 << 20)
        for _ in range(20):
            begun = time.monotonic()
            other.send(b"x")
            assert owner.received(other_server, 1) == b"x"
            assert time.monotonic() - begun < 1
    finally:
        owner.splicer.end(owner.pairs[0], True)
        for child in (pid, writer):
            os.kill(child, 9)
            os.waitpid(child, 0)


def test_the_owner_may_end_any_pair_when_it_is_told_of_one(owner: Owner) -> None:
    """Events of a pair that is gone are nobody's, whoever has its descriptor by then."""
    ends = [owner.joined() for _ in range(8)]

    def ended(pair: Any, how: int) -> None:
        for each in owner.pairs:
            if each.live:
                owner.splicer.end(each, True)
                owner.endings.append(how)
        owner.endings.append(how)

    owner.ended = ended  # type: ignore[method-assign]
    for client, server in ends:
        client.close()
        server.close()
    owner.until(lambda: owner.endings)
    assert len(owner.endings) == 8
    assert len(owner.splicer) == 0
    client, server = owner.joined()
    client.send(b"x")
    assert owner.received(server, 1) == b"x"


def test_an_error_of_the_owners_strikes_one(owner: Owner) -> None:
    """What else happened in that turn is served: it is reported only once."""
    ends = [owner.joined() for _ in range(6)]

    def ended(pair: Any, how: int) -> None:
        raise RuntimeError("a bug")

    owner.ended = ended  # type: ignore[method-assign]
    for client, server in ends[::2]:
        client.close()
        server.close()
    for client, _ in ends[1::2]:
        client.send(b"x")
    for _, server in ends[1::2]:
        assert owner.received(server, 1) == b"x"
    owner.until(lambda: len(owner.bugs) == 3)
    owner.bugs.clear()
    assert len(owner.splicer) == 3


def test_close_resets_what_lives(owner: Owner) -> None:
    client, server = owner.joined()
    owner.splicer.close()
    for sock in (client, server):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert owner.endings == []
    assert not owner.pairs[0].live


def test_pairs_can_be_subclassed(owner: Owner) -> None:
    class Named(owner.twin.Pair):  # type: ignore[misc]
        __slots__ = ("name",)

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    pair = Named("x")
    assert (pair.name, pair.live, pair.onward, pair.back, pair.connected) == ("x", False, 0, 0, False)
    with pytest.raises(AttributeError):
        pair.other = 1


CHUNKS = st.lists(st.tuples(st.booleans(), st.integers(1, 300_000)), max_size=12)


@pytest.mark.parametrize("module", TWINS)
@settings(max_examples=15, deadline=None)
@given(CHUNKS, st.booleans(), st.randoms(use_true_random=False))
def test_any_conversation_arrives_whole(
    module: Any, chunks: list[tuple[bool, int]], client_first: bool, chance: random.Random
) -> None:
    """Whatever is said in whatever pieces, and read in whatever pieces: the same bytes in the same order."""
    owner = Owner(module)
    try:
        ends = owner.joined()
        wanted = [bytearray(), bytearray()]
        queues: list[bytearray] = [bytearray(), bytearray()]
        got = [bytearray(), bytearray()]
        for by_client, size in chunks:
            data = BODY[size : size + size]
            queues[0 if by_client else 1] += data
            wanted[1 if by_client else 0] += data
        shut = [False, False]

        def step() -> bool:
            for index, sock in enumerate(ends):
                if queues[index] and chance.random() < 0.8:
                    try:
                        sent = sock.send(queues[index][: chance.randrange(1, 150_000)])
                        del queues[index][:sent]
                    except BlockingIOError:
                        pass
                elif not queues[index] and not shut[index]:
                    sock.shutdown(socket.SHUT_WR)
                    shut[index] = True
                if chance.random() < 0.8:
                    try:
                        got[index] += sock.recv(chance.randrange(1, 200_000))
                    except BlockingIOError:
                        pass
            return bool(owner.endings) and all(len(got[i]) == len(wanted[i]) for i in (0, 1))

        owner.until(step)
        assert got == wanted
        assert owner.endings == [module.CLOSED]
        assert (owner.pairs[0].onward, owner.pairs[0].back) == (len(wanted[1]), len(wanted[0]))
        assert owner.splicer.idle_pipes <= 2
    finally:
        owner.close()
