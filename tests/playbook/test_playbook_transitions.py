"""Every row of `tcp_states.TRANSITIONS` is walked by a script here, and no script walks anything else."""

from __future__ import annotations

from collections.abc import Callable
from errno import ECONNREFUSED, ECONNRESET

import pytest

from bucatini.flows.tcp_states import (
    CLOSE_WAIT,
    CLOSED,
    CLOSING,
    CONNECTING,
    ESTABLISHED,
    FIN_WAIT_1,
    FIN_WAIT_2,
    LAST_ACK,
    NAMES,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
    TRANSITIONS,
)
from support.playbook import Playbook, after, guest, host

Script = Callable[[Playbook], object]


def dialling(play: Playbook) -> Playbook:
    return play >> guest.syn() << host.connect()


def answered(play: Playbook) -> Playbook:
    return dialling(play) >> host.connected() << guest.syn_ack()


def guest_ended(play: Playbook) -> Playbook:
    return play.establish() >> guest.fin() << host.shutdown() << guest.ack(2)


def host_ended(play: Playbook) -> Playbook:
    return play.establish() >> host.ends() << guest.fin(seq=1)


def both_ended(play: Playbook) -> Playbook:
    return host_ended(play) >> guest.fin(ack=1) << host.shutdown() << guest.ack(2)


def waiting(play: Playbook) -> Playbook:
    return both_ended(play) >> guest.ack(2) << host.release()


def last(play: Playbook) -> Playbook:
    return guest_ended(play) >> host.ends() << guest.fin(seq=1)


def reset(play: Playbook) -> Playbook:
    return play >> host.failed(ECONNRESET) << guest.rst() << host.close("reset by peer")


SCRIPTS: dict[tuple[int, int], Script] = {
    (CONNECTING, SYN_SENT): lambda play: play >> host.accepts() << guest.syn(),
    (CONNECTING, SYN_RECEIVED): answered,
    (CONNECTING, CLOSED): lambda play: (
        dialling(play) >> host.failed(ECONNREFUSED) << guest.rst() << host.close("refused by peer")
    ),
    (SYN_SENT, ESTABLISHED): Playbook.establish_published,
    (SYN_SENT, CLOSED): lambda play: (
        play >> host.accepts() << guest.syn() >> guest.rst(ack=1) << host.abort("reset by guest")
    ),
    (SYN_RECEIVED, ESTABLISHED): Playbook.establish,
    (SYN_RECEIVED, CLOSED): lambda play: answered(play) >> guest.rst() << host.abort("reset by guest"),
    (ESTABLISHED, CLOSE_WAIT): guest_ended,
    (ESTABLISHED, FIN_WAIT_1): host_ended,
    (ESTABLISHED, CLOSED): lambda play: reset(play.establish()),
    (CLOSE_WAIT, LAST_ACK): last,
    (CLOSE_WAIT, CLOSED): lambda play: reset(guest_ended(play)),
    (FIN_WAIT_1, FIN_WAIT_2): lambda play: host_ended(play) >> guest.ack(2),
    (FIN_WAIT_1, CLOSING): both_ended,
    (FIN_WAIT_1, CLOSED): lambda play: reset(host_ended(play)),
    (FIN_WAIT_2, TIME_WAIT): lambda play: (
        host_ended(play) >> guest.ack(2) >> guest.fin() << host.shutdown() << host.release() << guest.ack(2)
    ),
    (FIN_WAIT_2, CLOSED): lambda play: reset(host_ended(play) >> guest.ack(2)),
    (CLOSING, TIME_WAIT): waiting,
    (CLOSING, CLOSED): lambda play: reset(both_ended(play)),
    (LAST_ACK, CLOSED): lambda play: last(play) >> guest.ack(2) << host.close("closed"),
    (TIME_WAIT, CLOSED): lambda play: waiting(play) >> after(2) << host.close("closed"),
}


def test_every_row_has_a_script() -> None:
    assert set(SCRIPTS) == set(TRANSITIONS)


@pytest.mark.parametrize("move", SCRIPTS, ids=lambda move: f"{NAMES[move[0]]}-{NAMES[move[1]]}")
def test_row(play: Playbook, move: tuple[int, int]) -> None:
    SCRIPTS[move](play)
    play.settle()
    assert play.out.moves[-1] == move
    assert set(play.out.moves) <= set(TRANSITIONS)
    assert play.tcp.state == move[1]
