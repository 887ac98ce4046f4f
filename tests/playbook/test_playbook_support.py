"""The playbook itself: it must notice everything that is not as written, or no script proves anything."""

from __future__ import annotations

import pytest

from support.playbook import Playbook, after, guest, host


def test_something_expected_does_not_come() -> None:
    play = Playbook() >> guest.syn() << host.connect() << guest.syn_ack()
    with pytest.raises(AssertionError, match=r"(?s)>> guest syn\n  host connect\n- guest syn_ack\nin CONNECTING"):
        play.settle()


def test_something_comes_that_is_not_expected() -> None:
    play = Playbook() >> guest.syn()
    with pytest.raises(AssertionError, match=r"\+ host connect"):
        play.settle()


def test_something_came_before_the_next_event() -> None:
    play = Playbook() >> guest.syn()
    with pytest.raises(AssertionError, match=r"\+ host connect"):
        play >> host.connected()


def test_a_field_differs() -> None:
    play = Playbook() >> guest.syn() << host.connect()
    play >> host.connected() << guest.syn_ack(ack=2)
    with pytest.raises(AssertionError, match=r"(?s)- guest syn_ack ack=2\n.*\+ guest syn_ack ack=1"):
        play.settle()


def test_the_order_differs() -> None:
    play = Playbook().establish().skip()
    play >> guest.fin() << guest.ack(2) << host.shutdown()
    with pytest.raises(AssertionError, match="expected"):
        play.settle()


def test_time_passes_without_what_was_expected() -> None:
    play = Playbook().establish().skip()
    play >> host.sends(10) << guest.data(10)
    play >> after(0.199)
    play.settle()
    play >> after(0.002) << guest.data(10)
    play.settle()


def test_bytes_under_a_wrong_number_are_noticed() -> None:
    play = Playbook().establish().skip()
    play.out.socket.peek_at = 1
    with pytest.raises(AssertionError, match="bytes do not belong to their number"):
        play >> host.sends(10)
