"""How a flow ends: RFC 9293 3.6. Each half on its own, together, by a reset, and by silence."""

from __future__ import annotations

from errno import ECONNRESET, EPIPE

import pytest

from bucatini.base.reasons import DropReason
from support.playbook import Playbook, after, guest, host, turn


def test_guest_ends_first(established: Playbook) -> None:
    established >> guest.fin() << host.shutdown() << guest.ack(2, seq=1)
    assert established.state == "CLOSE_WAIT"
    established >> host.ends() << guest.fin(seq=1, ack=2)
    assert established.state == "LAST_ACK"
    established >> guest.ack(2) << host.close("closed")


def test_host_ends_first(established: Playbook) -> None:
    established >> host.ends() << guest.fin(seq=1, ack=1)
    assert established.state == "FIN_WAIT_1"
    established >> guest.ack(2)
    assert established.state == "FIN_WAIT_2"
    established >> guest.fin() << host.shutdown() << host.release() << guest.ack(2, seq=2)
    assert established.state == "TIME_WAIT"
    established >> after(1.9) >> after(0.2) << host.close("closed")


def test_guest_answers_our_end_with_its_own(established: Playbook) -> None:
    established >> host.ends() << guest.fin(seq=1)
    established >> guest.fin(ack=2) << host.shutdown() << host.release() << guest.ack(2, seq=2)
    established >> after(2) << host.close("closed")


def test_both_end_at_once(established: Playbook) -> None:
    established >> host.ends() << guest.fin(seq=1, ack=1)
    established >> guest.fin(ack=1) << host.shutdown() << guest.ack(2, seq=2)
    assert established.state == "CLOSING"
    established >> guest.ack(2) << host.release()
    established >> after(2) << host.close("closed")


def test_both_ends_in_one_turn(established: Playbook) -> None:
    established >> (guest.fin(), host.ends()) << host.shutdown() << guest.fin(seq=1, ack=2)
    assert established.state == "LAST_ACK"
    established >> guest.ack(2) << host.close("closed")


def test_end_with_data(established: Playbook) -> None:
    established >> guest.fin(length=500) << host.push(500) << host.shutdown() << guest.ack(502)


def test_end_of_which_the_data_is_known(established: Playbook) -> None:
    established >> guest.data(500) << host.push(500)
    established >> guest.fin(seq=1, length=500) << host.shutdown() << guest.ack(502)


def test_end_beyond_a_gap_waits(established: Playbook) -> None:
    """Its bytes are kept, it is not."""
    established >> guest.fin(seq=101, length=10) << guest.ack(1)
    established >> guest.fin(seq=111) << guest.ack(1)
    assert established.state == "ESTABLISHED"
    established >> guest.data(100, seq=1) << host.push(100) << host.push(10) << guest.ack(111)
    assert established.state == "ESTABLISHED"
    established >> guest.fin(seq=101, length=10) << host.shutdown() << guest.ack(112)


def test_end_with_data_of_which_a_part_was_taken_waits(established: Playbook) -> None:
    established >> host.takes(60)
    established >> guest.fin(length=100) << host.push(100, took=60) << host.await_space() << guest.ack(61)
    assert established.state == "ESTABLISHED"
    established >> host.writable()
    established.skip()
    established >> guest.fin(seq=61, length=40) << host.push(40) << host.shutdown() << guest.ack(102)


def test_end_beyond_the_window_waits(established: Playbook) -> None:
    established >> guest.fin(length=70_000) << host.push(65535)
    established.skip()
    assert established.state == "ESTABLISHED"
    established >> guest.fin(seq=65536, length=70_001 - 65536) << host.push(70_001 - 65536) << host.shutdown()
    established << guest.ack(70_002)


def test_end_fits_into_a_shut_window(established: Playbook) -> None:
    """RFC 9293 3.10.7.4 would drop it; taking it costs no buffer, and Linux takes it."""
    established >> host.takes(65535, space=0)
    established >> guest.data(65535) << host.push(65535) << host.await_space() << guest.ack(65536, win=0)
    established >> guest.fin() << host.shutdown() << guest.ack(65537, win=0)


