"""DNS at the gateway, end to end: real resolvers in the world, the host's resolv.conf, the guest's C library."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from support.fakehost import (
    GATEWAY4,
    GATEWAY6,
    PUBLIC4,
    PUBLIC6,
    RESOLVER4,
    RESOLVER6,
    FakeHost,
    Guest,
    Namespace,
    SharedGuest,
    family_of,
)
from support.guests import PATIENCE, eventually

pytestmark = pytest.mark.root

GATEWAYS = pytest.mark.parametrize("gateway", [GATEWAY4, GATEWAY6], ids=["v4", "v6"])
SECOND4 = "8.8.4.4"
STUB4 = "127.0.0.53"
BIG = ["x" * 200] * 15
HUGE = ["y" * 255] * 200


class Server:
    """A resolver at one address, UDP and TCP, in a thread each. `asked` are the questions it got."""

    def __init__(self, net: Namespace, address: str) -> None:
        self.address = address
        self.asked: list[tuple[str, str]] = []
        self._udp = net.bound(address, 53)
        self._tcp = net.listen(address, 53)
        self._udp.settimeout(None)
        self._tcp.settimeout(None)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._serve_udp, self._serve_tcp)]
        for thread in self._threads:
            thread.start()

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                message, peer = self._udp.recvfrom(4096)
                if not message:
                    return
                answer = self._answer(message, "udp")
                if answer is not None:
                    self._udp.sendto(answer, peer)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._tcp.accept()
                with sock, contextlib.suppress(OSError, struct.error):
                    sock.settimeout(PATIENCE)
                    while True:
                        length = struct.unpack("!H", sock.recv(2, socket.MSG_WAITALL))[0]
                        answer = self._answer(sock.recv(length, socket.MSG_WAITALL), "tcp")
                        if answer is not None:
                            sock.sendall(struct.pack("!H", len(answer)) + answer)

    def _answer(self, message: bytes, transport: str) -> bytes | None:
        query = dns.message.from_wire(message)
        question = query.question[0]
        name = question.name.to_text()
        self.asked.append((transport, name))
        response = dns.message.make_response(query, recursion_available=True)
        if name == "silent.test.":
            return None
        if name == "servfail.test.":
            response.set_rcode(dns.rcode.SERVFAIL)
        elif name == "nx.test.":
            response.set_rcode(dns.rcode.NXDOMAIN)
        else:
            self._fill(response, question, name)
        most = 65535 if transport == "tcp" else max(query.payload, 512)
        whole = response.to_wire(max_size=65535)
        if len(whole) <= most:
            return whole
        short = dns.message.make_response(query, recursion_available=True)
        short.flags |= dns.flags.TC
        return short.to_wire()

    def _fill(self, response: dns.message.Message, question: dns.rrset.RRset, name: str) -> None:
        texts = {"who.test.": [self.address], "big.test.": BIG, "huge.test.": HUGE}
        data = {dns.rdatatype.A: [PUBLIC4], dns.rdatatype.AAAA: [PUBLIC6]}.get(question.rdtype)
        if question.rdtype == dns.rdatatype.TXT:
            data = [" ".join(f'"{text}"' for text in texts.get(name, ["-"]))]
        if data:
            response.answer.append(dns.rrset.from_text(name, 60, "IN", question.rdtype, *data))

    def close(self) -> None:
        for sock in (self._udp, self._tcp):
            # It wakes the thread that waits, also where there is no connection to shut down (ENOTCONN).
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._udp.close()
        self._tcp.close()


@pytest.fixture(scope="module")
def servers(host: FakeHost) -> Iterator[dict[str, Server]]:
    host.world.ip(f"addr add {SECOND4} dev lo")
    made = {address: Server(host.world, address) for address in (RESOLVER4, RESOLVER6, SECOND4)}
    made[STUB4] = Server(host.net, STUB4)
    yield made
    for server in made.values():
        server.close()


@pytest.fixture(scope="module")
def guests(host: FakeHost) -> Iterator[SharedGuest]:
    with SharedGuest(host) as shared:
        yield shared


@pytest.fixture
def guest(guests: SharedGuest, servers: dict[str, Server]) -> Iterator[Guest]:
    with guests.checked() as guest:
        yield guest


@pytest.fixture
def resolvers(host: FakeHost) -> Iterator[FakeHost]:
    """The host, whose resolv.conf is put back."""
    yield host
    host.set_resolvers(RESOLVER4)


def ask(
    guest: Guest,
    gateway: str,
    name: str,
    rtype: str = "A",
    *,
    transport: str = "udp",
    timeout: float = PATIENCE,
    **options: object,
) -> dns.message.Message:
    """One question, asked by a socket of the guest; raises OSError as it does."""
    query = dns.message.make_query(name, rtype, **options)  # type: ignore[arg-type]
    if transport == "udp":
        with guest.net.new_socket(family_of(gateway), socket.SOCK_DGRAM, timeout=timeout) as sock:
            sock.connect((gateway, 53))
            sock.send(query.to_wire())
            wire = sock.recv(65536)
    else:
        with guest.net.connect(gateway, 53, timeout=timeout) as sock:
            send(sock, query)
            return receive(sock)
    response = dns.message.from_wire(wire)
    assert query.is_response(response)
    return response


def send(sock: socket.socket, query: dns.message.Message) -> None:
    wire = query.to_wire()
    sock.sendall(struct.pack("!H", len(wire)) + wire)


def receive(sock: socket.socket) -> dns.message.Message:
    length = struct.unpack("!H", sock.recv(2, socket.MSG_WAITALL))[0]
    return dns.message.from_wire(sock.recv(length, socket.MSG_WAITALL))


def first(response: dns.message.Message) -> str:
    return str(response.answer[0][0])


class TestQuestions:
    @GATEWAYS
    @pytest.mark.parametrize("transport", ["udp", "tcp"])
    @pytest.mark.parametrize(("rtype", "address"), [("A", PUBLIC4), ("AAAA", PUBLIC6)])
    def test_are_answered(self, guest: Guest, gateway: str, transport: str, rtype: str, address: str) -> None:
        response = ask(guest, gateway, "www.test", rtype, transport=transport)
        assert response.rcode() == dns.rcode.NOERROR
        assert first(response) == address

    @pytest.mark.parametrize(
        ("name", "rcode"), [("servfail.test", dns.rcode.SERVFAIL), ("nx.test", dns.rcode.NXDOMAIN)]
    )
    def test_failures_pass(self, guest: Guest, name: str, rcode: dns.rcode.Rcode) -> None:
        assert ask(guest, GATEWAY4, name).rcode() == rcode

    @GATEWAYS
    def test_big_answer_with_edns_comes_whole_by_udp(self, guest: Guest, gateway: str) -> None:
        response = ask(guest, gateway, "big.test", "TXT", use_edns=0, payload=4096)
        assert not response.flags & dns.flags.TC
        assert len(first(response)) > 3000
        assert response.edns == 0

    @GATEWAYS
    def test_big_answer_without_edns_is_truncated_and_comes_by_tcp(self, guest: Guest, gateway: str) -> None:
        response = ask(guest, gateway, "big.test", "TXT")
        assert response.flags & dns.flags.TC
        assert len(response.to_wire()) <= 512
        assert len(first(ask(guest, gateway, "big.test", "TXT", transport="tcp"))) > 3000

    def test_huge_answer_by_tcp(self, guest: Guest) -> None:
        assert len(first(ask(guest, GATEWAY4, "huge.test", "TXT", transport="tcp"))) > 50000

    @GATEWAYS
    def test_two_questions_on_one_connection(self, guest: Guest, gateway: str) -> None:
        with guest.net.connect(gateway, 53) as sock:
            queries = [dns.message.make_query("www.test", rtype) for rtype in ("A", "AAAA")]
            for query in queries:
                send(sock, query)
            answers = {response.id: first(response) for response in (receive(sock), receive(sock))}
        assert answers == {queries[0].id: PUBLIC4, queries[1].id: PUBLIC6}

    def test_many_at_once_keep_their_identifiers(self, guest: Guest) -> None:
        with guest.net.bound("0.0.0.0") as sock:
            sock.connect((GATEWAY4, 53))
            queries = [dns.message.make_query(f"n{number}.test", "A") for number in range(200)]
            for number, query in enumerate(queries):
                query.id = number
                sock.send(query.to_wire())
            answers = [dns.message.from_wire(sock.recv(4096)) for _ in queries]
        assert sorted(answer.id for answer in answers) == list(range(200))
        assert all(answer.question[0].name.to_text() == f"n{answer.id}.test." for answer in answers)

    @pytest.mark.parametrize("transport", ["udp", "tcp"])
    def test_nonsense_is_survived(self, guest: Guest, transport: str) -> None:
        if transport == "udp":
            with guest.net.bound("0.0.0.0") as sock:
                for message in (b"", b"x", bytes(11), bytes(12), b"\xff" * 600):
                    sock.sendto(message, (GATEWAY4, 53))
        else:
            for message in (b"\0\0", b"\0\x05abc", b"\xff\xff" + bytes(100)):
                with guest.net.connect(GATEWAY4, 53) as sock:
                    sock.sendall(message)
        assert first(ask(guest, GATEWAY4, "www.test")) == PUBLIC4


class TestHostNames:
    NAMES = ("host.bucatini.internal", "host.microsandbox.internal", "host.docker.internal", "host.containers.internal")

    @pytest.mark.parametrize("name", NAMES)
    def test_are_the_gateway_and_never_leave(self, guest: Guest, servers: dict[str, Server], name: str) -> None:
        assert first(ask(guest, GATEWAY4, name, "A")) == GATEWAY4
        assert first(ask(guest, GATEWAY4, name.upper(), "AAAA")) == GATEWAY6
        response = ask(guest, GATEWAY4, name, "TXT")
        assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])
        assert all("internal" not in asked for server in servers.values() for _, asked in server.asked)


class TestCLibrary:
    @pytest.mark.parametrize("family", ["ahostsv4", "ahostsv6"])
    def test_getaddrinfo(self, host: FakeHost, servers: dict[str, Server], user: str, family: str) -> None:
        done = host.run("getent", family, "www.test", user=user)
        assert done.status == 0
        assert done.stdout.split()[0] == (PUBLIC4 if family == "ahostsv4" else PUBLIC6)

    def test_unknown_name(self, host: FakeHost, servers: dict[str, Server]) -> None:
        assert host.run("getent", "hosts", "nx.test").status == 2

    @pytest.mark.parametrize(("option", "address"), [("-4", PUBLIC4), ("-6", PUBLIC6)])
    def test_with_one_family(self, host: FakeHost, servers: dict[str, Server], option: str, address: str) -> None:
        assert address in host.run(option, "getent", "ahosts", "www.test").stdout

    def test_public_names_lead_to_public_servers(self, host: FakeHost, servers: dict[str, Server]) -> None:
        with host.world.listen(PUBLIC4, 7100) as listener:
            runner = host.runner("ordinary")
            code = "exec 3<>/dev/tcp/www.test/7100; echo hello >&3"
            process, errors = runner.begin(["run", "bash", "-c", code])
            with process, errors, listener.accept()[0] as sock:
                assert sock.recv(10) == b"hello\n"
                assert process.wait(PATIENCE) == 0
            runner.gone()


class TestResolvers:
    def who(self, guest: Guest) -> str:
        response = ask(guest, GATEWAY4, "who.test", "TXT")
        return first(response).strip('"') if response.answer else dns.rcode.to_text(response.rcode())

    @pytest.mark.parametrize("address", [SECOND4, RESOLVER6, STUB4])
    def test_change_of_the_hosts_file_is_followed(self, resolvers: FakeHost, guest: Guest, address: str) -> None:
        """Also to IPv6, and to a resolver on the host's loopback, which no policy needs to open."""
        resolvers.set_resolvers(address)
        eventually(lambda: self.who(guest) == address)

    def test_second_is_asked_when_the_first_is_dead(self, resolvers: FakeHost, guest: Guest) -> None:
        resolvers.set_resolvers(PUBLIC4, SECOND4)  # nobody listens at the first: refused at once
        eventually(lambda: self.who(guest) == SECOND4)
        before = time.monotonic()
        assert self.who(guest) == SECOND4
        assert time.monotonic() - before < 1

    def test_second_is_asked_when_the_first_is_silent(self, resolvers: FakeHost, guest: Guest) -> None:
        resolvers.set_resolvers("93.184.215.99", SECOND4, options="timeout:1")
        eventually(lambda: self.who(guest) == SECOND4)

    def test_all_dead_is_servfail_at_once(self, resolvers: FakeHost, guest: Guest) -> None:
        resolvers.set_resolvers(PUBLIC4, PUBLIC6)
        eventually(lambda: self.who(guest) == "SERVFAIL")
        for transport in ("udp", "tcp"):
            before = time.monotonic()
            assert ask(guest, GATEWAY4, "www.test", transport=transport).rcode() == dns.rcode.SERVFAIL
            assert time.monotonic() - before < 1

    def test_unreachable_is_servfail_at_once(self, resolvers: FakeHost, guest: Guest) -> None:
        resolvers.set_resolvers("45.33.32.1")
        eventually(lambda: self.who(guest) == "SERVFAIL")


