"""One suite for both twins of the arena: same results, same errors, same bounds; and the two against each other."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import random
import select
import socket
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import checksum as scapy_checksum

from bucatini.native import slow
from bucatini.wire.checksum import partial

SIZE = 4096
SO_PEEK_OFF = 42
UDP_GRO = 104
FILL = random.Random(1).randbytes(SIZE)


def fast_or_none() -> ModuleType | None:
    try:
        return importlib.import_module("bucatini.native.fast")
    except ImportError:
        return None


FAST = fast_or_none()
NOT_BUILT = pytest.mark.skipif(FAST is None, reason="native.fast is not built")
TWINS = [pytest.param(slow, id="slow"), pytest.param(FAST, id="fast", marks=NOT_BUILT)]


@pytest.mark.skipif(os.environ.get("BUCATINI_TEST_FORM") != "compiled", reason="the compiled form is not asked for")
def test_fast_is_there_when_the_compiled_form_is_under_test() -> None:
    assert FAST is not None


@pytest.fixture(params=TWINS)
def twin(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def arena(twin: Any) -> Any:
    made = twin.Arena(SIZE)
    made.view[:] = FILL
    return made


def until(reading: Callable[[], int]) -> int:
    """The first result that is not EAGAIN: what was sent over loopback TCP arrives in a moment."""
    for _ in range(2000):
        got = reading()
        if got != -errno.EAGAIN:
            return got
        os.sched_yield()
    raise AssertionError("nothing came")


def is_silent(sock: socket.socket) -> bool:
    return select.select([sock], [], [], 0)[0] == []


@pytest.fixture
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a loopback connection; the first is the one under test and does not block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname(), timeout=5)
        near, _ = listener.accept()
    near.setblocking(False)
    with near, far:
        yield near, far


@pytest.fixture
def udp() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with near, far:
        near.bind(("127.0.0.1", 0))
        far.bind(("127.0.0.1", 0))
        near.connect(far.getsockname())
        far.connect(near.getsockname())
        near.setblocking(False)
        far.settimeout(5)
        yield near, far


@pytest.fixture
def stream() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.settimeout(5)
    with near, far:
        yield near, far


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_NONBLOCK)
    yield ends
    for end in ends:
        os.close(end)


# -- memory


def test_new_arena_is_zero_and_writable(twin: Any) -> None:
    arena = twin.Arena(100)
    assert (arena.size, len(arena.view), bytes(arena.view)) == (100, 100, bytes(100))
    assert arena.view.readonly is False
    assert (arena.view.format, arena.view.itemsize, arena.view.contiguous) == ("B", 1, True)
    arena.view[99] = 7
    assert arena.view[99] == 7
    assert arena.gso_size == 0


def test_view_outlives_the_arena(twin: Any) -> None:
    arena = twin.Arena(SIZE)
    view = arena.view[10:20]
    arena.view[10:20] = b"0123456789"
    del arena
    gc.collect()
    others = [twin.Arena(SIZE) for _ in range(50)]
    for other in others:
        other.view[:] = bytes([255]) * SIZE
    assert bytes(view) == b"0123456789"
    view[0] = 65
    assert view[0] == 65


def test_forgotten_arenas_are_given_back(twin: Any) -> None:
    def resident() -> int:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096

    gc.collect()
    before = resident()
    for _ in range(12):
        arena = twin.Arena(8 << 20)
        arena.view[::4096] = bytes(2048)
        del arena
        gc.collect()
    assert resident() - before < 32 << 20


@pytest.mark.parametrize(
    ("at", "length"),
    [(-1, 1), (0, -1), (0, SIZE + 1), (SIZE, 1), (SIZE + 1, 0), (1, SIZE), (2**62, 2**62), (SIZE, 2**63 - 1), (-8, 16)],
)
def test_every_call_refuses_what_lies_outside(arena: Any, udp: tuple[socket.socket, Any], at: int, length: int) -> None:
    sock = udp[0]
    calls: list[Callable[[], int]] = [
        lambda: arena.read(sock.fileno(), at, length),
        lambda: arena.write(sock.fileno(), at, length),
        lambda: arena.send(sock, at, length),
        lambda: arena.peek(sock, at, length, 0),
        lambda: arena.peek(sock, at, length, 10),
        lambda: arena.send_datagrams(sock, [at, length], 1, 0),
        lambda: arena.send_datagrams(sock, [0, 10, at, length], 2, 0),
        lambda: arena.send_datagrams(sock, [0, 10, at, length], 2, 10),
        lambda: arena.receive_datagram(sock, at, length),
        lambda: arena.receive_datagrams(sock, at, length, 1, [0], [0]),
        lambda: arena.read_frames(sock.fileno(), at, length, 1, [0]),
    ]
    for call in calls:
        with pytest.raises(ValueError):
            call()
    assert bytes(arena.view) == FILL
    assert is_silent(udp[1])


@pytest.mark.parametrize(
    ("stride", "count"), [(SIZE, 2), (SIZE + 1, 1), (1 << 60, 16), (1 << 58, 64), (2, 1 << 62), (-1, 4)]
)
def test_slots_are_checked_without_overflow(
    arena: Any, udp: tuple[socket.socket, Any], pipe: tuple[int, int], stride: int, count: int
) -> None:
    room = min(count, 64)
    with pytest.raises((ValueError, OverflowError)):
        arena.read_frames(pipe[0], 0, stride, count, [0] * room)
    with pytest.raises((ValueError, OverflowError)):
        arena.receive_datagrams(udp[0], 0, stride, count, [0] * room, [0] * room)


def test_the_edges_are_inside(arena: Any, pipe: tuple[int, int]) -> None:
    assert arena.write(pipe[1], 0, SIZE) == SIZE
    assert arena.read(pipe[0], 0, SIZE) == SIZE
    assert arena.write(pipe[1], SIZE, 0) == 0
    assert arena.write(pipe[1], SIZE - 1, 1) == 1
    assert arena.read(pipe[0], SIZE - 1, 1) == 1
    assert bytes(arena.view) == FILL


# -- descriptors


def test_read_and_write_land_where_told(arena: Any, pipe: tuple[int, int]) -> None:
    assert arena.write(pipe[1], 100, 50) == 50
    assert os.read(pipe[0], 100) == FILL[100:150]
    os.write(pipe[1], b"hello")
    assert arena.read(pipe[0], 7, 10) == 5
    assert bytes(arena.view) == FILL[:7] + b"hello" + FILL[12:]


def test_errors_are_numbers(arena: Any, pipe: tuple[int, int]) -> None:
    closed = os.dup(pipe[0])
    os.close(closed)
    assert arena.read(pipe[0], 0, 10) == -errno.EAGAIN
    assert arena.read(closed, 0, 10) == -errno.EBADF
    assert arena.write(closed, 0, 10) == -errno.EBADF
    assert arena.read(pipe[1], 0, 10) == -errno.EBADF
    assert arena.read_frames(pipe[0], 0, 10, 2, [0, 0]) == -errno.EAGAIN
    assert arena.read_frames(closed, 0, 10, 2, [0, 0]) == -errno.EBADF


def test_write_to_a_pipe_that_nobody_reads(arena: Any) -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    os.close(reading)
    assert arena.write(writing, 0, 10) == -errno.EPIPE
    os.close(writing)


def test_end_of_file_is_zero(arena: Any) -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    os.close(writing)
    assert arena.read(reading, 0, 10) == 0
    assert arena.read_frames(reading, 0, 10, 2, [0, 0]) == 0
    os.close(reading)


def test_read_frames_takes_what_is_there(arena: Any) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    with near, far:
        for frame in (b"a" * 3, b"b" * 5, b"c" * 100):
            far.send(frame)
        lengths = [0] * 8
        assert arena.read_frames(near.fileno(), 16, 100, 8, lengths) == 3
        assert lengths[:4] == [3, 5, 100, 0]
        assert bytes(arena.view[16:19]) == b"aaa"
        assert bytes(arena.view[116:121]) == b"bbbbb"
        assert bytes(arena.view[216:316]) == b"c" * 100
        assert bytes(arena.view[19:116]) == FILL[19:116]
        assert bytes(arena.view[316:]) == FILL[316:]
        for frame in (b"d", b"e", b"f"):
            far.send(frame)
        assert arena.read_frames(near.fileno(), 0, 100, 2, lengths) == 2
        assert arena.read_frames(near.fileno(), 0, 100, 2, lengths) == 1
        assert lengths[:3] == [1, 1, 100]
        far.send(b"last")
        far.close()
        assert arena.read_frames(near.fileno(), 0, 100, 4, lengths) == 1
        assert arena.read_frames(near.fileno(), 0, 100, 4, lengths) == 0


# -- streams


def test_send(arena: Any, stream: tuple[socket.socket, socket.socket]) -> None:
    near, far = stream
    assert arena.send(near, 5, 20) == 20
    assert far.recv(100) == FILL[5:25]
    while arena.send(near, 0, SIZE) > 0:
        pass
    assert arena.send(near, 0, SIZE) == -errno.EAGAIN
    far.close()
    assert arena.send(near, 0, 10) == -errno.EPIPE
    assert arena.send(near, 0, 10) == -errno.EPIPE


def test_send_on_a_fresh_socket(arena: Any) -> None:
    with socket.socket() as sock:
        sock.setblocking(False)
        assert arena.send(sock, 0, 10) == -errno.EPIPE
        assert arena.peek(sock, 0, 10, 0) == -errno.ENOTCONN
        assert arena.discard(sock, 10) == -errno.ENOTCONN


@pytest.mark.parametrize("kind", ["tcp", "stream"])
def test_peek_with_skip_and_discard(arena: Any, kind: str, request: pytest.FixtureRequest) -> None:
    near, far = request.getfixturevalue(kind)
    assert arena.peek(near, 0, 10, 0) == -errno.EAGAIN
    assert arena.peek(near, 0, 10, 5) == -errno.EAGAIN
    far.sendall(b"0123456789")
    assert until(lambda: arena.peek(near, 0, 4, 0)) == 4
    assert bytes(arena.view[:4]) == b"0123"
    assert until(lambda: arena.peek(near, 50, 4, 3)) == 4
    assert bytes(arena.view[50:54]) == b"3456"
    assert arena.peek(near, 50, 40, 8) == 2
    assert bytes(arena.view[50:54]) == b"8956"
    assert arena.peek(near, 50, 40, 10) == -errno.EAGAIN
    assert arena.peek(near, 50, 40, 12) == -errno.EAGAIN
    assert arena.discard(near, 4) == 4
    assert arena.peek(near, 0, 10, 0) == 6
    assert bytes(arena.view[:6]) == b"456789"
    assert arena.discard(near, 100) == 6
    assert arena.discard(near, 1) == -errno.EAGAIN
    far.close()
    assert until(lambda: arena.peek(near, 0, 10, 0)) == 0
    assert arena.peek(near, 0, 10, 5) == 0
    assert arena.discard(near, 5) == 0


def test_peek_skip_has_a_bound(arena: Any, stream: tuple[socket.socket, Any]) -> None:
    assert arena.peek(stream[0], 0, 10, (1 << 18) + 1) == -errno.EMSGSIZE
    assert arena.peek(stream[0], 0, 10, 1 << 18) == -errno.EAGAIN


@pytest.mark.parametrize("kind", ["tcp", "stream"])
def test_discard_of_more_than_the_scratch(arena: Any, kind: str, request: pytest.FixtureRequest) -> None:
    near, far = request.getfixturevalue(kind)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
    far.setblocking(False)
    body = random.Random(2).randbytes(600_000)
    sent = done = 0
    while done < len(body):
        try:
            sent += far.send(body[sent:])
        except BlockingIOError:
            pass
        got = arena.discard(near, len(body) - done)
        assert got > 0 or got == -errno.EAGAIN
        done += max(got, 0)
    far.send(b"next")
    assert until(lambda: arena.peek(near, 0, 100, 0)) == 4
    assert bytes(arena.view[:4]) == b"next"


def test_peek_offset(arena: Any, stream: tuple[socket.socket, socket.socket]) -> None:
    """AF_UNIX streams have kept a peek offset since Linux 3.4."""
    near, far = stream
    assert arena.set_peek_offset(near, 0) == 0
    assert near.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF) == 0
    far.sendall(b"0123456789")
    assert arena.peek(near, 0, 4, -1) == 4
    assert arena.peek(near, 4, 4, -1) == 4
    assert bytes(arena.view[:8]) == b"01234567"
    assert arena.set_peek_offset(near, 2) == 0
    assert arena.peek(near, 0, 4, -1) == 4
    assert bytes(arena.view[:4]) == b"2345"
    assert arena.discard(near, 6) == 6
    assert arena.peek(near, 0, 10, -1) == 4


def test_peek_offset_of_a_pipe_is_an_error(arena: Any) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with far:
        duplicate = socket.socket(fileno=os.dup(near.fileno()))
        near.close()
        number = duplicate.fileno()
        os.close(number)
        assert arena.set_peek_offset(duplicate, 0) == -errno.EBADF
        duplicate.detach()


def test_send_space_shrinks_with_what_is_queued(arena: Any, tcp: tuple[socket.socket, socket.socket]) -> None:
    near, far = tcp
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    empty = arena.send_space(near)
    assert 1024 < empty <= near.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    while arena.send(near, 0, SIZE) > 0:
        pass
    assert arena.send_space(near) < near.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 3


def test_send_space_of_no_socket_is_zero(arena: Any) -> None:
    sock = socket.socket()
    duplicate = socket.socket(fileno=os.dup(sock.fileno()))
    sock.close()
    os.close(duplicate.fileno())
    assert arena.send_space(duplicate) == 0
    duplicate.detach()


# -- datagrams


def test_one_datagram(arena: Any, udp: tuple[socket.socket, socket.socket]) -> None:
    near, far = udp
    assert arena.send_datagrams(near, [8, 100], 1, 0) == 1
    assert far.recv(1000) == FILL[8:108]
    assert arena.send_datagrams(near, [0, 0], 1, 0) == 1
    assert far.recv(1000) == b""


def test_datagrams_keep_their_borders(arena: Any, udp: tuple[socket.socket, socket.socket]) -> None:
    near, far = udp
    pieces = [0, 10, 500, 1, 100, 300, 7, 0, 3000, 1000]
    assert arena.send_datagrams(near, pieces, 5, 0) == 5
    got = [far.recv(2000) for _ in range(5)]
    assert got == [FILL[at : at + length] for at, length in zip(pieces[::2], pieces[1::2], strict=True)]
    assert arena.send_datagrams(near, pieces, 2, 0) == 2
    assert [far.recv(2000) for _ in range(2)] == got[:2]
    assert is_silent(far)


def test_a_train_is_cut_by_the_kernel(arena: Any, udp: tuple[socket.socket, socket.socket]) -> None:
    near, far = udp
    pieces = [0, 100, 2000, 100, 1000, 100, 300, 33]
    assert arena.send_datagrams(near, pieces, 4, 100) == 4
    assert [far.recv(2000) for _ in range(4)] == [FILL[:100], FILL[2000:2100], FILL[1000:1100], FILL[300:333]]


def test_a_train_the_route_cannot_take_is_an_error(arena: Any, udp: tuple[socket.socket, socket.socket]) -> None:
    """More segments than UDP_MAX_SEGMENTS (128 since Linux 6.9, 64 before)."""
    assert arena.send_datagrams(udp[0], [0, 4000], 1, 1) in (-errno.EINVAL, -errno.EMSGSIZE)


def test_datagram_errors_are_numbers(arena: Any, udp: tuple[socket.socket, socket.socket]) -> None:
    near, far = udp
    far.close()
    assert arena.send_datagrams(near, [0, 10], 1, 0) == 1
    assert arena.send_datagrams(near, [0, 10], 1, 0) == -errno.ECONNREFUSED
    assert arena.send_datagrams(near, [0, 10], 1, 0) == 1
    assert arena.receive_datagrams(near, 0, 100, 2, [0, 0], [0, 0]) == -errno.ECONNREFUSED
    assert arena.receive_datagrams(near, 0, 100, 2, [0, 0], [0, 0]) == -errno.EAGAIN
    assert arena.receive_datagram(near, 0, 100) == -errno.EAGAIN
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as fresh:
        assert arena.send_datagrams(fresh, [0, 10], 1, 0) == -errno.EDESTADDRREQ
        assert arena.send_datagrams(fresh, [0, 10, 0, 10], 2, 0) == -errno.EDESTADDRREQ
        assert arena.send_datagrams(fresh, [0, 10, 0, 10], 2, 10) == -errno.EDESTADDRREQ


def test_receive_datagrams(arena: Any, udp: tuple[socket.socket, socket.socket]) -> None:
    near, far = udp
    for body in (b"one", b"", b"x" * 150, b"y" * 100):
        far.send(body)
    lengths, cuts = [9] * 6, [9] * 6
    assert arena.receive_datagrams(near, 10, 100, 6, lengths, cuts) == 4
    assert lengths == [3, 0, -errno.EMSGSIZE, 100, 9, 9]
    assert cuts[:4] == [0, 0, 0, 0]
    assert bytes(arena.view[10:13]) == b"one"
    assert bytes(arena.view[310:410]) == b"y" * 100
    assert bytes(arena.view[410:]) == FILL[410:]


def test_receive_datagram(arena: Any, udp: tuple[socket.socket, socket.socket]) -> None:
    near, far = udp
    far.send(b"one")
    far.send(b"z" * 50)
    assert arena.receive_datagram(near, 5, 10) == 3
    assert arena.gso_size == 0
    assert bytes(arena.view[5:8]) == b"one"
    assert arena.receive_datagram(near, 5, 10) == -errno.EMSGSIZE
    assert arena.receive_datagram(near, 5, 10) == -errno.EAGAIN


def test_receive_at_most_what_is_asked(arena: Any, udp: tuple[socket.socket, socket.socket]) -> None:
    near, far = udp
    for number in range(5):
        far.send(bytes([number]))
    lengths, cuts = [0] * 8, [0] * 8
    assert [arena.receive_datagrams(near, 0, 10, 2, lengths, cuts) for _ in range(4)] == [2, 2, 1, -errno.EAGAIN]


def test_a_train_is_received_whole(twin: Any, udp: tuple[socket.socket, socket.socket]) -> None:
    near, far = udp
    arena = twin.Arena(1 << 18)
    try:
        near.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    except OSError:
        pytest.skip("this kernel has no UDP_GRO")
    sender = slow.Arena(SIZE)
    sender.view[:] = FILL
    assert sender.send_datagrams(far, [0, 100, 100, 100, 200, 40], 3, 100) == 3
    far.send(b"alone")
    lengths, cuts = [0] * 2, [0] * 2
    assert arena.receive_datagrams(near, 0, 1 << 16, 2, lengths, cuts) == 2
    assert (lengths, cuts) == ([240, 5], [100, 0])
    assert bytes(arena.view[:240]) == FILL[:240]
    assert sender.send_datagrams(far, [0, 100, 100, 100], 2, 100) == 2
    assert arena.receive_datagram(near, 0, 1 << 16) == 200
    assert arena.gso_size == 100
    far.send(b"alone")
    assert arena.receive_datagram(near, 0, 1 << 16) == 5
    assert arena.gso_size == 0


# -- checksum

BYTES = st.one_of(
    st.binary(max_size=70), st.builds(bytes, st.integers(0, 50)), st.builds(lambda n: b"\xff" * n, st.integers(0, 50))
)


@pytest.mark.parametrize("module", TWINS)
@given(BYTES, st.integers(0, 1 << 24), st.integers(0, 3))
def test_checksum_is_that_of_the_wire_and_of_scapy(module: Any, data: bytes, initial: int, shift: int) -> None:
    expected = partial(data, initial)
    assert module.checksum(data, initial) == expected
    assert module.checksum(memoryview(bytearray(b"abc"[:shift] + data))[shift:], initial) == expected
    assert module.checksum(bytearray(data)) == partial(data)
    inverted = module.checksum(data) ^ 0xFFFF
    assert inverted == scapy_checksum(data)


@pytest.mark.parametrize("module", TWINS)
def test_checksum_of_edges(module: Any) -> None:
    assert module.checksum(b"") == 0
    assert module.checksum(b"", 0xFFFF) == 0xFFFF
    assert module.checksum(b"", 0x10000) == 1
    assert module.checksum(bytes(1501)) == 0
    assert module.checksum(b"\x01") == 0x100
    assert module.checksum(b"\xff\xff") == 0xFFFF
    assert module.checksum(b"\xff" * 65535) == partial(b"\xff" * 65535)
    assert module.checksum(FILL * 16) == partial(FILL * 16)


# -- the twins against each other


@NOT_BUILT
@given(st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, 700)), min_size=1, max_size=20), st.integers(0, 20))
def test_twins_send_and_receive_the_same(pieces: list[tuple[int, int]], slack: int) -> None:
    """Random datagrams, sent by each twin and received by each twin: same counts, lengths, cuts and memory."""
    assert FAST is not None
    flat = [number for at, length in pieces for number in (min(at, SIZE - length), length)]
    outcomes = []
    for module in (slow, FAST):
        arena = module.Arena(SIZE)
        arena.view[:] = FILL
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        near.setblocking(False)
        far.setblocking(False)
        with near, far:
            done = [arena.send_datagrams(near, flat, len(pieces), 0)]
            room = len(pieces) + slack
            into = module.Arena(room * 500)
            lengths, cuts = [0] * room, [0] * room
            done.append(into.receive_datagrams(far, 0, 500, room, lengths, cuts))
            done.append(into.receive_datagrams(far, 0, 500, room, lengths, cuts))
            outcomes.append((done, lengths, cuts, bytes(into.view)))
    assert outcomes[0] == outcomes[1]


@NOT_BUILT
@given(
    st.lists(
        st.tuples(st.sampled_from(["send", "peek", "discard", "offset"]), st.integers(0, 300), st.integers(1, 300)),
        max_size=25,
    )
)
def test_twins_agree_on_a_stream(steps: list[tuple[str, int, int]]) -> None:
    assert FAST is not None
    outcomes = []
    for module in (slow, FAST):
        arena = module.Arena(SIZE)
        near, far = socket.socketpair()
        near.setblocking(False)
        results: list[int] = []
        with near, far:
            for what, first, second in steps:
                if what == "send":
                    far.sendall(FILL[first : first + second])
                elif what == "peek":
                    results.append(arena.peek(near, first, second, second % 50))
                elif what == "discard":
                    results.append(arena.discard(near, first))
                else:
                    results.append(arena.set_peek_offset(near, first - 1))
            outcomes.append((results, bytes(arena.view)))
    assert outcomes[0] == outcomes[1]
