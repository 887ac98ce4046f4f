"""Forwarded ports in both directions, added and removed while the guest runs, and followed by themselves."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bucatini.base.errors import ConfigError
from bucatini.engine.control.client import ask
from support.fakehost import (
    GATEWAY4,
    GATEWAY6,
    GUEST4,
    GUEST6,
    HOST4,
    HOST6,
    PUBLIC4,
    WORLD4,
    WORLD6,
    FakeHost,
    Guest,
    Namespace,
)
from support.guests import PATIENCE, eventually

pytestmark = pytest.mark.root

LOOPBACK4, LOOPBACK6 = "127.0.0.1", "::1"
BOTH = (LOOPBACK4, LOOPBACK6)


class Engine:
    """A guest whose forwards the test changes; `user` started it."""

    def __init__(self, host: FakeHost, guest: Guest, path: str) -> None:
        self.host, self.guest, self.path = host, guest, path
        self.net = guest.net

    def ask(self, method: str, **params: str) -> object:
        with self.host.net.entered():
            return ask(self.path, method, params)

    def add(self, spec: str, protocol: str = "tcp", direction: str = "in") -> object:
        return self.ask("forward.add", spec=spec, protocol=protocol, direction=direction)

    def remove(self, spec: str, protocol: str = "tcp", direction: str = "in") -> object:
        return self.ask("forward.remove", spec=spec, protocol=protocol, direction=direction)

    def forwards(self) -> list[tuple[str, str, int, int]]:
        listed = self.ask("forward.list")
        assert isinstance(listed, list)
        return [(each["direction"], each["protocol"], each["port"], each["target"]) for each in listed]

    @contextlib.contextmanager
    def forward(self, spec: str, protocol: str = "tcp", direction: str = "in") -> Iterator[None]:
        self.add(spec, protocol, direction)
        try:
            yield
        finally:
            self.remove(spec, protocol, direction)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process}/fd"))

    @property
    def process(self) -> int:
        """The engine's own process; the one we started may be a wrapper's."""
        return self.guest.engine.pid


@contextlib.contextmanager
def serving(host: FakeHost, user: str, *options: str) -> Iterator[Engine]:
    path = str(host.folder / f"control-{user}-{time.monotonic_ns()}")
    with host.guest("--control", path, *options, user=user) as guest:
        yield Engine(host, guest, path)


@pytest.fixture(scope="module", params=["root", "ordinary"])
def engine(host: FakeHost, request: pytest.FixtureRequest) -> Iterator[Engine]:
    with serving(host, request.param) as made:
        yield made
        assert made.guest.engine.poll() is None


def exchanged(client: socket.socket, inside: socket.socket) -> None:
    """Bytes both ways and half-close both ways."""
    client.settimeout(PATIENCE)
    inside.settimeout(PATIENCE)
    passed(client, inside, b"question")
    passed(inside, client, b"answer")
    client.shutdown(socket.SHUT_WR)
    assert inside.recv(1) == b""
    passed(inside, client, b"still open this way")
    inside.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""


def passed(one: socket.socket, other: socket.socket, data: bytes) -> None:
    """`data` arrives, in pieces of any size."""
    one.sendall(data)
    got = b""
    while len(got) < len(data) and (part := other.recv(len(data) - len(got))):
        got += part
    assert got == data


def wildcard(address: str) -> str:
    return "::" if ":" in address else "0.0.0.0"


class TestInward:
    @pytest.mark.parametrize(
        ("where", "to", "seen"),
        [
            ("host", LOOPBACK4, LOOPBACK4),
            ("host", LOOPBACK6, LOOPBACK6),
            ("world", HOST4, WORLD4),
            ("world", HOST6, WORLD6),
        ],
    )
    def test_added_while_the_guest_runs(self, engine: Engine, where: str, to: str, seen: str) -> None:
        place = engine.host.net if where == "host" else engine.host.world
        with pytest.raises(ConnectionRefusedError):
            place.connect(to, 8500)
        with engine.net.listen(wildcard(to), 500) as listener, engine.forward("8500:500"):
            assert ("in", "tcp", 8500, 500) in engine.forwards()
            with place.connect(to, 8500) as client, listener.accept()[0] as inside:
                assert inside.getpeername()[0] == seen
                assert seen in BOTH or inside.getpeername()[1] == client.getsockname()[1]
                exchanged(client, inside)
        with pytest.raises(ConnectionRefusedError):
            place.connect(to, 8500)
        assert engine.forwards() == []

    def test_connections_outlive_their_forward(self, engine: Engine) -> None:
        for place, to in ((engine.host.net, LOOPBACK4), (engine.host.world, HOST4)):
            with engine.net.listen("0.0.0.0", 500) as listener, contextlib.ExitStack() as stack:
                with engine.forward("8500:500"):
                    client = stack.enter_context(place.connect(to, 8500))
                    inside = stack.enter_context(listener.accept()[0])
                exchanged(client, inside)

    def test_udp_is_removed_and_added_again_while_a_conversation_lives(self, engine: Engine) -> None:
        for place, to in ((engine.host.net, LOOPBACK4), (engine.host.world, HOST4)):
            with (
                engine.net.bound("0.0.0.0", 500) as inside,
                place.bound("0.0.0.0") as client,
                place.bound("0.0.0.0") as new,
            ):
                client.connect((to, 8500))
                new.connect((to, 8500))
                with engine.forward("8500:500", "udp"):
                    echoed(client, inside, b"before")
                echoed(client, inside, b"between")
                new.send(b"closed")
                with pytest.raises(ConnectionRefusedError):
                    new.recv(10)
                with engine.forward("8500:500", "udp"):
                    echoed(client, inside, b"after")
                    echoed(new, inside, b"new")

    def test_udp_server_on_the_guests_address_only(self, engine: Engine) -> None:
        """A peer on the loopback reaches it too, with its first datagram."""
        with engine.forward("8500:500", "udp"):
            for loopback, address in ((LOOPBACK4, GUEST4), (LOOPBACK6, GUEST6)):
                with engine.net.bound(address, 500) as inside, engine.host.net.bound(wildcard(loopback)) as client:
                    client.connect((loopback, 8500))
                    echoed(client, inside, b"first")
                    echoed(client, inside, b"second")

    def test_one_address_and_one_interface(self, engine: Engine) -> None:
        with engine.net.listen("0.0.0.0", 500) as listener:
            with engine.forward(f"{HOST4}/8500:500"):
                with pytest.raises(ConnectionRefusedError):
                    engine.host.net.connect(LOOPBACK4, 8500)
                with engine.host.world.connect(HOST4, 8500) as client, listener.accept()[0] as inside:
                    exchanged(client, inside)
            with engine.forward("%up0/8500:500"):
                with pytest.raises(ConnectionRefusedError):
                    engine.host.net.connect(LOOPBACK4, 8500)
                with engine.host.world.connect(HOST4, 8500) as client, listener.accept()[0] as inside:
                    exchanged(client, inside)
        with engine.net.bound("0.0.0.0", 500) as server, engine.host.world.bound("0.0.0.0") as client:
            with engine.forward("%up0/8500:500", "udp"):
                client.connect((HOST4, 8500))
                echoed(client, server, b"by the interface")

    @pytest.mark.parametrize(
        ("spec", "protocol", "message"),
        [
            ("192.0.2.77/8500", "tcp", "192.0.2.77 is not an address of this host"),
            ("192.0.2.77/8500", "udp", "192.0.2.77 is not an address of this host"),
            ("%nowhere/8500", "tcp", "this host has no interface 'nowhere'"),
            ("%nowhere/8500", "udp", "this host has no interface 'nowhere'"),
            ("8600-8602", "tcp", "port 8601 is in use on this host"),
            ("8600-8602", "udp", "port 8601 is in use on this host"),
        ],
    )
    def test_what_cannot_be_had_leaves_nothing(self, engine: Engine, spec: str, protocol: str, message: str) -> None:
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with engine.host.net.bound("0.0.0.0", 8601, kind) as holder:
            if protocol == "tcp":
                holder.listen()
            with engine.forward("8500", protocol):
                pass  # the stock of the guest's sockets is there from now on
            before = engine.descriptors()
            with pytest.raises(ConfigError, match=message):
                engine.add(spec, protocol)
            assert engine.forwards() == []
            eventually(lambda: engine.descriptors() <= before)

    def test_twice_is_refused(self, engine: Engine) -> None:
        with engine.forward("8500:500"):
            for again in ("8500:501", "127.0.0.1/8500"):
                with pytest.raises(ConfigError, match="'8500:500/tcp' listens there already"):
                    engine.add(again)
            with engine.forward("8500:500", "udp"):
                pass
        with pytest.raises(ConfigError, match="nothing of it is forwarded"):
            engine.remove("8500:500")

    def test_a_guest_with_another_address_than_it_was_given(self, host: FakeHost, user: str) -> None:
        """Who connects reaches it once it was seen there."""
        with serving(host, user, "--no-config-net", "--no-guard", "-p", "8510:510") as engine:
            engine.net.ip(f"link set eth0 up\naddr add 172.16.0.9/24 dev eth0\nroute add default via {GATEWAY4}")
            with engine.net.listen("0.0.0.0", 510) as listener, host.world.listen(PUBLIC4, 80):
                engine.net.connect(PUBLIC4, 80).close()
                with host.world.connect(HOST4, 8510) as client, listener.accept()[0] as inside:
                    assert inside.getsockname()[0] == "172.16.0.9"
                    exchanged(client, inside)

    def test_without_splice_loopback_peers_are_shown_as_the_gateway(self, host: FakeHost, user: str) -> None:
        with serving(host, user, "--no-splice", "-p", "8510:510", "-p", "8510:510/udp") as engine:
            for loopback, gateway in ((LOOPBACK4, GATEWAY4), (LOOPBACK6, GATEWAY6)):
                with engine.net.listen(wildcard(loopback), 510) as listener:
                    with host.net.connect(loopback, 8510) as client, listener.accept()[0] as inside:
                        assert inside.getpeername()[:2] == (gateway, client.getsockname()[1])
                        exchanged(client, inside)
                with engine.net.bound(wildcard(loopback), 510) as inside, host.net.bound(wildcard(loopback)) as client:
                    client.connect((loopback, 8510))
                    assert echoed(client, inside, b"datagram")[0] == gateway

    def test_freebind(self, host: FakeHost, user: str) -> None:
        with serving(host, user, "--freebind") as engine:
            with engine.forward("198.51.100.77/8500:500"), engine.net.listen("0.0.0.0", 500) as listener:
                host.net.ip("addr add 198.51.100.77/24 dev up0")
                try:
                    with host.world.connect("198.51.100.77", 8500) as client, listener.accept()[0] as inside:
                        exchanged(client, inside)
                finally:
                    host.net.ip("addr del 198.51.100.77/24 dev up0")


def echoed(client: socket.socket, server: socket.socket, payload: bytes) -> tuple[str, int]:
    """One datagram there and back; who the server saw."""
    client.settimeout(PATIENCE)
    server.settimeout(PATIENCE)
    client.send(payload)
    got, peer = server.recvfrom(70000)
    assert got == payload
    server.sendto(payload + b" back", peer)
    assert client.recv(70000) == payload + b" back"
    return peer[0], peer[1]


class TestOutward:
    @pytest.mark.parametrize("loopback", BOTH)
    def test_tcp(self, engine: Engine, loopback: str) -> None:
        with engine.host.net.listen(loopback, 8500) as listener, engine.forward("80:8500", "tcp", "out"):
            assert engine.forwards() == [("out", "tcp", 80, 8500)]
            with engine.net.connect(loopback, 80) as client, listener.accept()[0] as inside:
                assert inside.getpeername()[0] == loopback
                exchanged(client, inside)
        with pytest.raises(ConnectionRefusedError):
            engine.net.connect(loopback, 80)

    def test_tcp_bulk_both_ways_at_once(self, engine: Engine) -> None:
        size = 64 << 20
        with engine.host.net.listen(LOOPBACK4, 8500) as listener, engine.forward("8500", "tcp", "out"):
            with engine.net.connect(LOOPBACK4, 8500) as client, listener.accept()[0] as inside:
                with ThreadPoolExecutor(4) as pool:
                    ends = [pool.submit(send_all, client, size), pool.submit(send_all, inside, size)]
                    assert pool.submit(receive_all, inside).result(60) == size
                    assert pool.submit(receive_all, client).result(60) == size
                    for end in ends:
                        end.result(60)

    def test_nobody_on_the_host_is_a_reset(self, engine: Engine) -> None:
        with engine.forward("8500", "tcp", "out"), pytest.raises((ConnectionResetError, ConnectionRefusedError)):
            talked(engine.net, 8500)

    def test_only_the_guests_loopback_is_served(self, engine: Engine) -> None:
        with engine.host.net.listen(LOOPBACK4, 8500), engine.forward("8500", "tcp", "out"):
            for address in (GUEST4, GUEST6):
                with pytest.raises(ConnectionRefusedError):
                    engine.net.connect(address, 8500)
            with pytest.raises(ConnectionResetError):
                talked(engine.net, 8500, GUEST4)

    @pytest.mark.parametrize("loopback", BOTH)
    def test_udp_keeps_source_ports(self, engine: Engine, loopback: str) -> None:
        with engine.host.net.bound(loopback, 8520) as server, engine.forward("53:8520", "udp", "out"):
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(engine.net.bound(loopback)) for _ in range(5)]
                for client in clients:
                    client.connect((loopback, 53))
                    for payload in (b"one", b"", b"x" * 60000):
                        peer = echoed(client, server, payload)
                        assert peer == (loopback, client.getsockname()[1])

    def test_udp_source_port_that_the_host_uses(self, engine: Engine) -> None:
        """The conversation has another then; so has one below 1024, which would mean privilege."""
        with engine.host.net.bound(LOOPBACK4, 8520) as server, engine.forward("8520", "udp", "out"):
            for port in (40500, 700):
                with engine.host.net.bound(LOOPBACK4, port), engine.net.bound(LOOPBACK4, port) as client:
                    client.connect((LOOPBACK4, 8520))
                    assert echoed(client, server, b"x")[1] != port
            with engine.net.bound(LOOPBACK4, 701) as client:
                client.connect((LOOPBACK4, 8520))
                assert echoed(client, server, b"x")[1] >= 1024

    def test_udp_is_removed_and_added_again_while_a_conversation_lives(self, engine: Engine) -> None:
        with engine.host.net.bound(LOOPBACK4, 8521) as server:
            with engine.net.bound(LOOPBACK4) as client, engine.net.bound(LOOPBACK4) as new:
                client.connect((LOOPBACK4, 8522))
                new.connect((LOOPBACK4, 8522))
                with engine.forward("8522:8521", "udp", "out"):
                    echoed(client, server, b"before")
                echoed(client, server, b"between")
                with engine.forward("8522:8521", "udp", "out"):
                    echoed(client, server, b"after")
                    echoed(new, server, b"new")

    def test_udp_server_that_starts_late(self, engine: Engine) -> None:
        with engine.forward("8523", "udp", "out"), engine.net.bound(LOOPBACK4, timeout=0.5) as client:
            client.connect((LOOPBACK4, 8523))
            client.send(b"too early")
            with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                client.recv(10)
            with engine.host.net.bound(LOOPBACK4, 8523) as server:
                echoed(client, server, b"now")

    def test_udp_burst_keeps_its_order(self, engine: Engine) -> None:
        with engine.host.net.bound(LOOPBACK4, 8520) as server, engine.forward("8520", "udp", "out"):
            server.settimeout(PATIENCE)
            with engine.net.bound(LOOPBACK4) as client:
                client.connect((LOOPBACK4, 8520))
                for number in range(100):
                    client.send(number.to_bytes(2, "big"))
                got = [int.from_bytes(server.recv(10), "big") for _ in range(100)]
                assert got == list(range(100))

    def test_a_port_the_guest_uses_is_an_error(self, engine: Engine) -> None:
        for kind, protocol in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
            with engine.net.bound("0.0.0.0", 8500, kind) as holder:
                if protocol == "tcp":
                    holder.listen()
                with pytest.raises(ConfigError, match=f"'8500:8500/{protocol}': port 8500 is in use in the guest"):
                    engine.add("8500", protocol, "out")
            assert engine.forwards() == []

    @pytest.mark.parametrize("protocol", ["tcp", "udp"])
    def test_both_directions_of_one_port_make_no_circle(self, engine: Engine, protocol: str) -> None:
        with engine.forward("8530", protocol), engine.forward("8530", protocol, "out"):
            before = engine.descriptors()
            if protocol == "tcp":
                for net in (engine.host.net, engine.net):
                    with pytest.raises((ConnectionResetError, ConnectionRefusedError)):
                        talked(net, 8530)
                with engine.net.listen(GUEST4, 8530) as listener:
                    with engine.host.net.connect(LOOPBACK4, 8530) as client, listener.accept()[0] as inside:
                        exchanged(client, inside)
            else:
                with engine.host.net.bound(LOOPBACK4) as client, engine.net.bound(GUEST4, 8530) as server:
                    client.connect((LOOPBACK4, 8530))
                    echoed(client, server, b"straight")
            assert engine.descriptors() < before + 40

    def test_only_a_rule_about_the_host_closes_it(self, host: FakeHost, user: str) -> None:
        for options, open_ in ((("--policy", "none"), True), (("--deny", "host"), False)):
            with serving(host, user, *options, "-T", "8540", "-U", "8540") as engine:
                with host.net.listen(LOOPBACK4, 8540) as listener, host.net.bound(LOOPBACK4, 8540) as server:
                    with engine.net.bound(LOOPBACK4) as sender:
                        sender.connect((LOOPBACK4, 8540))
                        if open_:
                            with engine.net.connect(LOOPBACK4, 8540) as client, listener.accept()[0] as inside:
                                exchanged(client, inside)
                            echoed(sender, server, b"x")
                        else:
                            with pytest.raises(ConnectionResetError):
                                talked(engine.net, 8540)
                            sender.send(b"x")
                            assert not select.select([server], [], [], 0.3)[0]


def talked(net: Namespace, port: int, source: str = LOOPBACK4) -> bytes:
    """What a peer hears who connects to loopback and says nothing."""
    with net.bound(source, 0, socket.SOCK_STREAM) as client:
        client.connect((LOOPBACK4, port))
        return client.recv(1)


def send_all(sock: socket.socket, size: int) -> None:
    block = bytes(1 << 20)
    for _ in range(size >> 20):
        sock.sendall(block)
    sock.shutdown(socket.SHUT_WR)


def receive_all(sock: socket.socket) -> int:
    sock.settimeout(PATIENCE)
    total = 0
    while part := sock.recv(1 << 18):
        total += len(part)
    return total


class TestAutomatic:
    @pytest.fixture
    def both(self, engine: Engine) -> Iterator[Engine]:
        for protocol in ("tcp", "udp"):
            for direction in ("in", "out"):
                engine.add("auto", protocol, direction)
        yield engine
        for protocol in ("tcp", "udp"):
            for direction in ("in", "out"):
                engine.remove("auto", protocol, direction)
        assert engine.forwards() == []

    def test_tcp_ports_come_and_go(self, both: Engine) -> None:
        inward, outward = (both.host.net, both.net, "in"), (both.net, both.host.net, "out")
        cases = [(*inward, LOOPBACK4, 8700), (*inward, LOOPBACK6, 8701)]
        cases += [(*outward, LOOPBACK4, 8702), (*outward, LOOPBACK6, 8703)]
        with contextlib.ExitStack() as listening:
            listeners = [listening.enter_context(far.listen(loopback, port)) for _, far, _, loopback, port in cases]
            for (near, _, direction, loopback, port), listener in zip(cases, listeners, strict=True):
                client = eventually(lambda near=near, loopback=loopback, port=port: attempt(near, loopback, port))
                with client, listener.accept()[0] as inside:
                    exchanged(client, inside)
                assert (direction, "tcp", port, port) in both.forwards()
                assert all(way == direction for way, _, number, _ in both.forwards() if number == port)
        eventually(lambda: not both.forwards())

    def test_udp_ports_come_and_go(self, both: Engine) -> None:
        inward = (both.host.net, both.net, "in", 8704)
        outward = (both.net, both.host.net, "out", 8705)
        with contextlib.ExitStack() as bound:
            servers = [bound.enter_context(far.bound(LOOPBACK4, port)) for _, far, _, port in (inward, outward)]
            for (near, _, direction, port), server in zip((inward, outward), servers, strict=True):
                eventually(lambda way=direction, port=port: (way, "udp", port, port) in both.forwards())
                with near.bound(LOOPBACK4) as client:
                    client.connect((LOOPBACK4, port))
                    echoed(client, server, b"found")
        eventually(lambda: not both.forwards())

    def test_udp_follows_tcp(self, both: Engine) -> None:
        with both.net.listen("0.0.0.0", 8700):
            eventually(lambda: {("in", "tcp", 8700, 8700), ("in", "udp", 8700, 8700)} <= set(both.forwards()))

    def test_a_port_bound_on_both_sides_is_left_alone(self, both: Engine) -> None:
        with both.net.listen("0.0.0.0", 8700), both.host.net.listen("0.0.0.0", 8700):
            with both.net.listen("0.0.0.0", 8701):
                eventually(lambda: ("in", "tcp", 8701, 8701) in both.forwards())
            assert not any(each[1:3] == ("tcp", 8700) for each in both.forwards())

    def test_from_the_command_line(self, host: FakeHost, user: str) -> None:
        with serving(host, user, "-t", "auto", "-T", "auto") as engine:
            with engine.net.listen("0.0.0.0", 8700) as listener:
                client = eventually(lambda: attempt(host.net, LOOPBACK4, 8700))
                with client, listener.accept()[0] as inside:
                    exchanged(client, inside)


def attempt(net: Namespace, address: str, port: int) -> socket.socket | None:
    try:
        return net.connect(address, port)
    except ConnectionRefusedError:
        return None


class TestMany:
    def test_a_thousand_ports(self, engine: Engine) -> None:
        start = time.monotonic()
        with engine.forward("20000-20999:30000-30999"):
            assert len(engine.forwards()) == 1000
            with engine.net.listen("0.0.0.0", 30999) as listener:
                with engine.host.world.connect(HOST4, 20999) as client, listener.accept()[0] as inside:
                    exchanged(client, inside)
        with engine.forward("20000-20199", "tcp", "out"), engine.host.net.listen(LOOPBACK6, 20199) as listener:
            with engine.net.connect(LOOPBACK6, 20199) as client, listener.accept()[0] as inside:
                exchanged(client, inside)
        assert time.monotonic() - start < PATIENCE

    def test_too_many_at_a_time(self, engine: Engine) -> None:
        with pytest.raises(ConfigError, match="more than 4096 ports at a time"):
            engine.add("1000-6000")

    def test_out_of_descriptors_is_said(self, host: FakeHost) -> None:
        with serving(host, "root") as engine:
            with engine.forward("8500:500"):
                held = engine.descriptors()
                resource.prlimit(engine.process, resource.RLIMIT_NOFILE, (held + 20, held + 20))
                with pytest.raises(ConfigError, match="Too many open files; raise the limit"):
                    engine.add("20000-20099")
                assert engine.forwards() == [("in", "tcp", 8500, 500)]
                with engine.net.listen("0.0.0.0", 500) as listener:
                    with host.net.connect(LOOPBACK4, 8500) as client, listener.accept()[0] as inside:
                        exchanged(client, inside)


def test_a_conversation_that_leads_nowhere_is_the_end_of_itself_alone() -> None:
    """The host has no ::1, as in many containers; the guest has."""
    host = FakeHost()
    try:
        host.net.ip("addr del ::1/128 dev lo")
        with host.guest("-U", "8403") as guest:
            with guest.net.new_socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
                for _ in range(3):
                    client.sendto(b"x", ("::1", 8403))
            with host.net.bound("127.0.0.1", 8403) as server, guest.net.bound("127.0.0.1") as client:
                client.sendto(b"alive", ("127.0.0.1", 8403))
                assert server.recv(10) == b"alive"
    finally:
        host.close()
