"""How a flow begins: RFC 9293 3.5; options of RFC 7323 and of section 3.7.1; the host socket is dialled first."""

from __future__ import annotations

from errno import (
    EACCES,
    ECONNABORTED,
    ECONNREFUSED,
    ECONNRESET,
    EHOSTDOWN,
    EHOSTUNREACH,
    EMFILE,
    ENETDOWN,
    ENETUNREACH,
    EPERM,
    ETIMEDOUT,
)

import pytest

from bucatini.base.reasons import DropReason
from bucatini.wire.tcp import ACK, FIN, RST, SYN, URG
from support.playbook import SPACE, Playbook, after, guest, host

SECONDS_OF_SYN = [(1, 1), (3, 1), (7, 1), (15, 1), (31, 1)]
"""When a SYN is repeated, with pauses of 1, 2, 4, 8, 16 seconds."""


def test_guest_opens(play: Playbook) -> None:
    play >> guest.syn() << host.connect()
    assert play.state == "CONNECTING"
    play >> host.connected() << guest.syn_ack(seq=0, ack=1)
    assert play.state == "SYN_RECEIVED"
    play >> guest.ack(1)
    assert play.state == "ESTABLISHED"


def test_peer_opens(play: Playbook) -> None:
    play >> host.accepts() << guest.syn(seq=0)
    assert play.state == "SYN_SENT"
    play >> guest.syn_ack(ack=1) << guest.ack(1, seq=1)
    assert play.state == "ESTABLISHED"


def test_data_may_come_with_the_last_acknowledgement(play: Playbook) -> None:
    play >> guest.syn() << host.connect()
    play >> host.connected() << guest.syn_ack()
    play >> guest.data(100, ack=1) << host.push(100)
    play >> after(0.001) << guest.ack(101)


def test_end_may_come_with_the_last_acknowledgement(play: Playbook) -> None:
    play >> guest.syn() << host.connect()
    play >> host.connected() << guest.syn_ack()
    play >> guest.fin(ack=1, length=10) << host.push(10) << host.shutdown() << guest.ack(12)
    assert play.state == "CLOSE_WAIT"


def test_data_on_the_syn_is_left_for_the_guest_to_send_again(play: Playbook) -> None:
    play >> guest.syn(length=50) << host.connect()
    play.sent_next = 1
    play >> host.connected() << guest.syn_ack(ack=1)
    play >> guest.data(50, ack=1) << host.push(50)
    play >> after(0.001) << guest.ack(51)


def test_data_on_the_syn_ack_is_left_for_the_guest_to_send_again(play: Playbook) -> None:
    play >> host.accepts() << guest.syn(seq=0)
    play >> guest.syn_ack(ack=1, length=50) << guest.ack(1, seq=1)
    play.sent_next = 1
    play >> guest.data(50, ack=1) << host.push(50)
    play >> after(0.001) << guest.ack(51)


def test_nothing_is_sent_to_the_guest_before_its_acknowledgement(play: Playbook) -> None:
    play >> guest.syn() << host.connect()
    play >> host.connected() << guest.syn_ack()
    play >> host.sends(10)
    play >> guest.ack(1) << guest.data(10, seq=1, ack=1, push=True)


def test_the_handshake_is_over_before_data_of_a_published_port(play: Playbook) -> None:
    play >> host.accepts() << guest.syn()
    play >> host.sends(10)
    play >> guest.syn_ack(ack=1) << guest.ack(1, seq=1) << guest.data(10, seq=1)


def test_guest_repeats_its_syn_while_the_host_dials(play: Playbook) -> None:
    play >> guest.syn() << host.connect()
    for _ in range(3):
        play >> after(1) >> guest.syn()
    play >> guest.syn(seq=7)
    assert play.reason == DropReason.OUT_OF_WINDOW
    play >> host.connected() << guest.syn_ack(ack=1)


@pytest.mark.parametrize("flags", [ACK, FIN | ACK, 0, FIN])
def test_segments_before_the_host_answers_change_nothing(play: Playbook, flags: int) -> None:
    play >> guest.syn() << host.connect()
    play >> guest.segment(flags, seq=1, ack=1, length=5)
    assert play.reason == DropReason.OUT_OF_WINDOW
    play >> host.connected() << guest.syn_ack(ack=1)


