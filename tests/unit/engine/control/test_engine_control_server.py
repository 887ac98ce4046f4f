"""engine.control.server: JSON-RPC 2.0 as its specification has it, request by request."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.errors import ConfigError, HostError
from bucatini.engine.control import ControlServer


def fail(error: Exception) -> Any:
    raise error


METHODS = {
    "echo": lambda params: params,
    "config": lambda params: fail(ConfigError("no such thing")),
    "host": lambda params: fail(HostError("no descriptors")),
    "bug": lambda params: fail(KeyError("x")),
}


class Desk:
    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.loop = asyncio.new_event_loop()
        self.server = ControlServer(self.loop, self.path, METHODS)
        self.server.start()

    def said(self, data: bytes) -> bytes:
        """What comes back until the server hangs up, or we do."""

        async def talk() -> bytes:
            reader, writer = await asyncio.open_unix_connection(self.path)
            writer.write(data)
            writer.write_eof()
            try:
                return await asyncio.wait_for(reader.read(), 5)
            finally:
                writer.close()

        return self.loop.run_until_complete(talk())


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Desk(tmp_path_factory.mktemp("control") / "socket")
    yield made
    made.server.close()
    made.loop.close()


def request(**fields: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 7, **fields}).encode()


@pytest.mark.parametrize(
    ("line", "code", "number"),
    [
        (b"", -32700, None),
        (b"{", -32700, None),
        (b"\xff", -32700, None),
        (b"[" * 60000, -32700, None),
        (b"[]", -32600, None),
        (b"1", -32600, None),
        (b"{}", -32600, None),
        (b'{"jsonrpc":"1.0","id":7,"method":"echo"}', -32600, 7),
        (request(), -32600, 7),
        (request(method=1), -32600, 7),
        (request(id={}, method="echo"), -32600, None),
        (request(id=True, method="echo"), -32600, None),
        (request(method="nothing"), -32601, 7),
        (request(method="echo", params=[1]), -32602, 7),
        (request(method="config"), -32602, 7),
        (request(method="host"), -32000, 7),
        (request(method="bug", id="seven"), -32603, "seven"),
    ],
)
def test_errors(desk: Desk, line: bytes, code: int, number: Any) -> None:
    answer = desk.server.answer(line)
    assert answer is not None
    assert (answer["jsonrpc"], answer["id"], answer["error"]["code"]) == ("2.0", number, code)
    assert "\n" not in answer["error"]["message"]


def test_results_and_notifications(desk: Desk) -> None:
    answer = desk.server.answer(request(method="echo", params={"a": 1}))
    assert answer == {"jsonrpc": "2.0", "id": 7, "result": {"a": 1}}
    assert desk.server.answer(request(method="echo", id=None)) == {"jsonrpc": "2.0", "id": None, "result": {}}
    assert desk.server.answer(b'{"jsonrpc":"2.0","method":"echo"}') is None
    assert desk.server.answer(b'{"jsonrpc":"2.0","method":"nothing"}') is None


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
    lambda value: json.dumps(value).encode()
))  # fmt: skip
def test_no_line_raises(desk: Desk, line: bytes) -> None:
    answer = desk.server.answer(line)
    assert answer is None or "error" in answer


def test_lines_are_answered_in_order(desk: Desk) -> None:
    lines = b"".join(request(method="echo", id=number) + b"\r\n\n" for number in range(3))
    assert [json.loads(line)["id"] for line in desk.said(lines).splitlines()] == [0, 1, 2]


def test_the_last_line_needs_no_newline(desk: Desk) -> None:
    assert json.loads(desk.said(request(method="echo")))["result"] == {}


def test_longest_line(desk: Desk) -> None:
    room = 65536 - len(request(method="echo", params={"x": ""}))
    for extra, expected in ((0, "result"), (1, "error")):
        line = request(method="echo", params={"x": "y" * (room + extra)})
        assert expected in json.loads(desk.said(line + b"\n"))


def test_the_file_goes_with_the_server(tmp_path: Path) -> None:
    made = Desk(tmp_path / "socket")
    made.said(b"")
    with socket.socket(socket.AF_UNIX) as idle:
        idle.connect(made.path)
        made.said(b"")
        made.server.close()
        made.server.close()
        assert not (tmp_path / "socket").exists()
        assert idle.recv(1) == b""
    made.loop.close()


def test_methods_may_grow(desk: Desk) -> None:
    METHODS["later"] = lambda params: 1
    answer = desk.server.answer(request(method="later"))
    assert answer is not None
    assert answer["result"] == 1
