"""Bytes from the guest to the host: acknowledged when the socket took them, never twice. Gaps: test_playbook_gap."""

from __future__ import annotations

from errno import EPIPE

import pytest

from bucatini.flows.sequence import distance
from support.playbook import SPACE, Playbook, after, guest, host, turn


def test_a_small_request_is_acknowledged_with_its_answer(established: Playbook) -> None:
    """RFC 9293 3.8.6.3."""
    established >> guest.data(100) << host.push(100)
    established >> host.sends(50) << guest.data(50, seq=1, ack=101)
    assert established.watch(0.1) == []


def test_a_small_request_without_an_answer_is_acknowledged_soon(established: Playbook) -> None:
    established >> guest.data(100) << host.push(100)
    assert established.watch(0.1) == [(0.001, "ack")]


def test_small_requests_do_not_push_each_other_away(established: Playbook) -> None:
    established >> guest.data(100) << host.push(100)
    established >> after(0.0006) >> guest.data(100) << host.push(100)
    established >> after(0.0005) << guest.ack(201)
    established >> guest.data(100) << host.push(100)
    established >> after(0.0005)
    established >> after(0.0006) << guest.ack(301)


def test_two_segments_are_acknowledged_at_once(established: Playbook) -> None:
    """RFC 1122 4.2.3.2."""
    established >> guest.data(1460) << host.push(1460)
    established >> guest.data(1460) << host.push(1460) << guest.ack(2921)


def test_one_acknowledgement_a_turn(established: Playbook) -> None:
    established >> tuple(guest.data(5000) for _ in range(4))
    for _ in range(4):
        established << host.push(5000)
    established << guest.ack(20_001)


def test_old_bytes_are_cut_off(established: Playbook) -> None:
    established >> guest.data(100) << host.push(100)
    established >> guest.data(150, seq=51) << host.push(100) << guest.ack(201)
    established >> guest.data(150, seq=51) << guest.ack(201)
    established >> guest.data(200, seq=1) << guest.ack(201)


def test_bytes_beyond_the_window_are_cut_off(established: Playbook) -> None:
    established >> guest.data(65_000) << host.push(65_000) << guest.ack(65_001)
    edge = distance(established.tcp.rcv_edge, established.tcp.rcv_nxt)
    established >> guest.data(edge + 999) << host.push(edge)
    established.skip()
    assert distance(established.tcp.rcv_nxt, established.irs) == 65_001 + edge


def test_a_part_is_taken(established: Playbook) -> None:
    """The rest is asked for as soon as there is room: three more copies start the guest's fast retransmit."""
    established >> host.takes(4000)
    established >> guest.data(10_000) << host.push(10_000, took=4000) << host.await_space() << guest.ack(4001)
    assert established.watch(5) == []
    established >> host.writable()
    established << guest.ack(4001) << guest.ack(4001) << guest.ack(4001) << guest.ack(4001)
    established >> guest.data(6000, seq=4001) << host.push(6000) << guest.ack(10_001)
    assert established.watch(5) == []


def test_nothing_is_taken(established: Playbook) -> None:
    established >> host.takes(0)
    established >> guest.data(10_000) << host.push(10_000, took=0) << host.await_space() << guest.ack(1)
    established >> guest.data(10_000, seq=1) << host.push(10_000, took=0) << guest.ack(1)
    established >> host.writable()
    established << guest.ack(1) << guest.ack(1) << guest.ack(1) << guest.ack(1)


def test_room_was_never_asked_for(established: Playbook) -> None:
    established >> host.writable() >> turn()


def test_room_and_still_not_enough(established: Playbook) -> None:
    established >> host.takes(0)
    established >> guest.data(65_535) << host.push(65_535, took=0) << host.await_space() << guest.ack(1)
    established >> host.writable(1000)
    established << guest.ack(1) << guest.ack(1) << guest.ack(1) << guest.ack(1)
    established >> guest.data(1460, seq=1) << host.push(1460, took=1000) << host.await_space() << guest.ack(1001)


