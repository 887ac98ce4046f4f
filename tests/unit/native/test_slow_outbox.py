"""One suite for both twins of the outbox: checksums are completed, superframes cut, and the bytes arrive in order.

scapy says what a frame has to look like; a receiver puts the pieces together again.
"""

from __future__ import annotations

import errno
import functools
import importlib
import random
import select
import socket
import struct
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Ether

from bucatini.native import slow, slow_outbox
from support.frames import NEEDS_CSUM, VNET, vnet

SIZE = 2 * slow_outbox.MAX_FRAME
ARENA = 1 << 18
BODY = random.Random(3).randbytes(1 << 17)
PATIENCE = 5.0
GSO = {("tcp", 4): 1, ("tcp", 6): 4, ("udp", 4): 5, ("udp", 6): 5}
KINDS = sorted(GSO)
SMALLEST_BUFFER = 2304
"""What the kernel makes of a smaller SO_SNDBUF. A stream socket is written to in pieces of 64 bytes less."""


def twins() -> list[Any]:
    """Pairs of the modules of arena and outbox."""
    try:
        fast: ModuleType | None = importlib.import_module("bucatini.native.fast")
        fast_outbox: ModuleType | None = importlib.import_module("bucatini.native.fast_outbox")
    except ImportError:
        fast = fast_outbox = None
    skip = pytest.mark.skipif(fast is None, reason="native.fast_outbox is not built")
    return [pytest.param((slow, slow_outbox), id="slow"), pytest.param((fast, fast_outbox), id="fast", marks=skip)]


TWINS = twins()


@pytest.fixture(params=TWINS)
def twin(request: pytest.FixtureRequest) -> Any:
    return request.param


class Desk:
    """An outbox, an arena to put frames from, and both ends of a socket pair."""

    def __init__(self, twin: Any, kind: int = socket.SOCK_STREAM, size: int = SIZE, buffer: int = 0) -> None:
        self.arena = twin[0].Arena(ARENA)
        self.near, self.far = socket.socketpair(socket.AF_UNIX, kind)
        self.near.setblocking(False)
        self.far.setblocking(False)
        if buffer:
            self.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.prefixed = kind == socket.SOCK_STREAM
        self.outbox = twin[1].Outbox(size, self.prefixed)
        self.heard = b""
        self.datagrams: list[bytes] = []

    def put(self, frame: bytes, header: bytes = VNET, at: int = 1000) -> int:
        whole = header + frame
        self.arena.view[at : at + len(whole)] = whole
        return int(self.outbox.put(self.near, self.arena, at, len(whole)))

    def flush(self) -> int:
        return int(self.outbox.flush(self.near))

    def hear(self) -> None:
        """Read all that the far end has by now."""
        try:
            while data := self.far.recv(1 << 17):
                if self.prefixed:
                    self.heard += data
                else:
                    self.datagrams.append(data)
        except BlockingIOError:
            pass

    def finish(self) -> list[bytes]:
        """Flush and hear until nothing waits; the frames that came."""
        for _ in range(100_000):
            left = self.flush()
            assert left == self.outbox.pending
            self.hear()
            if not left:
                return self.frames()
        raise AssertionError("the outbox does not become empty")

    def frames(self) -> list[bytes]:
        return split(self.heard) if self.prefixed else self.datagrams

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def desk(twin: Any) -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(*arguments: Any, **named: Any) -> Desk:
        made.append(Desk(twin, *arguments, **named))
        return made[-1]

    yield make
    for each in made:
        each.close()


def split(stream: bytes) -> list[bytes]:
    """The frames of a stream that ends with one."""
    frames = []
    while stream:
        length = int.from_bytes(stream[:4], "big")
        assert len(stream) >= 4 + length, "the stream ends inside a frame"
        frames.append(stream[4 : 4 + length])
        stream = stream[4 + length :]
    return frames


# -- frames to send, and what becomes of them


def network(version: int, **fields: Any) -> Any:
    if version == 4:
        return IP(**{"src": "192.0.2.1", "dst": "198.51.100.2", **fields})
    return IPv6(**{"src": "2001:db8::1", "dst": "2001:db8:5::2", **fields})


