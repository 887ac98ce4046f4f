"""The host moves to another network while an engine runs: new flows follow, old ones end as its kernel ends them.

The fake host gets a second uplink, `up2`, to the same world. A move is what a laptop does between two networks: other
default routes, another name server, and perhaps the first uplink vanishes with its addresses.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from bucatini.host.mirror import read_host
from bucatini.host.resolvers import HostResolvers
from bucatini.host.watch import HostWatch, default_interface
from support.fakehost import (
    GATEWAY4,
    GATEWAY6,
    HOST4,
    HOST6,
    PUBLIC4,
    PUBLIC6,
    RESOLVER4,
    WORLD4,
    WORLD6,
    FakeHost,
    Guest,
    Namespace,
    family_of,
)
from support.guests import PATIENCE

pytestmark = pytest.mark.root

SECOND_HOST4, SECOND_HOST6 = "203.0.113.130", "2001:db8:78::2"
SECOND_WORLD4, SECOND_WORLD6 = "203.0.113.129", "2001:db8:78::1"
SECOND_RESOLVER4 = "8.8.4.4"
IN_TIME = 2.0
"""Seconds within which new flows follow."""

FAMILIES = pytest.mark.parametrize("family", ["v4", "v6"])


class Way(NamedTuple):
    """One uplink as a family sees it."""

    host: str
    router: str
    interface: str


FIRST = {"v4": Way(HOST4, WORLD4, "up0"), "v6": Way(HOST6, WORLD6, "up0")}
SECOND = {"v4": Way(SECOND_HOST4, SECOND_WORLD4, "up2"), "v6": Way(SECOND_HOST6, SECOND_WORLD6, "up2")}
PUBLIC = {"v4": PUBLIC4, "v6": PUBLIC6}


def make_second_uplink(host: FakeHost) -> None:
    host.net.ip(f"link add up2 type veth peer name up3 netns {host.world.path}")
    host.world.ip(f"link set up3 up\naddr add {SECOND_WORLD4}/25 dev up3\naddr add {SECOND_WORLD6}/64 dev up3 nodad")
    host.net.ip(
        f"link set up2 up\naddr add {SECOND_HOST4}/25 dev up2\naddr add {SECOND_HOST6}/64 dev up2 nodad\n"
        f"route replace default via {WORLD4} dev up0\nroute replace default via {WORLD6} dev up0"
    )
    host.world.ip(f"addr add {SECOND_RESOLVER4} dev lo")
    with host.net.entered():
        # Lost peers are given up after seconds, not after a quarter of an hour.
        Path("/proc/sys/net/ipv4/tcp_retries2").write_text("3")


def move(host: FakeHost) -> float:
    """To the second network; when that was."""
    host.net.ip("".join(f"route replace default via {way.router} dev {way.interface}\n" for way in SECOND.values()))
    host.set_resolvers(SECOND_RESOLVER4)
    return time.monotonic()


@pytest.fixture
def moving() -> Iterator[FakeHost]:
    """A host of the test's own, on its first network."""
    made = FakeHost()
    try:
        make_second_uplink(made)
        yield made
    finally:
        made.close()


@pytest.fixture
def guest(moving: FakeHost) -> Iterator[Guest]:
    with moving.guest() as made:
        yield made


@pytest.fixture
def resolvers(moving: FakeHost) -> Iterator[None]:
    """Both answer with their own address."""
    made = [Resolver(moving.world, address) for address in (RESOLVER4, SECOND_RESOLVER4)]
    yield
    for resolver in made:
        resolver.close()


class Resolver:
    """Answers every question with its own address."""

    def __init__(self, net: Namespace, address: str) -> None:
        self._address = address
        self._sock = net.bound(address, 53, timeout=0.2)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                message, peer = self._sock.recvfrom(4096)
                query = dns.message.from_wire(message)
                response = dns.message.make_response(query)
                response.answer.append(
                    dns.rrset.from_text(query.question[0].name, 60, "IN", dns.rdatatype.A, self._address)
                )
                self._sock.sendto(response.to_wire(), peer)

    def close(self) -> None:
        self._ended.set()
        self._thread.join(PATIENCE)
        self._sock.close()


def who_answers(guest: Guest, gateway: str) -> str:
    query = dns.message.make_query("who.test", "A")
    with guest.net.new_socket(family_of(gateway), socket.SOCK_DGRAM) as sock:
        sock.connect((gateway, 53))
        sock.send(query.to_wire())
        return str(dns.message.from_wire(sock.recv(4096)).answer[0][0])


def tcp_source(moving: FakeHost, guest: Guest, address: str) -> str:
    """From which address of the host a new flow comes, as the peer sees it."""
    with moving.world.listen(address) as listener, guest.net.connect(address, listener.getsockname()[1]):
        sock, peer = listener.accept()
        sock.close()
    return str(peer[0])


def udp_source(moving: FakeHost, guest: Guest, address: str) -> str:
    with moving.world.bound(address) as peer, guest.net.new_socket(peer.family, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"?", peer.getsockname())
        _, source = peer.recvfrom(10)
        peer.sendto(b"!", source)
        assert sock.recv(10) == b"!"
    return str(source[0])


