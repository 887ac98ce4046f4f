"""`bucatini filter`, faithful and strict, against the table of Softnet 0.19.0: the process between a real socket and a
real bridge.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import IP
from scapy.packet import Raw

from bucatini.guard.snoop import Change
from support.fakehost import FakeHost
from support.golden import (
    EXPOSED_PORT,
    GLOBAL,
    LEARNED,
    LEASED,
    LOCAL,
    NONE,
    PASS,
    ROWS,
    TO_GUEST,
    UPSTREAM,
    L,
    Learning,
    Row,
    ToGuest,
    Upstream,
    ether,
    ip,
    zeros,
)
from support.golden_ways import EVERYTHING, FilterWay

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("golden_filter")]

Ways = Callable[..., FilterWay]


@pytest.fixture(scope="module", params=[True, False], ids=["faithful", "ours"])
def faithful(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def ways(host: FakeHost, faithful: bool) -> Iterator[Ways]:
    """A process for each state of the lease, from when it is first needed."""
    with contextlib.ExitStack() as stack:
        made: dict[tuple[str, bool], FilterWay] = {}

        def way(state: str = LEASED, wide: bool = False) -> FilterWay:
            if (state, wide) not in made:
                made[state, wide] = stack.enter_context(FilterWay(host, state, faithful=faithful, wide=wide))
            return made[state, wide]

        yield way


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_from_guest(ways: Ways, faithful: bool, row: Row) -> None:
    way = ways(row.state, row.allow == EVERYTHING)
    if row.allow != EVERYTHING:
        way.set_rules(row.allow, row.block)
    assert way.passes(row.frame) is ((row.faithful if faithful else row.ours) is PASS)


@pytest.mark.parametrize("row", UPSTREAM, ids=lambda row: row.name)
def test_upstream_unit(ways: Ways, faithful: bool, row: Upstream) -> None:
    way = ways()
    assert way.set_rules(row.allow, row.block) == len(row.entries)
    for destination, passes in row.verdicts.items():
        whole = ether(IP(src=L, dst=destination) / Raw(bytes(1480)))
        assert way.passes(zeros(destination) if faithful else whole) is passes


def test_exposed_port(ways: Ways) -> None:
    assert ways().exposed_port_leads_to() == EXPOSED_PORT[2]


@pytest.mark.parametrize(("words", "is_global"), [(GLOBAL, True), (LOCAL, False)], ids=["global", "local"])
def test_globally_routable(ways: Ways, faithful: bool, words: str, is_global: bool) -> None:
    way = ways()
    way.set_rules("", "")
    passed = [each for each in words.split() if way.passes(ip(L, each))]
    is_group = {each: 224 <= int(each.partition(".")[0]) < 240 for each in words.split()}
    assert passed == [each for each in words.split() if is_global and (faithful or not is_group[each])]


@pytest.mark.parametrize("row", [row for row in TO_GUEST if len(row.frame) >= 14], ids=lambda row: row.name)
@pytest.mark.parametrize("state", [NONE, LEASED])
def test_to_guest(ways: Ways, faithful: bool, row: ToGuest, state: str) -> None:
    """No kernel hands on what is shorter than an Ethernet header."""
    assert ways(state).reaches_guest(row.frame) is ((row.faithful if faithful else row.ours) is PASS)


@pytest.mark.parametrize("row", LEARNED, ids=lambda row: row.name)
@pytest.mark.parametrize("leased", [False, True], ids=["none", "leased"])
def test_what_is_learned(ways: Ways, faithful: bool, row: Learning, leased: bool) -> None:
    way = ways("learning")
    (way.give_lease if leased else way.take_lease)()
    assert way.passes(ip(L, "1.1.1.1")) is leased
    way.server_says(row.frame)
    change = row.faithful if faithful else row.ours
    assert way.passes(ip(L, "1.1.1.1")) is (leased if change is Change.NONE else change is Change.LEASED)