def test_the_window_follows_the_room(established: Playbook) -> None:
    established >> guest.data(40_000) << host.push(40_000)
    established << guest.ack(40_001, win=(SPACE - 40_000) * 7 // 8)


def test_the_window_never_shrinks(established: Playbook) -> None:
    """RFC 9293 3.8.6.2.2: what was offered stays offered."""
    established >> guest.data(40_000) << host.push(40_000) << guest.ack()
    established >> host.takes(SPACE, space=1000)
    while not established.tcp.await_space:
        established >> guest.data(60_000)
        established.skip()
    edges = [line.fields["ack"] + line.fields["win"] for _, line in established.out.log if "win" in line.fields]
    assert edges == sorted(edges)
    assert distance(established.tcp.rcv_edge, established.tcp.rcv_nxt) < 2 * 1460


def test_a_silly_window_is_not_offered(established: Playbook) -> None:
    """RFC 1122 4.2.3.3: less than two segments of room are no news."""
    established >> host.takes(SPACE, space=0)
    established >> guest.data(65_535) << host.push(65_535) << host.await_space() << guest.ack(65_536, win=0)
    established >> host.writable(3300) << host.await_space() << guest.ack(65_536, win=0)
    established >> host.writable(3400) << guest.ack(65_536, win=2975)
    assert established.watch(10) == []


def test_probes_of_a_shut_window_are_answered(established: Playbook) -> None:
    """RFC 9293 3.8.6.1: with the number expected and the window as it is."""
    established >> host.takes(SPACE, space=0)
    established >> guest.data(65_535) << host.push(65_535) << host.await_space() << guest.ack(win=0)
    for _ in range(3):
        established >> guest.data(1, seq=65_536) << guest.ack(65_536, win=0)
        established >> guest.ack(1, seq=65_535) << guest.ack(65_536, win=0)
    established >> host.writable() << guest.ack(65_536, win=SPACE * 7 // 8)


@pytest.mark.parametrize("scale", [-1, 0, 7])
@pytest.mark.parametrize("space", [46_080, 87_040, 4 << 20])
@pytest.mark.parametrize("mss", [1460, 9000, 40_000, 65_475])
def test_a_window_reopens_whatever_the_segment_size(scale: int, space: int, mss: int) -> None:
    """A socket that is empty has all the room it will ever have: it must be offered."""
    play = Playbook(link_mss=mss)
    play.establish(mss=mss, scale=scale).skip()
    play >> host.takes(0, space=0)
    play.out.socket.room = SPACE
    play >> guest.data(65_535)
    play.skip()
    assert play.tcp.rcv_nxt == play.tcp.rcv_edge
    play >> host.writable(4 << 20, space=space)
    play.skip()
    assert distance(play.tcp.rcv_edge, play.tcp.rcv_nxt) >= 16_384


def test_upload_at_full_speed(established: Playbook) -> None:
    """The socket is asked for its room now and then, not for every segment."""
    established.out.socket.room = 1 << 30
    for _ in range(500):
        established >> guest.data(32_000) << host.push(32_000) << guest.ack()
    assert distance(established.tcp.rcv_edge, established.tcp.rcv_nxt) > SPACE // 4
    assert established.tcp.received == 16_000_000


@pytest.fixture
def batched() -> Playbook:
    """An established flow on a link whose segments of one turn come with one read."""
    return Playbook(batch=True).establish()


def test_segments_of_one_batch_are_pushed_together(batched: Playbook) -> None:
    batched >> (guest.data(1400), guest.data(1400), guest.data(500)) << host.push(3300) << guest.ack(ack=3301)


def test_what_the_socket_leaves_of_them_is_taken_back(batched: Playbook) -> None:
    batched >> host.takes(1500)
    batched >> (guest.data(1000), guest.data(1000)) << host.push(2000, took=1500) << host.await_space()
    batched << guest.ack(ack=1501)
    batched >> host.writable() << guest.ack(ack=1501) << guest.ack() << guest.ack() << guest.ack()
    batched >> guest.data(500, seq=1501) << host.push(500)


def test_the_end_of_the_stream_waits_for_what_was_gathered(batched: Playbook) -> None:
    batched >> host.takes(600)
    batched >> (guest.data(1000), guest.fin()) << host.push(1000, took=600) << host.await_space()
    batched << guest.ack(ack=601) << guest.ack(ack=601)
    assert batched.state == "ESTABLISHED"


def test_a_gap_ends_the_gathering(batched: Playbook) -> None:
    batched >> (guest.data(1000), guest.data(1000, seq=3001)) << host.push(1000) << guest.ack(ack=1001)


def test_a_reset_comes_after_what_was_gathered(batched: Playbook) -> None:
    batched >> (guest.data(1000), guest.rst(seq=1001)) << host.push(1000) << host.abort("reset by guest")


def test_a_failure_of_the_socket_takes_everything_back(batched: Playbook) -> None:
    batched.out.socket.error = EPIPE
    batched >> (guest.data(1000), guest.data(1000)) << host.push(2000, took=0)
    batched << guest.rst(ack=1) << host.close("reset by peer")
    assert batched.tcp.received == 0