@pytest.mark.parametrize("seq", [0, 1])
def test_guest_gives_up_while_the_host_dials(play: Playbook, seq: int) -> None:
    play >> guest.syn() << host.connect()
    play >> guest.rst(seq=5) >> guest.rst(seq=seq) << host.abort("reset by guest")


def test_guest_repeats_its_syn_after_our_answer(play: Playbook) -> None:
    play >> guest.syn() << host.connect()
    play >> host.connected() << guest.syn_ack(ack=1)
    play >> guest.syn() << guest.syn_ack(seq=0, ack=1)
    play >> guest.syn(seq=9)
    assert play.reason == DropReason.OUT_OF_WINDOW
    assert play.state == "SYN_RECEIVED"


def test_connected_counts_once(established: Playbook) -> None:
    established >> host.connected()
    assert established.state == "ESTABLISHED"


def test_our_syn_ack_is_repeated_and_given_up(play: Playbook) -> None:
    play >> guest.syn() << host.connect()
    play >> host.connected() << guest.syn_ack()
    assert play.watch(62) == [(at, "syn_ack") for at, _ in SECONDS_OF_SYN]
    play >> after(1.001) << guest.rst(seq=1, ack=1) << host.abort("timeout")


def test_our_syn_is_repeated_and_given_up(play: Playbook) -> None:
    play >> host.accepts() << guest.syn()
    assert play.watch(62) == [(at, "syn") for at, _ in SECONDS_OF_SYN]
    play >> after(1.001) << guest.rst(seq=1) << host.abort("timeout")


def test_a_repeated_syn_ack_is_answered_late(play: Playbook) -> None:
    play >> guest.syn() << host.connect()
    play >> host.connected() << guest.syn_ack()
    play >> after(1) << guest.syn_ack(seq=0, ack=1)
    play >> guest.ack(1)
    assert play.watch(100) == []
    assert play.state == "ESTABLISHED"


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (ECONNREFUSED, "refused by peer"),
        (ETIMEDOUT, "timeout"),
        (ECONNRESET, "failed"),
        (EMFILE, "failed"),
        (ECONNABORTED, "failed"),
    ],
)
def test_connect_fails_as_a_reset(play: Playbook, error: int, how: str) -> None:
    """RFC 9293 3.10.7.1: the RST carries the acknowledgement of the SYN, or Linux does not believe it."""
    play >> guest.syn() << host.connect()
    play >> host.failed(error) << guest.rst(ack=1) << host.close(how)
    play >> host.failed(error)


@pytest.mark.parametrize("error", [ENETUNREACH, EHOSTUNREACH, EACCES, EPERM, EHOSTDOWN, ENETDOWN])
def test_connect_fails_as_an_icmp_error(play: Playbook, error: int) -> None:
    play >> guest.syn() << host.connect()
    play >> host.failed(error) << guest.unreachable(error) << host.close("unreachable")


def test_guest_refuses_a_published_port(play: Playbook) -> None:
    play >> host.accepts() << guest.syn()
    play >> guest.rst(seq=0, ack=1) << host.abort("reset by guest")


@pytest.mark.parametrize("lines", [guest.rst(seq=0, ack=0), guest.rst(seq=0, ack=2), guest.segment(RST, seq=0)])
def test_a_refusal_that_acknowledges_nothing_is_not_believed(play: Playbook, lines: object) -> None:
    """RFC 9293 3.10.7.3: a RST in SYN-SENT counts only with an acceptable ACK."""
    play >> host.accepts() << guest.syn()
    play >> lines
    assert play.reason == DropReason.OUT_OF_WINDOW
    assert play.state == "SYN_SENT"


def test_guest_has_no_route_to_itself(play: Playbook) -> None:
    play >> host.accepts() << guest.syn()
    play >> guest.unreachable() << host.abort("unreachable")


def test_an_icmp_error_after_the_handshake_is_soft(established: Playbook) -> None:
    """RFC 1122 4.2.3.9; RFC 5927: it must not end a flow that stands."""
    established >> guest.unreachable()
    assert established.state == "ESTABLISHED"


def test_guest_must_acknowledge_our_syn(play: Playbook) -> None:
    play >> host.accepts() << guest.syn()
    for line in (guest.syn_ack(ack=0), guest.syn_ack(ack=2), guest.segment(SYN, seq=0), guest.ack(1, seq=1)):
        play.sent_next = 0
        play >> line
        assert play.reason == DropReason.OUT_OF_WINDOW
    assert play.state == "SYN_SENT"


