"""Bytes from the host to the guest: windows, acknowledgement, consumption, and everything that is sent again."""

from __future__ import annotations

from errno import ECONNRESET

import pytest

from bucatini.flows.sequence import distance
from bucatini.flows.tcp_output import DISCARD_ACKS, MAX_BURST, MAX_SKIP
from support.playbook import Line, Playbook, after, guest, host, turn

MSS = 1460


def data(*starts: int, length: int = MSS) -> list[Line]:
    """Full segments from each of these numbers on."""
    return [guest.data(length, seq=start) for start in starts]


def expect(play: Playbook, lines: list[Line]) -> None:
    for line in lines:
        play << line


def in_flight(play: Playbook, segments: int) -> Playbook:
    """So many full segments were sent, none acknowledged."""
    play >> host.sends(segments * MSS)
    return play.skip()


def test_segments_are_full_and_the_last_is_pushed(established: Playbook) -> None:
    established >> host.sends(3000)
    established << guest.data(MSS, seq=1, push=False) << guest.data(MSS, seq=1461, push=False)
    established << guest.data(80, seq=2921, push=True)


def test_superframes_hold_whole_segments(play: Playbook) -> None:
    play.segmented = True
    play.establish().skip()
    play >> host.sends(100_000) << guest.data(44 * MSS, seq=1) << guest.data(100_000 - 44 * MSS, push=True)


def test_a_flow_has_its_share_of_a_turn(play: Playbook) -> None:
    play.segmented = True
    play.establish(win=1 << 24, scale=14).skip()
    play >> host.sends(40 * 44 * MSS)
    expect(play, data(*(1 + n * 44 * MSS for n in range(MAX_BURST)), length=44 * MSS))
    play >> turn()
    expect(play, data(*(1 + n * 44 * MSS for n in range(MAX_BURST, 2 * MAX_BURST)), length=44 * MSS))
    play >> turn()
    expect(play, data(*(1 + n * 44 * MSS for n in range(2 * MAX_BURST, 40)), length=44 * MSS))
    play >> turn()


def test_no_more_than_the_window(established: Playbook) -> None:
    established >> guest.ack(1, win=4096)
    established >> host.sends(10_000)
    expect(established, data(1, 1461))
    established >> guest.ack(1461) << guest.data(MSS, seq=2921)
    established >> guest.ack(4381, win=1024) << guest.data(1024, seq=4381)
    established >> guest.ack(5405, win=1 << 16)
    expect(established, [*data(5405, 6865, 8325), guest.data(216, seq=9785)])


def test_the_largest_window(play: Playbook) -> None:
    play.segmented = True
    play.establish(scale=14, win=65535 << 14).skip()
    play >> host.sends(20 << 20)
    play.skip()
    for _ in range(30):
        play >> turn()
        play.skip()
    assert play.tcp.sent == 1 << 24


def test_no_silly_segments(established: Playbook) -> None:
    """RFC 1122 4.2.3.4: while bytes are in flight a window that opens by a little is left alone."""
    established >> guest.ack(1, win=2048)
    established >> host.sends(10_000) << guest.data(MSS, seq=1)
    established >> guest.ack(101, win=2048)
    established >> guest.ack(401, win=2048)
    established >> guest.ack(1461, win=2048) << guest.data(MSS, seq=1461)


def test_a_small_window_is_used_when_nothing_is_in_flight(established: Playbook) -> None:
    established >> guest.ack(1, win=128)
    established >> host.sends(1000) << guest.data(128, seq=1)
    established >> guest.ack(129, win=128) << guest.data(128, seq=129)


def test_a_window_update_lets_the_rest_go(established: Playbook) -> None:
    established >> guest.ack(1, win=0)
    established >> host.sends(100)
    established >> guest.ack(1, win=4096) << guest.data(100, seq=1)


def test_a_window_that_shrinks_below_what_is_in_flight(established: Playbook) -> None:
    in_flight(established, 4)
    established >> guest.ack(1, win=MSS)
    established >> host.sends(100)
    established >> guest.ack(1 + 4 * MSS) << guest.data(100)


def test_zero_window_is_probed_ever_slower_and_for_ever(established: Playbook) -> None:
    established >> guest.ack(1, win=0)
    established >> host.sends(100)
    gaps = []
    for _ in range(60):
        begin = established.out.now
        while not (found := established.watch(established.out.next() - established.out.now)):
            assert established.out.now < 10_000
        assert [word for _, word in found] == ["ack"]
        gaps.append(round(established.out.now - begin, 1))
        established >> guest.ack(1, win=0)
    assert gaps[:10] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0]
    assert set(gaps[10:]) == {60.0}
    established >> guest.ack(1, win=4096) << guest.data(100, seq=1)


