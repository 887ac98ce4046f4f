"""The attacks of `support.attacks` by a guest of `bucatini switch` that may begin anything with the victim."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.attacks import ATTACKS, check_fails
from support.fakehost import FakeHost
from support.segment_lab import SwitchLab

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("attacks-switch")]


@pytest.fixture(scope="module")
def lab(host: FakeHost) -> Iterator[SwitchLab]:
    made = SwitchLab(host)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("name", ATTACKS)
def test_fails(lab: SwitchLab, name: str) -> None:
    check_fails(lab, ATTACKS[name], ATTACKS[name].switch_reason)


def test_each_of_them_is_counted(lab: SwitchLab) -> None:
    """At the end: what the capture says about single frames, in sum."""
    counters = lab.end()
    assert all(counters.get(reason, 0) >= times for reason, times in lab.counted.items()), (counters, lab.counted)
