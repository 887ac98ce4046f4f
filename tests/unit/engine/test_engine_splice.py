"""engine.splice: real sockets on loopback on both sides of a published port, the guest's listener in this process."""

from __future__ import annotations

import os
import random
import select
import socket
import struct
from collections.abc import Iterator

import pytest

from bucatini.engine.splice import IDLE_PIPES, PipePool
from support.engines import GUEST_HERE, PATIENCE, Engine, free_port, here

BODY = random.Random(5).randbytes(3 << 20)


class TestPipePool:
    def test_a_pipe_is_used_again(self) -> None:
        pool = PipePool()
        first = pool.take()
        pool.give(first, empty=True)
        assert pool.take() == first
        pool.give(first, empty=True)
        pool.close()
        with pytest.raises(OSError):
            os.fstat(first[0])

    def test_a_pipe_with_bytes_in_it_is_not(self) -> None:
        pool = PipePool()
        ends = pool.take()
        os.write(ends[1], b"left over")
        pool.give(ends, empty=False)
        for end in ends:
            with pytest.raises(OSError):
                os.fstat(end)
        fresh = pool.take()
        with pytest.raises(BlockingIOError):
            os.read(fresh[0], 1)
        pool.give(fresh, empty=True)
        pool.close()

    def test_pipes_do_not_block_and_are_not_inherited(self) -> None:
        pool = PipePool()
        ends = pool.take()
        assert [os.get_blocking(end) for end in ends] == [False, False]
        assert [os.get_inheritable(end) for end in ends] == [False, False]
        pool.give(ends, empty=True)
        pool.close()

    def test_only_so_many_are_kept(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        pool = PipePool()
        taken = [pool.take() for _ in range(IDLE_PIPES + 10)]
        for ends in taken:
            pool.give(ends, empty=True)
        assert len(os.listdir("/proc/self/fd")) == before + 2 * IDLE_PIPES
        pool.close()
        assert len(os.listdir("/proc/self/fd")) == before


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

    def test_pipes_go_back_to_the_pool(self, joined: Joined) -> None:
        pool = joined.engine.translator.publisher.pipes
        joined.client.send(b"x")
        joined.received(joined.guest, 1)
        joined.client.close()
        joined.guest.close()
        joined.engine.until(joined.engine.closed)
        kept = list(pool._idle)
        assert len(kept) == 2
        joined.client = socket.create_connection(("127.0.0.1", joined.port), timeout=PATIENCE)
        joined.guest = joined.accepted()
        joined.client.send(b"y")
        assert joined.received(joined.guest, 1) == b"y"
        assert pool._idle == []

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


class TestDatagrams:
    @pytest.fixture
    def guest(self) -> Iterator[socket.socket]:
        """A server on the guest's loopback."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("", 0))
            sock.settimeout(PATIENCE)
            yield sock

    @pytest.fixture
    def client(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.settimeout(PATIENCE)
            yield sock

    def test_both_ways(self, guest: socket.socket, client: socket.socket) -> None:
        port = free_port(socket.SOCK_DGRAM)
        with Engine([f"127.0.0.1:{port}:{guest.getsockname()[1]}/udp"], **here()) as engine:
            client.sendto(b"first", ("127.0.0.1", port))
            engine.until(engine.opened)
            body, peer = guest.recvfrom(100)
            assert (body, peer[0]) == (b"first", "127.0.0.1")
            for number in range(40):
                client.sendto(bytes([number]) * number, ("127.0.0.1", port))
            engine.settle()
            assert [guest.recv(100) for _ in range(40)] == [bytes([number]) * number for number in range(40)]
            guest.sendto(b"answer", peer)
            guest.sendto(b"", peer)
            engine.settle()
            assert client.recvfrom(100) == (b"answer", ("127.0.0.1", port))
            assert client.recv(100) == b""
            assert len(engine.opened()) == 1

    def test_a_peer_that_is_gone_does_not_make_the_engine_spin(
        self, guest: socket.socket, client: socket.socket
    ) -> None:
        """The port unreachable stays on the socket's error queue until somebody reads it (ip(7))."""
        port = free_port(socket.SOCK_DGRAM)
        with Engine([f"127.0.0.1:{port}:{guest.getsockname()[1]}/udp"], **here()) as engine:
            client.sendto(b"first", ("127.0.0.1", port))
            engine.until(engine.opened)
            _, peer = guest.recvfrom(100)
            client.close()
            guest.sendto(b"anybody?", peer)
            engine.settle(10)
            assert engine.rests()

    def test_nobody_listens_in_the_guest_any_more(self, guest: socket.socket, client: socket.socket) -> None:
        port = free_port(socket.SOCK_DGRAM)
        with Engine([f"127.0.0.1:{port}:{guest.getsockname()[1]}/udp"], **here()) as engine:
            guest.close()
            for _ in range(3):
                client.sendto(b"first", ("127.0.0.1", port))
                engine.settle(10)
            assert engine.rests()

    def test_silence_ends_it(self, guest: socket.socket, client: socket.socket) -> None:
        port = free_port(socket.SOCK_DGRAM)
        with Engine([f"127.0.0.1:{port}:{guest.getsockname()[1]}/udp"], **here()) as engine:
            client.sendto(b"first", ("127.0.0.1", port))
            engine.until(engine.opened)
            (flow,) = engine.sink.table.all()
            engine.sink.end_of_turn(flow.last_active + 179)
            assert engine.closed() == []
            engine.sink.end_of_turn(flow.last_active + 181)
            (end,) = engine.closed()
            assert (end.how, end.sent_bytes, end.received_bytes) == ("closed", 0, 5)
