"""What an arriving segment means, in the order of RFC 9293 3.10.7.4: number, RST, SYN, ACK, text, FIN; and RFC 5961."""

from __future__ import annotations

from errno import ECONNRESET, ETIMEDOUT

import pytest

from bucatini.base.reasons import DropReason
from bucatini.wire.tcp import ACK, FIN, PSH, RST, URG
from support.playbook import Line, Playbook, after, guest, host

OUT_OF_WINDOW = DropReason.OUT_OF_WINDOW
EDGE = 1 + 65535
"""The right edge of the window that every flow begins with."""


def test_reset_at_the_expected_number(established: Playbook) -> None:
    established >> guest.rst(seq=1) << host.abort("reset by guest")
    assert established.state == "CLOSED"
    assert established.reason == DropReason.NONE


def test_reset_without_an_acknowledgement(established: Playbook) -> None:
    established >> guest.segment(RST, seq=1) << host.abort("reset by guest")


@pytest.mark.parametrize("seq", [2, 3000, EDGE - 1])
def test_reset_elsewhere_in_the_window_is_challenged(established: Playbook, seq: int) -> None:
    """RFC 5961 3.2."""
    established >> guest.rst(seq=seq) << guest.ack(1, seq=1)
    assert established.reason == OUT_OF_WINDOW
    established >> guest.rst(seq=1) << host.abort("reset by guest")


@pytest.mark.parametrize("seq", [0, -5000, EDGE, EDGE + 1, 2**31 - 5])
def test_reset_outside_the_window_is_dropped(established: Playbook, seq: int) -> None:
    established >> guest.rst(seq=seq)
    assert established.reason == OUT_OF_WINDOW
    assert established.state == "ESTABLISHED"


def test_challenges_are_one_for_each_turn(established: Playbook) -> None:
    """RFC 5961 7: a limit, so that a flood of forgeries makes no flood of ours."""
    established >> tuple(guest.rst(seq=seq) for seq in range(100, 200)) << guest.ack(1, seq=1)


@pytest.mark.parametrize("line", [guest.syn(seq=0), guest.syn(seq=1), guest.syn(seq=9999), guest.syn_ack(seq=1, ack=1)])
def test_syn_is_challenged(established: Playbook, line: Line) -> None:
    """RFC 5961 4.2: whatever its number; a guest that restarted answers the challenge with a RST that counts."""
    established >> line << guest.ack(1, seq=1)
    assert established.reason == OUT_OF_WINDOW
    established >> guest.rst(seq=1) << host.abort("reset by guest")


@pytest.mark.parametrize("flags", [0, PSH, URG, FIN])
def test_without_an_acknowledgement_nothing_counts(established: Playbook, flags: int) -> None:
    established >> guest.segment(flags, seq=1, length=10)
    assert established.reason == OUT_OF_WINDOW


@pytest.mark.parametrize(
    ("seq", "length"), [(0, 0), (-9, 9), (-100, 50), (EDGE + 1, 0), (EDGE + 1, 100), (2**31 - 2000, 10)]
)
def test_a_number_outside_the_window_is_answered(established: Playbook, seq: int, length: int) -> None:
    established >> guest.data(length, seq=seq) << guest.ack(1, seq=1)
    assert established.reason == OUT_OF_WINDOW


def test_an_acknowledgement_outside_the_window_does_not_count(established: Playbook) -> None:
    established >> host.sends(100) << guest.data(100)
    established >> guest.data(10, seq=-500, ack=101) << guest.ack(1)
    assert established.watch(0.3) == [(0.2, "data")]


@pytest.mark.parametrize("ack", [2, 102, 2**30])
def test_an_acknowledgement_of_what_was_never_sent(established: Playbook, ack: int) -> None:
    """RFC 9293 3.10.7.4, fifth: send an ACK, drop the segment, its text too."""
    established >> host.sends(100) << guest.data(100)
    established >> guest.data(10, ack=ack + 100) << guest.ack(1, seq=101)
    assert established.reason == OUT_OF_WINDOW
    assert established.out.socket.received == b""


