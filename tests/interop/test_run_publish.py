"""`--publish`: peers on the host and in the world reach the guest, which sees who they are."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.fakehost import (
    GATEWAY4,
    GATEWAY6,
    GUEST4,
    GUEST6,
    HOST4,
    HOST6,
    PRIVATE4,
    PUBLIC4,
    WORLD4,
    WORLD6,
    FakeHost,
    Guest,
    Namespace,
    SharedGuest,
    read_all,
)
from support.guests import PATIENCE, eventually

pytestmark = pytest.mark.root

PORTS = ("8080:80", "8081-8083:9001-9003", "8080:80/udp", "127.0.0.1:8090:90", "[::1]:8091:91", f"{HOST4}:8092:92/udp")
SO_RCVBUFFORCE = 33
LOOPBACK4, LOOPBACK6 = "127.0.0.1", "::1"


@pytest.fixture(scope="module")
def guests(host: FakeHost) -> Iterator[SharedGuest]:
    words = [word for port in PORTS for word in ("-p", port)]
    with SharedGuest(host, *words) as shared:
        yield shared


@pytest.fixture
def guest(guests: SharedGuest) -> Iterator[Guest]:
    """One guest with all these ports; the tests bring the servers."""
    with guests.checked() as guest:
        yield guest


@pytest.fixture
def server(guest: Guest) -> Iterator[Callable[..., socket.socket]]:
    """Makes sockets in the guest, and closes them at the end of the test."""
    with contextlib.ExitStack() as stack:

        def serve(address: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
            if kind == socket.SOCK_STREAM:
                return stack.enter_context(guest.net.listen(address, port))
            return stack.enter_context(guest.net.bound(address, port, kind))

        yield serve


# From where, to which address of the host; what the guest must see. All published as 8080:80.
PATHS = [
    pytest.param("host", LOOPBACK4, LOOPBACK4, id="loopback4"),
    pytest.param("host", LOOPBACK6, LOOPBACK6, id="loopback6"),
    pytest.param("world", HOST4, WORLD4, id="world4"),
    pytest.param("world", HOST6, WORLD6, id="world6"),
    pytest.param("host", HOST4, HOST4, id="own4"),
    pytest.param("host", HOST6, HOST6, id="own6"),
]


def place(host: FakeHost, where: str) -> Namespace:
    return host.net if where == "host" else host.world


def is_loopback(address: str) -> bool:
    return address == "::1" or address.startswith("127.")


def wildcard(address: str) -> str:
    return "::" if ":" in address else "0.0.0.0"


class TestTcp:
    @pytest.mark.parametrize(("where", "to", "seen"), PATHS)
    def test_guest_sees_the_client(
        self, host: FakeHost, server: Callable[..., socket.socket], where: str, to: str, seen: str
    ) -> None:
        listener = server(wildcard(to), 80)
        with place(host, where).connect(to, 8080) as client, listener.accept()[0] as inside:
            assert inside.getpeername()[0] == seen
            if not is_loopback(seen):
                assert inside.getpeername()[1] == client.getsockname()[1]
            assert client.getpeername()[:2] == (to, 8080)
            client.sendall(b"question")
            assert inside.recv(100) == b"question"
            inside.sendall(b"answer")
            assert client.recv(100) == b"answer"
            inside.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b""
            client.sendall(b"still open this way")
            assert inside.recv(100) == b"still open this way"
            client.close()
            assert inside.recv(100) == b""

    @pytest.mark.parametrize("address", [PUBLIC4, PRIVATE4])
    def test_every_client_address_is_let_in(
        self, host: FakeHost, server: Callable[..., socket.socket], address: str
    ) -> None:
        listener = server("0.0.0.0", 80)
        with host.world.bound(address, 0, socket.SOCK_STREAM) as client:
            client.connect((HOST4, 8080))
            with listener.accept()[0] as inside:
                assert inside.getpeername() == client.getsockname()

    @pytest.mark.parametrize("offset", [0, 2])
    def test_range(self, host: FakeHost, server: Callable[..., socket.socket], offset: int) -> None:
        listener = server("0.0.0.0", 9001 + offset)
        with host.world.connect(HOST4, 8081 + offset), listener.accept()[0]:
            pass

    def test_address_of_the_listener(self, host: FakeHost, server: Callable[..., socket.socket]) -> None:
        for loopback, other, port in ((LOOPBACK4, HOST4, 8090), (LOOPBACK6, HOST6, 8091)):
            listener = server(wildcard(loopback), port - 8000)
            with host.net.connect(loopback, port), listener.accept()[0]:
                pass
            for net in (host.net, host.world):
                with pytest.raises(ConnectionRefusedError):
                    net.connect(other, port)
        with pytest.raises(ConnectionRefusedError):
            host.net.connect(LOOPBACK6, 8090)

    @pytest.mark.parametrize(("where", "to", "seen"), PATHS)
    def test_no_listener_in_the_guest_is_a_reset(
        self, host: FakeHost, guest: Guest, where: str, to: str, seen: str
    ) -> None:
        with pytest.raises((ConnectionResetError, ConnectionRefusedError)):
            with place(host, where).connect(to, 8080) as client:
                client.recv(1)

    @pytest.mark.parametrize(("where", "to", "seen"), [path for path in PATHS if path.id in ("loopback4", "world6")])
    def test_resets_pass(
        self, host: FakeHost, server: Callable[..., socket.socket], where: str, to: str, seen: str
    ) -> None:
        listener = server(wildcard(to), 80)
        for closes in (0, 1):
            client = place(host, where).connect(to, 8080)
            inside = listener.accept()[0]
            inside.settimeout(PATIENCE)
            ends = (client, inside)
            with client, inside:
                client.sendall(b"x")
                assert inside.recv(1) == b"x"
                ends[closes].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                ends[closes].close()
                with pytest.raises(ConnectionResetError):
                    ends[1 - closes].recv(1)

    def test_server_on_the_guests_address_only(self, host: FakeHost, server: Callable[..., socket.socket]) -> None:
        """A peer on the loopback reaches it too."""
        for loopback, address in ((LOOPBACK4, GUEST4), (LOOPBACK6, GUEST6)):
            listener = server(address, 80)
            with host.net.connect(loopback, 8080) as client, listener.accept()[0] as inside:
                client.sendall(b"hello")
                assert inside.recv(10) == b"hello"

    @pytest.mark.parametrize(
        ("where", "to", "seen"), [path for path in PATHS if path.id in ("loopback4", "loopback6", "world4")]
    )
    def test_bulk_both_ways_at_once_with_half_close(
        self, host: FakeHost, server: Callable[..., socket.socket], where: str, to: str, seen: str
    ) -> None:
        size = 100 << 20 if where == "host" else 30 << 20
        listener = server(wildcard(to), 80)
        with place(host, where).connect(to, 8080) as client, listener.accept()[0] as inside:
            with ThreadPoolExecutor(4) as pool:
                up = pool.submit(send_all, client, 1, size)
                down = pool.submit(send_all, inside, 2, size)
                got_up = pool.submit(receive_all, inside)
                got_down = pool.submit(receive_all, client)
                assert got_up.result(60) == up.result(60)
                assert got_down.result(60) == down.result(60)

    def test_many_at_once(self, host: FakeHost, server: Callable[..., socket.socket]) -> None:
        listener = server("0.0.0.0", 80)
        count = 100
        with contextlib.ExitStack() as stack:
            for net, to in ((host.net, LOOPBACK4), (host.world, HOST4)):
                clients = [stack.enter_context(net.connect(to, 8080)) for _ in range(count)]
                for number, client in enumerate(clients):
                    client.sendall(number.to_bytes(2, "big"))
                inside = {}
                for _ in clients:
                    sock = stack.enter_context(listener.accept()[0])
                    sock.settimeout(PATIENCE)
                    inside[sock.recv(2)] = sock
                for number in range(count):
                    inside[number.to_bytes(2, "big")].sendall(str(number).encode())
                for number, client in enumerate(clients):
                    assert client.recv(10) == str(number).encode()

    def test_same_client_port_again(self, host: FakeHost, server: Callable[..., socket.socket]) -> None:
        """A client that binds its port connects ten times in a row."""
        listener = server("0.0.0.0", 80)
        for number in range(10):
            with host.world.bound(WORLD4, 40404, socket.SOCK_STREAM) as client:
                client.connect((HOST4, 8080))
                with listener.accept()[0] as inside:
                    inside.settimeout(PATIENCE)
                    assert inside.getpeername() == (WORLD4, 40404)
                    client.sendall(bytes([number]))
                    assert inside.recv(1) == bytes([number])
                    # A reset leaves no TIME_WAIT at the client, so the port is free at once.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def send_all(sock: socket.socket, seed: int, size: int) -> str:
    """Send pseudo-random bytes and then the end of the stream; their digest."""
    block = random.Random(seed).randbytes(1 << 20)
    digest = hashlib.sha256()
    for number in range(size >> 20):
        part = number.to_bytes(8, "big") + block[8:]
        sock.sendall(part)
        digest.update(part)
    sock.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


def receive_all(sock: socket.socket) -> str:
    sock.settimeout(PATIENCE)
    digest = hashlib.sha256()
    while part := sock.recv(1 << 18):
        digest.update(part)
    return digest.hexdigest()


class TestUdp:
    @pytest.mark.parametrize(("where", "to", "seen"), PATHS)
    def test_guest_sees_the_client_and_answers_come_back(
        self, host: FakeHost, server: Callable[..., socket.socket], where: str, to: str, seen: str
    ) -> None:
        inside = server(wildcard(to), 80, socket.SOCK_DGRAM)
        with place(host, where).bound(wildcard(to)) as client:
            client.connect((to, 8080))  # only what comes from there will be received
            for payload in (b"one", b"", b"x" * 1472, b"y" * 20000, b"z" * 60000):
                client.send(payload)
                got, peer = inside.recvfrom(65536)
                assert got == payload
                assert peer[:2] == (seen, client.getsockname()[1])
                inside.sendto(payload[::-1], peer)
                assert client.recv(65536) == payload[::-1]

    def test_answers_come_from_the_address_that_was_asked(
        self, host: FakeHost, server: Callable[..., socket.socket]
    ) -> None:
        host.net.ip("addr add 198.51.100.77/32 dev up0\naddr add 2001:db8:77::77/128 dev up0 nodad")
        try:
            for to in ("198.51.100.77", HOST4, "2001:db8:77::77", HOST6):
                inside = server(wildcard(to), 80, socket.SOCK_DGRAM)
                with host.world.bound(wildcard(to)) as client:
                    client.sendto(b"?", (to, 8080))
                    _, peer = inside.recvfrom(10)
                    inside.sendto(b"!", peer)
                    assert client.recvfrom(10)[1][:2] == (to, 8080)
                inside.close()
        finally:
            host.net.ip("addr del 198.51.100.77/32 dev up0\naddr del 2001:db8:77::77/128 dev up0")

    def test_address_of_the_listener(self, host: FakeHost, server: Callable[..., socket.socket]) -> None:
        inside = server("0.0.0.0", 92, socket.SOCK_DGRAM)
        with host.world.bound("0.0.0.0") as client:
            client.sendto(b"in", (HOST4, 8092))
            assert inside.recv(10) == b"in"
        with host.net.bound("0.0.0.0") as client:
            client.connect((LOOPBACK4, 8092))
            client.send(b"not in")
            with pytest.raises(ConnectionRefusedError):
                client.recv(10)

    @pytest.mark.parametrize(
        ("where", "to", "seen"), [path for path in PATHS if path.id in ("loopback4", "loopback6", "world4", "world6")]
    )
    def test_many_clients_are_not_mixed_up(
        self, host: FakeHost, server: Callable[..., socket.socket], where: str, to: str, seen: str
    ) -> None:
        """Their first datagrams come in one burst, while conversations are made."""
        inside = server(wildcard(to), 80, socket.SOCK_DGRAM)
        inside.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(place(host, where).bound(wildcard(to))) for _ in range(50)
            ]  # what a default buffer holds
            numbers = [client.getsockname()[1] for client in clients]
            expected = sorted((port, f"{port}/{number}".encode()) for port in numbers for number in range(3))

            def say(some: list[socket.socket]) -> None:
                for number in range(3):
                    for client in some:
                        client.sendto(f"{client.getsockname()[1]}/{number}".encode(), (to, 8080))

            threads = [threading.Thread(target=say, args=(clients[part::4],)) for part in range(4)]
            for thread in threads:
                thread.start()
            got = []
            for _ in expected:
                payload, peer = inside.recvfrom(100)
                got.append((peer[1], payload))
                inside.sendto(payload, peer)
            for thread in threads:
                thread.join(PATIENCE)
            assert sorted(got) == expected
            for client, port in zip(clients, numbers, strict=True):
                assert sorted(client.recv(100) for _ in range(3)) == [f"{port}/{n}".encode() for n in range(3)]

    def test_a_server_that_starts_late(self, host: FakeHost, guest: Guest) -> None:
        """Datagrams to a port without a server are lost; the conversation works when there is one."""
        for where, to in (("host", LOOPBACK4), ("world", HOST4)):
            with place(host, where).bound("0.0.0.0", timeout=0.5) as client:
                client.connect((to, 8080))
                with contextlib.suppress(ConnectionRefusedError, TimeoutError):
                    client.send(b"too early")
                    client.recv(10)
                with guest.net.bound("0.0.0.0", 80) as inside:
                    inside.settimeout(0.5)

                    def answered(inside: socket.socket = inside, client: socket.socket = client) -> bool:
                        with contextlib.suppress(ConnectionRefusedError, TimeoutError):
                            client.send(b"now")
                            payload, peer = inside.recvfrom(10)
                            inside.sendto(payload, peer)
                            return client.recv(10) == b"now"
                        return False

                    eventually(answered)

    @pytest.mark.parametrize(
        ("where", "to", "seen"), [path for path in PATHS if path.id in ("loopback4", "world4", "world6")]
    )
    def test_port_without_a_server_is_refused(
        self, host: FakeHost, guest: Guest, where: str, to: str, seen: str
    ) -> None:
        """Its peer may hear of it or not; no answer comes, and nothing breaks."""
        with place(host, where).bound(wildcard(to), timeout=0.3) as client:
            client.connect((to, 8080))
            for _ in range(3):
                with contextlib.suppress(ConnectionRefusedError, TimeoutError):
                    client.send(b"?")
                    assert client.recv(10) == b""


class TestHttpServer:
    def test_client_is_in_its_log(self, host: FakeHost) -> None:
        runner = host.runner("ordinary")
        words = ["run", "-p", "8180:80", "--", sys.executable, "-u", "-m", "http.server", "80", "--bind", "0.0.0.0"]
        process, errors = runner.begin(words)
        with process, errors:
            try:
                for net, to in ((host.net, LOOPBACK4), (host.world, HOST4)):
                    eventually(lambda net=net, to=to: fetch(net, to, 8180).startswith(b"HTTP/1.0 200 "))
                process.terminate()
                assert process.wait(PATIENCE) == 143
                log = read_all(errors)
            finally:
                runner.kill_all()
        assert f"{LOOPBACK4} - - [" in log
        assert f"{WORLD4} - - [" in log
        runner.gone()


def fetch(net: Namespace, address: str, port: int) -> bytes:
    try:
        with net.connect(address, port) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while part := sock.recv(65536):
                answer += part
            return answer
    except ConnectionError:
        return b""


class TestBadPorts:
    """An error before the command starts: exit status 2 and one line."""

    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
    @pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
    def test_in_use(self, host: FakeHost, kind: int, address: str) -> None:
        protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
        with host.net.bound(address, 0, kind) as taken:
            if kind == socket.SOCK_STREAM:
                taken.listen(1)
            port = taken.getsockname()[1]
            done = host.run("-p", f"{port}:80/{protocol}", "echo", "started")
        assert (done.status, done.stdout) == (2, "")
        assert done.stderr == f"bucatini run: --publish '{port}:80/{protocol}': port {port} is in use on this host\n"

    def test_by_another_run(self, host: FakeHost) -> None:
        for protocol in ("tcp", "udp"):
            with host.guest("-p", f"8185:80/{protocol}"):
                done = host.run("-p", f"8185:80/{protocol}", "echo", "started")
                assert (done.status, done.stdout) == (2, "")
                assert "port 8185 is in use" in done.stderr

    def test_not_our_address(self, host: FakeHost) -> None:
        done = host.run("-p", "192.0.2.1:8080:80", "echo", "started")
        assert (done.status, done.stdout) == (2, "")
        assert "192.0.2.1 is not an address of this host" in done.stderr
        assert done.stderr.count("\n") == 1

    def test_privileged(self, host: FakeHost) -> None:
        done = host.run("-p", "80:80", "echo", "started", user="ordinary")
        assert (done.status, done.stdout) == (2, "")
        assert "port 80 needs privilege" in done.stderr
        assert done.stderr.count("\n") == 1

    def test_guests_do_not_see_each_others_ports(self, host: FakeHost) -> None:
        with host.guest("-p", "8186:80") as one, host.guest("-p", "8187:80") as two:
            with one.net.listen("0.0.0.0", 80) as first, two.net.listen("0.0.0.0", 80) as second:
                for port, listener in ((8186, first), (8187, second)):
                    with host.world.connect(HOST4, port) as client, listener.accept()[0] as inside:
                        assert inside.getpeername() == client.getsockname()


class TestDeny:
    def test_closes_ports_to_that_peer(self, host: FakeHost) -> None:
        ports = ("-p", "8380:80", "-p", "8380:80/udp")
        with (
            host.guest(*ports, "--deny", f"{WORLD4}", "--deny", "loopback", "--policy", "open") as guest,
            guest.net.listen("0.0.0.0", 80) as listener,
            guest.net.bound("0.0.0.0", 80) as inside,
        ):
            for net, to in ((host.world, HOST4), (host.net, LOOPBACK4)):
                with pytest.raises(ConnectionResetError), net.connect(to, 8380) as client:
                    client.recv(1)
                with net.bound("0.0.0.0") as client:
                    client.sendto(b"x", (to, 8380))
            with host.world.bound(PUBLIC4, 0, socket.SOCK_STREAM) as client:
                client.connect((HOST4, 8380))
                with listener.accept()[0] as accepted:
                    assert accepted.getpeername()[0] == PUBLIC4
            with host.world.bound(PUBLIC4, 0) as client:
                client.sendto(b"y", (HOST4, 8380))
                assert inside.recv(10) == b"y", "the refused datagrams are not before it"


class TestMirrorHost:
    def test_peers_with_the_hosts_own_address_are_shown_as_the_gateway(self, host: FakeHost) -> None:
        """The guest has the host's address itself: it would answer itself."""
        with host.guest("--mirror-host", "-p", "8380:80", "-p", "8380:80/udp") as guest:
            for own, gateway in ((HOST4, WORLD4), (HOST6, WORLD6)):
                with guest.net.listen(wildcard(own), 80) as listener:
                    with host.net.connect(own, 8380) as client, listener.accept()[0] as inside:
                        assert inside.getpeername()[0] == gateway
                        inside.sendall(b"hello")
                        assert client.recv(10) == b"hello"
                with guest.net.bound(wildcard(own), 80) as inside, host.net.bound(wildcard(own)) as client:
                    client.sendto(b"?", (own, 8380))
                    _, peer = inside.recvfrom(10)
                    assert peer[0] == gateway
                    inside.sendto(b"!", peer)
                    assert client.recvfrom(10)[1][:2] == (own, 8380)


def test_gateway_is_not_a_way_back_in(host: FakeHost, guest: Guest) -> None:
    """The default policy keeps the guest from its own published ports by way of the host."""
    for gateway in (GATEWAY4, GATEWAY6):
        with pytest.raises(ConnectionRefusedError):
            guest.net.connect(gateway, 8080)


def test_subprocess_holds_no_port_after_the_run(host: FakeHost) -> None:
    """What the command leaves running ends with it, and the port is free."""
    done = host.run("-p", "8188:80", "sh", "-c", "sleep 100 & exit 3")
    assert done.status == 3
    with host.net.listen("0.0.0.0", 8188), host.net.listen("::", 8188):
        pass
