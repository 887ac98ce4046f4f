"""Spliced TCP between the two loopbacks, both ways, with real programs' sockets in real namespaces."""

from __future__ import annotations

import hashlib
import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from support.fakehost import FakeHost, Guest, Namespace, SharedGuest
from support.guests import PATIENCE, eventually

pytestmark = pytest.mark.root

INWARD, OUTWARD = (8080, 8081), (9100, 9200)
"""Port a client goes to, port its server has."""
BODY = random.Random(7).randbytes(1 << 20)
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
SLICE = 0.25
"""Seconds over which the engine's own CPU time is looked at."""


@pytest.fixture(scope="module")
def guests(host: FakeHost) -> Iterator[SharedGuest]:
    with SharedGuest(host, "-p", "8080:8081", "-T", "9100:9200") as shared:
        yield shared


@pytest.fixture
def guest(guests: SharedGuest) -> Iterator[Guest]:
    with guests.checked() as guest:
        yield guest


class Way:
    """One direction: where clients are, where servers are, and the ports."""

    def __init__(self, host: FakeHost, guest: Guest, inward: bool, family: int) -> None:
        self.client_net: Namespace = host.net if inward else guest.net
        self.server_net: Namespace = guest.net if inward else host.net
        self.port, self.target = INWARD if inward else OUTWARD
        self.loopback = LOOPBACK[family]
        self.guest = guest

    def listen(self) -> socket.socket:
        return self.server_net.listen(self.loopback, self.target)

    def connect(self) -> socket.socket:
        return self.client_net.connect(self.loopback, self.port)

    def pair(self, listener: socket.socket) -> tuple[socket.socket, socket.socket]:
        client = self.connect()
        server, _ = listener.accept()
        server.settimeout(PATIENCE)
        return client, server


@pytest.fixture(params=[(True, 4), (True, 6), (False, 4), (False, 6)], ids=["in4", "in6", "out4", "out6"])
def way(request: pytest.FixtureRequest, host: FakeHost, guest: Guest) -> Way:
    return Way(host, guest, *request.param)


def read_exactly(sock: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count and (data := sock.recv(min(1 << 16, count - len(got)))):
        got += data
    return bytes(got)


def engine_process(guest: Guest) -> int:
    """The process that serves the guest: of those that it consists of, the one that holds the most descriptors."""
    return max((guest.engine.pid, *guest.runner.processes()), key=descriptors)


def descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat:
        user, system = stat.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_there_and_back_and_half_closed(way: Way) -> None:
    with way.listen() as listener:
        client, server = way.pair(listener)
        with client, server:
            assert server.getpeername()[0] == way.loopback
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert read_exactly(server, 100) == b"question"
            server.sendall(b"answer")
            assert read_exactly(client, 6) == b"answer"
            server.close()
            assert client.recv(100) == b""


def test_many_megabytes_each_way_at_once(way: Way) -> None:
    rounds = 48
    wanted = hashlib.sha256(BODY * rounds).digest()
    got: dict[str, bytes] = {}

    def write(sock: socket.socket) -> None:
        for _ in range(rounds):
            sock.sendall(BODY)
        sock.shutdown(socket.SHUT_WR)

    def read(name: str, sock: socket.socket) -> None:
        digest = hashlib.sha256()
        while data := sock.recv(1 << 18):
            digest.update(data)
        got[name] = digest.digest()

    with way.listen() as listener:
        client, server = way.pair(listener)
        with client, server:
            threads = [
                threading.Thread(target=write, args=(client,)),
                threading.Thread(target=write, args=(server,)),
                threading.Thread(target=read, args=("client", client)),
                threading.Thread(target=read, args=("server", server)),
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
    assert got == {"client": wanted, "server": wanted}


def test_urgent_bytes_keep_their_place(way: Way) -> None:
    """splice(2) alone would stand still before one for ever."""
    with way.listen() as listener:
        client, server = way.pair(listener)
        with client, server:
            for one, other in ((client, server), (server, client)):
                other.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
                one.sendall(BODY[:200_000])
                one.send(b"!", socket.MSG_OOB)
                one.sendall(b"after")
                assert read_exactly(other, 200_006) == BODY[:200_000] + b"!after"


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_is_passed_on(way: Way, who: str) -> None:
    with way.listen() as listener:
        client, server = way.pair(listener)
        with client, server:
            one, other = (client, server) if who == "client" else (server, client)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
            with pytest.raises(ConnectionResetError):
                other.recv(1)


def test_nobody_listens(way: Way) -> None:
    with pytest.raises(ConnectionResetError), way.connect() as client:
        client.recv(1)


def test_short_connections_leave_nothing_behind(way: Way) -> None:
    """A thousand, of which some end in disorder: the engine holds as many descriptors as before, but for kept pipes."""
    kept = 64 + 32
    with way.listen() as listener:
        client, server = way.pair(listener)
        engine = engine_process(way.guest)
        client.close()
        server.close()
        before = descriptors(engine)
        for number in range(1000):
            client, server = way.pair(listener)
            with client, server:
                client.send(b"x")
                assert server.recv(1) == b"x"
                server.send(b"y")
                if number % 7 == 0:
                    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif number % 5:
                    assert client.recv(1) == b"y"
    eventually(lambda: descriptors(engine) <= before + kept)


def test_who_does_not_read_holds_up_only_its_own(way: Way) -> None:
    """No byte is lost, the engine does not spin over it, and others pass."""
    with way.listen() as listener:
        client, server = way.pair(listener)
        with client, server:
            client.setblocking(False)
            sent = 0
            while select.select([], [client], [], 0.3)[1]:
                sent += client.send(BODY)
            engine = engine_process(way.guest)
            spent = cpu_seconds(engine)
            time.sleep(SLICE)
            assert cpu_seconds(engine) - spent < SLICE / 3
            other, other_server = way.pair(listener)
            with other, other_server:
                other.sendall(b"passes")
                assert other_server.recv(100) == b"passes"
            client.shutdown(socket.SHUT_WR)
            total = 0
            while data := server.recv(1 << 20):
                total += len(data)
            assert total == sent


def test_the_end_of_the_engine_resets(host: FakeHost) -> None:
    with host.guest("-p", "8085:8081") as guest:
        with guest.net.listen("127.0.0.1", 8081) as listener, host.net.connect("127.0.0.1", 8085) as client:
            with listener.accept()[0] as server:
                client.sendall(b"x")
                assert server.recv(1) == b"x"
                os.kill(guest.command, 9)
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
