"""What a guest sends without pause while something is done to its network: numbered datagrams to two peers, and a
stream to the first of them.

The number of a datagram is that of its turn, in which the one to `other` goes before the one to `allowed`. They take
one path, so when the latter has arrived, the former has been judged. What is sent stays below what queues on the way
hold: the datagrams by their pace, the stream by the little that may be under way.
"""

from __future__ import annotations

import hashlib
import random
import select
import socket
import struct
import threading
import time
from typing import Self

from support.fakehost import Namespace
from support.guests import PATIENCE

__all__ = ["SteadyTraffic"]

NUMBER = struct.Struct("!Q")
PACE = 0.001
"""Seconds between turns, at least."""
UNDER_WAY = 1 << 16
"""Bytes of the stream."""
CHUNK = 1 << 15
RECEIVE_BUFFER = 1 << 23
SO_RCVBUFFORCE = 33
"""socket(7); of root."""


class SteadyTraffic:
    """From `guest` to the addresses `allowed` and `other` of `world`, as long as the context lasts."""

    def __init__(self, guest: Namespace, world: Namespace, allowed: str, other: str) -> None:
        self._receivers = [_receiver(world, allowed), _receiver(world, other)]
        self._targets = [each.getsockname() for each in self._receivers]
        self._sock = guest.new_socket(kind=socket.SOCK_DGRAM)
        self.began = 0
        """The turn whose first datagram was sent last, or is about to be: what was sent before it was read has this
        number at most, what is sent after it was read and incremented has a higher one."""
        self.arrived: tuple[list[int], list[int]] = ([], [])
        """Numbers, of the datagrams to `allowed` and to `other`."""
        with world.listen(allowed) as listener:
            self._near = guest.new_socket()
            self._near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNDER_WAY)
            self._near.connect(listener.getsockname())
            self._far, _ = listener.accept()
        self._far.settimeout(PATIENCE)
        self.sent, self.received = hashlib.sha256(), hashlib.sha256()
        """Of the stream."""
        self.stream_length = 0
        self._failure: OSError | None = None
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._send, self._stream, self._drain)]

    def _send(self) -> None:
        while not self._ending.is_set():
            self.began += 1
            for target in reversed(self._targets):
                self._sock.sendto(NUMBER.pack(self.began), target)
            time.sleep(PACE)

    def _stream(self) -> None:
        chunk = random.Random(1).randbytes(CHUNK)
        try:
            while not self._ending.is_set():
                self.sent.update(chunk)
                self._near.sendall(chunk)
            self._near.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._failure = error

    def _drain(self) -> None:
        try:
            while data := self._far.recv(1 << 18):
                self.received.update(data)
                self.stream_length += len(data)
        except OSError as error:
            self._failure = error

    # -- what arrives

    def wait_for(self, number: int) -> int:
        """Until a datagram of this turn or a later one has arrived at `allowed`; its number. What was sent to `other`
        until then has been judged.
        """
        deadline = time.monotonic() + PATIENCE
        while not self.arrived[0] or self.arrived[0][-1] < number:
            assert time.monotonic() < deadline, f"{number} does not arrive: {self.arrived[0][-5:]}"
            select.select(self._receivers, [], [], 0.1)
            self.look()
        return self.arrived[0][-1]

    def look(self) -> None:
        """Take what has arrived."""
        for sock, numbers in zip(self._receivers, self.arrived, strict=True):
            while True:
                try:
                    numbers.append(NUMBER.unpack(sock.recv(64))[0])
                except BlockingIOError:
                    break

    def end(self) -> None:
        """Send nothing more; what was sent to `allowed` has arrived. Raises the error that ended the stream."""
        self._ending.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        if self._failure is not None:
            raise self._failure
        self.wait_for(self.began)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        for sock in (*self._receivers, self._sock, self._near, self._far):
            sock.close()


def _receiver(net: Namespace, address: str) -> socket.socket:
    made = net.bound(address)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    made.setblocking(False)
    return made
