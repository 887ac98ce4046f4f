"""How an engine for virtual machines ends: by a signal, with its guest, or because its path is taken."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from support.fakehost import FakeHost
from support.guests import PATIENCE
from support.vm_engine import LINKS, VmEngine, require

pytestmark = pytest.mark.root

DEBIAN_FAILS = {"test_signal[INT]": "SIGINT is not caught"}
ENGINES = [("debian", "stream"), *(("ours", link) for link in LINKS)]


@pytest.fixture(params=ENGINES, ids="_".join)
def engine(request: pytest.FixtureRequest, host: FakeHost) -> Iterator[VmEngine]:
    """Of an ordinary user; not started."""
    kind, link = request.param
    require(kind)
    made = VmEngine(host, kind, [link], "ordinary")
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_signal(engine: VmEngine, number: signal.Signals) -> None:
    engine.start()
    assert engine.stop(number) == 0


def test_starts_where_another_was_killed(engine: VmEngine) -> None:
    """Its path is there still."""
    engine.start()
    engine.kill()
    assert engine.paths[0].is_socket()
    engine.start()
    assert engine.stop() == 0


def test_one_off(engine: VmEngine) -> None:
    """It ends with its guest."""
    if engine.links == ["dgram"]:
        pytest.skip("nobody disconnects")
    engine.options = ["--one-off"]
    engine.start()
    machine = engine.machine()
    try:
        engine.wait_connected()
    finally:
        machine.close()
    assert engine.process.wait(PATIENCE) == 0
