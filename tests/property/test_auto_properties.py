"""Properties of automatic forwarding: it never forwards its own listeners, it comes to rest, and two directions that
watch each other never form a loop, whatever programs bind and unbind on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from bucatini.forward.auto import Plan, plan

TCP, UDP = "tcp", "udp"
PORTS = st.integers(1, 6)
port_sets = st.frozensets(PORTS)
limits = st.sampled_from([0, 1, 3, 4096])


@st.composite
def inputs(draw: st.DrawFn) -> dict[str, object]:
    names = ("tcp_bound", "udp_bound", "ours_tcp", "ours_udp", "open_tcp", "open_udp", "excluded")
    given_: dict[str, object] = {name: draw(port_sets) for name in names}
    return given_ | {"tcp": draw(st.booleans()), "udp": draw(st.booleans()), "limit": draw(limits)}


def after(state: dict[str, object], steps: Plan) -> dict[str, object]:
    """The same look at the world once the plan is carried out."""
    opened_tcp = (state["open_tcp"] | set(steps.open_tcp)) - set(steps.close_tcp)  # type: ignore[operator]
    opened_udp = (state["open_udp"] | set(steps.open_udp)) - set(steps.close_udp)  # type: ignore[operator]
    return state | {"open_tcp": opened_tcp, "open_udp": opened_udp}


@given(inputs())
def test_what_is_ours_or_excluded_is_never_opened(state: dict[str, object]) -> None:
    steps = plan(**state)  # type: ignore[arg-type]
    assert not set(steps.open_tcp) & (state["ours_tcp"] | state["excluded"])  # type: ignore[operator]
    assert not set(steps.open_udp) & (state["ours_tcp"] | state["ours_udp"] | state["excluded"])  # type: ignore[operator]
    left = after(state, steps)
    assert not left["open_tcp"] & state["ours_tcp"]  # type: ignore[operator]
    assert not left["open_udp"] & (state["ours_tcp"] | state["ours_udp"])  # type: ignore[operator]


@given(inputs())
def test_a_plan_carried_out_leaves_nothing_to_do(state: dict[str, object]) -> None:
    left = after(state, plan(**state))  # type: ignore[arg-type]
    assert plan(**left).empty  # type: ignore[arg-type]


@given(inputs())
def test_steps_are_sorted_bounded_and_of_what_is_bound(state: dict[str, object]) -> None:
    steps = plan(**state)  # type: ignore[arg-type]
    for ports in steps[:4]:
        assert list(ports) == sorted(set(ports))
    assert set(steps.open_tcp) <= state["tcp_bound"]  # type: ignore[operator]
    assert set(steps.open_udp) <= state["tcp_bound"] | state["udp_bound"]  # type: ignore[operator]
    assert set(steps.close_tcp) <= state["open_tcp"]  # type: ignore[operator]
    left = after(state, steps)
    assert len(left["open_tcp"]) <= state["limit"]  # type: ignore[arg-type, operator]
    assert len(left["open_udp"]) <= state["limit"]  # type: ignore[arg-type, operator]
    unbounded = plan(**{**state, "limit": 65535})  # type: ignore[arg-type]
    assert unbounded.dropped == 0
    full = after(state, unbounded)
    missing = len(full["open_tcp"]) + len(full["open_udp"]) - len(left["open_tcp"]) - len(left["open_udp"])  # type: ignore[arg-type]
    assert steps.dropped == missing


@dataclass
class Side:
    """Host or guest: what programs bind there, and what we listen on there."""

    programs: set[tuple[str, int]] = field(default_factory=set)
    ours: set[tuple[str, int]] = field(default_factory=set)

    def bound(self, protocol: str) -> frozenset[int]:
        return frozenset(port for name, port in self.programs | self.ours if name == protocol)

    def listening(self, protocol: str) -> frozenset[int]:
        return frozenset(port for name, port in self.ours if name == protocol)


def turn(near: Side, far: Side, tcp: bool, udp: bool, limit: int) -> Plan:
    """One direction looks at its far side and carries out its plan on its near side."""
    steps = plan(
        tcp_bound=far.bound(TCP),
        udp_bound=far.bound(UDP),
        ours_tcp=far.listening(TCP),
        ours_udp=far.listening(UDP),
        open_tcp=near.listening(TCP),
        open_udp=near.listening(UDP),
        tcp=tcp,
        udp=udp,
        limit=limit,
    )
    near.ours -= {(TCP, port) for port in steps.close_tcp} | {(UDP, port) for port in steps.close_udp}
    for place in [(TCP, port) for port in steps.open_tcp] + [(UDP, port) for port in steps.open_udp]:
        if place not in near.programs:  # EADDRINUSE
            near.ours.add(place)
    return steps


def loops(host: Side, guest: Side) -> set[tuple[str, int]]:
    """Places where whoever connects to us is led to ourselves."""
    return host.ours & guest.ours


places = st.tuples(st.sampled_from([TCP, UDP]), PORTS)
happenings = st.one_of(
    st.tuples(st.sampled_from(["host binds", "guest binds", "host unbinds", "guest unbinds"]), places),
    st.tuples(st.sampled_from(["inwards", "outwards"]), st.none()),
)


@given(st.lists(happenings, max_size=40), st.booleans(), st.booleans(), st.booleans(), st.booleans(), limits)
def test_two_directions_never_form_a_loop(
    happened: list[tuple[str, tuple[str, int] | None]],
    tcp_in: bool,
    udp_in: bool,
    tcp_out: bool,
    udp_out: bool,
    limit: int,
) -> None:
    host, guest = Side(), Side()
    for what, place in happened:
        if what == "inwards":
            turn(host, guest, tcp_in, udp_in, limit)
        elif what == "outwards":
            turn(guest, host, tcp_out, udp_out, limit)
        else:
            side = host if what.startswith("host") else guest
            assert place is not None
            if what.endswith("unbinds"):
                side.programs.discard(place)
            elif place not in side.ours:  # else its bind(2) fails, for we hold the port
                side.programs.add(place)
        assert not loops(host, guest)

    # Left alone, both come to rest, and what is forwarded is what somebody has bound.
    for _ in range(4):
        turn(host, guest, tcp_in, udp_in, limit)
        turn(guest, host, tcp_out, udp_out, limit)
    before = set(host.ours), set(guest.ours)
    turn(host, guest, tcp_in, udp_in, limit)
    turn(guest, host, tcp_out, udp_out, limit)
    assert (host.ours, guest.ours) == before
    for near, far in ((host, guest), (guest, host)):
        for protocol, port in near.ours:
            assert (protocol, port) in far.programs or (protocol == UDP and (TCP, port) in far.programs)


@given(st.sets(places), st.sets(places), st.booleans())
def test_a_loop_made_by_planning_apart_ends_with_the_next_plan(
    host_programs: set[tuple[str, int]], both: set[tuple[str, int]], inwards_first: bool
) -> None:
    """Programs left both sides between the look and the opening, so both directions listen on their number."""
    host, guest = Side(set(host_programs)), Side()
    host.ours, guest.ours = both - host_programs, both - host_programs
    order = [(host, guest), (guest, host)]
    for near, far in order if inwards_first else reversed(order):
        turn(near, far, tcp=True, udp=True, limit=4096)
    assert not loops(host, guest)