@pytest.mark.parametrize("ack", [0, 2, -1])
def test_a_wrong_acknowledgement_of_our_syn_ack_opens_nothing(play: Playbook, ack: int) -> None:
    play >> guest.syn() << host.connect()
    play >> host.connected() << guest.syn_ack()
    play >> guest.data(10, ack=ack)
    assert play.reason == DropReason.OUT_OF_WINDOW
    assert play.state == "SYN_RECEIVED"


def test_the_peer_goes_before_the_guest_answers(play: Playbook) -> None:
    play >> guest.syn() << host.connect()
    play >> host.connected() << guest.syn_ack()
    play >> host.failed(ECONNRESET) << guest.rst(seq=1, ack=1) << host.close("reset by peer")


def test_the_peer_of_a_published_port_goes_before_the_guest_answers(play: Playbook) -> None:
    play >> host.accepts() << guest.syn()
    play >> host.failed(ECONNRESET) << guest.rst(seq=1) << host.close("reset by peer")


def test_guest_resets_after_our_syn_ack(play: Playbook) -> None:
    play >> guest.syn() << host.connect()
    play >> host.connected() << guest.syn_ack()
    play >> guest.rst(seq=3) >> guest.rst(seq=1) << host.abort("reset by guest")


def test_scale_is_on_when_both_offer_it(play: Playbook) -> None:
    """RFC 7323 2.2: the window of a SYN is never scaled, all others are."""
    play >> guest.syn(scale=3, win=1000) << host.connect()
    play >> host.connected() << guest.syn_ack(scale=8, win=65535)
    play >> guest.ack(1, win=65535 << 3)
    assert play.tcp.snd_wnd == 65535 << 3
    play >> guest.data(40_000) << host.push(40_000) << guest.ack(40_001)
    play >> guest.data(20_000) << host.push(20_000) << guest.ack(60_001, win=(SPACE - 60_000) * 7 // 8)


def test_scale_is_off_when_the_guest_does_not_offer_it(play: Playbook) -> None:
    play >> guest.syn(scale=-1) << host.connect()
    play >> host.connected() << guest.syn_ack(scale=0)
    play >> guest.ack(1, win=8000)
    assert play.tcp.snd_wnd == 8000
    play >> guest.data(40_000) << host.push(40_000) << guest.ack(40_001, win=65535)


def test_scale_on_the_syn_ack(play: Playbook) -> None:
    play >> host.accepts() << guest.syn(scale=8, win=65535)
    play >> guest.syn_ack(ack=1, scale=2, win=5000) << guest.ack(1)
    assert play.tcp.snd_wnd == 5000, "the window of a SYN,ACK is not scaled"
    play >> guest.ack(1, win=5000)
    assert (play.tcp.snd_wnd, play.tcp.snd_scale) == (5000, 2)


def test_no_scale_on_the_syn_ack(play: Playbook) -> None:
    play >> host.accepts() << guest.syn(scale=8)
    play >> guest.syn_ack(ack=1, scale=-1) << guest.ack(1, win=65535)
    play >> guest.data(40_000, ack=1, win=3000) << host.push(40_000) << guest.ack(40_001, win=65535)
    assert play.tcp.snd_wnd == 3000


@pytest.mark.parametrize(
    ("offered", "used"), [(0, 536), (1, 88), (87, 88), (88, 88), (1000, 1000), (1460, 1460), (65535, 1460)]
)
def test_segment_size(play: Playbook, offered: int, used: int) -> None:
    play.establish(mss=offered)
    play >> host.sends(2 * used) << guest.data(used, seq=1) << guest.data(used, seq=1 + used)


@pytest.mark.parametrize(("offered", "used"), [(0, 536), (1000, 1000), (65535, 1460)])
def test_segment_size_of_a_published_port(play: Playbook, offered: int, used: int) -> None:
    play.establish_published(mss=offered)
    play >> host.sends(2 * used) << guest.data(used, seq=1) << guest.data(used, seq=1 + used)


def test_urgent_on_a_syn_means_nothing(play: Playbook) -> None:
    play >> guest.segment(SYN | URG, seq=0) << host.connect()