def packet(protocol: str, version: int, payload: bytes, ip: Any = None, **fields: Any) -> bytes:
    """A complete frame, every checksum right; `fields` are those of the transport header."""
    layer = TCP(**{"sport": 80, "dport": 4000, "seq": 7, "flags": "A", **fields}) if protocol == "tcp" else None
    layer = layer or UDP(**{"sport": 53, "dport": 4000, **fields})
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / (ip or network(version)) / layer / payload)


def transport_at(frame: bytes) -> int:
    if frame[12:14] == b"\x08\x00":
        return 14 + (frame[14] & 15) * 4
    return 62 if frame[20] == 0 else 54


def undone(frame: bytes, size: int = 0) -> tuple[bytes, bytes]:
    """`frame` with its transport checksum left to who sends it on, and the header that says so; `size`: to be cut."""
    start = transport_at(frame)
    v4 = frame[12:14] == b"\x08\x00"
    protocol = frame[23] if v4 else frame[54] if frame[20] == 0 else frame[20]
    addresses = frame[26:34] if v4 else frame[22:54]
    words = struct.unpack(f">{len(addresses) // 2}H", addresses)
    total = sum(words) + protocol + len(frame) - start
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    offset = 16 if protocol == 6 else 6
    field = start + offset
    kind = GSO["tcp" if protocol == 6 else "udp", 4 if v4 else 6] if size else 0
    made = frame[:field] + total.to_bytes(2, "big") + frame[field + 2 :]
    return made, vnet(NEEDS_CSUM, kind, start + (20 if protocol == 6 else 8), size, start, offset)


def rebuilt(frame: bytes) -> bytes:
    """`frame` with every length and checksum made anew by scapy: equal to it when they were right."""
    parsed = Ether(frame)
    for layer, fields in ((IP, ("len", "chksum")), (IPv6, ("plen",)), (UDP, ("len", "chksum")), (TCP, ("chksum",))):
        if layer in parsed:
            for field in fields:
                delattr(parsed[layer], field)
    return bytes(parsed)


def payload_of(frame: bytes) -> bytes:
    start = transport_at(frame)
    return frame[start + ((frame[start + 12] >> 4) * 4 if is_tcp(frame) else 8) :]


def is_tcp(frame: bytes) -> bool:
    return TCP in Ether(frame)


# -- what leaves is complete


def test_a_plain_frame_is_left_alone(desk: Callable[..., Desk]) -> None:
    one = desk()
    frames = [packet("tcp", 4, b"x"), bytes(14), b"\xff" * 60]
    assert [one.put(frame) for frame in frames] == [1, 1, 1]
    assert one.finish() == frames


@pytest.mark.parametrize(("protocol", "version"), KINDS)
@pytest.mark.parametrize("length", [0, 1, 2, 3, 999, 1000, 9000, 65000])
def test_a_checksum_is_completed(desk: Callable[..., Desk], protocol: str, version: int, length: int) -> None:
    one = desk()
    frame = packet(protocol, version, BODY[:length])
    assert one.put(*undone(frame)) == 1
    assert one.finish() == [frame]
    assert rebuilt(frame) == frame


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("prefixed", [True, False])
def test_a_udp_sum_of_zero_is_sent_as_ones(desk: Callable[..., Desk], version: int, prefixed: bool) -> None:
    one = desk(socket.SOCK_STREAM if prefixed else socket.SOCK_SEQPACKET)
    start = transport_at(packet("udp", version, b""))
    word = packet("udp", version, bytes(2))[start + 6 : start + 8]
    frame = packet("udp", version, word)
    assert frame[start + 6 : start + 8] == b"\xff\xff"
    assert one.put(*undone(frame)) == 1
    assert one.finish() == [frame]


def test_a_tcp_sum_of_zero_stays_zero(desk: Callable[..., Desk]) -> None:
    one = desk()
    word = packet("tcp", 4, bytes(2))[50:52]
    frame = packet("tcp", 4, word)
    assert frame[50:52] == bytes(2)
    assert one.put(*undone(frame)) == 1
    assert one.finish() == [frame]


def test_a_datagram_of_a_train_whose_sum_is_zero(desk: Callable[..., Desk]) -> None:
    one = desk()
    word = packet("udp", 4, bytes(4))[40:42]
    assert one.put(*undone(packet("udp", 4, b"abcd" + word + bytes(2)), 4)) == 2
    frames = one.finish()
    assert frames[1][40:42] == b"\xff\xff"
    assert [rebuilt(frame) for frame in frames] == frames


