"""host.sockets against this kernel, on loopback and in a private network namespace."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Iterator

import pytest
from pyroute2 import IPRoute

from bucatini.base.address import Endpoint, pack
from bucatini.host import sockets
from support.forked import in_new_network

FAMILIES = [pytest.param(socket.AF_INET, "127.0.0.1", id="4"), pytest.param(socket.AF_INET6, "::1", id="6")]
ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}


def number(sock: socket.socket, level: int, name: int) -> int:
    return sock.getsockopt(level, name)


def end(address: str, port: int) -> Endpoint:
    return Endpoint(pack(address), port)


def bare_loopback() -> None:
    """In the child: `lo` up, every group may ping."""
    with IPRoute() as route:
        route.link("set", index=1, state="up")
    with open("/proc/sys/net/ipv4/ping_group_range", "w", encoding="ascii") as file:
        file.write("0 0")


@pytest.fixture
def opened() -> Iterator[Callable[[socket.socket], socket.socket]]:
    """Sockets handed to it are closed in the end."""
    made: list[socket.socket] = []

    def keep(sock: socket.socket) -> socket.socket:
        made.append(sock)
        return sock

    yield keep
    for sock in made:
        sock.close()


Keep = Callable[[socket.socket], socket.socket]


def assert_ours(sock: socket.socket) -> None:
    assert os.get_blocking(sock.fileno()) is False
    assert os.get_inheritable(sock.fileno()) is False


def test_sockaddr() -> None:
    assert sockets.sockaddr(end("10.1.2.3", 80)) == ("10.1.2.3", 80)
    assert sockets.sockaddr(end("fd00::1", 80)) == ("fd00::1", 80, 0, 0)
    assert sockets.sockaddr(end("fe80::1", 80), 7) == ("fe80::1", 80, 0, 7)


def test_peek_offset_is_found_out_not_assumed() -> None:
    """Linux 6.9 brought it to TCP."""
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    assert sockets.keeps_peek_offset() is (release >= (6, 9))


@pytest.mark.root
def test_without_loopback_there_is_no_peek_offset() -> None:
    assert in_new_network(sockets.keeps_peek_offset) is False


# -- TCP


@pytest.mark.parametrize(("family", "address"), FAMILIES)
def test_tcp_connects(family: int, address: str, opened: Keep) -> None:
    with socket.create_server((address, 0), family=family) as listener:
        sock = opened(sockets.open_tcp(family))
        assert_ours(sock)
        assert number(sock, socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert number(sock, socket.SOL_SOCKET, socket.SO_OOBINLINE) == 1
        assert sockets.connect(sock, end(address, listener.getsockname()[1])) == 0
        assert select.select([], [sock], [], 5)[1] == [sock]
        assert sockets.socket_error(sock) == 0


@pytest.mark.parametrize(("family", "address"), FAMILIES)
def test_tcp_is_refused(family: int, address: str, opened: Keep) -> None:
    with socket.socket(family) as taken:
        taken.bind((address, 0))
        sock = opened(sockets.open_tcp(family))
        error = sockets.connect(sock, end(address, taken.getsockname()[1]))
        if error == 0:
            select.select([], [sock], [], 5)
            error = sockets.socket_error(sock)
        assert error == errno.ECONNREFUSED
        assert sockets.socket_error(sock) == 0


@pytest.mark.root
def test_tcp_without_a_route_is_an_errno() -> None:
    def connect() -> tuple[int, int]:
        bare_loopback()
        with sockets.open_tcp(socket.AF_INET) as four, sockets.open_tcp(socket.AF_INET6) as six:
            return sockets.connect(four, end("198.51.100.1", 80)), sockets.connect(six, end("2001:db8::1", 80))

    assert in_new_network(connect) == (errno.ENETUNREACH, errno.ENETUNREACH)


def test_reset_on_close(opened: Keep) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = opened(socket.create_connection(listener.getsockname(), timeout=5))
        near, _ = listener.accept()
        sockets.reset_on_close(near)
        near.close()
        with pytest.raises(ConnectionResetError):
            far.recv(1)
    sockets.reset_on_close(near)  # closed already: harmless


def test_the_error_of_a_closed_socket() -> None:
    sock = socket.socket()
    sock.close()
    assert sockets.socket_error(sock) == errno.EBADF


@pytest.mark.parametrize(("family", "address"), FAMILIES)
def test_listen(family: int, address: str, opened: Keep) -> None:
    one = opened(sockets.listen_tcp(pack(address), 0, family))
    assert_ours(one)
    port = one.getsockname()[1]
    assert one.getsockname()[0] == address
    with pytest.raises(OSError) as refused:
        sockets.listen_tcp(pack(address), port, family)
    assert refused.value.errno == errno.EADDRINUSE


def test_listening_on_everything_is_by_family(opened: Keep) -> None:
    six = opened(sockets.listen_tcp(None, 0, socket.AF_INET6))
    port = six.getsockname()[1]
    four = opened(sockets.listen_tcp(None, port, socket.AF_INET))
    assert (four.getsockname(), six.getsockname()[:2]) == (("0.0.0.0", port), ("::", port))


# -- UDP


@pytest.mark.parametrize(("family", "address"), FAMILIES)
@pytest.mark.parametrize("segmented", [False, True])
def test_udp(family: int, address: str, segmented: bool, opened: Keep) -> None:
    peer, stranger = (opened(socket.socket(family, socket.SOCK_DGRAM)) for _ in range(2))
    for sock in (peer, stranger):
        sock.bind((address, 0))
        sock.settimeout(5)
    with socket.socket(family, socket.SOCK_DGRAM) as free:
        free.bind((address, 0))
        wanted = free.getsockname()[1]
    sock = opened(sockets.open_udp(wanted, end(address, peer.getsockname()[1]), segmented))
    assert_ours(sock)
    assert sock.getsockname()[1] == wanted
    assert number(sock, socket.IPPROTO_UDP, sockets.UDP_GRO) == segmented
    sock.send(b"hello")
    assert peer.recv(10) == b"hello"
    stranger.sendto(b"not you", (address, wanted))
    peer.sendto(b"you", (address, wanted))
    assert sock.recv(10) == b"you"
    with pytest.raises(BlockingIOError):
        sock.recv(10)


def test_a_port_that_somebody_has_is_not_shared(opened: Keep) -> None:
    peer = opened(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    peer.bind(("127.0.0.1", 0))
    owner = opened(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    owner.bind(("", 0))
    wanted = owner.getsockname()[1]
    sock = opened(sockets.open_udp(wanted, end("127.0.0.1", peer.getsockname()[1]), False))
    assert sock.getsockname()[1] not in (0, wanted)


def test_flows_of_one_port_share_it(opened: Keep) -> None:
    peers = [opened(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)]
    for peer in peers:
        peer.bind(("127.0.0.1", 0))
    first = opened(sockets.open_udp(0, end("127.0.0.1", peers[0].getsockname()[1]), False))
    port = first.getsockname()[1]
    flows = [first] + [opened(sockets.open_udp(port, end("127.0.0.1", p.getsockname()[1]), False)) for p in peers[1:]]
    assert {flow.getsockname()[1] for flow in flows} == {port}
    for index, peer in enumerate(peers):
        peer.sendto(bytes([index]), ("127.0.0.1", port))
    for index, flow in enumerate(flows):
        assert select.select([flow], [], [], 5)[0]
        assert flow.recv(10) == bytes([index])


def test_udp_without_a_socket_leaves_none_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError):
        sockets.open_udp(0, end("fe80::1", 80), False)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("family", "address"), FAMILIES)
def test_the_error_queue(family: int, address: str, opened: Keep) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as closed:
        closed.bind((address, 0))
        port = closed.getsockname()[1]
    sock = opened(sockets.open_udp(0, end(address, port), False))
    assert sockets.read_error(sock) is None
    sock.send(b"anybody there?")
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(5000)
    report = sockets.read_error(sock)
    assert report is not None
    assert (report.errno, report.payload, report.info) == (errno.ECONNREFUSED, b"anybody there?", 0)
    assert (report.kind, report.code) == ((3, 3) if family == socket.AF_INET else (1, 4))
    assert sockets.read_error(sock) is None
    assert poll.poll(0) == [] or sockets.socket_error(sock) in (0, errno.ECONNREFUSED)


@pytest.mark.parametrize(("family", "address"), FAMILIES)
def test_a_published_udp_port(family: int, address: str, opened: Keep) -> None:
    listener = opened(sockets.bind_udp(None, 0, family))
    assert_ours(listener)
    assert listener.getsockname()[0] == ANY[socket.AddressFamily(family)]
    port = listener.getsockname()[1]
    client = opened(socket.socket(family, socket.SOCK_DGRAM))
    client.bind((address, 0))
    client.settimeout(5)
    client.sendto(b"one", (address, port))
    assert select.select([listener], [], [], 5)[0]
    body, ancillary, _, name = listener.recvmsg(100, 64)
    assert (body, name[:2]) == (b"one", client.getsockname()[:2])
    assert len(ancillary) == 1
    conversation = opened(sockets.bind_udp(pack(address), port, family, end(address, name[1]), True))
    assert_ours(conversation)
    client.sendto(b"two", (address, port))
    assert select.select([conversation], [], [], 5)[0]
    assert conversation.recv(100) == b"two"
    conversation.send(b"answer")
    assert client.recvfrom(100)[1][:2] == (address, port)


@pytest.mark.parametrize(("family", "address"), FAMILIES)
def test_a_udp_port_in_use_is_found_out(family: int, address: str, opened: Keep) -> None:
    listener = opened(sockets.bind_udp(pack(address), 0, family))
    port = listener.getsockname()[1]
    for place in (pack(address), None):
        with pytest.raises(OSError) as refused:
            sockets.probe_udp(place, port, family)
        assert refused.value.errno == errno.EADDRINUSE
    listener.close()
    sockets.probe_udp(pack(address), port, family)


@pytest.mark.parametrize("call", [sockets.listen_tcp, sockets.bind_udp, sockets.probe_udp])
def test_an_address_that_is_not_ours_leaves_nothing_open(call: Callable[..., object]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError) as refused:
        call(pack("192.0.2.77"), 0, socket.AF_INET)
    assert refused.value.errno == errno.EADDRNOTAVAIL
    assert len(os.listdir("/proc/self/fd")) == before


# -- ICMP echo


@pytest.mark.root
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_ping(address: str) -> None:
    def ping() -> bytes:
        bare_loopback()
        with sockets.open_ping(pack(address)) as sock:
            assert_ours(sock)
            sock.send(bytes((8 if "." in address else 128, 0, 0, 0, 0, 0, 0, 5)) + b"hello")
            assert select.select([sock], [], [], 5)[0]
            return sock.recv(100)

    reply = in_new_network(ping)
    assert reply[0] == (0 if "." in address else 129)
    assert reply[6:] == b"\0\5hello"


@pytest.mark.root
def test_ping_that_the_host_does_not_let_us() -> None:
    """A new namespace lets nobody: net.ipv4.ping_group_range is `1 0`."""

    def ping() -> tuple[int, bool]:
        before = len(os.listdir("/proc/self/fd"))
        try:
            sockets.open_ping(pack("127.0.0.1"))
        except OSError as error:
            return error.errno or 0, len(os.listdir("/proc/self/fd")) == before
        return 0, False

    assert in_new_network(ping) == (errno.EACCES, True)
