"""Fixtures of the tests with a real guest: QEMU, its kernel, and Debian's `passt` or `bucatini vm` at the other end.

All tests of the folder share one guest for each engine, kind of link and user, so that it boots once; one that a test
broke says so there and then, and the next test gets a new one. A test file may have a table `DEBIAN_FAILS`: test, or
test with the parameters beside the engine, and what Debian's passt of March 2023 does instead. Those cases must fail
there; ours has no such table. `HANGS` before the text skips the case instead.

What repeats something else belongs to the slow tests: Debian's passt, which does not change with us; of root's guests,
what does not depend on who the user is (reboots, transfers, every link but the stream); the next guest on
datagrams, who is like one after a reboot; and a reboot on a stream, of which the engine sees as little as on datagrams.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.pasta_engine import STUDIED, debian_version
from support.vm_engine import require
from support.vm_served import COMBINATIONS, Combination, Served

HANGS = "hangs: "


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here not in item.path.parents or not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        combination = item.callspec.params.get("shared")
        if isinstance(combination, Combination) and repeats(item, combination):
            item.add_marker(pytest.mark.slow)
        words = item.callspec.id.split("-")
        kept = [word for word in words if word.partition("_")[0] != "debian"]
        table: dict[str, str] = getattr(item.module, "DEBIAN_FAILS", {})
        reason = table.get(item.originalname) or table.get(f"{item.originalname}[{'-'.join(kept)}]")
        if kept == words or reason is None:
            continue
        if reason.startswith(HANGS):
            item.add_marker(pytest.mark.skip(reason=f"Debian's {reason}"))
        else:
            item.add_marker(pytest.mark.xfail(reason=f"Debian's: {reason}", strict=debian_version() == STUDIED))


def repeats(item: pytest.Function, combination: Combination) -> bool:
    """Whether it is one of the slow tests, see the module."""
    if combination.kind == "debian":
        return True
    if combination.user == "root":
        return item.path.stem in ("test_vm_life", "test_vm_transfers") or combination.link != "stream"
    return (item.originalname, combination.link) in (("test_next_guest", "dgram"), ("test_reboot", "stream"))


@pytest.fixture(
    scope="package",
    params=[pytest.param(it, id=it.name, marks=pytest.mark.xdist_group(f"vm-{it.name}")) for it in COMBINATIONS],
)
def shared(request: pytest.FixtureRequest) -> Iterator[Served]:
    """One for all tests of this folder."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    require(request.param.kind)
    made = Served(request.param)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def served(shared: Served) -> Iterator[Served]:
    """A guest that is configured."""
    with shared.checked() as made:
        yield made