# -- superframes


@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize(("protocol", "version"), KINDS)
@pytest.mark.parametrize(
    ("length", "size"), [(1, 1), (2, 1), (100, 99), (100, 100), (100, 101), (3000, 1000), (3001, 1000), (64000, 1400)]
)
def test_a_superframe_is_cut(
    desk: Callable[..., Desk], protocol: str, version: int, length: int, size: int, prefixed: bool
) -> None:
    one = desk(socket.SOCK_STREAM if prefixed else socket.SOCK_SEQPACKET)
    whole = packet(protocol, version, BODY[:length])
    pieces = -(-length // size)
    assert one.put(*undone(whole, size)) == pieces
    frames = one.finish()
    assert len(frames) == pieces
    assert [payload_of(frame) for frame in frames] == [
        BODY[at : min(at + size, length)] for at in range(0, length, size)
    ]
    assert [rebuilt(frame) for frame in frames] == frames
    if protocol == "tcp":
        assert [Ether(frame)[TCP].seq for frame in frames] == [7 + size * index for index in range(pieces)]


@pytest.mark.parametrize("version", [4, 6])
def test_fin_and_psh_are_on_the_last_segment_only(desk: Callable[..., Desk], version: int) -> None:
    one = desk()
    one.put(*undone(packet("tcp", version, BODY[:250], flags="FPA"), 100))
    assert [str(Ether(frame)[TCP].flags) for frame in one.finish()] == ["A", "A", "FPA"]


def test_sequence_numbers_wrap(desk: Callable[..., Desk]) -> None:
    one = desk()
    one.put(*undone(packet("tcp", 4, BODY[:250], seq=0xFFFFFF9C), 100))
    assert [Ether(frame)[TCP].seq for frame in one.finish()] == [0xFFFFFF9C, 0, 100]


@pytest.mark.parametrize("version", [4, 6])
def test_options_are_kept(desk: Callable[..., Desk], version: int) -> None:
    one = desk()
    options = [("Timestamp", (77, 88)), ("NOP", None), ("NOP", None)]
    one.put(*undone(packet("tcp", version, BODY[:250], options=options, ack=5, window=9), 100))
    frames = one.finish()
    assert [Ether(frame)[TCP].options for frame in frames] == [options] * 3
    assert [(Ether(frame)[TCP].ack, Ether(frame)[TCP].window) for frame in frames] == [(5, 9)] * 3
    assert [rebuilt(frame) for frame in frames] == frames


def test_options_of_ip_and_extension_headers_are_kept(desk: Callable[..., Desk]) -> None:
    one = desk()
    with_options = network(4, options=[b"\x94\x04\x00\x00"], id=77, tos=4, ttl=9)
    one.put(*undone(packet("tcp", 4, BODY[:150], with_options), 100))
    one.put(*undone(packet("udp", 6, BODY[:150], network(6, hlim=9) / IPv6ExtHdrHopByHop()), 100))
    frames = one.finish()
    assert len(frames) == 4
    assert [rebuilt(frame) for frame in frames] == frames
    first = Ether(frames[0])[IP]
    assert (first.ihl, first.id, first.tos, first.ttl) == (6, 77, 4, 9)
    assert Ether(frames[2])[IPv6].nh == 0


def test_the_largest_superframe_in_the_smallest_pieces_that_fit(desk: Callable[..., Desk]) -> None:
    one = desk(size=1 << 22)
    whole = packet("tcp", 4, BODY[: 65535 - 40])
    assert one.put(*undone(whole, 16)) == 4094
    assert b"".join(payload_of(frame) for frame in one.finish()) == BODY[: 65535 - 40]


@settings(max_examples=40)
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(1, 20_000), st.integers(200, 9000), st.booleans()), min_size=1, max_size=12),
    st.sampled_from([socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM]),
    st.integers(SMALLEST_BUFFER, SMALLEST_BUFFER + 9000),
)
def test_both_twins_send_the_same(
    kind: tuple[str, int], jobs: list[tuple[int, int, bool]], form: int, buffer: int
) -> None:
    """Whatever the frames, the pieces in which the socket takes them, and how much of it there is room for."""
    answers = []
    for twin in TWINS:
        if twin.marks and twin.marks[0].args[0]:
            continue
        one = Desk(twin.values[0], form, 1 << 18, buffer)
        try:
            took, sent = [], b""
            for length, size, flushed in jobs:
                whole = packet(*kind, BODY[:length])
                took.append(one.put(*undone(whole, size if length > size else 0)))
                if took[-1] >= 1:
                    sent += BODY[:length]
                if flushed:
                    one.flush()
                    one.hear()
            frames = one.finish() if form == socket.SOCK_STREAM or max(map(job_size, jobs)) < buffer else []
            assert not frames or b"".join(map(payload_of, frames)) == sent
            answers.append((took, one.heard, one.datagrams))
        finally:
            one.close()
    assert answers[0] == answers[-1]


