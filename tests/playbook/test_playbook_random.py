"""Whatever the guest and the host do: nothing raises, the invariants of `Playbook.check` hold, and every flow ends."""

from __future__ import annotations

from errno import ECONNREFUSED, ECONNRESET, EHOSTUNREACH, ETIMEDOUT

from hypothesis import given, settings
from hypothesis import strategies as st

from bucatini.base.reasons import DropReason
from bucatini.flows.sequence import distance
from bucatini.wire.tcp import ACK, FIN, PSH, RST, SYN
from support.playbook import Playbook, after, guest, host, turn

NUMBERS = st.sampled_from([0, 1, 5000, 2**31 - 3000, 2**31, 2**32 - 3000, 2**32 - 1])
LENGTHS = st.sampled_from([0, 0, 1, 10, 1460, 1461, 20_000, 64_000])
OFFSETS = st.sampled_from([0, 0, 0, 0, 0, -1, 1, -10, 10, -1460, 1460, 65_535, 65_536, 2**20, -(2**20), 2**31 - 1])
FLAGS = st.one_of(
    st.sampled_from([ACK, ACK, ACK, ACK, ACK | PSH, ACK | FIN, ACK | FIN, RST, RST | ACK, SYN, SYN | ACK]),
    st.integers(0, 63),
)
SEGMENTS = st.fixed_dictionaries(
    {
        "flags": FLAGS,
        "seq": OFFSETS,
        "ack": OFFSETS,
        "of": st.sampled_from(["una", "nxt", "max"]),
        "length": LENGTHS,
        "win": st.sampled_from([0, 1, 100, 1460, 65_535, 1 << 20]),
        "mss": st.sampled_from([0, 1, 536, 1460, 65_535]),
        "scale": st.sampled_from([-1, 0, 7, 14]),
    }
)
EVENTS = st.one_of(
    SEGMENTS,
    SEGMENTS,
    SEGMENTS,
    st.sampled_from(
        [
            host.connected(),
            host.sends(1),
            host.sends(1460),
            host.sends(100_000),
            host.sends(50, urgent=True),
            host.ends(),
            host.takes(0),
            host.takes(5000, space=5000),
            host.writable(),
            host.writable(100),
            host.failed(ECONNREFUSED),
            host.failed(EHOSTUNREACH),
            host.failed(ECONNRESET),
            host.failed(ETIMEDOUT),
            guest.unreachable(),
            after(0.0005),
            after(0.25),
            after(3),
            after(100),
            turn(),
        ]
    ),
)


def relative(play: Playbook, drawn: dict[str, int | str]) -> dict[str, int]:
    """Numbers near those that matter now."""
    flow = play.tcp
    fields = {name: value for name, value in drawn.items() if isinstance(value, int)}
    fields["seq"] += distance(flow.rcv_nxt, play.irs)
    if play.state == "SYN_SENT" and fields["flags"] & SYN:
        fields["seq"] = 0  # the guest's initial number is what its SYN says
    fields["ack"] += distance(getattr(flow, f"snd_{drawn['of']}"), play.iss)
    return fields


def perform(play: Playbook, event: object) -> None:
    socket = play.out.socket
    if isinstance(event, dict):
        play >> guest.segment(**relative(play, event))
        assert play.reason in (DropReason.NONE, DropReason.OUT_OF_WINDOW)
        return
    word = event.word
    if play.state in ("CLOSED", "TIME_WAIT") and word == "failed":
        return
    if socket.ended and word in ("sends", "ends"):
        return
    play >> event


@settings(max_examples=400)
@given(
    iss=NUMBERS,
    irs=NUMBERS,
    published=st.booleans(),
    handshake=st.booleans(),
    segmented=st.booleans(),
    peek_skips=st.booleans(),
    budget=st.sampled_from([2000, 1 << 22]),
    events=st.lists(EVENTS, min_size=1, max_size=60),
)
def test_whatever_happens(
    iss: int,
    irs: int,
    published: bool,
    handshake: bool,
    segmented: bool,
    peek_skips: bool,
    budget: int,
    events: list[object],
) -> None:
    play = Playbook(iss, irs, segmented=segmented, peek_skips=peek_skips)
    play.out.budget = budget
    if handshake:
        (play.establish_published if published else play.establish)()
    else:
        play >> (host.accepts() if published else guest.syn())
    for event in events:
        play.skip()
        perform(play, event)
    play.skip()
    if play.state == "CONNECTING":
        play >> host.failed(ETIMEDOUT)
    else:
        play >> after(20_000)
    play.skip()
    assert play.state == "CLOSED", "it lives for ever"
    assert play.out.kept == 0
    assert len(play.out.deadlines) <= 2