class TestNewFlows:
    @FAMILIES
    @pytest.mark.parametrize("source", [tcp_source, udp_source])
    def test_leave_by_the_new_way(self, moving: FakeHost, guest: Guest, family: str, source: object) -> None:
        assert callable(source)
        assert source(moving, guest, PUBLIC[family]) == FIRST[family].host
        moved = move(moving)
        assert source(moving, guest, PUBLIC[family]) == SECOND[family].host
        assert time.monotonic() - moved < IN_TIME

    @FAMILIES
    def test_echo_leaves_by_the_new_way(self, moving: FakeHost, guest: Guest, family: str) -> None:
        """The old uplink is down: an answer can only have come through the new one."""
        move(moving)
        moving.net.ip("link set up0 down")
        guest.net.run("ping", "-c1", "-W2", PUBLIC[family])

    @FAMILIES
    def test_survive_the_end_of_the_old_uplink(self, moving: FakeHost, guest: Guest, family: str) -> None:
        assert tcp_source(moving, guest, PUBLIC[family]) == FIRST[family].host
        moving.net.ip("link del up0")
        move(moving)
        assert tcp_source(moving, guest, PUBLIC[family]) == SECOND[family].host
        assert udp_source(moving, guest, PUBLIC[family]) == SECOND[family].host

    @pytest.mark.usefixtures("resolvers")
    @pytest.mark.parametrize("gateway", [GATEWAY4, GATEWAY6], ids=["v4", "v6"])
    def test_questions_go_to_the_new_resolver(self, moving: FakeHost, guest: Guest, gateway: str) -> None:
        assert who_answers(guest, gateway) == RESOLVER4
        moved = move(moving)
        while who_answers(guest, gateway) != SECOND_RESOLVER4:
            assert time.monotonic() - moved < IN_TIME
            time.sleep(0.05)


class TestOldFlows:
    @FAMILIES
    def test_go_on_while_their_address_is_the_hosts(self, moving: FakeHost, guest: Guest, family: str) -> None:
        with moving.world.listen(PUBLIC[family]) as listener:
            with guest.net.connect(PUBLIC[family], listener.getsockname()[1]) as near:
                far, _ = listener.accept()
                with far:
                    far.settimeout(PATIENCE)
                    move(moving)
                    near.sendall(b"still ")
                    near.shutdown(socket.SHUT_WR)
                    assert far.makefile("rb").read() == b"still "
                    far.sendall(b"there")
                    far.close()
                    assert near.makefile("rb").read() == b"there"

    @FAMILIES
    def test_end_when_the_kernel_gives_up(self, moving: FakeHost, guest: Guest, family: str) -> None:
        """The address is gone with its uplink: what is sent is lost, and after its retries the kernel says so."""
        with moving.world.listen(PUBLIC[family]) as listener:
            with guest.net.connect(PUBLIC[family], listener.getsockname()[1]) as near:
                far, _ = listener.accept()
                with far:
                    moving.net.ip("link del up0")
                    move(moving)
                    near.sendall(b"lost")
                    near.settimeout(3 * PATIENCE)
                    with pytest.raises((ConnectionResetError, TimeoutError)) as error:
                        near.recv(10)
                    assert error.value.errno is not None, "the guest was told, not left waiting"
        # The engine is none the worse.
        assert tcp_source(moving, guest, PUBLIC[family]) == SECOND[family].host

    @FAMILIES
    def test_datagrams_of_an_old_flow(self, moving: FakeHost, guest: Guest, family: str) -> None:
        """A guest's socket that goes on sending after the move is heard within seconds, from whatever address."""
        with moving.world.bound(PUBLIC[family], timeout=0.2) as peer:
            with guest.net.new_socket(peer.family, socket.SOCK_DGRAM, timeout=0.2) as sock:
                sock.connect(peer.getsockname())
                sock.send(b"before")
                assert peer.recvfrom(10)[1][0] == FIRST[family].host
                moving.net.ip("link del up0")
                moved = move(moving)
                heard = False
                while not heard:
                    assert time.monotonic() - moved < IN_TIME
                    with contextlib.suppress(OSError):
                        sock.send(b"after")
                    with contextlib.suppress(TimeoutError):
                        data, source = peer.recvfrom(10)
                        heard = (data, source[0]) == (b"after", SECOND[family].host)


class TestWatch:
    """What tells an engine that a mirrored host is another now."""

    def test_tells_of_the_move_and_of_nothing_else(self, moving: FakeHost) -> None:
        with moving.net.entered():
            before = (default_interface(socket.AF_INET), default_interface(socket.AF_INET6), read_host())
            current = HostResolvers(str(moving.resolv_conf), interval=0)
            with HostWatch(str(moving.resolv_conf)) as watch:
                settle(watch)
                assert not watch.changed()
                assert current().search == ()
                move(moving)
                moving.resolv_conf.write_text(f"search example.org\nnameserver {SECOND_RESOLVER4}\n")
                assert watch.changed()
                after = (default_interface(socket.AF_INET), default_interface(socket.AF_INET6), read_host())
                settle(watch)
                assert not watch.changed()
            names = dict(socket.if_nameindex())
        assert [names[index] for index in before[:2]] == ["up0", "up0"]
        assert [names[index] for index in after[:2]] == ["up2", "up2"]
        assert before[2] != after[2]
        assert current().search == ("example.org",)


def settle(watch: HostWatch) -> None:
    while select.select([watch], [], [], 0.3)[0]:
        watch.changed()
