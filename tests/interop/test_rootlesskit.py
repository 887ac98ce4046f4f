"""RootlessKit with our commands first in its PATH, and with Debian's, by the same script.

Debian 12's RootlessKit knows `--net=slirp4netns` and the port driver of that name. `--net=pasta` came with version 2,
which Debian 13 has: where that is missing, its exact command lines are given by hand, to a namespace made as
RootlessKit makes it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.query
import pytest

from support.fakehost import HOST4, PUBLIC4, RESOLVER4, FakeHost, Namespace, read_all
from support.guests import PATIENCE, eventually
from support.pasta_engine import Holder, NamedUser, PastaEngine, Place, install_compat
from support.pasta_peers import NAMED, Link, name_server

pytestmark = pytest.mark.root

GATEWAY, GUEST, RESOLVER = "10.0.2.2", "10.0.2.100", "10.0.2.3"
TAP = "tap0"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("debian", marks=pytest.mark.xdist_group("pasta-debian")),
        pytest.param("ours", marks=pytest.mark.xdist_group("pasta-ours")),
    ],
)
def kind(request: pytest.FixtureRequest) -> str:
    """Whose commands."""
    return str(request.param)


class Kit:
    """A running RootlessKit; `net` is the network namespace of its command."""

    def __init__(self, place: Place, driver: str, *options: str) -> None:
        self.place = place
        self.state = place.scratch / "home" / "state"
        program = shutil.which("rootlesskit") or ""
        words = [program, f"--state-dir={self.state}", f"--net={driver}", "--copy-up=/etc", *options]
        self.process, self._output = place.begin([*words, "sh", "-c", "exec sleep 62"])
        self.command = eventually(self._find)
        self.net = Namespace.of_process(self.command)

    def _find(self) -> int:
        found = next((pid for pid, words in self.place.runner.processes().items() if words == "sleep 62"), 0)
        assert found or self.process.poll() is None, self.output
        return found

    @property
    def output(self) -> str:
        return read_all(self._output)

    def control(self, *words: str) -> str:
        """What `rootlessctl WORDS` says."""
        done = self.place.host.net.run("rootlessctl", f"--socket={self.state}/api.sock", *words, check=False)
        assert done.returncode == 0, done
        return done.stdout

    def close(self) -> None:
        """The command ends; nothing may be left."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.command, signal.SIGTERM)
        self.process.wait(PATIENCE)
        self.place.runner.gone()
        self.net.close()
        self._output.close()


@contextmanager
def started(host: FakeHost, kind: str, *options: str, driver: str = "slirp4netns") -> Iterator[Kit]:
    needed = ["rootlesskit", "rootlessctl", "newuidmap"] + [driver] * (kind == "debian")
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}")
    with NamedUser(host, install_compat(host) if kind == "ours" else None) as place:
        kit = Kit(place, driver, *options)
        try:
            yield kit
        finally:
            kit.close()


@pytest.fixture(scope="module")
def kit(host: FakeHost, kind: str) -> Iterator[Kit]:
    """For most tests: ports through slirp4netns's API socket."""
    with started(host, kind, "--port-driver=slirp4netns", "-p", "127.0.0.1:8080:80/tcp") as made:
        yield made
        assert made.process.poll() is None, made.output


def exchange(server: tuple[Namespace, str, int], client: tuple[Namespace, str, int]) -> str:
    """A line each way over TCP. The address that the server sees."""
    with server[0].listen(*server[1:]) as listener, client[0].connect(*client[1:]) as near:
        near.sendall(b"question\n")
        far, peer = listener.accept()
        with far:
            far.settimeout(PATIENCE)
            assert far.recv(100) == b"question\n"
            far.sendall(b"answer\n")
            assert near.recv(100) == b"answer\n"
    return str(peer[0])


def test_network(kit: Kit) -> None:
    """As RootlessKit expects it of slirp4netns."""
    link = Link(kit.net, TAP)
    assert link.addresses(4) == [f"{GUEST}/24"]
    assert link.gateway(4) == GATEWAY
    assert link.mtu == 65520
    assert f"nameserver {RESOLVER}" in Path(f"/proc/{kit.command}/root/etc/resolv.conf").read_text()