def test_guest_repeats_its_end(established: Playbook) -> None:
    established >> guest.fin() << host.shutdown() << guest.ack(2)
    established >> guest.fin(seq=1) << guest.ack(2)
    established >> host.ends() << guest.fin(seq=1)
    established >> guest.fin(seq=1) << guest.ack(2, seq=2)
    assert established.state == "LAST_ACK"


def test_guest_repeats_its_end_with_data(established: Playbook) -> None:
    established >> guest.fin(length=10) << host.push(10) << host.shutdown() << guest.ack(12)
    established >> guest.fin(seq=1, length=10) << guest.ack(12)


def test_our_end_is_repeated(established: Playbook) -> None:
    established >> host.ends() << guest.fin(seq=1)
    established >> after(0.2) << guest.fin(seq=1)
    established >> after(0.4) << guest.fin(seq=1)
    established >> guest.ack(2)
    assert established.watch(60) == []
    assert established.state == "FIN_WAIT_2"


def test_our_end_is_given_up(established: Playbook) -> None:
    established >> host.ends() << guest.fin(seq=1)
    words = [word for _, word in established.watch(1000)]
    assert words == ["fin"] * 12 + ["rst", "abort"]


def test_our_end_follows_the_data(established: Playbook) -> None:
    established >> (host.sends(1500), host.ends()) << guest.data(1460, seq=1) << guest.data(40) << guest.fin(seq=1501)
    established >> guest.ack(1501)
    assert established.state == "FIN_WAIT_1"
    established >> guest.ack(1502)
    assert established.state == "FIN_WAIT_2"
    assert established.out.socket.discarded + established.tcp.discard_due == 1500


def test_our_end_is_repeated_with_the_data_before_it(established: Playbook) -> None:
    established >> (host.sends(100), host.ends()) << guest.data(100) << guest.fin(seq=101)
    established >> after(0.2) << guest.data(100, seq=1) << guest.fin(seq=101)
    established >> guest.ack(102)
    assert established.state == "FIN_WAIT_2"


def test_our_end_waits_for_the_guests_window(established: Playbook) -> None:
    established >> guest.ack(1, win=1024)
    established >> (host.sends(1500), host.ends()) << guest.data(1024)
    established >> guest.ack(1025, win=4096) << guest.data(476) << guest.fin(seq=1501)


def test_uploads_go_on_after_the_hosts_end(established: Playbook) -> None:
    established >> host.ends() << guest.fin(seq=1)
    established >> guest.data(1000, ack=2) << host.push(1000)
    established >> after(0.001) << guest.ack(1001, seq=2)
    established >> guest.data(4000) << host.push(4000) << guest.ack(5001, seq=2)
    for _ in range(100):
        established >> guest.data(20_000) << host.push(20_000) << guest.ack()
        established >> host.takes(1 << 20)
    established >> guest.fin() << host.shutdown() << host.release() << guest.ack()


def test_downloads_go_on_after_the_guests_end(established: Playbook) -> None:
    """With everything a download needs: windows, consumption, retransmission."""
    established >> guest.fin() << host.shutdown() << guest.ack(2)
    at = 1
    for _ in range(100):
        established >> host.sends(2920) << guest.data(1460, seq=at, ack=2) << guest.data(1460)
        at += 2920
        established >> guest.ack(at)
    assert established.out.socket.discarded > 200_000
    established >> host.sends(100) << guest.data(100)
    established >> after(0.2) << guest.data(100, seq=at)
    established >> guest.ack(at + 100, win=0)
    established >> host.sends(100)
    established >> after(0.21) << guest.ack(2, seq=at + 99)
    established >> guest.ack(at + 100, win=4096) << guest.data(100)
    established >> guest.ack(at + 200)
    established >> host.ends() << guest.fin(seq=at + 200)
    established >> guest.ack(at + 201) << host.close("closed")


def test_everything_is_consumed_before_the_socket_is_closed(established: Playbook) -> None:
    """A socket closed with unread bytes resets its peer."""
    established >> guest.fin() << host.shutdown() << guest.ack(2)
    established >> (host.sends(100), host.ends()) << guest.data(100) << guest.fin(seq=101)
    established >> guest.ack(102) << host.close("closed")
    assert established.out.socket.discarded == 100


