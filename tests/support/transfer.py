"""Both ends of test transfers: `transfer.py serve` on the host, `transfer.py guest PLAN` as the command of a guest.

The bytes of a stream are a function of its number and of the position, so each receiver's SHA-256 can be compared with
`expected(stream, size)`, and a piece lost, repeated or moved shows. Each end prints one JSON line for each
connection it had (`Result`); the server first prints its port, and ends when its standard input does.

A connection begins with the guest's `Job` as JSON in a header of fixed size. Then:

```text
up, down              the sender sends `size` bytes and shuts its sending half down; the receiver answers with one byte
half=True             the receiver of the bytes shuts its own sending half down first; the sender waits for it
pause=SECONDS         the receiver stops reading in the middle for that long
reset=guest, host     that end closes with a reset after half of the bytes
```

UDP on the same port echoes. Every wait is bounded, and each process ends itself after `LIFETIME`.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

__all__ = ["Job", "Result", "expected"]

CHUNK = 1 << 20
BLOCK = 16 << 20
STRIDE = 1000003
"""Bytes from the place of one chunk in the block to that of the next: prime, so that places repeat late."""
HEADER = 512
PATIENCE = 100
"""Seconds without progress that end a transfer."""
LIFETIME = 240
UDP_SEGMENT = 103


class Job(NamedTuple):
    """One connection."""

    name: str
    family: int
    """4 or 6."""
    direction: str
    """`up`: from guest to host; `down`; or `udp`: echoes, see `echo`."""
    size: int
    stream: int = 0
    half: bool = False
    pause: float = 0.0
    reset: str = ""
    congestion: str = ""
    """Of the guest's socket, as tcp(7) names it; empty leaves what its kernel does."""


class Result(NamedTuple):
    """What one end says of one connection."""

    name: str
    end: str
    """`guest` or `host`."""
    bytes: int
    """Sent or received."""
    digest: str
    """Of what was received, hexadecimal; empty at a sender."""
    error: str
    """Name of the errno that ended it; empty when it ended well."""
    seconds: float


@functools.cache
def _block() -> memoryview:
    data = random.Random(20240607).randbytes(BLOCK)
    return memoryview(data + data[:CHUNK])


def chunks(stream: int, size: int) -> Iterator[memoryview]:
    """The bytes of a stream."""
    block = _block()
    number = stream * 7919
    while size > 0:
        place = number * STRIDE % BLOCK
        yield block[place : place + min(CHUNK, size)]
        size -= CHUNK
        number += 1


@functools.cache
def expected(stream: int, size: int) -> str:
    """SHA-256 of a stream, hexadecimal."""
    digest = hashlib.sha256()
    for chunk in chunks(stream, size):
        digest.update(chunk)
    return digest.hexdigest()


class End:
    """One end of one connection. `here` is `guest` or `host`."""

    def __init__(self, sock: socket.socket, job: Job, here: str) -> None:
        self.sock = sock
        self.job = job
        self.here = here
        self.sends = (job.direction == "up") == (here == "guest")
        self.count = 0
        self.digest = hashlib.sha256()

    def run(self) -> Result:
        begun = time.monotonic()
        error = ""
        try:
            if self.sends:
                self._send()
            else:
                self._receive()
        except OSError as failure:
            error = errno.errorcode.get(failure.errno or 0, str(failure))
        self.sock.close()
        digest = "" if self.sends else self.digest.hexdigest()
        return Result(self.job.name, self.here, self.count, digest, error, round(time.monotonic() - begun, 3))

    def _limit(self) -> int:
        """Bytes after which this end resets, if it is to."""
        return self.job.size // 2 if self.job.reset == self.here else self.job.size

    def _send(self) -> None:
        if self.job.half and self.sock.recv(1) != b"":
            raise OSError(errno.EPROTO, "bytes where none were to come")
        for chunk in chunks(self.job.stream, self._limit()):
            self.sock.sendall(chunk)
            self.count += len(chunk)
        if self._reset():
            return
        self.sock.shutdown(socket.SHUT_WR)
        if not self.job.half and self.sock.recv(2) != b"!":
            raise OSError(errno.EPROTO, "no answer")

    def _receive(self) -> None:
        if self.job.half:
            self.sock.shutdown(socket.SHUT_WR)
        buffer = memoryview(bytearray(1 << 18))
        pause, limit = self.job.pause, self._limit()
        while self.job.reset != self.here or self.count < limit:
            got = self.sock.recv_into(buffer)
            if got == 0:
                break
            self.digest.update(buffer[:got])
            self.count += got
            if pause and self.count > self.job.size // 2:
                time.sleep(pause)
                pause = 0.0
        if not self._reset() and not self.job.half:
            self.sock.sendall(b"!")

    def _reset(self) -> bool:
        if self.job.reset != self.here:
            return False
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return True


