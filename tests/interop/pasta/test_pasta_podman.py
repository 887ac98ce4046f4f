"""What Podman's tests ask of `pasta`, by the command line that Podman gives it, in a rootless session's namespace.

Podman 4 and 5 pass `--config-net`, the user's options, `-t` and `-u` for published ports in the form
`[ADDRESS/]FIRST-LAST:FIRST-LAST`, `none` for each direction nobody mentioned, `--dns-forward`, `--no-map-gw`,
`--quiet` and `--netns PATH`; they wait for the caller's process to end and take any output for a warning.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import dns.message
import dns.query
import pytest

from support.fakehost import HOST4, HOST6, RESOLVER4, RESOLVER6, WORLD4, FakeHost, Namespace
from support.guests import PATIENCE
from support.pasta_engine import LINK, PastaEngine, Running, Session
from support.pasta_peers import NAMED, Link, name_server, quick_links, transfer

pytestmark = pytest.mark.root

DEBIAN_FAILS = {
    **{
        f"test_guest_speaks[udp_{family}_tap]": "sends the answer to the router whose address stood for the host"
        for family in (4, 6)
    },
    **{
        f"test_guest_speaks[tcp_{family}_tap]": "does not finish the handshake before the client has sent"
        for family in (4, 6)
    },
    "test_dns_forward[tcp-default]": "does not forward questions by TCP",
    "test_dns_forward[tcp-custom]": "does not forward questions by TCP",
    "test_interface_alone": "refuses an interface without an address",
}
DNS_FORWARD = "169.254.0.1"
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
GLOBAL = {4: HOST4, 6: HOST6}
SOON = 5.0
UDP_LARGE = 212992 // 4
"""Bytes: a quarter of Linux's default size of a send buffer."""


class Container(NamedTuple):
    """A running engine, the namespace it serves, and the namespace's path."""

    engine: Running
    net: Namespace
    path: str
    session: Session

    @property
    def link(self) -> Link:
        return Link(self.net, LINK)


def podman_words(options: Sequence[str], publish: Sequence[str]) -> list[str]:
    """The command line without the path, see the module."""
    words = ["--config-net", *options, *publish, "--dns-forward", DNS_FORWARD]
    if "--dns-forward" in options:
        words = words[:-2]
    for direction in ("-t", "-u", "-T", "-U"):
        if direction not in words:
            words += [direction, "none"]
    return [*words, "--no-map-gw", "--quiet"]


@contextmanager
def container(
    engine: PastaEngine, session: Session, options: Sequence[str] = (), publish: Sequence[str] = ()
) -> Iterator[Container]:
    with session.network() as (path, net):
        quick_links(net)
        words = podman_words(options, publish)
        with engine.start(session, words, ["--netns", path], foreground=False) as running:
            assert running.output == ""
            yield Container(running, net, path, session)
            assert running.alive()


@pytest.fixture(scope="module")
def session(host: FakeHost) -> Iterator[Session]:
    host.set_resolvers(RESOLVER4, RESOLVER6)
    with Session(host) as made:
        yield made


# Addresses, routes, MTU, resolvers.


@pytest.fixture(scope="module")
def plain(engine: PastaEngine, session: Session) -> Iterator[Container]:
    """A container without options of its own."""
    with container(engine, session) as made:
        yield made


@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
def test_default_address(plain: Container, family: int) -> None:
    assert plain.link.addresses(family) == [f"{GLOBAL[family]}/{24 if family == 4 else 64}"]


@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
def test_default_route(plain: Container, host: FakeHost, family: int) -> None:
    gateway = plain.link.gateway(family)
    assert gateway
    assert gateway == Link(host.net, "up0").gateway(family)


def test_loopback_is_up(plain: Container) -> None:
    assert Link(plain.net, "lo").up
    assert plain.net.run("ping", "-c1", "-W2", "127.0.0.1").returncode == 0


def test_default_mtu(plain: Container) -> None:
    assert plain.link.mtu == 65520


def test_mtu(engine: PastaEngine, session: Session) -> None:
    with container(engine, session, ["-m", "1280"]) as made:
        assert made.link.mtu == 1280


@pytest.mark.parametrize(("family", "address"), [(4, "192.0.2.1"), (6, "2001:db8:1::1")], ids=["ipv4", "ipv6"])
def test_address(engine: PastaEngine, session: Session, family: int, address: str) -> None:
    with container(engine, session, ["-a", address]) as made:
        assert [shown.partition("/")[0] for shown in made.link.addresses(family)] == [address]
        assert made.link.addresses(10 - family), "the other family is as it was"


@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
def test_no_address(engine: PastaEngine, session: Session, family: int) -> None:
    """Of a family that is switched off."""
    with container(engine, session, [f"-{10 - family}"]) as made:
        assert made.link.addresses(family) == []
        assert made.link.gateway(family) == ""
        assert made.link.addresses(10 - family)


