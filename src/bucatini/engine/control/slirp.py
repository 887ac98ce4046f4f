"""The API socket of slirp4netns(1): one JSON object a connection, one answer, the end.

    add_hostfwd     proto, host_addr (0.0.0.0), host_port, guest_addr, guest_port     {"return":{"id":N}}, N from 1
    list_hostfwd                                                                      {"entries":[...]}
    remove_hostfwd  id                                                                {"return":{}}

Answers, error texts and the order of checks are those of the program itself (1.2.0, observed), also where its manual
differs: the list comes without "return". Where the program crashes or accepts nonsense (no `proto`, host port 70000)
the answer is the error of that argument. As there, no newline ends an answer, and a request is answered as soon as it
is complete, half-closed or not.

A forward leads to the guest, wherever it is; `guest_addr` is only told back. Bounds: 4095 bytes of request, and those
of `unix_service`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from bucatini.base.address import pack, text
from bucatini.base.errors import BucatiniError
from bucatini.engine.control.unix_service import Stream, UnixService
from bucatini.engine.forwarding.publisher import Publisher
from bucatini.forward.portspec import Forward

__all__ = ["SlirpServer"]

MAX_REQUEST = 4095
PROTOCOLS = {"tcp": 6, "udp": 17}
ANY = "0.0.0.0"


class _BadRequestError(Exception):
    """Its text is the error's."""


class SlirpServer:
    """Serves the forwards of `publisher` at `path`, on `loop`, once started. `guest_address` is what `guest_addr` is
    when it is left out; None: the guest's. Raises ConfigError, which names `option`, when the path cannot be had.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        publisher: Publisher,
        guest_address: bytes | None = None,
        option: str = "--api-socket",
    ) -> None:
        self._loop = loop
        self._publisher = publisher
        self._guest = guest_address
        self._next = 1
        self._entries: dict[int, tuple[Forward, dict[str, Any]]] = {}
        self._service = UnixService(loop, path, self._talk, option)

    def start(self) -> None:
        """Begin to serve; `loop` need not run yet."""
        self._service.start()

    def close(self) -> None:
        """End all connections and take the socket's file away. Idempotent."""
        self._service.close()

    async def _talk(self, stream: Stream) -> None:
        request = bytearray()
        while len(request) <= MAX_REQUEST and not _is_json(request):
            data = await stream.receive()
            if not data:
                break
            request += data
        await stream.send(json.dumps(self.answer(bytes(request)), separators=(",", ":")).encode())

    def answer(self, request: bytes) -> dict[str, Any]:
        """What the program answers."""
        try:
            return self._execute(_parsed(request))
        except _BadRequestError as error:
            return {"error": {"desc": f"bad request: {error}"}}

    def _execute(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request.get("execute")
        arguments = request.get("arguments")
        if not isinstance(arguments, dict):
            arguments = {}
        if not isinstance(name, str):
            raise _BadRequestError("no execute found")
        if name == "add_hostfwd":
            return {"return": {"id": self._add(arguments)}}
        if name == "list_hostfwd":
            return {"entries": [{"id": number, **entry} for number, (_, entry) in self._entries.items()]}
        if name == "remove_hostfwd":
            self._remove(arguments.get("id"))
            return {"return": {}}
        raise _BadRequestError("unknown execute")

    def _add(self, arguments: dict[str, Any]) -> int:
        protocol = arguments.get("proto")
        if not isinstance(protocol, str) or protocol not in PROTOCOLS:
            raise _bad("proto")
        host = _address(arguments, "host_addr", ANY)
        host_port = _port(arguments, "host_port")
        guest = _address(arguments, "guest_addr", text(self._guest or self._publisher.guest_address(4) or bytes(4)))
        guest_port = _port(arguments, "guest_port")
        forward = Forward(PROTOCOLS[protocol], host, host_port, guest_port)
        try:
            self._publisher.add(forward, "add_hostfwd")
        except BucatiniError:
            raise _BadRequestError("add_hostfwd: slirp_add_hostfwd failed") from None
        number = self._next
        self._next += 1
        entry = {
            "proto": protocol,
            "host_addr": text(host),
            "host_port": host_port,
            "guest_addr": text(guest),
            "guest_port": guest_port,
        }
        self._entries[number] = (forward, entry)
        return number

    def _remove(self, number: Any) -> None:
        held = None
        if isinstance(number, int) and not isinstance(number, bool):
            held = self._entries.pop(number, None)
        if held is None:
            raise _BadRequestError("remove_hostfwd: bad arguments.id")
        self._publisher.remove(held[0])


def _parsed(request: bytes) -> dict[str, Any]:
    if len(request) > MAX_REQUEST:
        raise _BadRequestError("too large message")
    try:
        value = json.loads(request)
    except (ValueError, RecursionError):
        raise _BadRequestError("cannot parse JSON") from None
    if not isinstance(value, dict):
        raise _BadRequestError("json_object() failed")
    return value


def _is_json(request: bytearray) -> bool:
    """Whether what came is complete."""
    if not request.rstrip().endswith(b"}"):
        return False
    try:
        json.loads(request)
    except (ValueError, RecursionError):
        return False
    return True


def _bad(argument: str) -> _BadRequestError:
    return _BadRequestError(f"add_hostfwd: bad arguments.{argument}")


def _address(arguments: dict[str, Any], name: str, default: str) -> bytes:
    """An IPv4 address, packed."""
    written = arguments.get(name, default)
    try:
        packed = pack(written) if isinstance(written, str) else b""
    except ValueError:
        packed = b""
    if len(packed) != 4:
        raise _bad(name)
    return packed


def _port(arguments: dict[str, Any], name: str) -> int:
    port = arguments.get(name)
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise _bad(name)
    return port
