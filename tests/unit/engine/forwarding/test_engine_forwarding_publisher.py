"""engine.forwarding: what is bound, who is let in, and what happens at each bound.

Peers that are not loopback come from a private network namespace's own addresses.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import IP, TCP, UDP

from bucatini.base.address import Endpoint, pack
from bucatini.base.errors import ConfigError
from bucatini.base.events import Refusal
from bucatini.base.verdict import EGRESS, INGRESS, Request, Verdict
from bucatini.engine.forwarding import Publisher
from bucatini.engine.forwarding.binding import is_loopback as _is_loopback
from bucatini.engine.forwarding.tcp_listener import key_of as _key
from bucatini.engine.forwarding.udp_listener import REST
from bucatini.engine.forwarding.udp_listener import local_address as _local_address
from bucatini.forward.portspec import Forward, parse_publish
from support.engines import GUEST_HERE, PATIENCE, Engine, free_port, here
from support.forked import in_new_network
from support.frames import GUEST4, GUEST6, Bench, ether, ip, payload_of

FOUR, SIX = "198.51.100.2", "2001:db8:77::2"


def loopback_up() -> None:
    """In the child: two addresses that are not loopback, on `lo`."""
    with IPRoute() as route:
        route.link("set", index=1, state="up")
        route.addr("add", index=1, address=FOUR, prefixlen=32)
        route.addr("add", index=1, address=SIX, prefixlen=128)


# -- small parts


def test_where_a_datagram_was_sent_to() -> None:
    four = struct.pack("=i4s4s", 1, pack("10.0.0.1"), pack("10.0.0.2"))
    assert _local_address([(socket.IPPROTO_IP, 8, four)]) == pack("10.0.0.1")
    six = struct.pack("=16si", pack(SIX), 1)
    assert _local_address([(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, six)]) == pack(SIX)
    assert _local_address([]) is None
    assert _local_address([(socket.IPPROTO_IP, 8, four[:-1])]) is None
    assert _local_address([(socket.IPPROTO_IP, 9, four)]) is None
    assert (
        _local_address([(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, six[:19]), (socket.IPPROTO_IP, 8, four)]) is not None
    )


def test_the_key_is_that_of_the_guests_packets() -> None:
    for version, guest, peer in ((4, GUEST4, FOUR), (6, GUEST6, SIX)):
        bench = Bench()
        bench.parse(ether(ip(version, dst=peer) / TCP(sport=80, dport=555)))
        assert _key(Endpoint(pack(guest), 80), Endpoint(pack(peer), 555)) == bench.packet.key()


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("10.0.0.1", False), ("::2", False), ("::", False)],
)
def test_what_loopback_is(address: str, expected: bool) -> None:
    assert _is_loopback(pack(address)) is expected


# -- binding


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_in_use_is_an_error_of_the_command_line(protocol: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    before = len(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"--publish '127.0.0.1:{port}:80/{protocol}': port {port} is in use on this host"
        ):
            Engine([f"127.0.0.1:{port}:80/{protocol}"], **here())
    assert len(os.listdir("/proc/self/fd")) == before


def test_our_own_udp_port_is_in_use_for_the_second() -> None:
    """SO_REUSEPORT, which the conversations need, must not let two engines of one user share a port."""
    port = free_port(socket.SOCK_DGRAM)
    with Engine([f"127.0.0.1:{port}:80/udp"], **here()):
        with pytest.raises(ConfigError, match="in use"):
            Engine([f"127.0.0.1:{port}:80/udp"], **here())


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.77 is not an address of this host"):
        Engine(["192.0.2.77:8000:80"], **here())


@pytest.mark.root
def test_without_an_address_both_families_are_bound() -> None:
    def both() -> list[str]:
        loopback_up()
        with Engine(["8000:80", "8001:81/udp"], agent=False) as engine:
            names = [listener.sock.getsockname() for listener in engine.translator.publisher.listeners]
            guests = [str(listener.guest) for listener in engine.translator.publisher.listeners]
        with Engine(["8000:80"], agent=False, guest_ipv6=None, gateway_ipv6=None) as engine:
            assert len(engine.translator.publisher.listeners) == 1
        return [f"{name[0]} {name[1]}" for name in names] + guests

    assert in_new_network(both) == [
        *("0.0.0.0 8000", ":: 8000", "0.0.0.0 8001", ":: 8001"),
        *(f"{GUEST4}:80", f"[{GUEST6}]:80", f"{GUEST4}:81", f"[{GUEST6}]:81"),
    ]


# -- peers that are not loopback


@pytest.mark.root
@pytest.mark.parametrize(("address", "guest"), [(FOUR, GUEST4), (SIX, GUEST6)])
def test_a_peer_becomes_a_flow(address: str, guest: str) -> None:
    def connect() -> None:
        loopback_up()
        with Engine(["8000:80"], agent=False) as engine, socket.socket(_family(address)) as client:
            client.bind((address, 0))
            client.setblocking(False)
            client.connect_ex((address, 8000))
            (syn,) = engine.until(engine.heard)
            assert (syn[TCP].sport, syn[TCP].dport) == (client.getsockname()[1], 80)
            assert str(syn[TCP].flags) == "S"
            network = syn.payload
            assert (network.src, network.dst) == (address, guest)
            (opened,) = engine.opened()
            assert (opened.direction, opened.peer.address) == (INGRESS, pack(address))
            refuse = TCP(sport=80, dport=syn[TCP].sport, flags="RA", seq=0, ack=syn[TCP].seq + 1)
            engine.feed(ether(ip(4 if guest == GUEST4 else 6, dst=address) / refuse))
            (closed,) = engine.until(engine.closed)
            assert closed.how == "reset by guest"
            with pytest.raises(ConnectionResetError):
                client.recv(1)

    in_new_network(connect)


@pytest.mark.root
def test_datagrams_become_a_flow_and_answers_come_from_where_they_went() -> None:
    def exchange() -> None:
        loopback_up()
        with Engine(["8000:80/udp"], agent=False) as engine, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind((FOUR, 0))
            client.settimeout(PATIENCE)
            client.sendto(b"one", (FOUR, 8000))
            client.sendto(b"two", (FOUR, 8000))
            bodies: list[bytes] = []
            engine.until(lambda: bodies.extend(payload_of(frame) for frame in engine.heard()) or len(bodies) == 2)
            assert bodies == [b"one", b"two"]
            client.sendto(b"three", (FOUR, 8000))
            (frame,) = engine.until(engine.heard)
            assert (frame[IP].src, frame[IP].dst, frame[UDP].dport) == (FOUR, GUEST4, 80)
            answer = UDP(sport=80, dport=client.getsockname()[1]) / b"answer"
            engine.feed(ether(ip(4, dst=FOUR) / answer))
            engine.settle()
            assert client.recvfrom(100) == (b"answer", (FOUR, 8000))
            assert len(engine.opened()) == 1
            assert len(engine.sink.table) == 1

    in_new_network(exchange)


@pytest.mark.root
def test_an_address_of_the_guests_own_is_shown_as_the_gateway() -> None:
    """With the host's addresses mirrored, the guest would answer itself."""

    def connect() -> None:
        loopback_up()
        with Engine(["8000:80"], agent=False, guest_ipv4=pack(FOUR), gateway_ipv4=pack("198.51.100.1")) as engine:
            with socket.socket() as client:
                client.bind((FOUR, 0))
                client.setblocking(False)
                client.connect_ex((FOUR, 8000))
                (syn,) = engine.until(engine.heard)
                assert (syn[IP].src, syn[IP].dst) == ("198.51.100.1", FOUR)

    in_new_network(connect)


