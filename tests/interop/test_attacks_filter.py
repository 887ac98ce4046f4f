"""The attacks of `support.attacks` by a guest behind `bucatini filter`, whose rules let it speak to everybody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.attacks import ATTACKS, check_fails
from support.fakehost import FakeHost
from support.segment_lab import FilterLab

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("attacks-filter")]


@pytest.fixture(scope="module")
def lab(host: FakeHost) -> Iterator[FilterLab]:
    made = FilterLab(host)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("name", ATTACKS)
def test_fails(lab: FilterLab, name: str) -> None:
    check_fails(lab, ATTACKS[name], ATTACKS[name].reason)


def test_each_of_them_is_counted(lab: FilterLab) -> None:
    """At the end: what the capture says about single frames, in sum."""
    counters = lab.end()
    assert all(counters.get(reason, 0) >= times for reason, times in lab.counted.items()), (counters, lab.counted)
