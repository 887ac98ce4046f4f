"""The other end of the control socket: one question, one answer, blocking (see `server`)."""

from __future__ import annotations

import json
import socket
from typing import Any

from bucatini.base.errors import ConfigError, HostError, PeerError

__all__ = ["MAX_LINE", "TIMEOUT", "ask"]

TIMEOUT = 30.0
"""Seconds for an answer; thousands of ports take a moment."""
MAX_LINE = 1 << 16
"""Bytes of a request, without its newline."""
MAX_ANSWER = 1 << 26
INVALID_PARAMS = -32602


def ask(path: str, method: str, params: dict[str, Any], option: str = "--control") -> Any:
    """The result of `method`. Raises ConfigError when the parameters are too long or the engine says they are at fault,
    HostError when nobody listens at the path or the host is at fault, PeerError when the answer is no answer.
    """
    request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    if len(request) > MAX_LINE:
        raise ConfigError(f"{method}: {len(request)} bytes of words; at most {MAX_LINE} are accepted at a time")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(TIMEOUT)
            try:
                sock.connect(path)
            except OSError as error:
                raise HostError(f"{option} {path!r}: {error.strerror or error}; is its engine running?") from None
            # One that is not welcome is hung up on, which may show now or in place of the answer.
            sock.sendall(request + b"\n")
            line = _read_line(sock)
    except (BrokenPipeError, ConnectionResetError):
        line = b""
    except OSError as error:
        raise HostError(f"{option} {path!r}: {error.strerror or 'no answer'}") from None
    return _result(line, option, path)


def _read_line(sock: socket.socket) -> bytes:
    got = bytearray()
    while not got.endswith(b"\n") and len(got) <= MAX_ANSWER:
        data = sock.recv(1 << 16)
        if not data:
            break
        got += data
    return bytes(got)


def _result(line: bytes, option: str, path: str) -> Any:
    if not line:
        raise HostError(f"{option} {path!r}: the engine does not talk to this user, or to this network namespace")
    try:
        answer = json.loads(line)
        if "result" in answer:
            return answer["result"]
        code, text = answer["error"]["code"], str(answer["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise PeerError(f"{option} {path!r}: what answers there is no engine") from None
    raise (ConfigError if code == INVALID_PARAMS else HostError)(text)
