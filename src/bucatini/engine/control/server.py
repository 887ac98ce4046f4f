"""The control socket: JSON-RPC 2.0 over a UNIX stream, one JSON object a line, answered in order.

Methods are plain functions from the object of parameters to what JSON can say. They run between two turns of the engine
and hold it up meanwhile, so each bounds its own work. A ConfigError is an answer about the parameters, a HostError one
about the host; any other exception is a fault of ours and is answered as such.

Bounds: a line of 64 KiB, else an error and the end of the connection; those of `unix_service`.

Does not: batches (an array is an invalid request), or tell of events.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from bucatini.base.errors import ConfigError, HostError
from bucatini.engine.control.client import MAX_LINE
from bucatini.engine.control.unix_service import Stream, UnixService

__all__ = ["MAX_LINE", "ControlServer", "Method"]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
HOST_ERROR = -32000
"""The first of the range that JSON-RPC leaves to servers."""

Method = Callable[[dict[str, Any]], Any]


class ControlServer:
    """Serves `methods` at `path`, on `loop`, once started. Raises ConfigError, which names `option`, when the path
    cannot be had.

    `methods` is looked at for each request, so it may grow.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        methods: Mapping[str, Method],
        option: str = "--control",
    ) -> None:
        self._loop = loop
        self._methods = methods
        self._service = UnixService(loop, path, self._talk, option)

    def start(self) -> None:
        """Begin to serve; `loop` need not run yet."""
        self._service.start()

    def close(self) -> None:
        """End all connections and take the socket's file away. Idempotent."""
        self._service.close()

    @property
    def refused(self) -> int:
        """Peers that were not let in."""
        return self._service.refused

    async def _talk(self, stream: Stream) -> None:
        pending = bytearray()
        while data := await stream.receive():
            pending += data
            while (end := pending.find(b"\n")) >= 0 and end <= MAX_LINE:
                line = bytes(pending[:end])
                del pending[: end + 1]
                if line.strip():
                    await self._reply(stream, line)
            if end > MAX_LINE or len(pending) > MAX_LINE:
                await stream.send(_written(_error(None, INVALID_REQUEST, f"longer than {MAX_LINE} bytes")))
                return
        if pending.strip():
            await self._reply(stream, bytes(pending))

    async def _reply(self, stream: Stream, line: bytes) -> None:
        answer = self.answer(line)
        # A method may have set a deadline: with a call to make, the loop lets the engine have a turn and look.
        self._loop.call_soon(_nothing)
        if answer is not None:
            await stream.send(_written(answer))

    def answer(self, line: bytes) -> dict[str, Any] | None:
        """The answer to one request; None to a notification."""
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return _error(None, PARSE_ERROR, "not JSON")
        if not isinstance(request, dict):
            return _error(None, INVALID_REQUEST, "not an object")
        number = request.get("id")
        if isinstance(number, bool | dict | list):
            return _error(None, INVALID_REQUEST, "id is no string, number or null")
        name = request.get("method")
        if request.get("jsonrpc") != "2.0" or not isinstance(name, str):
            return _error(number, INVALID_REQUEST, "no JSON-RPC 2.0 request: jsonrpc or method is missing")
        answer = self._call(number, name, request.get("params", {}))
        return answer if "id" in request else None

    def _call(self, number: Any, name: str, params: Any) -> dict[str, Any]:
        method = self._methods.get(name)
        if method is None:
            return _error(number, METHOD_NOT_FOUND, f"no method {name!r}; accepted: {', '.join(self._methods)}")
        if not isinstance(params, dict):
            return _error(number, INVALID_PARAMS, "params is no object")
        try:
            return {"jsonrpc": "2.0", "id": number, "result": method(params)}
        except ConfigError as error:
            return _error(number, INVALID_PARAMS, str(error))
        except HostError as error:
            return _error(number, HOST_ERROR, str(error))
        except Exception as error:
            return _error(number, INTERNAL_ERROR, f"error of ours, please report it: {type(error).__name__}: {error}")


def _error(number: Any, code: int, text: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": text}}


def _written(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode() + b"\n"


def _nothing() -> None:
    """Something to do."""
