"""Bytes ahead of a gap: kept within bounds, delivered in order once it closes (RFC 9293 3.10.7.4; RFC 5681 3.2)."""

from __future__ import annotations

from errno import ECONNRESET, EPIPE

import pytest

from bucatini.base.reasons import DropReason
from bucatini.flows.sequence import distance
from bucatini.flows.tcp_gap import MAX_BYTES, MAX_PIECES
from support.playbook import SPACE, Line, Playbook, after, guest, host

MSS = 1460


def gap(play: Playbook, *begins: int, length: int = 100) -> Playbook:
    """Pieces of `length` bytes that come ahead of number 1."""
    for begin in begins:
        play >> guest.data(length, seq=begin) << guest.ack(1)
    return play


@pytest.mark.parametrize(("length", "copies"), [(1, 1), (1460, 1), (1461, 2), (2920, 2), (4380, 3), (30_000, 3)])
def test_a_gap_is_told_once_for_each_segment(established: Playbook, length: int, copies: int) -> None:
    """RFC 5681 3.2: at once, and three equal ones make the guest send again without waiting."""
    established >> guest.data(length, seq=1461)
    for _ in range(copies):
        established << guest.ack(1, seq=1, win=65535)
    established.settle()
    assert established.reason == DropReason.NONE
    established >> guest.data(1460, seq=1) << host.push(1460) << host.push(length) << guest.ack(1461 + length)
    assert established.watch(1) == []


def test_a_guest_without_segmentation_tells_three_times(established: Playbook) -> None:
    gap(established, 1461, 2921, 4381, length=MSS)
    established >> guest.data(MSS, seq=1) << host.push(MSS) << host.push(MSS) << host.push(MSS) << host.push(MSS)
    established << guest.ack(5841)


@pytest.mark.parametrize("order", [(101, 201, 301), (301, 201, 101), (201, 301, 101), (201, 101, 301)])
def test_pieces_are_delivered_in_order(established: Playbook, order: tuple[int, ...]) -> None:
    gap(established, *order)
    established >> guest.data(100, seq=1)
    for _ in range(4):
        established << host.push(100)
    established << guest.ack(401)
    assert established.out.kept == 0


def test_what_closes_a_gap_is_acknowledged_at_once(established: Playbook) -> None:
    """RFC 5681 4.2, also when it closes only a part."""
    gap(established, 101, 301)
    established >> guest.data(50, seq=1) << host.push(50) << guest.ack(51)
    established >> guest.data(50, seq=51) << host.push(50) << host.push(100) << guest.ack(201)
    assert established.out.kept == 100
    established >> guest.data(100, seq=201) << host.push(100) << host.push(100) << guest.ack(401)


@pytest.mark.parametrize("again", [guest.data(100, seq=101), guest.data(30, seq=150), guest.data(1, seq=200)])
def test_what_is_kept_already_is_not_kept_twice(established: Playbook, again: Line) -> None:
    gap(established, 101)
    established >> again << guest.ack(1)
    assert established.reason == DropReason.NONE
    assert established.out.kept == 100
    established >> guest.data(100, seq=1) << host.push(100) << host.push(100) << guest.ack(201)


def test_overlapping_pieces(established: Playbook) -> None:
    gap(established, 101, 151, 121, 51)
    established >> guest.data(60, seq=1) << host.push(60)
    for length in (90, 50, 20, 30):
        established << host.push(length)
    established << guest.ack(251)
    assert established.out.kept == 0


def test_a_larger_piece_around_smaller_ones(established: Playbook) -> None:
    gap(established, 151, 121, length=10)
    gap(established, 101, length=200)
    established >> guest.data(100, seq=1) << host.push(100) << host.push(200) << guest.ack(301)
    assert established.out.kept == 0


def test_the_guest_sends_everything_again(established: Playbook) -> None:
    """Go-back-N: what comes in order makes what is kept needless."""
    gap(established, 101, 201, 401)
    established >> guest.data(500, seq=1) << host.push(500) << guest.ack(501)
    assert established.out.kept == 0


def test_one_frame_after_another_in_one_turn(established: Playbook) -> None:
    established >> (guest.data(100, seq=101), guest.data(100, seq=1), guest.data(100, seq=201))
    established << guest.ack(1) << host.push(100) << host.push(100) << host.push(100) << guest.ack(301)


def test_acknowledgements_beyond_a_gap_count(established: Playbook) -> None:
    established >> host.sends(100) << guest.data(100)
    established >> guest.data(10, seq=11, ack=101) << guest.ack(1)
    assert established.watch(1) == []


def test_data_to_the_guest_goes_on_meanwhile(established: Playbook) -> None:
    gap(established, 101)
    established >> host.sends(50) << guest.data(50, seq=1, ack=1)
    established >> guest.data(100, seq=1, ack=51) << host.push(100) << host.push(100) << guest.ack(201)


