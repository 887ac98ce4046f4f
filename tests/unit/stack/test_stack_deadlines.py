"""stack.deadlines against a model, and its bound."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from bucatini.stack.deadlines import NEVER, SWEEP, Deadlines


@dataclass(eq=False)
class Owner:
    number: int
    deadline: float = NEVER
    armed_at: float = NEVER


def drain(deadlines: Deadlines, now: float) -> list[int]:
    due = []
    while (owner := deadlines.due(now)) is not None:
        due.append(owner.number)
    return due


def test_nothing_is_due_when_nothing_is_armed() -> None:
    deadlines = Deadlines()
    assert deadlines.next() == NEVER
    assert deadlines.due(1e9) is None
    assert len(deadlines) == 0


def test_in_the_order_of_time() -> None:
    deadlines = Deadlines()
    for number, at in enumerate((5.0, 1.0, 3.0, 3.0)):
        deadlines.arm(Owner(number), at)
    assert deadlines.next() == 1.0
    assert drain(deadlines, 0.9) == []
    assert drain(deadlines, 3.0) == [1, 2, 3]
    assert deadlines.next() == 5.0
    assert drain(deadlines, 100.0) == [0]
    assert deadlines.next() == NEVER


def test_a_deadline_moved_away_costs_one_entry() -> None:
    deadlines, owner = Deadlines(), Owner(1)
    for at in range(1, 10_000):
        deadlines.arm(owner, float(at))
    assert len(deadlines) == 1
    assert deadlines.next() == 1.0
    assert drain(deadlines, 5000.0) == []
    assert deadlines.next() == 9999.0
    assert drain(deadlines, 9999.0) == [1]


def test_a_deadline_moved_nearer_comes_once() -> None:
    deadlines, owner = Deadlines(), Owner(1)
    for at in (9.0, 5.0, 2.0):
        deadlines.arm(owner, at)
    assert drain(deadlines, 20.0) == [1]
    assert drain(deadlines, 20.0) == []
    assert (owner.deadline, owner.armed_at) == (NEVER, NEVER)


def test_an_owner_may_be_armed_again_while_it_is_served() -> None:
    deadlines, owner = Deadlines(), Owner(1)
    deadlines.arm(owner, 1.0)
    assert deadlines.due(1.0) is owner
    deadlines.arm(owner, 2.0)
    assert deadlines.due(1.0) is None
    assert deadlines.due(2.0) is owner


def test_the_heap_is_bounded_by_the_living() -> None:
    deadlines = Deadlines()
    living = [Owner(number) for number in range(100)]
    for owner in living:
        deadlines.arm(owner, 1e6 + owner.number)
    for number in range(50_000):
        passing = Owner(number)
        deadlines.arm(passing, 1e5 + number)
        passing.deadline = NEVER
        assert len(deadlines) <= SWEEP
    for step in range(50_000):
        deadlines.arm(living[step % 100], 9e5 - step)
        assert len(deadlines) <= SWEEP
    assert sorted(drain(deadlines, 1e7)) == list(range(100))


def test_many_that_live_are_kept() -> None:
    deadlines = Deadlines()
    for number in range(5000):
        deadlines.arm(Owner(number), float(number))
    assert drain(deadlines, 1e9) == list(range(5000))


STEP = st.one_of(
    st.tuples(st.just("arm"), st.integers(0, 5), st.integers(0, 40)),
    st.tuples(st.just("end"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("pass"), st.just(0), st.integers(0, 15)),
)


@given(st.lists(STEP, max_size=60), st.sampled_from([0, SWEEP - 5, SWEEP]))
def test_model(steps: list[tuple[str, int, int]], crowd: int) -> None:
    """A dictionary of deadlines does the same; owners that ended are never armed again. A crowd of the dead has the
    heap swept on the way.
    """
    deadlines = Deadlines()
    for _ in range(crowd):
        passed = Owner(-1)
        deadlines.arm(passed, 1e6)
        passed.deadline = NEVER
    owners = {number: Owner(number) for number in range(6)}
    model: dict[int, float] = {}
    now, serial = 0.0, 6
    for what, number, value in steps:
        if what == "arm":
            deadlines.arm(owners[number], now + value)
            model[owners[number].number] = now + value
        elif what == "end":
            owners[number].deadline = NEVER
            model.pop(owners[number].number, None)
            owners[number] = Owner(serial)
            serial += 1
        else:
            now += value
            expected = sorted(name for name, at in model.items() if at <= now)
            assert sorted(drain(deadlines, now)) == expected
            for name in expected:
                del model[name]
        assert deadlines.next() <= min(model.values(), default=NEVER)
    assert sorted(drain(deadlines, now + 100)) == sorted(model)