def test_probes_carry_an_old_number(established: Playbook) -> None:
    """RFC 9293 3.8.4: outside the window, so that the guest must answer; no byte that might be lost."""
    established >> host.sends(100) << guest.data(100)
    established >> guest.ack(101, win=0)
    established >> host.sends(100)
    established >> after(0.21) << guest.ack(1, seq=100)


def test_zero_window_ends_when_the_guest_does_not_answer(established: Playbook) -> None:
    established >> guest.ack(1, win=0)
    established >> host.sends(100)
    assert [word for _, word in established.watch(1000)] == ["ack"] * 12 + ["rst", "abort"]


def test_zero_window_with_nothing_to_send_is_not_probed(established: Playbook) -> None:
    established >> guest.ack(1, win=0)
    assert established.watch(100) == []


def test_zero_window_while_bytes_are_in_flight_that_then_opens(established: Playbook) -> None:
    """Whatever happened to the bytes: soon after the window is open they are on their way again."""
    in_flight(established, 4)
    established >> guest.ack(1, win=0)
    for _ in range(8):
        established.watch(established.out.next() - established.out.now)
        established >> guest.ack(1, win=0)
    established >> guest.ack(1, win=65536)
    found = [line.text(["seq"]) for _, line in established.skip().out.log[-4:]]
    assert found == [f"guest data seq={1 + n * MSS}" for n in range(4)]


def test_a_burst_that_is_lost_when_the_window_opens_is_sent_again_soon(established: Playbook) -> None:
    established >> guest.ack(1, win=0)
    established >> host.sends(100)
    for _ in range(8):
        established.watch(established.out.next() - established.out.now)
        established >> guest.ack(1, win=0)
    established >> guest.ack(1, win=65536) << guest.data(100, seq=1)
    assert [word for _, word in established.watch(0.5)][:1] == ["data"]


def test_unacknowledged_bytes_are_sent_again_ever_slower(established: Playbook) -> None:
    """RFC 6298 5.5; tcp(7): tcp_retries2."""
    in_flight(established, 2)
    found = established.watch(1000)
    assert [word for _, word in found] == ["data"] * 24 + ["rst", "abort"]
    times = [at for at, _ in found[:24:2]] + [found[-1][0]]
    gaps = [round(b - a, 1) for a, b in zip([0.0, *times], times, strict=False)]
    assert gaps == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0, 30.0, 30.0]


def test_an_acknowledgement_restarts_the_clock(established: Playbook) -> None:
    in_flight(established, 3)
    established >> after(0.15) >> guest.ack(1461)
    established >> after(0.15) >> guest.ack(2921)
    established >> after(0.15)
    established >> after(0.05) << guest.data(MSS, seq=2921)
    established >> guest.ack(4381)
    assert established.watch(100) == []


def test_going_back_begins_at_the_first_unacknowledged_byte(established: Playbook) -> None:
    in_flight(established, 4)
    established >> guest.ack(1461)
    established >> after(0.2)
    expect(established, data(1461, 2921, 4381))
    assert established.tcp.sent == 4 * MSS, "counted once"


def test_new_bytes_follow_those_sent_again(established: Playbook) -> None:
    in_flight(established, 2)
    established >> after(0.2)
    expect(established, data(1, 1461))
    established >> host.sends(100) << guest.data(100, seq=2921)


def test_an_acknowledgement_of_bytes_sent_before_going_back(play: Playbook) -> None:
    """More was in flight than a turn holds: the rest must come from behind what is acknowledged."""
    play.establish().skip()
    for _ in range(3):
        in_flight(play, 16)
    play >> (guest.ack(1), guest.ack(1), guest.ack(1))
    expect(play, data(*(1 + n * MSS for n in range(16))))
    play >> guest.ack(1 + 20 * MSS)
    expect(play, data(*(1 + n * MSS for n in range(20, 36))))
    play >> guest.ack(1 + 48 * MSS)
    play >> host.sends(100) << guest.data(100, seq=1 + 48 * MSS)


def test_a_late_acknowledgement_of_everything_in_the_turn_that_goes_back(established: Playbook) -> None:
    in_flight(established, 4)
    established >> (*(guest.ack(1) for _ in range(3)), guest.ack(1 + 4 * MSS))
    established >> host.sends(100) << guest.data(100, seq=1 + 4 * MSS)


def test_a_late_acknowledgement_of_our_end_in_the_turn_that_goes_back(established: Playbook) -> None:
    established >> (host.sends(2 * MSS), host.ends())
    expect(established, [*data(1, 1461), guest.fin(seq=2921)])
    established >> (*(guest.ack(1) for _ in range(3)), guest.ack(2922))
    assert established.state == "FIN_WAIT_2"
    assert established.watch(10) == []


