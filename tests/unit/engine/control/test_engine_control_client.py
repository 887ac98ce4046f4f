"""engine.control.client: what becomes of answers, and of what is none."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from bucatini.base.errors import BucatiniError, ConfigError, HostError, PeerError
from bucatini.engine.control.client import ask


def asked(path: Path, answer: bytes) -> object:
    """`ask` of somebody who takes one line and says `answer`."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(10)

        def serve() -> None:
            sock = listener.accept()[0]
            with sock, sock.makefile("rb") as lines:
                got.append(lines.readline())
                sock.sendall(answer)

        got: list[bytes] = []
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return ask(str(path), "forward.list", {"a": 1})
        finally:
            thread.join(10)
            path.unlink()
            assert got == [b'{"jsonrpc": "2.0", "id": 1, "method": "forward.list", "params": {"a": 1}}\n']


def test_what_the_server_would_not_read_is_not_sent() -> None:
    with pytest.raises(ConfigError, match="^link.add: 65608 bytes of words; at most 65536 are accepted at a time$"):
        ask("/nowhere", "link.add", {"rules": ["x" * 65532]})


def test_a_result(tmp_path: Path) -> None:
    assert asked(tmp_path / "socket", b'{"jsonrpc":"2.0","id":1,"result":[1]}\n') == [1]


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (b'{"error":{"code":-32602,"message":"no"}}\n', ConfigError, "^no$"),
        (b'{"error":{"code":-32000,"message":"no"}}\n', HostError, "^no$"),
        (b'{"error":{"code":-32601,"message":"no"}}\n', HostError, "^no$"),
        (b"", HostError, "does not talk to this user"),
        (b"{}\n", PeerError, "no engine"),
        (b"[]\n", PeerError, "no engine"),
        (b"\xff\n", PeerError, "no engine"),
        (b'{"error":1}\n', PeerError, "no engine"),
    ],
)
def test_errors(tmp_path: Path, answer: bytes, kind: type[BucatiniError], message: str) -> None:
    with pytest.raises(kind, match=message):
        asked(tmp_path / "socket", answer)


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(tmp_path / "stale"))
    for name, words in (("nothing", "No such file"), ("stale", "Connection refused")):
        with pytest.raises(HostError, match=f"--control '.*{name}': {words}.*; is its engine running"):
            ask(str(tmp_path / name), "forward.list", {})
    with pytest.raises(HostError, match="too long"):
        ask("x" * 200, "forward.list", {})