# -- who is not let in


def deny(request: Request) -> Verdict:
    return Verdict(request.direction != INGRESS, "no")


def test_a_denied_peer_is_reset() -> None:
    port = free_port()
    with Engine([f"127.0.0.1:{port}:80"], allow=deny, **here()) as engine:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            (event,) = engine.until(engine.refusals)
            assert (event.direction, event.rule, event.reason) == (INGRESS, "no", Refusal.POLICY)
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert engine.drops() == {"policy-denied": 1}
        assert (engine.opened(), len(engine.sink.table)) == ([], 0)


def test_a_denied_datagram_is_dropped() -> None:
    port = free_port(socket.SOCK_DGRAM)
    with Engine([f"127.0.0.1:{port}:80/udp"], allow=deny, **here()) as engine:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", ("127.0.0.1", port))
            engine.until(engine.refusals)
        assert len(engine.sink.table) == 0


def test_the_table_is_full() -> None:
    port = free_port()
    with socket.create_server((GUEST_HERE, 0)) as listener:
        with Engine([f"127.0.0.1:{port}:{listener.getsockname()[1]}"], flow_limit=2, **here()) as engine:
            clients = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) for _ in range(3)]
            (event,) = engine.until(engine.refusals)
            assert event.reason is Refusal.TABLE_FULL
            assert (len(engine.sink.table), len(engine.opened())) == (2, 2)
            with pytest.raises(ConnectionResetError):
                clients[2].recv(1)
            for client in clients:
                client.close()


