"""engine.forwarding.tcp_listener: what an entry says of itself; connections are in the publisher's tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from bucatini.base.address import Endpoint, pack
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.engine.forwarding import Publisher
from bucatini.engine.forwarding.tcp_listener import TcpInward, TcpOutward
from bucatini.forward.portspec import Forward
from support.engines import GUEST_HERE, Engine, free_port, here


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Engine([f"127.0.0.1:{free_port()}:1"], **here()) as engine:
        yield engine.translator.publisher


def test_inward_follows_the_guest(publisher: Publisher) -> None:
    entry = TcpInward(publisher, socket.socket(), Forward(6, None, 8080, 80), 4)
    assert (entry.direction, entry.far_kind, entry.keep_address, entry.spliced) == (INGRESS, "tcp4", True, True)
    assert entry.guest == Endpoint(pack(GUEST_HERE), 80)
    assert entry.targets == (Endpoint(pack("127.0.0.1"), 80), entry.guest)
    publisher.guests = lambda: (pack("10.0.0.7"),)
    assert entry.guest == entry.targets[1] == Endpoint(pack("10.0.0.7"), 80)
    publisher.guests = tuple
    assert entry.guest == Endpoint(bytes(4), 80)
    publisher.spliced = False
    assert not entry.spliced
    entry.close()
    entry.close()


def test_outward_is_always_spliced_and_hides_the_port(publisher: Publisher) -> None:
    publisher.spliced = False
    entry = TcpOutward(publisher, socket.socket(), Forward(6, None, 8080, 80, EGRESS), 16)
    assert (entry.direction, entry.far_kind, entry.keep_address, entry.spliced) == (EGRESS, "tcp6", False, True)
    assert (entry.local, entry.targets) == (Endpoint(pack("::1"), 80), (Endpoint(pack("::1"), 8080),))
    entry.close()


def test_outward_refuses_whoever_is_not_loopback(publisher: Publisher) -> None:
    entry = TcpOutward(publisher, socket.socket(), Forward(6, None, 8080, 80, EGRESS), 4)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        entry.accepted(listener.accept()[0], Endpoint(pack("10.0.0.1"), 5), 0.0)
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)
    assert publisher.sink.counters.snapshot() == {"peer-unexpected": 1}
    entry.close()