def test_a_late_acknowledgement_of_our_end_after_going_back(established: Playbook) -> None:
    for _ in range(3):
        in_flight(established, 16)
    established >> host.ends() << guest.fin(seq=1 + 48 * MSS)
    established >> (guest.ack(1), guest.ack(1), guest.ack(1))
    expect(established, data(*(1 + n * MSS for n in range(16))))
    established >> guest.ack(2 + 48 * MSS)
    assert established.state == "FIN_WAIT_2"
    assert established.watch(10) == []


def test_three_duplicates_make_one_fast_retransmission(established: Playbook) -> None:
    """RFC 5681 3.2, RFC 6582: once for each window of data."""
    in_flight(established, 4)
    established >> guest.ack(1) >> guest.ack(1) >> guest.ack(1)
    expect(established, data(1, 1461, 2921, 4381))
    for _ in range(10):
        established >> guest.ack(1)
    established >> guest.ack(2921)
    for _ in range(5):
        established >> guest.ack(2921)
    established >> guest.ack(1 + 4 * MSS)
    in_flight(established, 4)
    begin = 1 + 4 * MSS
    established >> guest.ack(begin) >> guest.ack(begin) >> guest.ack(begin)
    expect(established, data(*(begin + n * MSS for n in range(4))))


def test_three_duplicates_without_anything_in_flight_mean_nothing(established: Playbook) -> None:
    for _ in range(5):
        established >> guest.ack(1)


def test_three_duplicates_before_anything_was_acknowledged(established: Playbook) -> None:
    in_flight(established, 2)
    established >> (guest.ack(1), guest.ack(1), guest.ack(1))
    expect(established, data(1, 1461))


@pytest.mark.parametrize("line", [guest.data(10), guest.ack(1, win=99_968), guest.fin()])
def test_what_is_no_duplicate(established: Playbook, line: Line) -> None:
    """RFC 5681 2: no payload, no FIN, the same window."""
    in_flight(established, 4)
    established >> guest.ack(1) >> guest.ack(1) >> line
    established.skip()
    assert established.tcp.duplicate_acks == 2
    assert established.out.rewinds == 1, "only the handshake's"


def test_the_clock_runs_after_a_fast_retransmission(established: Playbook) -> None:
    in_flight(established, 2)
    established >> after(0.15) >> (guest.ack(1), guest.ack(1), guest.ack(1))
    expect(established, data(1, 1461))
    assert [at for at, _ in established.watch(0.25)] == [0.2, 0.2]


def test_the_clock_of_consumption_does_not_send_again(established: Playbook) -> None:
    """What was acknowledged may wait to be consumed; what is sent meanwhile has its own 0.2 s."""
    established >> host.sends(100) << guest.data(100)
    established >> guest.ack(101)
    established >> after(0.005) >> host.sends(100) << guest.data(100, seq=101)
    assert established.watch(0.5) == [(0.2, "data")]


def test_the_clock_of_consumption_does_not_end_again(established: Playbook) -> None:
    established >> host.sends(100) << guest.data(100)
    established >> guest.ack(101)
    established >> after(0.005) >> host.ends() << guest.fin(seq=101)
    assert established.watch(0.5) == [(0.2, "fin")]


def test_the_clock_runs_from_the_first_in_flight(established: Playbook) -> None:
    """RFC 6298 5.1: bytes that follow do not put it off."""
    established >> host.sends(100) << guest.data(100)
    established >> after(0.15) >> host.sends(100) << guest.data(100, seq=101)
    established >> after(0.06) << guest.data(200, seq=1)


def test_acknowledgements_of_little_are_consumed_together(established: Playbook) -> None:
    """What stays in the socket costs every peek a step for each packet."""
    for at in range(1, DISCARD_ACKS + 1):
        assert established.out.socket.discarded == 0
        established >> host.sends(1) << guest.data(1, seq=at)
        established >> guest.ack(at + 1)
    assert established.out.socket.discarded == DISCARD_ACKS


def test_acknowledged_bytes_are_consumed_soon(established: Playbook) -> None:
    established >> host.sends(100) << guest.data(100)
    established >> guest.ack(101) >> after(0.011)
    assert established.out.socket.discarded == 100
    assert established.watch(100) == []


def test_acknowledged_bytes_are_consumed_though_the_window_is_shut(established: Playbook) -> None:
    established >> host.sends(100) << guest.data(100)
    established >> guest.ack(101, win=0) >> host.sends(100)
    assert established.watch(0.2) == []
    assert established.out.socket.discarded == 100
    assert established.watch(0.7) == [(0.01, "ack"), (0.41, "ack")]


def test_the_clock_goes_on_slower_though_bytes_are_sent_again(established: Playbook) -> None:
    in_flight(established, 1)
    assert [at for at, _ in established.watch(3)] == [0.2, 0.6, 1.4, 3.0]


