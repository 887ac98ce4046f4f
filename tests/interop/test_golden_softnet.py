"""The command softnet, which serves its guest by the translating engine, against the table of Softnet 0.19.0."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from support.fakehost import FakeHost
from support.golden import (
    EXPOSED_PORT,
    GLOBAL,
    LEASED,
    LOCAL,
    PASS,
    ROWS,
    TO_GUEST,
    UPSTREAM,
    L,
    Row,
    ToGuest,
    Upstream,
    ip,
)
from support.golden_ways import EVERYTHING, SoftnetWay, prepare

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("golden_softnet")]

Ways = Callable[..., SoftnetWay]


@pytest.fixture(scope="module")
def ways(host: FakeHost) -> Iterator[Ways]:
    """A process for each state of the lease, from when it is first needed."""
    prepare(host)
    with contextlib.ExitStack() as stack:
        made: dict[tuple[str, bool], SoftnetWay] = {}

        def way(state: str = LEASED, wide: bool = False) -> SoftnetWay:
            if (state, wide) not in made:
                made[state, wide] = stack.enter_context(SoftnetWay(host, state, wide=wide))
            return made[state, wide]

        yield way


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_from_guest(ways: Ways, row: Row) -> None:
    way = ways(row.state, row.allow == EVERYTHING)
    if row.allow != EVERYTHING:
        way.set_rules(row.allow, row.block)
    assert way.passes(row.frame) is ((row.faithful is PASS) != bool(row.engine)), "a difference has a reason"


@pytest.mark.parametrize("row", UPSTREAM, ids=lambda row: row.name)
def test_upstream_unit(ways: Ways, row: Upstream) -> None:
    """With echo requests: the zeros of Softnet's tests are of no protocol that can be carried out."""
    way = ways()
    way.set_rules(row.allow, row.block)
    assert {each: way.passes(ip(L, each)) for each in row.verdicts} == row.verdicts


def test_exposed_port(ways: Ways) -> None:
    assert ways().exposed_port_leads_to() == EXPOSED_PORT[2]


@pytest.mark.parametrize(("words", "is_global"), [(GLOBAL, True), (LOCAL, False)], ids=["global", "local"])
def test_globally_routable(ways: Ways, words: str, is_global: bool) -> None:
    """Groups are not: see the row of mDNS."""
    way = ways()
    way.set_rules("", "")
    passed = [each for each in words.split() if way.passes(ip(L, each))]
    is_group = {each: 224 <= int(each.partition(".")[0]) < 240 for each in words.split()}
    assert passed == [each for each in words.split() if is_global and not is_group[each]]


@pytest.mark.parametrize("row", [row for row in TO_GUEST if len(row.frame) >= 14], ids=lambda row: row.name)
def test_to_guest(ways: Ways, row: ToGuest) -> None:
    """No frame is handed on, whatever Softnet does with it: the guest hears those of its gateway only."""
    assert not ways().hears(row.frame)