def test_a_listener_rests_when_there_is_no_descriptor() -> None:
    """It does not spin, and takes the connection when its rest is over."""
    port = free_port()
    with socket.create_server((GUEST_HERE, 0)) as listener:
        with Engine([f"127.0.0.1:{port}:{listener.getsockname()[1]}"], **here()) as engine:
            client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            lowest = os.dup(0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
            try:
                start = time.monotonic()
                engine.turn(1)
                assert engine.drops() == {"sockets-exhausted": 1}
                engine.turn(0.1)
                assert time.monotonic() - start > 0.09
                assert engine.opened() == []
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            engine.until(engine.opened)
            assert time.monotonic() - start >= REST
            client.close()


def _family(address: str) -> Any:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


# -- forwards come and go


def forward(text: str, **changed: Any) -> Forward:
    (made,) = parse_publish(text)
    return made._replace(**changed)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    """Of a running engine with an agent, whose guest is `GUEST_HERE`."""
    with Engine([f"127.0.0.1:{free_port()}:1"], **here()) as engine:
        (first,) = engine.translator.publisher.forwards()
        engine.translator.publisher.remove(first)
        yield engine.translator.publisher


def test_added_and_removed_while_it_runs(publisher: Publisher) -> None:
    port = free_port()
    made = forward(f"127.0.0.1:{port}:80")
    assert publisher.forwards() == []
    publisher.add(made)
    assert (publisher.forwards(), publisher.ports(6, INGRESS), publisher.ports(17, INGRESS)) == ([made], {port}, set())
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE):
        pass
    assert publisher.remove(made) is True
    assert publisher.remove(made) is False
    assert (publisher.forwards(), publisher.ports(6, INGRESS)) == ([], set())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


@pytest.mark.parametrize(
    ("one", "two", "clash"),
    [
        ({}, {}, True),
        ({}, {"guest_port": 99}, True),
        ({"address": None}, {}, True),
        ({}, {"address": bytes(4)}, True),
        ({}, {"address": pack("127.0.0.2")}, False),
        ({}, {"protocol": 17}, False),
        ({"device": "lo"}, {}, True),
        ({"direction": EGRESS}, {}, False),
        ({"direction": EGRESS}, {"direction": EGRESS, "address": None}, True),
    ],
)
def test_what_overlaps(publisher: Publisher, one: dict[str, Any], two: dict[str, Any], clash: bool) -> None:
    port = free_port()
    base = Forward(6, pack("127.0.0.1"), port, free_port())
    publisher.add(base._replace(**one))
    if not clash:
        publisher.add(base._replace(**two))
        assert len(publisher.forwards()) == 2
        return
    with pytest.raises(ConfigError, match="listens there already") as caught:
        publisher.add(base._replace(**two), "forward.add")
    assert str(caught.value).startswith("forward.add '")
    publisher.add(base._replace(**two, optional=True))
    assert len(publisher.forwards()) == 1


def test_two_devices_share_a_port_number(publisher: Publisher) -> None:
    port = free_port()
    publisher.add(Forward(6, pack("127.0.0.1"), port, 80, device="lo"))
    with pytest.raises(ConfigError, match="no interface 'nowhere'"):
        publisher.add(Forward(6, pack("127.0.0.1"), port, 80, device="nowhere"))


