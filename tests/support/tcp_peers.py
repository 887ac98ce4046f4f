"""Both ends of TCP connections through a running guest, in the test's own hands, and streams that can be judged.

A connection begins in the guest's namespace and ends at a listener in the world (`Link.connect`), or begins in the
world at a published port of the host and ends at a listener in the guest (`Link.publish`). All are ordinary kernel
sockets with a time-out. What has to happen at the same moment on several of them runs in a `Task`, a thread whose
failure is the test's.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar

from support.fakehost import DOCUMENTATION4, DOCUMENTATION6, GUEST4, GUEST6, HOST4, HOST6, FakeHost, Guest
from support.guests import PATIENCE, eventually

__all__ = [
    "PUBLISHED",
    "UNANSWERED",
    "Link",
    "Served",
    "Shared",
    "Task",
    "content_digest",
    "drain",
    "echo",
    "ended",
    "exactly",
    "family_name",
    "kill_with_reset",
    "many_descriptors",
    "served",
    "settled",
    "stream",
]

T = TypeVar("T")

PUBLISHED = 7070
"""A port of the host that `served` guests publish under the same number, for listeners of theirs."""
UNANSWERED = 7071
"""A published port that no guest listens on."""
BLOCK = 1_000_003
"""Bytes until a stream repeats: a prime, so that no size of a buffer or segment divides it."""
CHUNK = 1 << 18


def family_name(family: int) -> str:
    """For the names of tests."""
    return f"v{family}"


class Served(NamedTuple):
    """A running guest of the fake host `host`, and the file its events go to."""

    host: FakeHost
    guest: Guest
    events: Path

    def link(self, family: int) -> Link:
        """What a test of IP version `family` needs of it."""
        return Link(self, family)

    def open_descriptors(self) -> int:
        """How many the engine has open."""
        return len(os.listdir(f"/proc/{self.guest.engine.pid}/fd"))

    def _lines(self) -> list[str]:
        """Events as written so far; the last line may be on its way."""
        return self.events.read_text().split("\n")[:-1]

    def count(self, event: str) -> int:
        """How many events of a name there were."""
        return sum(json.loads(line)["event"] == event for line in self._lines())

    def flows_left(self) -> int:
        """Flows that were opened and not closed yet: what the flow table holds."""
        return self.count("flow-opened") - self.count("flow-closed")

    def last_end(self, guest_port: int) -> str:
        """How the newest flow of a port of the guest ended; empty as long as it goes on, or when there is none.

        Ports come again: a closed flow before the one that is open now is somebody else's.
        """
        for line in reversed(self._lines()):
            event = json.loads(line)
            if event["event"] in ("flow-opened", "flow-closed") and event["guest"].endswith(f":{guest_port}"):
                return str(event.get("how", ""))
        return ""


class Shared:
    """One served guest for a module's tests; a test that kills its engine fails alone, the next gets a fresh guest."""

    def __init__(self, host: FakeHost, *options: str) -> None:
        self.host = host
        self.options = options
        self._stack = contextlib.ExitStack()
        self._served: Served | None = None

    @contextmanager
    def checked(self) -> Iterator[Served]:
        """The guest, for one test, at whose end its engine must be alive."""
        if self._served is None:
            self._served = self._stack.enter_context(served(self.host, *self.options))
        yield self._served
        engine = self._served.guest.engine
        if engine.poll() is not None:
            said = self._served.guest.stderr
            self._served = None
            self._stack.close()
            raise AssertionError(f"the engine ended with status {engine.returncode}: {said}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@contextmanager
def served(host: FakeHost, *options: str) -> Iterator[Served]:
    """A guest that may go everywhere, with two published ports; raw guests beside it have addresses of their own."""
    events = host.folder / f"events-{time.monotonic_ns()}.jsonl"
    ports = ("-p", f"{PUBLISHED}:{PUBLISHED}", "-p", f"{UNANSWERED}:{UNANSWERED}")
    with host.guest("--policy", "open", "--no-guard", *ports, "--events", str(events), *options) as guest:
        yield Served(host, guest, events)


class Link:
    """Makes connections of one IP version between a guest and the world; closes them all at the end of `with`."""

    def __init__(self, served: Served, family: int) -> None:
        self.served = served
        self.family = family
        self.guest, self.world = served.guest.net, served.host.world
        self.guest_address = GUEST4 if family == 4 else GUEST6
        self.host_address = HOST4 if family == 4 else HOST6
        self.peer_address = DOCUMENTATION4 if family == 4 else DOCUMENTATION6
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets:
            kill_with_reset(sock)

    def keep(self, *sockets: socket.socket) -> None:
        """Have these closed with the rest."""
        self._sockets += sockets

    def listen(self, backlog: int = 128) -> tuple[socket.socket, int]:
        """A listener in the world, and its port."""
        listener = self.world.listen(self.peer_address, 0, backlog)
        self.keep(listener)
        return listener, int(listener.getsockname()[1])

    def dial(self, port: int, *, source_port: int = 0, timeout: float = PATIENCE) -> socket.socket:
        """A connection from the guest to a port of the world; `source_port` is taken even when it was used lately."""
        near = self.guest.new_socket(socket.AF_INET if self.family == 4 else socket.AF_INET6, timeout=timeout)
        self.keep(near)
        if source_port:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            near.bind((self.guest_address, source_port))
            # The guest's kernel may still wait for the last ACK of the connection that had the port before.
            eventually(lambda: near.connect_ex((self.peer_address, port)) != errno.EADDRNOTAVAIL)
            near.getpeername()
        else:
            near.connect((self.peer_address, port))
        return near

    def connect(self, *, timeout: float = PATIENCE) -> tuple[socket.socket, socket.socket]:
        """The guest's end and the peer's end of a fresh connection that the guest opened."""
        listener, port = self.listen()
        near = self.dial(port, timeout=timeout)
        far, _ = listener.accept()
        far.settimeout(timeout)
        self.keep(far)
        return near, far

    def publish(self) -> socket.socket:
        """The guest's listener behind the published port."""
        listener = self.guest.listen(self.guest_address, PUBLISHED)
        self.keep(listener)
        return listener

    def call(self, port: int = PUBLISHED, *, source_port: int = 0) -> socket.socket:
        """A connection from the world to a published port."""
        near = self.world.new_socket(socket.AF_INET if self.family == 4 else socket.AF_INET6)
        self.keep(near)
        if source_port:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            near.bind(("", source_port))
        near.connect((self.host_address, port))
        return near

    def accept(self, listener: socket.socket) -> socket.socket:
        """The next connection of a listener."""
        sock, _ = listener.accept()
        sock.settimeout(PATIENCE)
        self.keep(sock)
        return sock


class Task(threading.Thread, Generic[T]):
    """Runs `work` at once; `result` gives what it returned, or raises what it raised."""

    def __init__(self, work: Callable[..., T], *arguments: Any) -> None:
        super().__init__(daemon=True)
        self._work, self._arguments = work, arguments
        self._result: T
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._work(*self._arguments)
        except BaseException as error:
            self._error = error

    def result(self, timeout: float = 30.0) -> T:
        """Waits; a work that is not done in time is an error."""
        self.join(timeout)
        if self.is_alive():
            raise TimeoutError(f"{getattr(self._work, '__name__', self._work)} is not done after {timeout} s")
        if self._error is not None:
            raise self._error
        return self._result


@cache
def _block() -> bytes:
    return random.Random(1).randbytes(BLOCK)


def _pieces(size: int) -> Iterator[memoryview]:
    whole = memoryview(_block())
    sent = 0
    while sent < size:
        at = sent % BLOCK
        piece = whole[at : min(at + CHUNK, BLOCK, at + size - sent)]
        yield piece
        sent += len(piece)


@cache
def content_digest(size: int) -> tuple[int, str]:
    """What `drain` returns of a stream of `size` bytes that arrived whole."""
    digest = hashlib.sha256()
    for piece in _pieces(size):
        digest.update(piece)
    return size, digest.hexdigest()


def stream(sock: socket.socket, size: int, *, end: bool = True) -> None:
    """Send `size` bytes of known content, then shut the sending half down."""
    for piece in _pieces(size):
        sock.sendall(piece)
    if end:
        sock.shutdown(socket.SHUT_WR)


def drain(sock: socket.socket, size: int = -1) -> tuple[int, str]:
    """Read up to the end of stream, or `size` bytes. Returns how many came and their SHA-256."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    count = 0
    while count != size:
        got = sock.recv_into(buffer, CHUNK if size < 0 else min(CHUNK, size - count))
        if not got:
            break
        digest.update(buffer[:got])
        count += got
    return count, digest.hexdigest()


def exactly(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, or fewer when the stream ends."""
    parts = b""
    while len(parts) < size and (part := sock.recv(size - len(parts))):
        parts += part
    return parts


def echo(near: socket.socket, far: socket.socket, word: bytes = b"ping") -> None:
    """Both directions of a connection work and hold nothing else."""
    near.sendall(word)
    assert exactly(far, len(word)) == word
    far.sendall(word[::-1])
    assert exactly(near, len(word)) == word[::-1]


def ended(sock: socket.socket) -> str:
    """How the stream ends for its reader, whatever is still in it: `end of stream` or the name of an error."""
    try:
        while sock.recv(CHUNK):
            pass
    except OSError as error:
        return type(error).__name__
    return "end of stream"


def kill_with_reset(sock: socket.socket) -> None:
    """Close with RST (SO_LINGER 0, socket(7)). Harmless on a closed socket."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    """The test may hold `count` descriptors more than it usually may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, soft + count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def settled(look: Callable[[], int], wanted: int) -> bool:
    """Whether a count comes down to `wanted`, soon."""
    return bool(eventually(lambda: look() <= wanted, or_else=lambda: f"still {look()}, not {wanted}"))
