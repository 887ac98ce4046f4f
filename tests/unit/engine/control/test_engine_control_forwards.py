"""engine.control.forwards: parameters read strictly, and what becomes of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from bucatini.base.errors import ConfigError
from bucatini.engine.control import forward_methods
from support.engines import Engine, free_port, here


class Desk:
    def __init__(self, engine: Engine) -> None:
        self.methods = forward_methods(engine.translator.publisher)
        self.publisher = engine.translator.publisher

    def add(self, **params: Any) -> Any:
        return self.methods["forward.add"](params)

    def remove(self, **params: Any) -> Any:
        return self.methods["forward.remove"](params)

    def list(self, **params: Any) -> Any:
        return self.methods["forward.list"](params)


@pytest.fixture
def desk() -> Iterator[Desk]:
    with Engine([f"127.0.0.1:{free_port()}:1"], **here()) as engine:
        (first,) = engine.translator.publisher.forwards()
        engine.translator.publisher.remove(first)
        yield Desk(engine)


def test_there_and_back(desk: Desk) -> None:
    port, other, inner = free_port(), free_port(socket.SOCK_DGRAM), free_port()
    assert desk.add(spec=f"{port}:80") == {"added": 1, "automatic": False, "notes": []}
    desk.add(spec=f"127.0.0.1%lo/{other}", protocol="udp")
    desk.add(spec=f"{inner}:81", direction="out")
    assert desk.list() == [
        described(port=port, target=80),
        described(protocol="udp", address="127.0.0.1", device="lo", port=other, target=other),
        described(direction="out", port=inner, target=81),
    ]
    assert desk.remove(spec=f"{port}:80") == {"removed": 1}
    assert desk.remove(spec=f"{inner}:81", direction="out") == {"removed": 1}
    assert len(desk.list()) == 1


def described(**changed: Any) -> dict[str, Any]:
    plain = {"direction": "in", "protocol": "tcp", "address": None, "device": None, "automatic": False}
    return {**plain, **changed}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "spec None is no string"),
        ({"spec": 80}, "spec 80 is no string"),
        ({"spec": "80", "port": 1}, "unknown parameter 'port'; accepted: direction, protocol, spec"),
        ({"spec": "80", "protocol": "sctp"}, "protocol 'sctp' is not one of tcp, udp"),
        ({"spec": "80", "protocol": ["tcp"]}, "is not one of tcp, udp"),
        ({"spec": "80", "direction": "up"}, "direction 'up' is not one of in, out"),
        ({"spec": "none"}, "no port is named"),
        ({"spec": "all"}, "not available here"),
        ({"spec": "0"}, "port '0' is not a number from 1 to 65535"),
        ({"spec": "1.2.3.4/80", "direction": "out"}, "listen on the guest's loopback"),
        ({"spec": "1-4097"}, "more than 4096 ports at a time"),
        ({"spec": "~1-2"}, "more than 4096 ports at a time"),
    ],
)
@pytest.mark.parametrize("method", ["add", "remove"])
def test_strictly_read(desk: Desk, method: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        getattr(desk, method)(**params)
    assert str(caught.value).startswith(f"forward.{method}")
    assert message in str(caught.value)
    assert desk.list() == []


def test_list_takes_nothing(desk: Desk) -> None:
    with pytest.raises(ConfigError, match="takes no parameters"):
        desk.list(spec="80")


def test_notes_are_passed_on(desk: Desk) -> None:
    port = free_port()
    (note,) = desk.add(spec=f"{port}:80,{port}:81")["notes"]
    assert note.startswith("forward.add")
    assert "maps again" in note
    assert desk.list()[0]["target"] == 81


def test_what_is_not_there_cannot_be_removed(desk: Desk) -> None:
    port = free_port()
    desk.add(spec=f"{port}:80")
    for other in ({"spec": f"{port}:81"}, {"spec": f"{port}:80", "protocol": "udp"}, {"spec": "auto"}):
        with pytest.raises(ConfigError):
            desk.remove(**other)
    assert len(desk.list()) == 1


def test_auto_on_and_off(desk: Desk) -> None:
    assert desk.add(spec="auto", direction="out")["automatic"] is True
    assert desk.publisher.auto is not None
    desk.add(spec="auto", direction="out")
    assert desk.remove(spec="auto", direction="out") == {"removed": 0, "automatic": False}
    with pytest.raises(ConfigError, match="not forwarded automatically"):
        desk.remove(spec="auto", direction="out")
