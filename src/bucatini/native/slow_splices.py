"""TCP sockets joined in pairs, two by two, so that the kernel moves what flows between them: the interpreted twin of
`fast_splices` (splice(2), epoll(7)).

A `Splicer` has an epoll descriptor of its own, which its owner watches as one: when it is readable, `turn` has work.
Bytes go socket -> pipe -> socket as pages. End of stream in one direction shuts that direction only; an error ends the
pair, and both ends see a reset.

The owner decides; it is called within `turn` and may call back:

    arrived(key, descriptor, address, port)   a connection was accepted; the descriptor is the owner's now. The address
                                              is packed, the port in host order.
    exhausted(key, error)                     accept(2) found no descriptor or memory; the listener stays ready
    unreached(pair, error)                    a connection that was under way failed; the far socket is closed, the near
                                              one waits for another `reach`, or `end`
    ended(pair, how)                          CLOSED, NEAR_RESET, FAR_RESET or FAILED; all descriptors are closed
    bug(error)                                an exception came out of one of these

Bounds: what is in flight is at most one pipe or one buffer in each direction of a pair; at most `IDLE_PIPES` pipes are
kept for reuse; a pair moves at most `ROUNDS` times in one turn and a listener accepts at most `ACCEPTS`. Does not:
bound the number of pairs, or the time a connection takes to be made: the owner does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
from typing import Any

__all__ = [
    "ACCEPTS",
    "CLOSED",
    "FAILED",
    "FAR_RESET",
    "IDLE_PIPES",
    "NEAR_RESET",
    "PIPE_SIZE",
    "ROUNDS",
    "Pair",
    "Splicer",
]

PIPE_SIZE = 1 << 20
"""Bytes; the default of fs.pipe-max-size. Where the user's quota of pipe pages is used up the kernel's default stays.
"""
ACCEPTS = 64
ROUNDS = 16
IDLE_PIPES = 32

NEAR_RESET, FAR_RESET, CLOSED, FAILED = range(4)

IP_BIND_ADDRESS_NO_PORT = 24

_NEAR, _FAR = 0, 1
_EDGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_BATCH = 64
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_FLAGS = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_LINGER_ZERO = struct.pack("ii", 1, 0)


class _Way:
    """Bytes from one socket to the other."""

    __slots__ = ("done", "ended", "inside", "moved", "pipe")

    def __init__(self) -> None:
        self.pipe: tuple[int, int] | None = None
        self.inside = 0
        self.moved = 0
        self.ended = False
        self.done = False


class Pair:
    """Two sockets: `near` was accepted, `far` is connected by us. To be subclassed; serves for one connection."""

    __slots__ = ("again", "connected", "socks", "used", "ways")

    def __init__(self) -> None:
        self.socks: list[socket.socket | None] = [None, None]
        self.ways = (_Way(), _Way())
        self.again = False
        self.used = False
        self.connected = False
        """Whether the far socket is."""

    @property
    def onward(self) -> int:
        """Bytes of the near side that the far socket took."""
        return self.ways[_NEAR].moved

    @property
    def back(self) -> int:
        """Bytes of the far side that the near socket took."""
        return self.ways[_FAR].moved

    @property
    def live(self) -> bool:
        """Whether it has begun and has not ended."""
        return self.socks[_NEAR] is not None


class Splicer:
    """Pairs and the listeners they come from. For `owner` see the module."""

    def __init__(self, owner: Any) -> None:
        """Raises OSError when there is no epoll descriptor to be had."""
        self._owner = owner
        self._epoll = select.epoll()
        self._pairs: dict[int, tuple[Pair, int]] = {}
        self._listeners: dict[int, tuple[socket.socket, Any]] = {}
        self._again: list[Pair] = []
        self._idle: list[tuple[int, int]] = []
        self._live = 0

    def __len__(self) -> int:
        """Pairs that live."""
        return self._live

    @property
    def idle_pipes(self) -> int:
        """Pipes kept for reuse."""
        return len(self._idle)

    def fileno(self) -> int:
        """The epoll descriptor."""
        return self._epoll.fileno()

    def close(self) -> None:
        """End all pairs with a reset, without a word to the owner, and forget the listeners."""
        for pair, _ in list(self._pairs.values()):
            self.end(pair, True)
        for listener, _ in self._listeners.values():
            listener.detach()
        self._listeners.clear()
        while self._idle:
            _close_pipe(self._idle.pop())
        self._epoll.close()

    # -- listeners

    def listen(self, fd: int, key: Any) -> None:
        """Accept from a listening socket, which stays the caller's and does not block; `key` names it to the owner.

        Sets what accepted sockets inherit: urgent bytes stay in the stream, nothing waits for more. Raises OSError.
        """
        listener = socket.socket(fileno=fd)
        try:
            _prepare(listener)
            self._epoll.register(fd, select.EPOLLIN)
        except OSError:
            listener.detach()
            raise
        self._listeners[fd] = (listener, key)

    def unlisten(self, fd: int) -> None:
        """Accept no more from it; to be called before it is closed. Harmless when it is not known."""
        listener = self._listeners.pop(fd, None)
        if listener is not None:
            listener[0].detach()
            self._epoll.unregister(fd)

    def _accept(self, fd: int, listener: socket.socket, key: Any) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, name = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._owner.exhausted(key, error.errno)
                    return
                continue  # the connection ended before it was taken (accept(2))
            sock.setblocking(False)
            address = socket.inet_pton(sock.family, name[0].partition("%")[0])
            self._owner.arrived(key, sock.detach(), address, name[1])
            if fd not in self._listeners:
                return

    # -- pairs begin and end

    def adopt(self, pair: Pair, near: int) -> None:
        """Begin a pair with the descriptor of an accepted connection, which is the pair's from now on."""
        if pair.used:
            raise ValueError("a pair is used once")
        pair.used = True
        self._live += 1
        pair.socks[_NEAR] = socket.socket(fileno=near)
        self._pairs[near] = (pair, _NEAR)

    def reach(self, pair: Pair, far: int, target: tuple[bytes, int], source: bytes | None = None) -> int:
        """Connect `far`, the descriptor of an unused TCP socket, to `target` and join the two.

        `far` -1 stands for a new socket of this process's namespace. `target` is packed address and port. `source` is
        the packed address that the socket is bound to, with any port, if it can be had. Returns 0 or
        errno; on an errno `far` is closed and the pair waits for another `reach`. `pair.connected` says whether the
        connection is made already; one that fails later is reported by `unreached`.
        """
        if not pair.live or pair.socks[_FAR] is not None:
            raise ValueError("a pair that has an end open already, or none")
        try:
            sock = socket.socket(_family(target), _FLAGS) if far < 0 else socket.socket(fileno=far)
        except OSError as failure:
            return failure.errno or errno.EIO
        _prepare(sock)
        if source is not None:
            with contextlib.suppress(OSError):
                _bind(sock, source)
        error = sock.connect_ex(_sockaddr(target))
        if error == errno.EINPROGRESS:
            error = _is_connected(sock)
        if error and error != errno.EAGAIN:
            sock.close()
            return error
        pair.socks[_FAR] = sock
        self._pairs[sock.fileno()] = (pair, _FAR)
        self._epoll.register(sock.fileno(), _EDGE)
        if not error:
            self._begin(pair)
        return 0

    def _begin(self, pair: Pair) -> None:
        near = pair.socks[_NEAR]
        assert near is not None
        pair.connected = True
        self._epoll.register(near.fileno(), _EDGE)
        self._pump(pair)

    def end(self, pair: Pair, resets: bool) -> None:
        """Close a pair, both sides with a reset if `resets`. Idempotent; the owner is not called."""
        self._live -= pair.live
        for side, sock in enumerate(pair.socks):
            if sock is not None:
                del self._pairs[sock.fileno()]
                if resets:
                    with contextlib.suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
                sock.close()
                pair.socks[side] = None
        for way in pair.ways:
            self._give_pipe(way)

    def _over(self, pair: Pair, how: int) -> None:
        self.end(pair, how != CLOSED)
        self._owner.ended(pair, how)

    # -- pipes

    def _take_pipe(self, way: _Way) -> bool:
        if way.pipe is None and self._idle:
            way.pipe = self._idle.pop()
        elif way.pipe is None:
            try:
                way.pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                return False
            with contextlib.suppress(OSError):
                fcntl.fcntl(way.pipe[1], fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        return True

    def _give_pipe(self, way: _Way) -> None:
        ends, way.pipe = way.pipe, None
        if ends is None:
            return
        if way.inside == 0 and len(self._idle) < IDLE_PIPES:
            self._idle.append(ends)
        else:
            _close_pipe(ends)

    # -- moving bytes

    def turn(self) -> bool:
        """Serve what is ready. Whether there is more to do, of those who had used up their share of this turn."""
        again, self._again = self._again, []
        for pair in again:
            pair.again = False
            far = pair.socks[_FAR]
            if far is not None:
                self._guarded(far.fileno(), 0)
        for fd, events in self._epoll.poll(0, _BATCH):
            self._guarded(fd, events)
        return bool(self._again)

    def _guarded(self, fd: int, events: int) -> None:
        """An edge that is not served is not reported again: an error of the owner's must not take others' with it."""
        try:
            # A descriptor may be another's by now; an event is taken for a hint only.
            if fd in self._pairs:
                self._serve(*self._pairs[fd], events)
            elif fd in self._listeners:
                self._accept(fd, *self._listeners[fd])
        except Exception as error:
            self._owner.bug(error)

    def _serve(self, pair: Pair, side: int, events: int) -> None:
        sock = pair.socks[side]
        assert sock is not None
        failed = events & select.EPOLLERR and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not pair.connected:
            if side == _FAR:
                self._connecting(pair, sock, events, failed)
        elif failed:
            self._over(pair, side)
        else:
            self._pump(pair)

    def _connecting(self, pair: Pair, sock: socket.socket, events: int, failed: int) -> None:
        if failed or events & select.EPOLLHUP:
            del self._pairs[sock.fileno()]
            pair.socks[_FAR] = None
            sock.close()
            self._owner.unreached(pair, failed or errno.EIO)
        elif events & select.EPOLLOUT:
            self._begin(pair)

    def _pump(self, pair: Pair) -> None:
        for side in (_NEAR, _FAR):
            how = self._move(pair, side)
            if how is not None:
                self._over(pair, how)
                return
        if all(way.done for way in pair.ways):
            self._over(pair, CLOSED)

    def _move(self, pair: Pair, side: int) -> int | None:
        """Move what can be moved from `side` to the other. How the pair ends by it, or None."""
        way = pair.ways[side]
        source, target = pair.socks[side], pair.socks[1 - side]
        assert source is not None
        assert target is not None
        for _ in range(ROUNDS):
            if way.done:
                return None
            if not self._take_pipe(way):
                return FAILED
            got = -errno.EAGAIN
            if not way.ended and way.inside < PIPE_SIZE:
                got = _fill(way, source)
                if got < 0 and got != -errno.EAGAIN:
                    return side
            if way.inside:
                sent = _drain(way, target)
                if sent < 0:
                    return None if sent == -errno.EAGAIN else 1 - side
            elif way.ended:
                way.done = True
                self._give_pipe(way)
                if not pair.ways[1 - side].done:
                    with contextlib.suppress(OSError):
                        target.shutdown(socket.SHUT_WR)
            elif got == -errno.EAGAIN:
                self._give_pipe(way)
                return None
        if not pair.again:
            pair.again = True
            self._again.append(pair)
        return None


def _fill(way: _Way, source: socket.socket) -> int:
    assert way.pipe is not None
    got = _splice(source.fileno(), way.pipe[1], PIPE_SIZE - way.inside)
    if got in (0, -errno.EAGAIN):
        if way.inside:
            return -errno.EAGAIN
        got = _pass_mark(way.pipe[1], source)
        way.ended = got == 0
    if got > 0:
        way.inside += got
    return got


def _pass_mark(pipe: int, source: socket.socket) -> int:
    """splice(2) takes an urgent byte for the end of all there is, be it for now or for ever; recv(2) goes past it."""
    try:
        # An empty pipe takes this much whole, however small the user's quota has left it.
        return os.write(pipe, data) if (data := source.recv(select.PIPE_BUF)) else 0
    except OSError as error:
        return -(error.errno or errno.EIO)


def _drain(way: _Way, target: socket.socket) -> int:
    assert way.pipe is not None
    sent = _splice(way.pipe[0], target.fileno(), way.inside)
    if sent > 0:
        way.inside -= sent
        way.moved += sent
    return sent


def _splice(source: int, destination: int, count: int) -> int:
    """splice(2): the number of bytes moved, or `-errno`."""
    try:
        return os.splice(source, destination, count, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
    except OSError as error:
        return -(error.errno or errno.EIO)


def _close_pipe(ends: tuple[int, int]) -> None:
    os.close(ends[0])
    os.close(ends[1])


def _prepare(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def _bind(sock: socket.socket, source: bytes) -> None:
    # The port is chosen when the connection is made: a search among all that are bound takes a millisecond.
    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind(_sockaddr((source, 0)))


def _is_connected(sock: socket.socket) -> int:
    """0, EAGAIN while the handshake is under way, or why it failed: what a send of nothing says."""
    try:
        sock.send(b"", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _family(endpoint: tuple[bytes, int]) -> socket.AddressFamily:
    return socket.AF_INET if len(endpoint[0]) == 4 else socket.AF_INET6


def _sockaddr(endpoint: tuple[bytes, int]) -> tuple[str, int]:
    return socket.inet_ntop(_family(endpoint), endpoint[0]), endpoint[1]
