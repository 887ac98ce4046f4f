"""Every playbook runs at sequence numbers in the middle, at each change of sign, and across the wrap (RFC 9293 3.4)."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from support.playbook import Playbook

NUMBERS = {
    "middle": (1000, 5000),
    "wrap": (2**32 - 1, 2**32 - 2),
    "near": (2**32 - 2000, 2**32 - 3000),
    "sign": (2**31 - 1500, 2**31 - 1),
    "high": (2**31 + 9, 3),
}


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """What a script left unread, or still expects, fails its test."""
    result = yield
    for value in pyfuncitem.funcargs.values():
        if isinstance(value, Playbook):
            value.settle()
    return result


@pytest.fixture(params=NUMBERS.values(), ids=NUMBERS)
def play(request: pytest.FixtureRequest) -> Playbook:
    """A flow that does not exist yet."""
    return Playbook(*request.param)


@pytest.fixture
def established(play: Playbook) -> Playbook:
    """A flow after the guest's handshake."""
    return play.establish().skip()
