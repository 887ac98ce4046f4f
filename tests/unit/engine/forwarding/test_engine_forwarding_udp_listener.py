"""engine.forwarding.udp_listener: small parts, and outward conversations; the rest is in the publisher's tests."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from bucatini.base.address import Endpoint, pack
from bucatini.base.events import Refusal
from bucatini.base.verdict import EGRESS, Request, Verdict
from bucatini.engine.forwarding.udp_listener import _device, _far, peer_of
from bucatini.forward.portspec import Forward
from support.engines import Engine, free_port, here


def deny_host(request: Request) -> Verdict:
    return Verdict(False, "--deny host")


@pytest.fixture
def outward() -> Iterator[tuple[Engine, int]]:
    """An engine and a port of the guest's loopback, which is this one."""
    with Engine([f"127.0.0.1:{free_port()}:1"], **here()) as engine:
        port = free_port(socket.SOCK_DGRAM)
        engine.translator.publisher.add(Forward(17, None, 9, port, EGRESS))
        yield engine, port


def test_names_of_peers() -> None:
    assert peer_of(("::ffff:10.0.0.1", 5, 0, 0)) == Endpoint(pack("10.0.0.1"), 5)
    assert peer_of(("fe80::1%lo", 5, 0, 1)) == Endpoint(pack("fe80::1"), 5)
    assert _device(("fe80::1%lo", 5, 0, 1)) == "lo"
    assert _device(("fe80::1", 5, 0, 1 << 30)) == ""
    assert _device(("::1", 5, 0, 0)) == _device(("10.0.0.1", 5)) == ""


def test_a_privileged_source_port_is_not_kept() -> None:
    port = free_port(socket.SOCK_DGRAM)
    for wanted, bound in ((port, port), (700, 0)):
        with _far(Endpoint(pack("127.0.0.1"), wanted)) as far:
            assert far.getsockname()[1] == bound


def test_who_is_not_on_loopback_is_counted(outward: tuple[Engine, int]) -> None:
    engine, _ = outward
    (listener, _) = (each for each in engine.translator.publisher.listeners if each.forward.direction == EGRESS)
    listener.first(b"x", None, ("10.0.0.1", 5), 0.0)
    assert engine.drops() == {"peer-unexpected": 1}
    assert engine.opened() == []


def test_a_denied_one_is_dropped_and_told() -> None:
    with Engine([f"127.0.0.1:{free_port()}:1"], allow=deny_host, **here()) as engine:
        port = free_port(socket.SOCK_DGRAM)
        engine.translator.publisher.add(Forward(17, None, 9, port, EGRESS))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", ("127.0.0.1", port))
            (event,) = engine.until(engine.refusals)
        assert (event.protocol, event.direction, event.reason) == ("udp", EGRESS, Refusal.POLICY)
        assert len(engine.sink.table) == 0


def test_without_an_agent_a_conversation_fails_cleanly(outward: tuple[Engine, int]) -> None:
    engine, port = outward
    engine.answers = False
    stock: Any = engine.translator.guest_sockets
    while (sock := stock.take("udp4")) is not None:
        sock.close()
    engine.agent.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", ("127.0.0.1", port))
        end = engine.translator.reactor
        for _ in range(20):
            end.turn(0.01)
        assert [event.how for event in engine.closed()] == ["failed"]
    assert len(engine.sink.table) == 0


def test_everything_that_came_too_early_is_sorted_out() -> None:
    """Far more than a turn's share may lie there when the engine had to wait between bind and connect."""
    port = free_port(socket.SOCK_DGRAM)
    with Engine([f"127.0.0.1:{port}:80/udp"], **here()) as engine:
        (listener,) = engine.translator.publisher.listeners
        with contextlib.ExitStack() as stack:
            near, foreign, client = (
                stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in "123"
            )
            near.bind(("127.0.0.1", 0))
            near.setblocking(False)
            client.bind(("127.0.0.1", 0))
            for number in range(200):
                foreign.sendto(bytes([number]), near.getsockname())
            client.sendto(b"own", near.getsockname())
            near.connect(client.getsockname())
            own: list[bytes] = []
            listener.sort(near, Endpoint(pack("127.0.0.1"), client.getsockname()[1]), own.append, pack("127.0.0.1"))
            assert own == [b"own"]
            with pytest.raises(BlockingIOError):
                near.recv(1)
            (opened,) = engine.opened()
            assert opened.peer.port == foreign.getsockname()[1]
