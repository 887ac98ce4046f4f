"""engine.control.slirp: a transcript of slirp4netns 1.2.0 (Debian 12), and where we deliberately answer otherwise."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bucatini.base.address import pack
from bucatini.engine.control.slirp import SlirpServer
from support.engines import Engine, free_port, here

GUEST = pack("10.0.2.100")


class Desk:
    def __init__(self, engine: Engine, path: Path) -> None:
        self.path = str(path)
        self.publisher = engine.translator.publisher
        self.loop = asyncio.new_event_loop()
        self.server = SlirpServer(self.loop, self.path, self.publisher, GUEST)
        self.server.start()

    def ask(self, execute: Any, **arguments: Any) -> str:
        request = json.dumps({"execute": execute, "arguments": arguments}).encode()
        return json.dumps(self.server.answer(request), separators=(",", ":"))

    def said(self, data: bytes, *, close: bool = True) -> bytes:
        async def talk() -> bytes:
            reader, writer = await asyncio.open_unix_connection(self.path)
            writer.write(data)
            if close:
                writer.write_eof()
            try:
                return await asyncio.wait_for(reader.read(), 5)
            finally:
                writer.close()

        return self.loop.run_until_complete(talk())


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Engine([f"127.0.0.1:{free_port()}:1"], **here()) as engine:
        (first,) = engine.translator.publisher.forwards()
        engine.translator.publisher.remove(first)
        made = Desk(engine, tmp_path / "api")
        yield made
        made.server.close()
        made.loop.close()


def bad(text: str) -> str:
    return f'{{"error":{{"desc":"bad request: {text}"}}}}'


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"", bad("cannot parse JSON")),
        (b"xx", bad("cannot parse JSON")),
        (b"[" * 4000, bad("cannot parse JSON")),
        (b"[]", bad("json_object() failed")),
        (b"{}", bad("no execute found")),
        (b'{"execute":1}', bad("no execute found")),
        (b'{"execute":"foo"}', bad("unknown execute")),
        (b'{"execute":"list_hostfwd"}', '{"entries":[]}'),
        (b'{"execute":"list_hostfwd","arguments":1}   ', '{"entries":[]}'),
        (b'{"execute":"remove_hostfwd"}', bad("remove_hostfwd: bad arguments.id")),
        (b'{"execute":"list_hostfwd","x":"' + b"a" * 4030 + b'"}', '{"entries":[]}'),
        (b'{"execute":"list_hostfwd","x":"' + b"a" * 4070 + b'"}', bad("too large message")),
        (b'{"execute":"add_hostfwd"}', bad("add_hostfwd: bad arguments.proto")),
    ],
)
def test_transcript(desk: Desk, request_: bytes, expected: str) -> None:
    assert desk.said(request_).decode() == expected


def test_an_answer_does_not_wait_for_the_half_close(desk: Desk) -> None:
    assert desk.said(b'{"execute":"list_hostfwd"}', close=False) == b'{"entries":[]}'


@pytest.mark.parametrize(
    ("changed", "argument"),
    [
        ({"proto": "sctp"}, "proto"),
        ({"proto": None}, "proto"),
        ({"host_addr": "foo"}, "host_addr"),
        ({"host_addr": "::1"}, "host_addr"),
        ({"host_addr": 1}, "host_addr"),
        ({"host_port": "18080"}, "host_port"),
        ({"host_port": None}, "host_port"),
        ({"host_port": 0}, "host_port"),
        ({"host_port": 70000}, "host_port"),
        ({"host_port": True}, "host_port"),
        ({"guest_addr": "x"}, "guest_addr"),
        ({"guest_port": 0}, "guest_port"),
        ({"host_port": None, "guest_port": None}, "host_port"),
    ],
)
def test_bad_arguments(desk: Desk, changed: dict[str, Any], argument: str) -> None:
    arguments = {"proto": "tcp", "host_addr": "127.0.0.1", "host_port": 18080, "guest_port": 80, **changed}
    assert desk.ask("add_hostfwd", **arguments) == bad(f"add_hostfwd: bad arguments.{argument}")
    assert desk.publisher.forwards() == []


def test_added_listed_removed(desk: Desk) -> None:
    one, two = free_port(), free_port()
    assert desk.ask("add_hostfwd", proto="tcp", host_port=one, guest_port=80) == '{"return":{"id":1}}'
    assert desk.ask("add_hostfwd", proto="tcp", host_port=one, guest_port=80) == bad(
        "add_hostfwd: slirp_add_hostfwd failed"
    )
    answer = desk.ask(
        "add_hostfwd", proto="udp", host_addr="127.0.0.1", host_port=two, guest_addr="10.0.2.99", guest_port=81
    )
    assert answer == '{"return":{"id":2}}'
    second = (
        f'{{"id":2,"proto":"udp","host_addr":"127.0.0.1","host_port":{two},"guest_addr":"10.0.2.99","guest_port":81}}'
    )
    assert desk.ask("list_hostfwd") == (
        f'{{"entries":[{{"id":1,"proto":"tcp","host_addr":"0.0.0.0","host_port":{one},'
        f'"guest_addr":"10.0.2.100","guest_port":80}},{second}]}}'
    )
    assert [str(each) for each in desk.publisher.forwards()] == [f"0.0.0.0:{one}:80/tcp", f"127.0.0.1:{two}:81/udp"]
    for wrong in ({}, {"id": 9}, {"id": "1"}, {"id": True}):
        assert desk.ask("remove_hostfwd", **wrong) == bad("remove_hostfwd: bad arguments.id")
    assert desk.ask("remove_hostfwd", id=1) == '{"return":{}}'
    assert desk.ask("list_hostfwd") == f'{{"entries":[{second}]}}'
    assert desk.ask("add_hostfwd", proto="tcp", host_port=one, guest_port=80) == '{"return":{"id":3}}'


def test_an_address_the_host_does_not_have(desk: Desk) -> None:
    answer = desk.ask("add_hostfwd", proto="tcp", host_addr="192.0.2.1", host_port=18084, guest_port=1)
    assert answer == bad("add_hostfwd: slirp_add_hostfwd failed")


def test_the_guests_address_is_the_default(tmp_path: Path) -> None:
    with Engine([f"127.0.0.1:{free_port()}:1"], **here()) as engine:
        loop = asyncio.new_event_loop()
        server = SlirpServer(loop, str(tmp_path / "api"), engine.translator.publisher)
        request = {"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_port": free_port(), "guest_port": 80}}
        server.answer(json.dumps(request).encode())
        (entry,) = server.answer(b'{"execute":"list_hostfwd"}')["entries"]
        assert entry["guest_addr"] == "127.0.0.9"
        server.close()
        loop.close()