def test_after_going_back_an_acknowledgement_carries_what_was_never_sent(play: Playbook) -> None:
    """The guest may have all of it: under an older number its bytes would not be acknowledged (RFC 9293 3.10.7.4)."""
    play.segmented = True
    play.establish().skip()
    play >> host.sends(4 * MSS) << guest.data(4 * MSS)
    play >> (guest.ack(1), guest.ack(1), guest.ack(1), guest.data(100, seq=101), guest.data(100, seq=1))
    play << guest.ack(1, seq=1 + 4 * MSS) << host.push(100) << host.push(100) << guest.data(4 * MSS, seq=1, ack=201)


def test_after_going_back_no_acknowledgement_lies_outside_the_window(established: Playbook) -> None:
    """A guest whose window shrank would drop it as well: the number is the window's edge."""
    in_flight(established, 4)
    established >> guest.ack(1, win=1024) >> guest.ack(1) >> guest.ack(1) >> guest.ack(1) << guest.data(1024, seq=1)
    assert distance(established.tcp.snd_max, established.iss) == 1 + 4 * MSS
    established >> guest.data(100) << host.push(100)
    established >> after(0.001) << guest.ack(101, seq=1025)
    established >> guest.data(100, win=0) << host.push(100)
    established >> after(0.001) << guest.ack(201, seq=1)


def test_a_link_that_takes_nothing_loses_nothing(established: Playbook) -> None:
    established.out.lost = True
    established >> host.sends(3000)
    established.out.lost = False
    established >> after(0.2) << guest.data(MSS, seq=1) << guest.data(MSS) << guest.data(80)


def test_acknowledged_bytes_are_consumed_in_large_pieces(established: Playbook) -> None:
    at = 1
    for _ in range(100):
        established >> host.sends(1000) << guest.data(1000, seq=at)
        at += 1000
        established >> guest.ack(at)
    assert established.out.socket.discarded > 60_000
    assert established.out.socket.discarded + established.tcp.discard_due == 100_000


def test_bytes_that_are_in_flight_stay_in_the_socket(established: Playbook) -> None:
    in_flight(established, 16)
    assert established.out.socket.discarded == 0


@pytest.mark.parametrize("peek_skips", [False, True])
def test_download_with_and_without_a_peek_offset(play: Playbook, peek_skips: bool) -> None:
    play.segmented, play.peek_skips = True, peek_skips
    play.establish(win=1 << 23, scale=10).skip()
    total = 3 << 20
    play >> (host.sends(total), host.ends())
    while play.skip().state == "ESTABLISHED":
        before = play.out.log[-1][1].fields
        play >> guest.ack(before["seq"] + before.get("length", 0))
        assert play.out.now < 1
    play >> guest.ack(total + 2)
    assert play.state == "FIN_WAIT_2"
    assert play.out.socket.discarded + play.tcp.discard_due == total


def test_without_a_peek_offset_less_is_in_flight(play: Playbook) -> None:
    play.segmented, play.peek_skips = True, True
    play.establish(win=1 << 23, scale=10).skip()
    play >> host.sends(1 << 20)
    play.skip()
    assert play.tcp.sent == MAX_SKIP


def test_without_a_peek_offset_bytes_are_sent_again(play: Playbook) -> None:
    play.peek_skips = True
    play.establish().skip()
    in_flight(play, 4)
    play >> guest.ack(1461)
    play >> after(0.2)
    expect(play, data(1461, 2921, 4381))
    play >> guest.ack(1 + 4 * MSS)
    play >> host.sends(10) << guest.data(10, seq=1 + 4 * MSS)


@pytest.mark.parametrize("peek_skips", [False, True])
def test_urgent_byte_of_the_peer_stays_in_line(play: Playbook, peek_skips: bool) -> None:
    """A peek stops before it: what was got is less than was asked for, and yet not all."""
    play.peek_skips = peek_skips
    play.establish().skip()
    play >> host.sends(100, urgent=True) << guest.data(99, seq=1) << guest.data(1, seq=100)
    play >> host.sends(10) << guest.data(10, seq=101)
    play >> after(0.2)
    play.skip()
    play >> host.ends() << guest.fin(seq=111)


def test_a_reset_in_mid_download(established: Playbook) -> None:
    in_flight(established, 4)
    established >> host.failed(ECONNRESET) << guest.rst(seq=1 + 4 * MSS, ack=1) << host.close("reset by peer")
    assert established.watch(100) == []


def test_guest_resets_in_mid_download(established: Playbook) -> None:
    in_flight(established, 4)
    established >> guest.rst(seq=1) << host.abort("reset by guest")
    assert established.watch(100) == []
