"""TCP between real kernels through a running guest: every situation in which a translating engine is known to fail."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import signal
import socket
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.fakehost import UNREACHABLE4, UNREACHABLE6, FakeHost, family_of, guest_python
from support.guests import eventually
from support.tcp_peers import (
    UNANSWERED,
    Link,
    Served,
    Shared,
    Task,
    content_digest,
    drain,
    echo,
    ended,
    exactly,
    family_name,
    kill_with_reset,
    many_descriptors,
    settled,
    stream,
)

pytestmark = pytest.mark.root

MIB = 1 << 20
BULK = 100 * MIB
AT_ONCE = 1.0
"""Seconds within which a refusal must be known: before the guest would ask again."""
NO_ROUTE = ("45.33.32.2", "2600:3c01::2")
NO_WAY = ("45.33.32.3", "2600:3c01::3")
SO_RCVBUFFORCE = 33
SO_SNDBUFFORCE = 32


@pytest.fixture(scope="module")
def engines(host: FakeHost) -> Iterator[Shared]:
    """The host has no route to `NO_ROUTE`; the world is a router that has none to `NO_WAY`, and says so."""
    for address in NO_ROUTE:
        host.net.ip(f"route add throw {address}")
    for address in NO_WAY:
        host.world.ip(f"route add unreachable {address}")
    with host.world.entered():
        for version in ("ipv4", "ipv6"):
            Path(f"/proc/sys/net/{version}/conf/all/forwarding").write_text("1")
    with Shared(host) as made:
        yield made


@pytest.fixture
def engine(engines: Shared) -> Iterator[Served]:
    with engines.checked() as made:
        yield made


@pytest.fixture(params=[4, 6], ids=family_name)
def link(engine: Served, request: pytest.FixtureRequest) -> Iterator[Link]:
    with engine.link(request.param) as made:
        yield made


@pytest.fixture
def links(engine: Served) -> Iterator[list[Link]]:
    """Both IP versions at once, for what takes time rather than work."""
    with engine.link(4) as link4, engine.link(6) as link6:
        yield [link4, link6]


def connect_error(engine: Served, address: str, *, within: float = AT_ONCE) -> int:
    """The errno of a connect(2) of the guest, which must come within so many seconds."""
    with engine.guest.net.new_socket(family_of(address)) as near:
        began = time.monotonic()
        number = near.connect_ex((address, 9))
        assert time.monotonic() - began < within
        return number


class TestConnectFails:
    def test_refused(self, engine: Served, link: Link) -> None:
        assert connect_error(engine, link.peer_address) == errno.ECONNREFUSED

    @pytest.mark.parametrize("address", [UNREACHABLE4, UNREACHABLE6])
    def test_host_unreachable_by_a_route(self, engine: Served, address: str) -> None:
        assert connect_error(engine, address) == errno.EHOSTUNREACH

    @pytest.mark.parametrize("address", NO_ROUTE)
    def test_network_unreachable(self, engine: Served, address: str) -> None:
        assert connect_error(engine, address) == errno.ENETUNREACH

    @pytest.mark.parametrize("address", NO_WAY)
    def test_unreachable_by_a_router(self, engine: Served, address: str) -> None:
        """The guest learns what a program of the host learns, as soon."""
        with engine.host.net.new_socket(family_of(address)) as native:
            began = time.monotonic()
            expected = native.connect_ex((address, 9))
            patience = time.monotonic() - began + AT_ONCE
        assert expected in (errno.EHOSTUNREACH, errno.ENETUNREACH)
        assert connect_error(engine, address, within=patience) == expected


class TestSlowPeers:
    def test_late_accept(self, link: Link) -> None:
        listener, port = link.listen()
        near = link.dial(port)
        sending = Task(stream, near, MIB)
        time.sleep(0.3)
        far = link.accept(listener)
        assert drain(far) == content_digest(MIB)
        sending.result()

    def test_connect_pending_while_the_guest_repeats_its_syn(self, links: list[Link]) -> None:
        """The listener's queue is full, its kernel drops SYNs: the guest's second and third SYN change nothing."""

        def wait_in_line(link: Link) -> None:
            listener, port = link.listen(backlog=0)
            first = link.dial(port)
            # The queue of a backlog of 0 holds one connection.
            waiting = Task(link.dial, port)
            time.sleep(1.5)
            assert waiting.is_alive(), "the SYN was answered by somebody else than the peer"
            echo(first, link.accept(listener))
            second = waiting.result()
            echo(second, link.accept(listener))

        tasks = [Task(wait_in_line, link) for link in links]
        for task in tasks:
            task.result()


class TestHalfClose:
    def test_guest_shuts_down_then_downloads(self, link: Link) -> None:
        near, far = link.connect()
        near.sendall(b"GET")
        near.shutdown(socket.SHUT_WR)
        assert exactly(far, 4) == b"GET"
        sending = Task(stream, far, BULK)
        assert drain(near) == content_digest(BULK)
        sending.result()

    def test_peer_shuts_down_then_guest_uploads(self, link: Link) -> None:
        near, far = link.connect()
        far.sendall(b"220")
        far.shutdown(socket.SHUT_WR)
        assert exactly(near, 4) == b"220"
        sending = Task(stream, near, BULK)
        assert drain(far) == content_digest(BULK)
        sending.result()

    def test_through_a_published_port(self, link: Link) -> None:
        listener = link.publish()
        client = link.call()
        server = link.accept(listener)
        client.sendall(b"GET")
        client.shutdown(socket.SHUT_WR)
        assert exactly(server, 4) == b"GET"
        sending = Task(stream, server, 16 * MIB)
        assert drain(client) == content_digest(16 * MIB)
        sending.result()

    def test_last_bytes_before_a_close_arrive(self, link: Link) -> None:
        for size in (1, 1459, 70_000, MIB):
            for forwards in (True, False):
                near, far = link.connect()
                source, target = (near, far) if forwards else (far, near)
                sending = Task(_send_and_close, source, size)
                assert drain(target) == content_digest(size)
                sending.result()
                target.close()


def _send_and_close(sock: socket.socket, size: int) -> None:
    stream(sock, size, end=False)
    sock.close()


class TestBulk:
    def test_both_directions_at_once(self, link: Link) -> None:
        near, far = link.connect()
        tasks = [Task(stream, near, BULK), Task(stream, far, BULK)]
        readers = [Task(drain, near), Task(drain, far)]
        assert [reader.result() for reader in readers] == [content_digest(BULK)] * 2
        for task in tasks:
            task.result()

    def test_both_directions_on_many_connections(self, links: list[Link]) -> None:
        pairs = [link.connect() for link in links for _ in range(4)]
        tasks = [Task(stream, end, 8 * MIB) for pair in pairs for end in pair]
        readers = [Task(drain, end) for pair in pairs for end in pair]
        assert {reader.result() for reader in readers} == {content_digest(8 * MIB)}
        for task in tasks:
            task.result()

    @pytest.mark.parametrize("download", [True, False], ids=["down", "up"])
    def test_windows_beyond_64_kib(self, link: Link, download: bool) -> None:
        """A receiver that does not read, with a big buffer: more lies in it than an unscaled window could offer."""
        near, far = link.connect()
        source, target = (far, near) if download else (near, far)
        target.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 * MIB)
        source.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, MIB)
        sending = Task(stream, source, 16 * MIB)
        eventually(lambda: unread(target) > 2 * MIB, or_else=lambda: f"only {unread(target)} bytes came")
        assert drain(target) == content_digest(16 * MIB)
        sending.result()

    @pytest.mark.parametrize("paused", [8.0, pytest.param(60.0, marks=pytest.mark.slow)])
    def test_reader_pauses(self, links: list[Link], paused: float) -> None:
        """On either side: the guest's kernel, and the peer's, close their windows and open them again."""
        pairs = [link.connect(timeout=paused + 10) for link in links for _ in range(2)]
        roles = [(pair[0], pair[1]) if number % 2 else (pair[1], pair[0]) for number, pair in enumerate(pairs)]
        senders = [Task(stream, source, 32 * MIB) for source, _ in roles]
        for _, target in roles:
            assert len(exactly(target, 1000)) == 1000
        time.sleep(paused)
        assert all(sender.is_alive() for sender in senders), "there was room for everything"
        readers = [Task(drain, target) for _, target in roles]
        assert {reader.result()[0] for reader in readers} == {32 * MIB - 1000}
        for sender in senders:
            sender.result()

    def test_mtu_lowered_in_mid_connection(self, engine: Served, link: Link) -> None:
        near, far = link.connect()
        try:
            tasks = [Task(stream, near, 48 * MIB), Task(stream, far, 48 * MIB)]
            head = exactly(near, 1000), exactly(far, 1000)
            engine.guest.net.ip("link set eth0 mtu 1280")
            readers = [Task(drain, near), Task(drain, far)]
            assert [reader.result()[0] for reader in readers] == [48 * MIB - len(part) for part in head]
            for task in tasks:
                task.result()
        finally:
            engine.guest.net.ip("link set eth0 mtu 1500")


def unread(sock: socket.socket) -> int:
    """Bytes in the receive queue (SIOCINQ, tcp(7))."""
    count = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, count)
    return count[0]


class TestEnds:
    def test_both_close_at_the_same_moment(self, link: Link) -> None:
        listener, port = link.listen()
        for number in range(200):
            near = link.dial(port)
            far, _ = listener.accept()
            far.settimeout(10)
            if number % 2:
                near.sendall(b"up")
                far.sendall(b"down")
            closing = Task(far.shutdown, socket.SHUT_WR)
            near.shutdown(socket.SHUT_WR)
            closing.result()
            assert exactly(near, 5) == (b"down" if number % 2 else b""), number
            assert exactly(far, 5) == (b"up" if number % 2 else b""), number
            near.close()
            far.close()

    @pytest.mark.parametrize("guest_first", [True, False])
    def test_who_reads_late_still_gets_everything(self, link: Link, guest_first: bool) -> None:
        """Both ends are closed and forgotten; no reset may take away what the peer has not read."""
        near, far = link.connect()
        near.sendall(b"u" * 5000)
        far.sendall(b"d" * 5000)
        for end in (near, far) if guest_first else (far, near):
            end.shutdown(socket.SHUT_WR)
        assert exactly(near, 5001) == b"d" * 5000
        near.close()
        time.sleep(0.1)
        assert exactly(far, 5001) == b"u" * 5000

    def test_guest_resets(self, link: Link) -> None:
        near, far = link.connect()
        echo(near, far)
        port = near.getsockname()[1]
        kill_with_reset(near)
        with pytest.raises(ConnectionResetError):
            far.recv(1)
        assert eventually(lambda: link.served.last_end(port)) == "reset by guest"

    def test_guest_resets_with_bytes_unread(self, link: Link) -> None:
        """Closing without reading makes a kernel send RST (RFC 9293 3.6.1 names it; tcp(7))."""
        near, far = link.connect()
        far.sendall(b"never read")
        eventually(lambda: unread(near))
        near.close()
        with pytest.raises(ConnectionResetError):
            far.recv(1)

    def test_peer_resets(self, link: Link) -> None:
        near, far = link.connect()
        echo(near, far)
        port = near.getsockname()[1]
        kill_with_reset(far)
        with pytest.raises(ConnectionResetError):
            near.recv(1)
        assert eventually(lambda: link.served.last_end(port)) == "reset by peer"

    @pytest.mark.parametrize("by_guest", [True, False], ids=["by-guest", "by-peer"])
    @pytest.mark.parametrize("download", [True, False], ids=["down", "up"])
    def test_reset_in_mid_transfer(self, link: Link, by_guest: bool, download: bool) -> None:
        near, far = link.connect()
        source, target = (far, near) if download else (near, far)
        ender, other = (near, far) if by_guest else (far, near)
        sending = Task(stream, source, BULK)
        assert len(exactly(target, MIB)) == MIB
        kill_with_reset(ender)
        if other is target:
            assert ended(target) == "ConnectionResetError"
        with pytest.raises((ConnectionResetError, BrokenPipeError, OSError)):
            sending.result()

    def test_peer_resets_a_half_closed_connection(self, link: Link) -> None:
        near, far = link.connect()
        near.shutdown(socket.SHUT_WR)
        assert far.recv(1) == b""
        kill_with_reset(far)
        with pytest.raises(ConnectionResetError):
            near.recv(1)

    def test_guest_resets_after_the_peers_end(self, link: Link) -> None:
        near, far = link.connect()
        far.shutdown(socket.SHUT_WR)
        assert near.recv(1) == b""
        kill_with_reset(near)
        assert ended(far) == "ConnectionResetError"

    def test_guests_process_is_killed_in_mid_transfer(self, engine: Served, link: Link) -> None:
        code = (
            "import socket, sys\n"
            "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
            "while True: s.sendall(bytes(65536))\n"
        )
        listener, port = link.listen()
        with engine.guest.net.entered():
            process = subprocess.Popen(guest_python(code, link.peer_address, str(port)))
        far = link.accept(listener)
        assert len(exactly(far, 4 * MIB)) == 4 * MIB
        process.kill()
        process.wait(10)
        assert ended(far) in ("end of stream", "ConnectionResetError")

    def test_whole_guest_is_killed_in_mid_transfer(self, host: FakeHost) -> None:
        with host.guest("--policy", "open") as guest, Served(host, guest, host.folder).link(4) as link:
            near, far = link.connect(timeout=2)
            sending = Task(stream, near, BULK)
            assert len(exactly(far, MIB)) == MIB
            os.kill(guest.command, signal.SIGKILL)
            assert ended(far) in ("end of stream", "ConnectionResetError")
            # The namespace lives on in our socket alone, its network is gone.
            with pytest.raises(TimeoutError):
                sending.result()


class TestUrgent:
    def test_byte_of_the_peer_stays_in_line(self, link: Link) -> None:
        near, far = link.connect()
        for part, flags in ((b"abc", 0), (b"U", socket.MSG_OOB), (b"def", 0), (b"V", socket.MSG_OOB), (b"ghi", 0)):
            far.send(part, flags)
            time.sleep(0.02)
        far.shutdown(socket.SHUT_WR)
        assert exactly(near, 100) == b"abcUdefVghi"

    def test_byte_among_bulk(self, link: Link) -> None:
        near, far = link.connect()
        reading = Task(drain, near)
        stream(far, 3 * MIB, end=False)
        far.send(b"!", socket.MSG_OOB)
        stream(far, 3 * MIB)
        assert reading.result()[0] == 6 * MIB + 1

    def test_byte_of_the_guest_stays_in_line(self, link: Link) -> None:
        near, far = link.connect()
        for part, flags in ((b"abc", 0), (b"U", socket.MSG_OOB), (b"def", 0)):
            near.send(part, flags)
        near.shutdown(socket.SHUT_WR)
        assert exactly(far, 100) == b"abcUdef"


class TestKeepAlive:
    def test_probes_of_the_guest_are_answered(self, links: list[Link]) -> None:
        pairs = [link.connect() for link in links]
        for near, _ in pairs:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1)
        for near, far in pairs:
            echo(near, far)
        time.sleep(3.5)
        for near, far in pairs:
            assert near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            echo(near, far, b"still here")


class TestMany:
    def test_2000_at_once(self, engine: Served) -> None:
        settled(engine.flows_left, 0)
        before = engine.open_descriptors()
        with many_descriptors(5000), engine.link(4) as link4, engine.link(6) as link6:
            pairs = []
            for link in (link4, link6):
                listener, port = link.listen(1024)
                for _ in range(1000):
                    near = link.dial(port)
                    pairs.append((near, link.accept(listener)))
            for number, (near, _) in enumerate(pairs):
                near.sendall(b"%08d" % number)
            for number, (_, far) in enumerate(pairs):
                assert exactly(far, 8) == b"%08d" % number
                far.sendall(b"%08d" % -number)
            for number, (near, _) in enumerate(pairs):
                assert exactly(near, 8) == b"%08d" % -number
            assert engine.open_descriptors() >= before + 2000
        assert settled(engine.open_descriptors, before)

    def test_5000_short_ones_leave_nothing(self, engine: Served) -> None:
        settled(engine.flows_left, 0)
        before = engine.open_descriptors()
        with engine.link(4) as link:
            listener, port = link.listen(1024)
            for number in range(5000):
                near = link.guest.new_socket()
                near.connect((link.peer_address, port))
                far, _ = listener.accept()
                near.sendall(b"?")
                assert far.recv(1) == b"?"
                if number % 50 == 0:
                    kill_with_reset(near)
                near.close()
                far.close()
        assert settled(engine.open_descriptors, before)
        assert settled(engine.flows_left, 0)


class TestPortsUsedAgain:
    @pytest.mark.parametrize("how", ["peer closes first", "guest resets", "peer resets"])
    def test_of_the_guest_to_the_same_peer(self, link: Link, how: str) -> None:
        listener, port = link.listen()
        for number in range(20):
            near = link.dial(port, source_port=40_001)
            far = link.accept(listener)
            echo(near, far, b"%d" % number)
            if how == "peer closes first":
                far.close()
                assert near.recv(1) == b""
                near.close()
            elif how == "guest resets":
                kill_with_reset(near)
                assert ended(far) == "ConnectionResetError"
            else:
                kill_with_reset(far)
                assert ended(near) == "ConnectionResetError"
                near.close()

    @pytest.mark.parametrize("how", ["guest closes first", "client resets", "guest resets"])
    def test_of_a_client_of_a_published_port(self, link: Link, how: str) -> None:
        listener = link.publish()
        for number in range(20):
            client = link.call(source_port=40_002)
            server = link.accept(listener)
            assert server.getpeername()[1] == 40_002
            echo(client, server, b"%d" % number)
            if how == "guest closes first":
                server.close()
                assert client.recv(1) == b""
                client.close()
            elif how == "client resets":
                kill_with_reset(client)
            else:
                kill_with_reset(server)
                assert ended(client) == "ConnectionResetError"
                client.close()


def fate(connect: Callable[[], socket.socket]) -> str:
    """As `ended`, of a connection that may end before its maker has heard of it."""
    try:
        with connect() as client:
            return ended(client)
    except OSError as error:
        return type(error).__name__


class TestPublished:
    def test_without_a_listener_the_client_is_reset(self, link: Link) -> None:
        """The connection is accepted before the guest can answer; what the client then sees is a reset, not silence."""
        assert fate(lambda: link.call(UNANSWERED)) == "ConnectionResetError"

    @pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
    def test_without_a_listener_a_client_on_loopback_is_reset(self, engine: Served, address: str) -> None:
        assert fate(lambda: engine.host.net.connect(address, UNANSWERED)) == "ConnectionResetError"

    def test_resets_pass_both_ways(self, link: Link) -> None:
        listener = link.publish()
        client = link.call()
        server = link.accept(listener)
        echo(client, server)
        kill_with_reset(client)
        assert ended(server) == "ConnectionResetError"
        client = link.call()
        server = link.accept(listener)
        kill_with_reset(server)
        assert ended(client) == "ConnectionResetError"

    def test_client_that_resets_at_once_leaves_nothing(self, engine: Served, link: Link) -> None:
        settled(engine.flows_left, 0)
        before = engine.open_descriptors()
        for _ in range(50):
            with contextlib.suppress(ConnectionResetError):
                kill_with_reset(link.call())
        assert settled(engine.open_descriptors, before)
        assert settled(engine.flows_left, 0)

    def test_bulk_both_ways(self, link: Link) -> None:
        listener = link.publish()
        client = link.call()
        server = link.accept(listener)
        tasks = [Task(stream, client, 32 * MIB), Task(stream, server, 32 * MIB)]
        readers = [Task(drain, client), Task(drain, server)]
        assert [reader.result() for reader in readers] == [content_digest(32 * MIB)] * 2
        for task in tasks:
            task.result()