def test_whose(kit: Kit, kind: str) -> None:
    """That the command under test is the one that runs."""
    lines = [words for words in kit.place.runner.processes().values() if "slirp4netns " in words and TAP in words]
    engines = [words for words in lines if "rootlesskit" not in words and "/proc/self/exe" not in words]
    assert engines
    assert all(("/compat/slirp4netns" in words) == (kind == "ours") for words in engines)


def test_outwards(kit: Kit, host: FakeHost) -> None:
    assert exchange((host.world, PUBLIC4, 9000), (kit.net, PUBLIC4, 9000)) == HOST4


def test_datagrams_outwards(kit: Kit, host: FakeHost) -> None:
    with host.world.bound(PUBLIC4, 9000) as server, kit.net.bound(GUEST) as client:
        client.sendto(b"question", (PUBLIC4, 9000))
        data, peer = server.recvfrom(100)
        assert data == b"question"
        server.sendto(b"answer", peer)
        assert client.recvfrom(100) == (b"answer", (PUBLIC4, 9000))


def test_host_loopback(kit: Kit, host: FakeHost) -> None:
    """Behind the gateway's address."""
    assert exchange((host.net, "127.0.0.1", 9001), (kit.net, GATEWAY, 9001)) == "127.0.0.1"


def test_names(kit: Kit, host: FakeHost) -> None:
    question = dns.message.make_query("www.example.org", "A")
    with name_server(host.world, RESOLVER4), kit.net.bound(GUEST) as sock:
        answer = dns.query.udp(question, RESOLVER, timeout=PATIENCE, sock=sock)
    assert answer.answer[0][0].to_text() == NAMED


def test_published(kit: Kit, host: FakeHost) -> None:
    """By `-p`, which RootlessKit asks of the API socket."""
    exchange((kit.net, "0.0.0.0", 80), (host.net, "127.0.0.1", 8080))


def test_published_while_it_runs(kit: Kit, host: FakeHost) -> None:
    """Added, listed, and removed by RootlessKit's own command; TCP and UDP."""
    number = kit.control("add-ports", "127.0.0.1:8081:81/tcp").strip()
    datagrams = kit.control("add-ports", "127.0.0.1:8082:82/udp").strip()
    ports = [line.split()[:4] for line in kit.control("list-ports").splitlines()]
    assert [number, "tcp", "127.0.0.1", "8081"] in ports
    exchange((kit.net, "0.0.0.0", 81), (host.net, "127.0.0.1", 8081))
    with kit.net.bound("0.0.0.0", 82) as server, host.net.bound("127.0.0.1") as client:
        client.sendto(b"question", ("127.0.0.1", 8082))
        data, peer = server.recvfrom(100)
        assert data == b"question"
        server.sendto(b"answer", peer)
        assert client.recvfrom(100) == (b"answer", ("127.0.0.1", 8082))
    kit.control("remove-ports", number)
    kit.control("remove-ports", datagrams)
    with pytest.raises(ConnectionRefusedError):
        host.net.connect("127.0.0.1", 8081)


def test_loopback_refused(host: FakeHost, kind: str) -> None:
    """`--disable-host-loopback`."""
    with started(host, kind, "--disable-host-loopback") as kit, host.net.listen("127.0.0.1", 9002):
        assert exchange((host.world, PUBLIC4, 9000), (kit.net, PUBLIC4, 9000)) == HOST4
        with pytest.raises(OSError):
            kit.net.connect(GATEWAY, 9002, timeout=2)


def test_options(host: FakeHost, kind: str) -> None:
    """Another network, MTU and interface."""
    with started(host, kind, "--cidr=192.168.77.0/24", "--mtu=1500", "--ifname=net9") as kit:
        link = Link(kit.net, "net9")
        assert link.addresses(4) == ["192.168.77.100/24"]
        assert link.mtu == 1500
        assert exchange((host.world, PUBLIC4, 9000), (kit.net, PUBLIC4, 9000)) == HOST4


# `--net=pasta`

VIRTUAL = (f"--address={GUEST}", "--netmask=24", f"--gateway={GATEWAY}", f"--dns-forward={RESOLVER}", "--ipv4-only")
CONFIGURED = ("--stderr", f"--ns-ifname={TAP}", "--mtu=65520", "--config-net", *VIRTUAL)
"""Of version 3."""
BARE = ("--stderr", f"--ns-ifname={TAP}", "--mtu=65520", "--no-dhcp", "--no-ra", *VIRTUAL)
"""Of version 2, which makes the interface before pasta starts, and configures it itself."""