@pytest.mark.parametrize(
    ("family", "options", "gateway"),
    [
        (4, ["-a", "192.0.2.2", "-n", "24", "-g", "192.0.2.1"], "192.0.2.1"),
        (6, ["-a", "2001:db8:1::2", "-g", "2001:db8:1::1"], "2001:db8:1::1"),
    ],
    ids=["ipv4", "ipv6"],
)
def test_route(engine: PastaEngine, session: Session, family: int, options: list[str], gateway: str) -> None:
    with container(engine, session, options) as made:
        assert made.link.gateway(family) == gateway


def test_pid_file(plain: Container) -> None:
    assert Path(f"/proc/{plain.engine.pid}/stat").exists()


def test_exit(engine: PastaEngine, session: Session) -> None:
    """The engine goes with the container."""
    with session.network() as (path, _):
        with engine.start(session, podman_words([], []), ["--netns", path], foreground=False) as running:
            session.remove(path)
            assert running.gone(SOON)


def test_interface_name(engine: PastaEngine, session: Session) -> None:
    with container(engine, session, ["-I", "mybridge"]) as made:
        assert Link(made.net, "mybridge").addresses(4)


def test_ping(engine: PastaEngine, session: Session) -> None:
    """The gateway's address means the host's loopback only with `--map-gw`, which Podman takes for itself."""
    with session.network() as (path, net):
        quick_links(net)
        words = [word for word in podman_words([], []) if word != "--no-map-gw"]
        with engine.start(session, words, ["--netns", path], foreground=False):
            assert net.run("ping", "-c1", "-W2", WORLD4).returncode == 0
            with session.host.net.listen("127.0.0.1") as listener:
                with net.connect(WORLD4, listener.getsockname()[1]):
                    listener.accept()[0].close()


def test_host_loopback_is_closed(plain: Container, host: FakeHost) -> None:
    """As Podman asks for: the gateway's address is the gateway's."""
    with host.net.listen("127.0.0.1") as listener, pytest.raises(OSError):
        plain.net.connect(WORLD4, listener.getsockname()[1], timeout=1)


@pytest.mark.parametrize("custom", [False, True], ids=["default", "custom"])
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_dns_forward(engine: PastaEngine, session: Session, host: FakeHost, protocol: str, custom: bool) -> None:
    """Questions to an address that nobody has reach the host's resolver, and the answer comes from that address."""
    address = "198.51.100.42" if custom else DNS_FORWARD
    question = dns.message.make_query("www.example.org", "A")
    options = ["--dns-forward", address] if custom else []
    with name_server(host.world, RESOLVER4), container(engine, session, options) as made:
        if protocol == "udp":
            with made.net.bound("0.0.0.0") as sock:
                answer = dns.query.udp(question, address, timeout=PATIENCE / 3, sock=sock)
        else:
            with made.net.connect(address, 53, timeout=PATIENCE / 3) as sock:
                answer = dns.query.tcp(question, address, timeout=PATIENCE / 3, sock=sock)
    assert answer.answer[0][0].to_text() == NAMED


# Forwarded ports: 48 cases. One engine serves the six kinds of one protocol, family and path.


class Kind(NamedTuple):
    """How ports are forwarded: `spec` of `-t` and `-u`, filled with `first`, `last`, `address` and `link`."""

    spec: str
    ports: int
    shift: int = 0


KINDS = {
    "single": Kind("{first}-{first}:{first}-{first}", 1),
    "range": Kind("{first}-{last}:{first}-{last}", 3),
    "translated": Kind("{first}-{first}:{up}-{up}", 1, 1),
    "translated_range": Kind("{first}-{last}:{up}-{above}", 3, 1),
    "address": Kind("{address}/{first}-{first}:{first}-{first}", 1),
    "interface": Kind("{address}%{link}/{first}-{first}:{first}-{first}", 1),
}
FIRST_PORT = 5100


def first_port(kind: str) -> int:
    return FIRST_PORT + 10 * list(KINDS).index(kind)


class Forwarded(NamedTuple):
    """An engine with all kinds of ports, for one protocol, family and path."""

    container: Container
    protocol: str
    family: int
    path: str

    @property
    def address(self) -> str:
        """Where the host's clients connect to."""
        return LOOPBACK[self.family] if self.path == "loopback" else GLOBAL[self.family]


@pytest.fixture(
    scope="module",
    params=[
        (protocol, family, path) for protocol in ("tcp", "udp") for family in (4, 6) for path in ("tap", "loopback")
    ],
    ids=lambda found: "_".join(map(str, found)),
)
def forwarded(engine: PastaEngine, session: Session, request: pytest.FixtureRequest) -> Iterator[Forwarded]:
    protocol, family, path = request.param
    publish = []
    for name, kind in KINDS.items():
        first = first_port(name)
        spec = kind.spec.format(
            first=first,
            last=first + kind.ports - 1,
            up=first + kind.shift,
            above=first + kind.shift + kind.ports - 1,
            address=LOOPBACK[family] if path == "loopback" else GLOBAL[family],
            link="lo" if path == "loopback" else "up0",
        )
        publish += ["-t" if protocol == "tcp" else "-u", spec]
    with container(engine, session, [], publish) as made:
        yield Forwarded(made, protocol, family, path)


