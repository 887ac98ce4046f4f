"""bucatini.flows.tcp_gap: what is kept, in which order, and that everything is given back.

How a flow uses it is played in tests/playbook/test_playbook_gap.py.
"""

from __future__ import annotations

from errno import EAGAIN, ECONNRESET, ENOBUFS

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.address import Endpoint
from bucatini.flows.sequence import add, distance
from bucatini.flows.tcp_flow import TcpFlow
from bucatini.flows.tcp_gap import MAX_BYTES, MAX_PIECES, blocks, drain, forget, keep
from support.playbook import Recorder, pattern

AT = 20
"""Where payload begins in the frame."""
NUMBERS = [0, 5000, 2**31 - 100, 2**32 - 100, 2**32 - 1]


def new(rcv_nxt: int = 5000) -> tuple[TcpFlow, Recorder]:
    flow = TcpFlow(Endpoint(bytes(4), 1), Endpoint(bytes(4), 2), "egress", 0.0)
    flow.rcv_nxt = rcv_nxt
    return flow, Recorder()


def give(flow: TcpFlow, out: Recorder, begin: int, length: int, origin: int = 5000) -> bool:
    """The bytes `begin` to `begin + length` of the stream that starts at the number `origin`."""
    out.frame = bytes(AT) + pattern(begin, length) + b"behind"
    return keep(flow, add(origin, begin), AT, length, out)


def waiting(words: Recorder) -> int:
    return sum(line.word == "await_space" for _, line in words.log)


def test_nothing_is_kept_and_nothing_drained() -> None:
    flow, out = new()
    assert drain(flow, out) == 0
    forget(flow, out)
    assert out.log == []


@pytest.mark.parametrize("origin", NUMBERS)
def test_pieces_are_in_order_of_their_numbers(origin: int) -> None:
    flow, out = new(origin)
    for begin in (150, 50, 250, 100, 200):
        assert give(flow, out, begin, 50, origin)
    assert [distance(seq, origin) for seq, _ in flow.beyond] == [50, 100, 150, 200, 250]
    assert b"".join(data for _, data in flow.beyond) == pattern(50, 250)
    assert out.kept == flow.beyond_bytes == 250


def test_nothing_leaves_before_the_gap_is_closed() -> None:
    flow, out = new()
    give(flow, out, 1, 50)
    assert drain(flow, out) == 0
    assert out.log == []
    assert out.kept == 50


def test_a_copy_is_kept() -> None:
    flow, out = new()
    give(flow, out, 10, 50)
    out.frame = bytes(100)
    flow.rcv_nxt = add(flow.rcv_nxt, 10)
    drain(flow, out)
    assert out.socket.received == pattern(10, 50)


@pytest.mark.parametrize(
    ("begin", "length", "more"), [(10, 50, 0), (10, 49, 0), (11, 49, 0), (10, 51, 51), (9, 51, 51)]
)
def test_what_is_kept_already_costs_nothing(begin: int, length: int, more: int) -> None:
    flow, out = new()
    give(flow, out, 10, 50)
    assert give(flow, out, begin, length)
    assert out.kept == flow.beyond_bytes == 50 + more


@pytest.mark.parametrize("done", [0, 1, 49])
def test_what_was_taken_meanwhile_is_cut_off(done: int) -> None:
    flow, out = new()
    give(flow, out, 10, 50)
    flow.rcv_nxt = add(flow.rcv_nxt, 10 + done)
    assert drain(flow, out) == 0
    assert out.socket.received == pattern(10 + done, 50 - done)
    assert (flow.received, flow.pushed, flow.rcv_nxt) == (50 - done, 50 - done, 5060)
    assert (flow.beyond, flow.beyond_bytes, out.kept) == ([], 0, 0)


@pytest.mark.parametrize("done", [50, 51, 5000])
def test_what_is_needless_is_given_back(done: int) -> None:
    flow, out = new()
    give(flow, out, 10, 50)
    flow.rcv_nxt = add(flow.rcv_nxt, 10 + done)
    assert drain(flow, out) == 0
    assert out.log == []
    assert (flow.beyond, flow.beyond_bytes, out.kept) == ([], 0, 0)
    assert flow.rcv_nxt == 5010 + done


def test_bytes_of_one_flow_have_a_bound() -> None:
    flow, out = new()
    length = MAX_BYTES // 16
    for piece in range(16):
        assert give(flow, out, 10 + piece * length, length)
    assert not give(flow, out, 10 + MAX_BYTES, 1)
    assert out.kept == flow.beyond_bytes == MAX_BYTES


def test_pieces_of_one_flow_have_a_bound() -> None:
    flow, out = new()
    for piece in range(MAX_PIECES):
        assert give(flow, out, 10 + 2 * piece, 1)
    assert not give(flow, out, 10 + 2 * MAX_PIECES, 1)
    assert give(flow, out, 12, 1), "it is kept"
    assert len(flow.beyond) == out.kept == MAX_PIECES


def test_what_is_near_the_gap_pushes_away_what_is_far() -> None:
    flow, out = new()
    for piece in range(MAX_PIECES):
        give(flow, out, 10 + 2 * piece, 1)
    assert give(flow, out, 11, 1)
    assert len(flow.beyond) == out.kept == flow.beyond_bytes == MAX_PIECES
    begins = [distance(seq, 5000) for seq, _ in flow.beyond]
    assert begins == [10, 11, *range(12, 10 + 2 * (MAX_PIECES - 1), 2)]