@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
def test_optional_ones_fail_in_silence_but_not_all_of_them(publisher: Publisher, protocol: int, direction: str) -> None:
    kind = socket.SOCK_STREAM if protocol == 6 else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", 0))
        taken = holder.getsockname()[1]
        if protocol == 6:
            holder.listen()
        free = free_port(kind)
        both = [Forward(protocol, pack("127.0.0.1"), port, port, direction, optional=True) for port in (taken, free)]
        publisher.add_all(both, "-t")
        assert [each.host_port for each in publisher.forwards()] == [free]
        with pytest.raises(ConfigError, match="-t: none of its 1 ports can be had"):
            publisher.add_all(both[:1], "-t")
        publisher.remove(both[1])
        with pytest.raises(ConfigError, match=rf"-t '.*': port {taken} is in use"):
            publisher.add_all([each._replace(optional=False) for each in reversed(both)], "-t")
        assert publisher.forwards() == []
        publisher.add_all([], "-t")


def test_running_out_of_descriptors_is_said_also_of_optional_ones(publisher: Publisher) -> None:
    port = free_port()
    publisher.add(forward(f"127.0.0.1:{free_port()}:80"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        with pytest.raises(ConfigError, match=f"port {port}: Too many open files; raise the limit"):
            publisher.add(forward(f"127.0.0.1:{port}:80", optional=True))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_family_the_guest_does_not_have(publisher: Publisher) -> None:
    with pytest.raises(ConfigError, match=r"'\[::1\]:8080:80/tcp': the guest has no IPv6"):
        publisher.add(forward("[::1]:8080:80"))


def test_outward_without_a_namespace() -> None:
    with Engine(agent=False, **here()) as engine:
        with pytest.raises(ConfigError, match="no namespace to listen in"):
            engine.translator.publisher.add(Forward(6, None, 80, 80, EGRESS))
        assert engine.translator.publisher.forwards() == []


# -- what listeners ask


def test_no_way_leads_back_to_a_listener_of_ours(publisher: Publisher) -> None:
    port = free_port()
    loopback, guest = (Endpoint(pack(address), port) for address in ("127.0.0.1", GUEST_HERE))
    assert publisher.inner_targets(6, 4, port) == (loopback, guest)
    publisher.add(Forward(6, None, port, port, EGRESS))
    assert publisher.inner_targets(6, 4, port) == (guest,)
    assert publisher.inner_targets(17, 4, port) == (loopback, guest)
    publisher.guests = tuple
    assert publisher.inner_targets(6, 4, port) == (Endpoint(pack("127.0.0.1"), 0),)


def test_outward_both_protocols() -> None:
    """Guest and host are one place here."""
    with Engine([f"127.0.0.1:{free_port()}:1"], **here()) as engine:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = free_port()
            engine.translator.publisher.add(Forward(6, None, listener.getsockname()[1], near, EGRESS))
            with socket.create_connection(("127.0.0.1", near), timeout=PATIENCE) as client:
                client.sendall(b"hello")
                engine.until(engine.opened)
                engine.settle()
                inside = listener.accept()[0]
                inside.settimeout(PATIENCE)
                engine.settle()
                assert inside.recv(5) == b"hello"
                inside.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            server.settimeout(0.01)
            near = free_port(socket.SOCK_DGRAM)
            engine.translator.publisher.add(Forward(17, None, server.getsockname()[1], near, EGRESS))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.connect(("127.0.0.1", near))
                client.send(b"question")
                got: list[tuple[bytes, Any]] = []

                def heard() -> bool:
                    with contextlib.suppress(TimeoutError):
                        got.append(server.recvfrom(100))
                    return bool(got)

                engine.until(heard)
                assert got[0][0] == b"question"
                server.sendto(b"answer", got[0][1])
                client.settimeout(0.01)

                def answered() -> bool:
                    with contextlib.suppress(TimeoutError):
                        return client.recv(100) == b"answer"
                    return False

                engine.until(answered)
        assert [(event.protocol, event.rule) for event in engine.opened()] == [("tcp", "--tcp-ns"), ("udp", "--udp-ns")]