def deliver(
    host: Namespace,
    guest: Namespace,
    protocol: str,
    address: str,
    port: int,
    guest_port: int,
    *,
    answer: bool = False,
) -> None:
    """One byte to a server in the guest, and one back; for a datagram only if it is said."""
    anywhere = "::" if ":" in address else "0.0.0.0"
    if protocol == "tcp":
        with guest.listen(anywhere, guest_port) as listener, host.connect(address, port, timeout=3) as client:
            client.sendall(b"x")
            listener.settimeout(3)
            server, _ = listener.accept()
            with server:
                server.settimeout(3)
                assert server.recv(10) == b"x"
                server.sendall(b"y")
                assert client.recv(10) == b"y"
    else:
        with guest.bound(anywhere, guest_port, timeout=3) as server, host.bound(anywhere, timeout=3) as client:
            client.sendto(b"x", (address, port))
            data, peer = server.recvfrom(10)
            assert data == b"x"
            if answer:
                server.sendto(b"y", peer)
                assert client.recvfrom(10) == (b"y", client_sees(address, port))


def client_sees(address: str, port: int) -> tuple[object, ...]:
    """The address of a socket's peer: that of the answer is the one that was asked."""
    return (address, port, 0, 0) if ":" in address else (address, port)


@pytest.mark.parametrize("kind", list(KINDS))
def test_forward(forwarded: Forwarded, host: FakeHost, kind: str) -> None:
    """From the host to its own global address, which leads over the link, or to its loopback, which is spliced."""
    for port in range(first_port(kind), first_port(kind) + KINDS[kind].ports):
        shifted = port + KINDS[kind].shift
        deliver(host.net, forwarded.container.net, forwarded.protocol, forwarded.address, port, shifted)


def test_guest_speaks(forwarded: Forwarded, host: FakeHost) -> None:
    """A datagram is answered; a TCP server has its connection before the client has said anything."""
    port = first_port("single")
    guest = forwarded.container.net
    if forwarded.protocol == "udp":
        deliver(host.net, guest, "udp", forwarded.address, port, port, answer=True)
        return
    with guest.listen("0.0.0.0" if forwarded.family == 4 else "::", port) as listener:
        listener.settimeout(3)
        with host.net.connect(forwarded.address, port, timeout=3) as client:
            server, _ = listener.accept()
            with server:
                server.sendall(b"hello")
                with client.makefile("rb") as stream:
                    assert stream.read(5) == b"hello"


@pytest.mark.parametrize("kind", ["address", "interface"])
def test_bound_there_only(forwarded: Forwarded, host: FakeHost, kind: str) -> None:
    """What is bound to one address or interface is closed at the other."""
    other = {"loopback": GLOBAL, "tap": LOOPBACK}[forwarded.path][forwarded.family]
    with pytest.raises(ConnectionRefusedError):
        ask(host.net, forwarded.protocol, other, first_port(kind))


def ask(net: Namespace, protocol: str, address: str, port: int) -> None:
    """A connection, or a datagram and its answer. Raises ConnectionRefusedError where nobody listens."""
    if protocol == "tcp":
        net.connect(address, port, timeout=3).close()
        return
    with net.bound("::" if ":" in address else "0.0.0.0", timeout=3) as client:
        client.connect((address, port))
        client.send(b"x")
        client.recv(1)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("link", ["up0", "lo"])
def test_interface_alone(engine: PastaEngine, session: Session, host: FakeHost, protocol: str, link: str) -> None:
    """An interface without an address: both families."""
    port = FIRST_PORT + 90
    with container(engine, session, ["-t" if protocol == "tcp" else "-u", f"%{link}/{port}"]) as made:
        for family in (4, 6):
            address = (LOOPBACK if link == "lo" else GLOBAL)[family]
            deliver(host.net, made.net, protocol, address, port, port)


# Transfers: 16 cases.

TRANSFER_PORT = 5200


@pytest.fixture(scope="module")
def transfers(engine: PastaEngine, session: Session) -> Iterator[Container]:
    spec = f"{TRANSFER_PORT}-{TRANSFER_PORT}:{TRANSFER_PORT}-{TRANSFER_PORT}"
    with container(engine, session, [], ["-t", spec, "-u", spec]) as made:
        yield made


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("path", ["tap", "loopback"])
@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_transfer(
    transfers: Container, host: FakeHost, tmp_path: Path, protocol: str, family: int, path: str, size: str
) -> None:
    """A file to the container, whole and unchanged."""
    source = tmp_path / "file"
    large = 10 << 20 if protocol == "tcp" else UDP_LARGE
    source.write_bytes(os.urandom(2 << 10 if size == "small" else large))
    address = (LOOPBACK if path == "loopback" else GLOBAL)[family]
    if family == 6:
        address = f"[{address}]"
    kind = f"{protocol.upper()}{family}"
    server = transfers.net, f"{kind}-LISTEN:{TRANSFER_PORT}" + ",null-eof" * (protocol == "udp")
    client = host.net, f"{kind}:{address}:{TRANSFER_PORT}" + ",shut-null" * (protocol == "udp")
    transfer(server, client, protocol, TRANSFER_PORT, source, tmp_path / "got")