def test_nothing_beyond_the_window_is_kept(established: Playbook) -> None:
    established >> guest.data(100, seq=65_536 - 100) << guest.ack(1)
    assert established.reason == DropReason.NONE
    for seq in (65_536 - 99, 65_536):
        established >> guest.data(100, seq=seq) << guest.ack(1)
        assert established.reason == DropReason.OUT_OF_WINDOW
    assert established.out.kept == 100


def test_no_more_bytes_than_the_bound(established: Playbook) -> None:
    established.out.socket.room = established.out.socket.space = 8 << 20
    for _ in range(3):
        established >> guest.data(40_000)
        established.skip()
    begin = established.sent_next
    assert distance(established.tcp.rcv_edge, established.tcp.rcv_nxt) > MAX_BYTES + 100_000
    for at in range(20):
        established >> guest.data(60_000, seq=begin + 10 + at * 60_000)
        established.skip()
        assert (established.reason == DropReason.NONE) == ((at + 1) * 60_000 <= MAX_BYTES)
    count = MAX_BYTES // 60_000
    assert established.out.kept == count * 60_000
    established >> guest.data(10, seq=begin)
    established.skip()
    assert distance(established.tcp.rcv_nxt, established.irs) == begin + 10 + count * 60_000
    assert established.out.kept == 0


def test_no_more_pieces_than_the_bound(established: Playbook) -> None:
    for at in range(MAX_PIECES + 2):
        established >> guest.data(1, seq=2 + at) << guest.ack(1)
        assert (established.reason == DropReason.NONE) == (at < MAX_PIECES)
    established >> guest.data(1, seq=2) << guest.ack(1)
    assert established.reason == DropReason.NONE, "it is kept"
    established >> guest.data(1, seq=1)
    established.skip()
    assert distance(established.tcp.rcv_nxt, established.irs) == 2 + MAX_PIECES


def test_others_have_used_up_the_budget(established: Playbook) -> None:
    """As if the segment were lost; what comes again in order is taken."""
    established.out.budget = 150
    gap(established, 101, 201)
    assert established.reason == DropReason.OUT_OF_WINDOW
    established >> guest.data(100, seq=1) << host.push(100) << host.push(100) << guest.ack(201)
    gap_again = established >> guest.data(150, seq=211) << guest.ack(201)
    gap_again >> guest.data(10, seq=201) << host.push(10) << host.push(150) << guest.ack(361)


def test_the_socket_takes_a_part_of_what_was_kept(established: Playbook) -> None:
    """The rest stays, and goes on when there is room; the guest need not send it again."""
    gap(established, 101, 201, 301)
    established >> host.takes(130)
    established >> guest.data(100, seq=1) << host.push(100) << host.push(100, took=30) << host.await_space()
    established << guest.ack(131)
    assert established.watch(5) == []
    established >> host.writable(100) << host.push(70) << host.push(100, took=30) << host.await_space()
    established << guest.ack(231)
    established >> host.writable() << host.push(70) << host.push(100) << guest.ack(401)
    assert established.out.kept == 0
    assert established.watch(5) == []


def test_the_socket_takes_nothing_of_what_was_kept(established: Playbook) -> None:
    gap(established, 101)
    established >> host.takes(100)
    established >> guest.data(100, seq=1) << host.push(100) << host.push(100, took=0) << host.await_space()
    established << guest.ack(101)
    established >> host.writable(0) << host.push(100, took=0) << host.await_space() << guest.ack(101)
    established >> host.writable() << host.push(100) << guest.ack(201)


def test_the_guest_sends_again_what_waits_for_room(established: Playbook) -> None:
    gap(established, 101)
    established >> host.takes(130)
    established >> guest.data(100, seq=1) << host.push(100) << host.push(100, took=30) << host.await_space()
    established << guest.ack(131)
    established >> host.takes(20)
    established >> guest.data(100, seq=101) << host.push(70, took=20) << host.push(50, took=0) << guest.ack(151)
    established >> host.writable()
    established << host.push(50) << guest.ack(201) << guest.ack(201) << guest.ack(201) << guest.ack(201)


def test_a_part_is_taken_of_what_closes_the_gap(established: Playbook) -> None:
    gap(established, 101)
    established >> host.takes(60)
    established >> guest.data(100, seq=1) << host.push(100, took=60) << host.await_space() << guest.ack(61)
    established >> host.writable() << guest.ack(61) << guest.ack(61) << guest.ack(61) << guest.ack(61)
    established >> guest.data(40, seq=61) << host.push(40) << host.push(100) << guest.ack(201)


