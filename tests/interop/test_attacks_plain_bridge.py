"""Every attack of `support.attacks` succeeds where nobody hinders it: what the tests beside this one see fail, can."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.attacks import ATTACKS
from support.fakehost import FakeHost
from support.guests import eventually
from support.segment_lab import BridgeLab

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("attacks-bridge")]


@pytest.fixture(scope="module")
def shared(host: FakeHost) -> Iterator[BridgeLab]:
    made = BridgeLab(host)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def lab(shared: BridgeLab) -> Iterator[BridgeLab]:
    shared.begin()
    yield shared
    shared.repair()


@pytest.mark.parametrize("name", ATTACKS)
def test_succeeds(lab: BridgeLab, name: str) -> None:
    attack = ATTACKS[name]
    assert not attack.effect(lab)
    sent = attack.launch(lab)
    eventually(lambda: attack.effect(lab))
    assert not sent or lab.heard().intersection(sent)