@pytest.fixture
def pasta(host: FakeHost, kind: str) -> PastaEngine:
    return PastaEngine.debian() if kind == "debian" else PastaEngine.ours(host)


@contextmanager
def served(host: FakeHost, engine: PastaEngine, *options: str, by_path: bool = False) -> Iterator[Namespace]:
    """A namespace, served by the command line that RootlessKit gives."""
    with Place(host) as place, Holder(place) as holder:
        target = [str(holder.pid)]
        if by_path:
            target = [f"--userns=/proc/{holder.pid}/ns/user", f"--netns=/proc/{holder.pid}/ns/net"]
        with engine.start(place, [*CONFIGURED, *options], target, foreground=False):
            yield holder.net


@pytest.mark.parametrize("by_path", [False, True], ids=["pid", "path"])
def test_pasta(host: FakeHost, pasta: PastaEngine, by_path: bool) -> None:
    """Addresses, names, both ways; ports follow what the guest listens on ("implicit")."""
    options = ("--tcp-ports=auto", "--udp-ports=auto", "--no-map-gw")
    question = dns.message.make_query("www.example.org", "A")
    with served(host, pasta, *options, by_path=by_path) as net:
        link = Link(net, TAP)
        assert (link.addresses(4), link.gateway(4), link.mtu) == ([f"{GUEST}/24"], GATEWAY, 65520)
        assert exchange((host.world, PUBLIC4, 9000), (net, PUBLIC4, 9000)) == HOST4
        with name_server(host.world, RESOLVER4), net.bound(GUEST) as sock:
            answer = dns.query.udp(question, RESOLVER, timeout=PATIENCE, sock=sock)
        assert answer.answer[0][0].to_text() == NAMED
        with net.listen("0.0.0.0", 8083) as listener:
            client = eventually(lambda: _connected(host.net, "127.0.0.1", 8083))
            assert client is not None
            with client:
                client.sendall(b"question\n")
                server, _ = listener.accept()
                with server:
                    assert server.recv(100) == b"question\n"


def test_pasta_no_ports(host: FakeHost, pasta: PastaEngine) -> None:
    """`--port-driver=builtin`: RootlessKit listens itself; the gateway means the host's loopback."""
    with served(host, pasta, "--tcp-ports=none", "--udp-ports=none") as net:
        exchange((host.net, "127.0.0.1", 9003), (net, GATEWAY, 9003))
        with net.listen("0.0.0.0", 8084), pytest.raises(ConnectionRefusedError):
            host.net.connect("127.0.0.1", 8084)


def test_pasta_existing_tap(host: FakeHost, pasta: PastaEngine) -> None:
    """A persistent TAP that is there already, and up."""
    with Place(host) as place, Holder(place) as holder:
        holder.net.ip(f"tuntap add name {TAP} mode tap\nlink set {TAP} up\n")
        with pasta.start(place, [*BARE, "--tcp-ports=none", "--udp-ports=none"], [str(holder.pid)]):
            holder.net.ip(
                f"link set {TAP} mtu 65520\naddress add {GUEST}/24 dev {TAP}\n"
                f"route add default via {GATEWAY} dev {TAP}\n"
            )
            assert exchange((host.world, PUBLIC4, 9000), (holder.net, PUBLIC4, 9000)) == HOST4


def test_net_pasta(host: FakeHost, kind: str) -> None:
    """The real thing, where RootlessKit knows it."""
    program = shutil.which("rootlesskit")
    if program is None or "pasta" not in host.net.run(program, "--help").stdout:
        pytest.skip("no RootlessKit of version 2 or later")
    with started(host, kind, "--port-driver=implicit", driver="pasta") as kit:
        eventually(lambda: TAP in kit.net.run("ip", "-brief", "link", "show", "up").stdout)
        exchange((host.world, PUBLIC4, 9000), (kit.net, PUBLIC4, 9000))
        with kit.net.listen("0.0.0.0", 8085) as listener:
            client = eventually(lambda: _connected(host.net, "127.0.0.1", 8085))
            assert client is not None
            with client, listener.accept()[0] as server:
                server.sendall(b"answer\n")
                assert client.recv(100) == b"answer\n"


def _connected(net: Namespace, address: str, port: int) -> socket.socket | None:
    with contextlib.suppress(ConnectionRefusedError):
        return net.connect(address, port)
    return None