class TestPolicy:
    @pytest.mark.parametrize(
        "options", [("--policy", "none"), ("--deny", "host"), ("--deny", GATEWAY4, "--deny", GATEWAY6)]
    )
    def test_closes_it_at_once(self, host: FakeHost, servers: dict[str, Server], options: tuple[str, ...]) -> None:
        with host.guest(*options) as guest:
            for gateway in (GATEWAY4, GATEWAY6):
                for transport in ("udp", "tcp"):
                    with pytest.raises(OSError, match=r"refused|No route|Permission"):
                        ask(guest, gateway, "www.test", transport=transport, timeout=2)

    @pytest.mark.parametrize("options", [("--policy", "open"), ("--deny", "172.16.0.0/12"), ("--deny", "public")])
    def test_keeps_it_open(self, host: FakeHost, servers: dict[str, Server], options: tuple[str, ...]) -> None:
        with host.guest(*options) as guest:
            for transport in ("udp", "tcp"):
                assert first(ask(guest, GATEWAY4, "www.test", transport=transport)) == PUBLIC4

    def test_other_resolvers_are_destinations_like_any(self, host: FakeHost, servers: dict[str, Server]) -> None:
        with host.guest("--deny", SECOND4) as guest:
            assert first(ask(guest, RESOLVER4, "who.test", "TXT")) == f'"{RESOLVER4}"'
            with pytest.raises(OSError, match="No route"):
                ask(guest, SECOND4, "who.test", "TXT", timeout=2)
