"""The host's and the world's ends of transfers with a guest of `vm_machine`, whose end is `vm_probe.c`.

Each transfer goes both ways and each end's bytes are compared by SHA-256. `Files` are what a guest sends.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from support.fakehost import Namespace
from support.guests import PATIENCE
from support.vm_machine import Machine

SIZES = {"big": 10 << 20, "medium": 256 << 10, "small": 2 << 10}
"""Bytes."""
DATAGRAM = 1400
WINDOW = 4
"""Datagrams that a sender has under way."""
TRANSFER_LIMIT = 30.0
PORT = 10101
"""Where peers of the host and the world listen."""
Address = tuple[str, int]
T = TypeVar("T")


class Files:
    """Random bytes in the guest's /tmp, a file for each size; `digests` are theirs."""

    def __init__(self, machine: Machine) -> None:
        script = "".join(f"vm_probe make {size} /tmp/{name} && " for name, size in SIZES.items())
        said = machine.do(script + "cd /tmp && sha256sum " + " ".join(SIZES), TRANSFER_LIMIT)
        self.digests = {name: digest for digest, name in re.findall(r"(\w+)  (\w+)", said)}
        assert self.digests.keys() == SIZES.keys(), said


@functools.cache
def payload(size: str) -> bytes:
    """What the host and the world send."""
    return random.Random(size).randbytes(SIZES[size])


def digest(data: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@contextmanager
def background(work: Callable[..., T], *words: Any) -> Iterator[Future[T]]:
    """Work in a thread, whose own failure counts where both ends fail. Its waits must be bounded."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, *words)
        yield future


def converse(sock: socket.socket, data: bytes, *, first: bool) -> str:
    """Send and shut down, `first` or when the other has: the digest of what came until its end."""
    with sock:
        sock.settimeout(PATIENCE)
        got = hashlib.sha256()
        if first:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        while part := sock.recv(1 << 18):
            got.update(part)
        if not first:
            sock.sendall(data)
        return got.hexdigest()


def answer_stream(listener: socket.socket, data: bytes, first: bool) -> tuple[str, str]:
    """Take one connection and `converse`: digest of what came, and from where."""
    sock, peer = listener.accept()
    return converse(sock, data, first=first), str(peer[0])


def send_datagrams(sock: socket.socket, data: bytes, size: int) -> None:
    """On a connected socket, answer by answer, and an empty one at the end. A lost one is a TimeoutError."""
    parts = [data[at : at + size] for at in range(0, len(data), size)] + [b""]
    sent = 0
    for answered in range(len(parts)):
        while sent < min(answered + WINDOW, len(parts)):
            sock.send(parts[sent])
            sent += 1
        number = sock.recv(100)
        assert number == answered.to_bytes(4, "big"), f"{number!r} where {answered} was to come"


def receive_datagrams(sock: socket.socket) -> bytes:
    """Until an empty one, each answered; any of them must come in time."""
    got: list[bytes] = []
    while not got or got[-1]:
        part, peer = sock.recvfrom(65536)
        sock.sendto(len(got).to_bytes(4, "big"), peer)
        got.append(part)
    return b"".join(got)


def serve_fetch(sock: socket.socket, data: bytes, size: int) -> None:
    """The sender to a guest that asks first."""
    question, peer = sock.recvfrom(100)
    assert question == b"?"
    sock.connect(peer)
    send_datagrams(sock, data, size)


def guest_connects(
    machine: Machine, net: Namespace, files: Files, where: str, to: str, size: str, *, first: bool = False
) -> str:
    """A transfer over a connection that the guest opens to `to`, where a peer listens at `where`. Who came.

    The guest sends when the other has shut down, or `first`, and shuts down before the other sends.
    """
    ask, connect = f"tcp-ask {to} {PORT} /tmp/{size} >/tmp/got", f"tcp-connect {to} {PORT} /tmp/got /tmp/{size}"
    with net.listen(where, PORT) as listener, background(answer_stream, listener, payload(size), not first) as peer:
        said = machine.do(f"vm_probe {ask if first else connect} && sha256sum </tmp/got", TRANSFER_LIMIT)
    got, whence = peer.result()
    assert got == files.digests[size]
    assert said.split()[0] == digest(payload(size))
    return whence


def guest_is_called(machine: Machine, sock: socket.socket, files: Files, where: Address, port: int, size: str) -> None:
    """A transfer over a connection of this socket to where the guest's `port` is published."""
    machine.do(f"vm_probe tcp-listen {port} /tmp/got /tmp/{size}")
    with sock:
        sock.connect(where)
        got = converse(sock, payload(size), first=True)
    assert got == files.digests[size]
    assert finished(machine) == digest(payload(size))


def guest_sends_datagrams(
    machine: Machine, net: Namespace, files: Files, where: str, to: str, size: str, length: int
) -> None:
    """Datagrams from the guest to `to`, where a peer is bound at `where`."""
    with net.bound(where, PORT) as sock, background(receive_datagrams, sock) as peer:
        machine.do(f"vm_probe udp-connect {to} {PORT} {length} /tmp/{size}", TRANSFER_LIMIT)
    assert digest(peer.result()) == files.digests[size]


def guest_fetches_datagrams(machine: Machine, net: Namespace, where: str, to: str, size: str, length: int) -> None:
    """Datagrams to the guest on the flow that its question made."""
    with net.bound(where, PORT) as sock, background(serve_fetch, sock, payload(size), length) as peer:
        said = machine.do(f"vm_probe udp-fetch {to} {PORT} /tmp/got && sha256sum </tmp/got", TRANSFER_LIMIT)
    peer.result()
    assert said.split()[0] == digest(payload(size))


def guest_gets_datagrams(
    machine: Machine, sock: socket.socket, where: Address, port: int, size: str, length: int
) -> None:
    """Datagrams from this socket to where the guest's `port` is published."""
    machine.do(f"vm_probe udp-listen {port} /tmp/got")
    with sock:
        sock.connect(where)
        send_datagrams(sock, payload(size), length)
    assert finished(machine) == digest(payload(size))


def finished(machine: Machine) -> str:
    """Wait for the probe that was started in the background; the digest of what it got."""
    status = machine.wait("cat /tmp/got.done", TRANSFER_LIMIT)
    assert status.strip() == "0", machine.run("cat /tmp/vm_probe.log").output
    return machine.do("sha256sum </tmp/got", TRANSFER_LIMIT).split()[0]