def test_a_silly_window_waits_for_room_and_so_does_what_was_kept(established: Playbook) -> None:
    """One call of the socket serves both."""
    established >> host.takes(40_000, space=0)
    established >> guest.data(30_000) << host.push(30_000) << guest.ack(30_001)
    established >> guest.data(30_000, seq=33_001) << guest.ack(30_001) << guest.ack(30_001) << guest.ack(30_001)
    established >> guest.data(3000, seq=30_001) << host.push(3000) << host.push(30_000, took=7000)
    established << host.await_space() << guest.ack(40_001)
    established >> host.writable() << host.push(23_000) << guest.ack(63_001, win=(SPACE - 23_000) * 7 // 8)


@pytest.mark.parametrize("error", [ECONNRESET, EPIPE])
def test_the_socket_fails_when_the_gap_closes(established: Playbook, error: int) -> None:
    gap(established, 101)
    established.out.push_kept = lambda flow, data: -error  # type: ignore[method-assign]
    established >> guest.data(100, seq=1) << host.push(100) << guest.rst(seq=1, ack=101)
    established << host.close("reset by peer")
    assert established.out.kept == 0
    assert established.watch(9999) == []


def test_the_socket_fails_when_it_has_room(established: Playbook) -> None:
    gap(established, 101)
    established >> host.takes(130)
    established >> guest.data(100, seq=1) << host.push(100) << host.push(100, took=30) << host.await_space()
    established << guest.ack(131)
    established.out.socket.error = ECONNRESET
    established >> host.writable() << host.push(70, took=0) << guest.rst(seq=1, ack=131) << host.close("reset by peer")
    assert established.out.kept == 0
    assert established.watch(9999) == []


def test_a_reset_by_the_guest_gives_everything_back(established: Playbook) -> None:
    gap(established, 101, 301) >> guest.rst(seq=1) << host.abort("reset by guest")
    assert established.out.kept == 0


def test_a_reset_by_the_peer_gives_everything_back(established: Playbook) -> None:
    gap(established, 101, 301) >> host.failed(ECONNRESET) << guest.rst() << host.close("reset by peer")
    assert established.out.kept == 0


def test_silence_gives_everything_back(established: Playbook) -> None:
    gap(established, 101, 301)
    assert [word for _, word in established.watch(9000)][-1] == "abort"
    assert established.out.kept == 0


def test_the_end_behind_a_kept_range(established: Playbook) -> None:
    """The FIN itself is not kept: the guest sends it again."""
    gap(established, 101)
    established >> guest.fin(seq=201) << guest.ack(1)
    assert established.reason == DropReason.OUT_OF_WINDOW
    established >> guest.data(100, seq=1) << host.push(100) << host.push(100) << guest.ack(201)
    assert established.state == "ESTABLISHED"
    established >> guest.fin(seq=201) << host.shutdown() << guest.ack(202)
    assert established.state == "CLOSE_WAIT"


def test_the_end_comes_again_while_kept_bytes_wait_for_room(established: Playbook) -> None:
    gap(established, 101)
    established >> host.takes(130)
    established >> guest.data(100, seq=1) << host.push(100) << host.push(100, took=30) << host.await_space()
    established << guest.ack(131)
    established >> guest.fin(seq=201) << guest.ack(131)
    assert established.state == "ESTABLISHED"
    established >> host.writable() << host.push(70) << guest.ack(201)
    established >> guest.fin(seq=201) << host.shutdown() << guest.ack(202)


def test_the_end_with_bytes_that_were_kept(established: Playbook) -> None:
    gap(established, 101)
    established >> guest.fin(seq=1, length=200) << host.push(200) << host.shutdown() << guest.ack(202)
    assert established.out.kept == 0


@pytest.mark.parametrize("begin", [201, 151, 202, 999])
def test_nothing_lies_behind_the_end(established: Playbook, begin: int) -> None:
    """A guest that sent bytes beyond its own FIN: they are dropped, whatever room the socket has."""
    gap(established, begin)
    established >> host.takes(220)
    established >> guest.fin(seq=1, length=200) << host.push(200) << host.shutdown() << guest.ack(202)
    assert established.state == "CLOSE_WAIT"
    assert established.out.kept == 0
    established >> host.writable()
    established.skip()
    assert len(established.out.socket.received) == 200


def test_a_gap_in_an_upload_after_the_hosts_end(established: Playbook) -> None:
    established >> host.ends() << guest.fin(seq=1)
    established >> guest.data(100, seq=101, ack=2) << guest.ack(1, seq=2)
    established >> guest.data(100, seq=1) << host.push(100) << host.push(100) << guest.ack(201, seq=2)
    established >> guest.data(100, seq=301) << guest.ack(201)
    established >> guest.fin(seq=201, length=100) << host.push(100) << host.shutdown() << host.release()
    established << guest.ack(302)
    assert established.out.kept == 0
    established >> after(2) << host.close("closed")