def test_a_large_newcomer_pushes_away_as_much_as_it_needs() -> None:
    flow, out = new()
    length = MAX_BYTES // 16
    for piece in range(16):
        give(flow, out, 100_000 + piece * length, length)
    assert give(flow, out, 10, length + 1)
    assert len(flow.beyond) == 15
    assert out.kept == flow.beyond_bytes == MAX_BYTES - length + 1


@pytest.mark.parametrize("origin", NUMBERS)
def test_what_is_kept_is_told_as_ranges_the_last_first(origin: int) -> None:
    """RFC 2018 section 4."""
    flow, out = new(origin)
    assert blocks(flow) == []
    for begin, expected in [
        (200, [(200, 250)]),
        (100, [(100, 150), (200, 250)]),
        (300, [(300, 350), (100, 150), (200, 250)]),
        (250, [(200, 350), (100, 150)]),
        (120, [(100, 170), (200, 350)]),
    ]:
        assert give(flow, out, begin, 50, origin)
        assert [(distance(a, origin), distance(b, origin)) for a, b in blocks(flow)] == expected


def test_the_range_of_a_segment_that_came_again_is_told_first() -> None:
    """RFC 2018 section 4: the first block holds the segment that triggered the ACK."""
    flow, out = new()
    for begin in (100, 200, 100):
        give(flow, out, begin, 50)
    assert blocks(flow) == [(5100, 5150), (5200, 5250)]


@pytest.mark.parametrize("room", [0, 30])
def test_nothing_is_told_of_what_waits_for_room(room: int) -> None:
    """A block at or below the acknowledgement would say that the guest sent it twice (RFC 2883 section 4)."""
    flow, out = new()
    for begin in (200, 0):
        give(flow, out, begin, 50)
    out.socket.room = room
    drain(flow, out)
    assert flow.rcv_nxt == 5000 + room
    assert blocks(flow) == [(5200, 5250)]


def test_all_flows_together_have_a_bound() -> None:
    flow, out = new()
    other, _ = new()
    out.budget = 100
    assert give(flow, out, 10, 60)
    assert not give(other, out, 10, 41)
    assert (other.beyond, other.beyond_bytes) == ([], 0)
    assert give(other, out, 10, 40)
    forget(flow, out)
    assert out.kept == 40
    assert give(other, out, 60, 60)


@pytest.mark.parametrize("room", [0, 1, 49, 50, 51, 99])
def test_a_part_is_taken_and_the_rest_later(room: int) -> None:
    flow, out = new()
    give(flow, out, 0, 50)
    give(flow, out, 50, 50)
    out.socket.room = room
    assert drain(flow, out) == 0
    assert distance(flow.rcv_nxt, 5000) == flow.received == room
    assert flow.await_space
    assert waiting(out) == 1
    assert out.kept == (50 if room >= 50 else 100), "a piece is given back as a whole"
    out.socket.room = 1000
    flow.await_space = False
    assert drain(flow, out) == 0
    assert out.socket.received == pattern(0, 100)
    assert out.kept == 0
    assert waiting(out) == 1


def test_room_is_asked_for_once() -> None:
    flow, out = new()
    give(flow, out, 0, 50)
    out.socket.room = 0
    flow.await_space = True
    assert drain(flow, out) == 0
    assert waiting(out) == 0


@pytest.mark.parametrize("error", [EAGAIN, ENOBUFS])
def test_a_shortage_passes(error: int) -> None:
    flow, out = new()
    give(flow, out, 0, 50)
    out.socket.error = error
    assert drain(flow, out) == 0
    assert flow.await_space
    assert out.kept == 50


def test_a_failure_is_told() -> None:
    flow, out = new()
    give(flow, out, 0, 50)
    give(flow, out, 70, 50)
    out.socket.error = ECONNRESET
    assert drain(flow, out) == -ECONNRESET
    assert not flow.await_space
    forget(flow, out)
    assert (flow.beyond, flow.beyond_bytes, out.kept) == ([], 0, 0)


def test_everything_is_given_back_once() -> None:
    flow, out = new()
    give(flow, out, 10, 50)
    give(flow, out, 70, 50)
    for _ in range(2):
        forget(flow, out)
        assert (flow.beyond, flow.beyond_bytes, out.kept) == ([], 0, 0)


PIECES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40), st.sampled_from([0, 5, 1000])), max_size=60)


@given(PIECES, st.sampled_from(NUMBERS), st.sampled_from([50, 1 << 20]))
def test_any_pieces_make_the_stream(pieces: list[tuple[int, int, int]], origin: int, budget: int) -> None:
    """In any order, doubled, overlapping, refused, with a socket that takes little: never a byte twice or amiss."""
    flow, out = new(origin)
    out.budget = budget
    have: set[int] = set()
    """Which bytes beyond what was taken are kept, by a model that knows no pieces."""
    for ahead, length, room in pieces:
        taken = len(out.socket.received)
        if give(flow, out, taken + ahead, length, origin):
            have |= set(range(taken + ahead, taken + ahead + length))
        out.socket.room = room
        flow.await_space = False
        assert drain(flow, out) == 0
        expected = taken
        while expected in have and expected < taken + room:
            expected += 1
        assert out.socket.received == pattern(0, expected)
        assert distance(flow.rcv_nxt, origin) == flow.received == expected
        assert flow.await_space == (expected in have)
        assert out.kept == flow.beyond_bytes == sum(len(data) for _, data in flow.beyond) <= budget
    forget(flow, out)
    assert out.kept == 0
