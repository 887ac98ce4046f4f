"""bucatini.flows.tcp_states: the table, the moves it forbids, and the page that is made of it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from bucatini.base.address import Endpoint
from bucatini.base.errors import BugError
from bucatini.flows import tcp_states
from bucatini.flows.tcp_flow import TcpFlow
from bucatini.flows.tcp_states import (
    CLOSED,
    CONNECTING,
    ESTABLISHED,
    LAST_ACK,
    NAMES,
    SYN_SENT,
    TIME_WAIT,
    TRANSITIONS,
    check_move,
)

TOP = Path(__file__).resolve().parents[3]
STATES = range(len(NAMES))
WRONG = [(old, new) for old in STATES for new in STATES if (old, new) not in TRANSITIONS]


def text(move: tuple[int, int]) -> str:
    return f"{NAMES[move[0]]}-{NAMES[move[1]]}"


def test_every_state_has_its_number_and_name() -> None:
    assert [getattr(tcp_states, name) for name in NAMES] == list(STATES)


def test_every_state_has_a_line_in_the_docstring() -> None:
    assert tcp_states.__doc__ is not None
    for name in NAMES:
        assert f"\n{name} " in tcp_states.__doc__


@pytest.mark.parametrize("move", TRANSITIONS, ids=text)
def test_legal_move(move: tuple[int, int]) -> None:
    check_move(*move)
    assert TRANSITIONS[move]


@pytest.mark.parametrize("move", WRONG, ids=text)
def test_wrong_move(move: tuple[int, int]) -> None:
    old, new = move
    flow = TcpFlow(Endpoint(bytes(4), 1), Endpoint(bytes(4), 2), "egress", 0.0)
    flow.state = old
    with pytest.raises(BugError, match=f"^TCP flow may not go from {NAMES[old]} to {NAMES[new]}$"):
        flow.move(new)
    assert flow.state == old


@pytest.mark.parametrize("move", TRANSITIONS, ids=text)
def test_a_flow_moves(move: tuple[int, int]) -> None:
    flow = TcpFlow(Endpoint(bytes(4), 1), Endpoint(bytes(4), 2), "egress", 0.0)
    flow.state = move[0]
    flow.move(move[1])
    assert flow.state == move[1]


def test_nothing_leaves_closed_and_everything_can_get_there() -> None:
    assert not [move for move in TRANSITIONS if move[0] == CLOSED]
    assert {old for old, new in TRANSITIONS if new == CLOSED} == set(STATES) - {CLOSED}


def test_nothing_comes_back_to_the_beginning() -> None:
    assert not [move for move in TRANSITIONS if move[1] == CONNECTING]


def test_moves_are_those_of_rfc_9293_and_ours() -> None:
    """Section 3.3.2, figure 5, without LISTEN and simultaneous open; a reset may end any state but the last."""
    forward = {text(move) for move in TRANSITIONS if move[1] != CLOSED or move[0] in (LAST_ACK, TIME_WAIT)}
    assert forward == {
        "CONNECTING-SYN_SENT",
        "CONNECTING-SYN_RECEIVED",
        "SYN_SENT-ESTABLISHED",
        "SYN_RECEIVED-ESTABLISHED",
        "ESTABLISHED-FIN_WAIT_1",
        "ESTABLISHED-CLOSE_WAIT",
        "FIN_WAIT_1-FIN_WAIT_2",
        "FIN_WAIT_1-CLOSING",
        "FIN_WAIT_2-TIME_WAIT",
        "CLOSING-TIME_WAIT",
        "CLOSE_WAIT-LAST_ACK",
        "LAST_ACK-CLOSED",
        "TIME_WAIT-CLOSED",
    }
    assert SYN_SENT < ESTABLISHED


def test_the_page_is_not_stale() -> None:
    generator = runpy.run_path(str(TOP / "scripts" / "lib" / "tcp_states_doc.py"))
    page = TOP / "docs" / "tcp-states.md"
    assert page.read_text(encoding="utf-8") == generator["page"](), "run scripts/lib/tcp_states_doc.py"