def job_size(job: tuple[int, int, bool]) -> int:
    return 600 + min(job[0], job[1])


# -- the socket takes some of it


@pytest.mark.parametrize("more", range(110))
def test_a_write_that_is_cut_anywhere(desk: Callable[..., Desk], more: int) -> None:
    """The kernel takes as many bytes as the buffer's size says: so the cut falls on every byte of two small frames,
    in the length words as well.
    """
    one = desk(buffer=SMALLEST_BUFFER + more)
    frames = [BODY[:2200], BODY[:40], BODY[40:90], BODY[:5000]]
    assert [one.put(frame) for frame in frames] == [1, 1, 1, 1]
    assert one.flush() > 0
    one.hear()
    assert len(one.heard) % (SMALLEST_BUFFER + more - 64) == 0
    assert one.put(b"behind" * 10) == 1
    assert one.finish() == [*frames, b"behind" * 10]


@pytest.mark.parametrize("more", [0, 1, 2, 3, 4, 5, 1000])
def test_a_large_frame_is_cut_on_its_way_past_the_buffer(desk: Callable[..., Desk], more: int) -> None:
    one = desk(buffer=SMALLEST_BUFFER + more)
    assert one.put(BODY[:60_000]) == 1
    assert 0 < one.outbox.pending < 60_004
    one.arena.view[:] = bytes(ARENA)
    assert one.put(BODY[:20]) == 1
    assert one.finish() == [BODY[:60_000], BODY[:20]]


def test_a_large_frame_does_not_overtake(desk: Callable[..., Desk]) -> None:
    one = desk()
    frames = [BODY[:100], BODY[:20_000], BODY[:100], BODY[:9000]]
    for frame in frames:
        assert one.put(frame) == 1
    assert one.outbox.pending == sum(map(len, frames)) + 16
    assert one.finish() == frames


def test_a_large_frame_leaves_at_once_and_small_ones_wait(desk: Callable[..., Desk]) -> None:
    one = desk()
    assert one.put(BODY[:20_000]) == 1
    assert one.outbox.pending == 0
    one.hear()
    assert one.frames() == [BODY[:20_000]]
    assert one.put(BODY[:100]) == 1
    assert one.outbox.pending == 104
    one.hear()
    assert len(one.frames()) == 1


def test_no_room_and_nothing_is_taken(desk: Callable[..., Desk]) -> None:
    one = desk(buffer=SMALLEST_BUFFER)
    taken = []
    for index in range(10_000):
        frame = index.to_bytes(4, "big") * 500
        pending = one.outbox.pending
        took = one.put(frame)
        if took < 0:
            assert took == -errno.EAGAIN
            assert one.outbox.pending == pending
            break
        taken.append(frame)
    assert 1 < len(taken) < 200
    assert one.put(*undone(packet("tcp", 4, BODY[:3000]), 1000)) == -errno.EAGAIN
    assert one.outbox.pending == pending
    assert one.put(BODY[:60_000]) == -errno.EAGAIN
    assert one.finish() == taken
    assert one.put(BODY[:60_000]) == 1
    assert one.finish() == [*taken, BODY[:60_000]]