def test_an_old_acknowledgement_brings_its_text_all_the_same(established: Playbook) -> None:
    established >> host.sends(100) << guest.data(100)
    established >> guest.ack(101)
    established >> guest.data(10, ack=51) << host.push(10)
    established >> after(0.001) << guest.ack(11, seq=101)


def test_an_old_window_does_not_count(established: Playbook) -> None:
    """SND.WL1 and SND.WL2: a segment that was overtaken must not shut the window."""
    established >> (guest.data(10), guest.data(10, win=100_000)) << host.push(10) << host.push(10)
    established >> guest.data(20, seq=1, win=0) << guest.ack(21)
    established >> host.sends(100) << guest.data(100)
    established >> guest.ack(101, win=100_000)
    established >> guest.ack(1, win=0)
    established >> host.sends(100) << guest.data(100, seq=101)


def test_urgent_bytes_stay_in_line(established: Playbook) -> None:
    established >> guest.data(10, urgent=True) << host.push(10)
    established >> after(0.001) << guest.ack(11)


def test_bytes_after_the_guests_own_end_are_acknowledged_only(established: Playbook) -> None:
    established >> guest.fin() << host.shutdown() << guest.ack(2)
    established >> guest.data(10) << guest.ack(2)
    established >> guest.fin(seq=12) << guest.ack(2)
    assert established.state == "CLOSE_WAIT"


def test_keep_alive_probe_without_payload(established: Playbook) -> None:
    """RFC 1122 4.2.3.6."""
    established >> guest.data(10) << host.push(10)
    established >> after(0.001) << guest.ack(11)
    established >> guest.ack(1, seq=10) << guest.ack(11, seq=1)


def test_keep_alive_probe_with_one_byte(established: Playbook) -> None:
    established >> guest.data(10) << host.push(10)
    established >> after(0.001) << guest.ack(11)
    established >> guest.data(1, seq=10) << guest.ack(11, seq=1)
    assert len(established.out.socket.received) == 10


def test_keep_alive_probes_are_no_duplicate_acknowledgements(established: Playbook) -> None:
    established >> guest.data(10) << host.push(10)
    established >> host.sends(3000) << guest.data(1460, ack=11) << guest.data(1460) << guest.data(80)
    for _ in range(4):
        established >> guest.ack(1, seq=10) << guest.ack(11)
        established >> guest.data(1, seq=10) << guest.ack(11)


@pytest.mark.parametrize("state", ["FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT", "CLOSING", "LAST_ACK"])
def test_reset_and_syn_mean_the_same_in_every_synchronized_state(established: Playbook, state: str) -> None:
    bring_to(established, state)
    number = established.sent_next
    established >> guest.syn() << guest.ack(number)
    established >> guest.segment(ACK, seq=-9, ack=1) << guest.ack(number)
    established >> guest.rst(seq=number) << host.abort("reset by guest")


@pytest.mark.parametrize("state", ["ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT", "CLOSING", "LAST_ACK"])
@pytest.mark.parametrize(("error", "how"), [(ECONNRESET, "reset by peer"), (ETIMEDOUT, "timeout")])
def test_the_peers_reset_reaches_the_guest_in_every_synchronized_state(
    established: Playbook, state: str, error: int, how: str
) -> None:
    bring_to(established, state)
    established >> host.failed(error) << guest.rst(ack=established.sent_next) << host.close(how)


def bring_to(play: Playbook, state: str) -> None:
    """A script that ends in `state`."""
    if state in ("CLOSE_WAIT", "LAST_ACK"):
        play >> guest.fin() << host.shutdown() << guest.ack(2)
    if state not in ("ESTABLISHED", "CLOSE_WAIT"):
        play >> host.ends() << guest.fin(seq=1)
    if state == "FIN_WAIT_2":
        play >> guest.ack(2)
    if state == "CLOSING":
        play >> guest.fin(ack=1) << host.shutdown() << guest.ack(2)
    assert play.state == state