def bounded(sock: socket.socket) -> None:
    """Give every call on a blocking socket an end."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", PATIENCE, 0))


def say(value: Any) -> None:
    """One line, whole, also among threads."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def serve() -> None:
    """Listen on both loopback addresses, one port for TCP and UDP."""
    listeners, port = [], 0
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        listener = socket.create_server((address, port), family=family, backlog=1024)
        port = listener.getsockname()[1]
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        datagrams.bind((address, port))
        listeners.append(listener)
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        threading.Thread(target=_echo, args=(datagrams,), daemon=True).start()
    say(port)
    sys.stdin.read()


def _accept(listener: socket.socket) -> None:
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_serve_one, args=(sock,), daemon=True).start()


def _serve_one(sock: socket.socket) -> None:
    bounded(sock)
    header = sock.recv(HEADER, socket.MSG_WAITALL)
    if len(header) == HEADER:
        say(End(sock, Job(*json.loads(header)), "host").run())


def _echo(sock: socket.socket) -> None:
    while True:
        message, peer = sock.recvfrom(65536)
        sock.sendto(message, peer)


def guest(plan: dict[str, Any]) -> int:
    """Do all jobs at once; `plan` holds `port`, `addresses` by family and `jobs`."""
    threads = []
    for fields in plan["jobs"]:
        job = Job(*fields)
        where = (plan["addresses"][str(job.family)], plan["port"])
        work = _udp if job.direction == "udp" else _tcp
        threads.append(threading.Thread(target=work, args=(job, where)))
    _block()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


def _socket(job: Job, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET if job.family == 4 else socket.AF_INET6, kind)
    bounded(sock)
    return sock


def _tcp(job: Job, where: tuple[str, int]) -> None:
    sock = _socket(job, socket.SOCK_STREAM)
    if job.congestion:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, job.congestion.encode())
    try:
        sock.connect(where)
        sock.sendall(json.dumps(job).encode().ljust(HEADER))
    except OSError as failure:
        say(Result(job.name, "guest", 0, "", errno.errorcode.get(failure.errno or 0, "?"), 0.0))
        return
    say(End(sock, job, "guest").run())


def _udp(job: Job, where: tuple[str, int]) -> None:
    """Echo trains of equal datagrams, one train under way at a time; `size` is that of one, `stream` their number."""
    begun = time.monotonic()
    sock = _socket(job, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 10, 0))
    sock.connect(where)
    error, count = "", 0
    wanted = [bytes(chunk) for index in range(job.stream) for chunk in chunks(index + 1, job.size)]
    try:
        for train in _trains(wanted):
            send_train(sock, train)
            missing = set(train)
            while missing:
                message = sock.recv(65536)
                if message not in missing:
                    raise OSError(errno.EBADMSG, "an echo of nothing sent")
                missing.discard(message)
                count += len(message)
    except OSError as failure:
        error = errno.errorcode.get(failure.errno or 0, "?")
    say(Result(job.name, "guest", count, "", error, round(time.monotonic() - begun, 3)))


def _trains(messages: list[bytes]) -> Iterator[list[bytes]]:
    """At most 16 at a time, and no more than 64 kB."""
    most = max(1, min(16, 60000 // max(len(messages[0]), 1)))
    for start in range(0, len(messages), most):
        yield messages[start : start + most]


def send_train(sock: socket.socket, train: Iterable[bytes]) -> None:
    """In one call if the kernel cuts it (UDP_SEGMENT); else one by one."""
    train = list(train)
    if len(train) > 1:
        try:
            cut = struct.pack("=H", len(train[0]))
            sock.sendmsg(train, [(socket.IPPROTO_UDP, UDP_SEGMENT, cut)])
            return
        except OSError as failure:
            if failure.errno not in (errno.EINVAL, errno.EIO, errno.EMSGSIZE):
                raise
    for message in train:
        sock.send(message)


if __name__ == "__main__":
    signal.alarm(LIFETIME)
    if sys.argv[1] == "serve":
        serve()
    else:
        sys.exit(guest(json.loads(sys.argv[2])))