def test_room_is_found_again_where_bytes_have_left(desk: Callable[..., Desk]) -> None:
    """The buffer is filled to its end many times over, each time with some of it sent."""
    one = desk(buffer=SMALLEST_BUFFER)
    sent, count = [], 0
    for index in range(400):
        frame = BODY[index : index + 3000]
        took = one.put(frame)
        if took == 1:
            sent.append(frame)
        else:
            count += 1
            one.flush()
            one.hear()
    assert count > 10
    assert len(sent) > 100
    assert one.finish() == sent


def test_clear_forgets_what_waits(desk: Callable[..., Desk]) -> None:
    one = desk(buffer=SMALLEST_BUFFER)
    one.put(BODY[:60_000])
    one.put(BODY[:100])
    one.outbox.clear()
    assert one.outbox.pending == 0
    one.hear()
    one.heard = b""
    assert one.put(b"y" * 60) == 1
    assert one.finish() == [b"y" * 60]


# -- datagrams


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_each_frame_is_one_datagram(desk: Callable[..., Desk], kind: int) -> None:
    one = desk(kind, size=1 << 20)
    frames = [BODY[index : index + 20 + 9 * index] for index in range(300)]
    frames.insert(7, BODY[:65_000])
    for frame in frames:
        assert one.put(frame) == 1
    assert one.finish() == frames


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_full_queue_of_datagrams(desk: Callable[..., Desk], kind: int) -> None:
    one = desk(kind, buffer=20_000)
    frames = [index.to_bytes(2, "big") * 700 for index in range(60)]
    for frame in frames:
        assert one.put(frame) == 1
    left = one.flush()
    assert 0 < left < 60 * 1400
    assert left % 1400 == 0
    assert one.flush() == left
    assert one.put(BODY[:9000]) == 1
    assert one.finish() == [*frames, BODY[:9000]]


def test_many_small_datagrams_that_nobody_takes(desk: Callable[..., Desk]) -> None:
    """As many as the buffer holds, or fewer; and all that were taken arrive."""
    one = desk(socket.SOCK_DGRAM, size=1 << 20, buffer=20_000)
    taken = 0
    while one.put(taken.to_bytes(4, "big") * 4) == 1:
        taken += 1
    assert 10_000 < taken < 80_000
    assert one.finish() == [index.to_bytes(4, "big") * 4 for index in range(taken)]


# -- what cannot be


HEADERS = {
    "cut, but the checksum is not left undone": vnet(0, 1, 54, 100, 34, 16),
    "checksum outside the frame": vnet(NEEDS_CSUM, 0, 0, 0, 34, 1000),
    "checksum over the frame's end": vnet(NEEDS_CSUM, 0, 0, 0, 34, 319),
    "starts in the IP header": vnet(NEEDS_CSUM, 0, 0, 0, 33, 16),
    "starts in the Ethernet header": vnet(NEEDS_CSUM, 0, 0, 0, 0, 16),
    "starts behind the frame": vnet(NEEDS_CSUM, 0, 0, 0, 65535, 16),
    "wraps": vnet(NEEDS_CSUM, 0, 0, 0, 65535, 65535),
    "pieces of nothing": vnet(NEEDS_CSUM, 1, 54, 0, 34, 16),
    "UFO": vnet(NEEDS_CSUM, 3, 54, 100, 34, 6),
    "ECN": vnet(NEEDS_CSUM, 0x81, 54, 100, 34, 16),
    "a kind that is none": vnet(NEEDS_CSUM, 9, 54, 100, 34, 16),
    "no TCP header behind it": vnet(NEEDS_CSUM, 1, 54, 100, 345, 6),
    "checksum in the payload": vnet(NEEDS_CSUM, 1, 54, 100, 34, 100),
}


@pytest.mark.parametrize("name", sorted(HEADERS))
@pytest.mark.parametrize("prefixed", [True, False])
def test_a_header_that_contradicts_the_frame(desk: Callable[..., Desk], name: str, prefixed: bool) -> None:
    one = desk(socket.SOCK_STREAM if prefixed else socket.SOCK_SEQPACKET)
    frame = packet("tcp", 4, BODY[:300])
    assert len(frame) == 354
    assert one.put(frame, HEADERS[name]) == -errno.EINVAL
    assert one.outbox.pending == 0
    assert one.finish() == []