def test_everything_is_consumed_before_the_socket_is_released(established: Playbook) -> None:
    established >> (host.sends(100), host.ends()) << guest.data(100) << guest.fin(seq=101)
    established >> guest.fin(ack=102) << host.shutdown() << host.release() << guest.ack(2)
    assert established.out.socket.discarded == 100


def test_last_acknowledgement_is_repeated(established: Playbook) -> None:
    time_wait(established)
    for _ in range(3):
        established >> guest.fin(seq=1) << guest.ack(2, seq=2)
    established >> after(2) << host.close("closed")


def test_nothing_else_counts_in_time_wait(established: Playbook) -> None:
    time_wait(established)
    for line in (guest.ack(2), guest.data(10), guest.rst(seq=9), guest.syn()):
        established >> line
        assert established.reason == DropReason.OUT_OF_WINDOW
    established >> host.sends(1) >> host.ends() >> host.writable()
    established >> after(2) << host.close("closed")


def test_reset_ends_time_wait(established: Playbook) -> None:
    time_wait(established)
    established >> guest.rst(seq=2) << host.close("closed")


def test_a_closed_flow_is_left_alone(established: Playbook) -> None:
    established >> guest.rst(seq=1) << host.abort("reset by guest")
    established >> host.failed(ECONNRESET) >> host.sends(10) >> host.ends() >> host.writable() >> turn() >> after(9999)
    assert established.state == "CLOSED"


@pytest.mark.parametrize("error", [ECONNRESET, EPIPE])
def test_the_reset_is_seen_when_writing(established: Playbook, error: int) -> None:
    established.out.socket.error = error
    established >> guest.data(10) << host.push(10, took=0) << guest.rst(seq=1, ack=1) << host.close("reset by peer")


def test_the_reset_is_seen_when_reading(established: Playbook) -> None:
    established.out.socket.error = ECONNRESET
    established >> host.sends(10) << guest.rst(seq=1, ack=1) << host.close("reset by peer")


def test_the_reset_is_seen_when_going_back(established: Playbook) -> None:
    established >> host.sends(10) << guest.data(10)
    established.out.socket.error = ECONNRESET
    established >> after(0.2) << guest.rst(seq=11, ack=1) << host.close("reset by peer")


def test_the_reset_is_seen_when_consuming(established: Playbook) -> None:
    established >> host.sends(16 * 1460)
    established.skip()
    established >> host.sends(10 * 1460)
    established.skip()
    established.out.socket.error = ECONNRESET
    established >> guest.ack(1 + 26 * 1460) << guest.rst(ack=1) << host.close("reset by peer")


def test_idle_flow_is_asked_after_two_hours(established: Playbook) -> None:
    established >> after(7199)
    established >> after(1) << guest.ack(1, seq=0) << host.keep_alive()
    established >> guest.ack(1)
    assert established.watch(7199) == []
    assert [word for _, word in established.watch(70)] == ["ack", "keep_alive"]


def test_idle_flow_ends_after_nine_questions(established: Playbook) -> None:
    """tcp(7): tcp_keepalive_time, tcp_keepalive_intvl, tcp_keepalive_probes."""
    found = established.watch(9000)
    assert [word for _, word in found] == ["ack", "keep_alive"] * 9 + ["rst", "abort"]
    assert [at for at, word in found if word != "keep_alive"] == [7200 + 75 * n for n in range(9)] + [7875, 7875]


def test_a_flow_that_is_used_is_not_asked(established: Playbook) -> None:
    for _ in range(6):
        established >> after(3600) >> guest.data(1, seq=0) << guest.ack(1)
    assert established.state == "ESTABLISHED"


def time_wait(play: Playbook) -> None:
    """A script that ends in TIME_WAIT."""
    play >> host.ends() << guest.fin(seq=1)
    play >> guest.fin(ack=2) << host.shutdown() << host.release() << guest.ack(2)
