"""Fixtures of the tests that run the whole program inside a fake host."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.fakehost import FakeHost


@pytest.fixture(scope="module")
def host() -> Iterator[FakeHost]:
    """A fake host for a module's tests; see `support.fakehost`."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("no /dev/net/tun")
    made = FakeHost()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(params=["root", "ordinary"])
def user(request: pytest.FixtureRequest) -> str:
    """Who starts bucatini."""
    return str(request.param)