def test_a_superframe_that_is_all_headers(desk: Callable[..., Desk]) -> None:
    one = desk()
    assert one.put(*undone(packet("tcp", 4, b""), 100)) == -errno.EINVAL
    assert one.put(*undone(packet("udp", 4, b""), 100)) == -errno.EINVAL
    short = bytearray(packet("tcp", 4, BODY[:300]))
    short[46] = 0x10  # a data offset of 4 bytes
    assert one.put(bytes(short), vnet(NEEDS_CSUM, 1, 54, 100, 34, 16)) == -errno.EINVAL
    short[46] = 0xF0  # of 60, which the frame has
    assert one.put(bytes(short), vnet(NEEDS_CSUM, 1, 54, 100, 34, 16)) == 3
    short[12:14] = b"\x86\xdd"
    assert one.put(bytes(short), vnet(NEEDS_CSUM, 4, 54, 100, 34, 16)) == -errno.EINVAL


@pytest.mark.parametrize("length", [0, 12, 25, slow_outbox.MAX_FRAME + 1, 1 << 17])
def test_a_length_that_no_frame_has(desk: Callable[..., Desk], length: int) -> None:
    one = desk()
    assert one.outbox.put(one.near, one.arena, 0, length) == -errno.EINVAL
    assert one.outbox.pending == 0


@pytest.mark.parametrize(("at", "length"), [(-1, 100), (-100, 50), (ARENA, 100), (ARENA - 99, 100), (1 << 62, 100)])
def test_a_place_outside_the_arena_is_a_bug(desk: Callable[..., Desk], at: int, length: int) -> None:
    one = desk()
    with pytest.raises(ValueError, match="outside"):
        one.outbox.put(one.near, one.arena, at, length)
    assert one.outbox.pending == 0


def test_an_outbox_that_cannot_hold_two_frames(twin: Any) -> None:
    with pytest.raises(ValueError, match="too small"):
        twin[1].Outbox(SIZE - 1, True)
    one = twin[1].Outbox(SIZE, False)
    assert (one.size, one.prefixed, one.pending) == (SIZE, False, 0)


# -- nobody hears it


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
def test_nobody_is_there_any_more(desk: Callable[..., Desk], kind: int) -> None:
    one = desk(kind)
    assert one.put(BODY[:100]) == 1
    one.far.close()
    gone = (-errno.EPIPE, -errno.ECONNRESET, -errno.ECONNREFUSED, -errno.ENOTCONN)
    assert one.flush() in gone
    assert one.outbox.pending == (104 if one.prefixed else 100)
    assert one.flush() in gone
    one.outbox.clear()
    assert one.put(BODY[:20_000]) in gone
    assert one.flush() == one.outbox.pending == 0


@pytest.mark.parametrize("large", [False, True])
def test_a_socket_that_is_not_connected(twin: Any, large: bool) -> None:
    arena, outbox = twin[0].Arena(ARENA), twin[1].Outbox(SIZE, True)
    with socket.socket() as sock:
        sock.setblocking(False)
        took = outbox.put(sock, arena, 0, 20_000 if large else 100)
        assert (took, outbox.flush(sock)) == (-errno.EPIPE if large else 1, 0 if large else -errno.EPIPE)


def test_what_is_left_can_be_waited_for(desk: Callable[..., Desk]) -> None:
    """A full socket becomes writable when its peer reads; then there is room."""
    one = desk(buffer=SMALLEST_BUFFER)
    one.put(BODY[:60_000])
    left = one.flush()
    assert select.select([], [one.near], [], 0)[1] == []
    one.hear()
    assert select.select([], [one.near], [], PATIENCE)[1] == [one.near]
    assert one.flush() < left


@functools.cache
def stream_of(seed: int) -> tuple[bytes, ...]:
    chance = random.Random(seed)
    return tuple(chance.randbytes(chance.choice((14, 15, 60, 1500, 9000, 40_000))) for _ in range(60))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_a_reader_that_takes_what_it_likes(desk: Callable[..., Desk], seed: int, kind: int) -> None:
    one = desk(kind, size=1 << 19, buffer=90_000)
    chance = random.Random(seed)
    for frame in stream_of(seed):
        while one.put(frame) < 1:
            one.flush()
            one.hear()
        if chance.random() < 0.3:
            one.flush()
        if chance.random() < 0.2:
            one.hear()
    assert one.finish() == list(stream_of(seed))
