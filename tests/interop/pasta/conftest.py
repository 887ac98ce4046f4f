"""Fixtures of the tests that run with the same script against Debian's `pasta` and against ours.

A test file may have a table `DEBIAN_FAILS`: test, or test with the parameters beside the engine, and what Debian's
pasta of March 2023 does instead. Those cases must fail there; ours has no such table. `HANGS` before the text skips
the case instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fakehost import FakeHost
from support.pasta_engine import STUDIED, Holder, PastaEngine, Place, Running, debian_version
from support.pasta_peers import quick_links

HOST_GATEWAY6 = "fe80::77:1"
"""Of the fake host here: link-local, as routers' are."""
HANGS = "hangs: "


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here not in item.path.parents or not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        words = item.callspec.id.split("-")
        if "debian" not in words:
            continue
        words.remove("debian")
        table: dict[str, str] = getattr(item.module, "DEBIAN_FAILS", {})
        reason = table.get(item.originalname) or table.get(f"{item.originalname}[{'-'.join(words)}]")
        if reason is None:
            continue
        if reason.startswith(HANGS):
            item.add_marker(pytest.mark.skip(reason=f"Debian's {reason}"))
        else:
            item.add_marker(pytest.mark.xfail(reason=f"Debian's: {reason}", strict=debian_version() == STUDIED))


@pytest.fixture(scope="module")
def host() -> Iterator[FakeHost]:
    """A fake host whose IPv6 router has a link-local address."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("no /dev/net/tun")
    made = FakeHost()
    try:
        made.world.ip(f"addr add {HOST_GATEWAY6}/64 dev up1 nodad")
        made.net.ip(f"route replace default via {HOST_GATEWAY6} dev up0")
        yield made
    finally:
        made.close()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("debian", marks=pytest.mark.xdist_group("pasta-debian")),
        pytest.param("ours", marks=pytest.mark.xdist_group("pasta-ours")),
    ],
)
def engine(request: pytest.FixtureRequest, host: FakeHost) -> PastaEngine:
    """Either of the two."""
    return PastaEngine.debian() if request.param == "debian" else PastaEngine.ours(host)


@pytest.fixture
def place(host: FakeHost) -> Iterator[Place]:
    """An ordinary user in the fake host."""
    with Place(host) as made:
        yield made


@pytest.fixture
def holder(place: Place) -> Iterator[Holder]:
    """Namespaces to attach to; links in them are configured at once."""
    with Holder(place) as made:
        quick_links(made.net)
        yield made


@pytest.fixture
def attached(engine: PastaEngine, place: Place, holder: Holder) -> Iterator[Running]:
    """The engine serves the holder, which has a link that nobody has configured."""
    with engine.start(place, [], [str(holder.pid)]) as running:
        yield running
