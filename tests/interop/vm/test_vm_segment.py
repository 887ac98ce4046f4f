"""Two virtual machines on one segment: what one sends the other takes, whatever their links can do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from support.fakehost import PUBLIC4, FakeHost
from support.vm_engine import VmEngine
from support.vm_machine import Machine
from support.vm_peers import TRANSFER_LIMIT, Files, finished, guest_connects
from support.vm_served import DHCP

pytestmark = [pytest.mark.root, pytest.mark.slow]

PORT = 9000
PAIRS = [("vhost-user", "stream"), ("vhost-user", "vhost-user"), ("stream", "dgram")]


class SwitchEngine(VmEngine):
    """`bucatini switch`; its guests are guest1 and guest2, and the first may begin what it likes with the second."""

    def _words(self) -> list[str]:
        words = VmEngine._words(self)
        at = words.index("vm")
        return [*words[:at], "switch", *words[at + 1 :], "--link", "guest1:guest2"]


class Two:
    """Both guests with their addresses."""

    def __init__(self, engine: VmEngine, machines: list[Machine]) -> None:
        self.engine, self.machines = engine, machines
        self.files = [Files(machine) for machine in machines]
        for machine in machines:
            machine.do(DHCP)
            machine.wait("ip -6 route show default | grep via")
            machine.wait("! ip -6 address show dev eth0 | grep tentative")

    def address(self, index: int, family: int) -> str:
        said = self.machines[index].do(f"ip -{family} address show dev eth0 scope global | grep inet")
        return said.split()[1].partition("/")[0]


@pytest.fixture(
    scope="module",
    params=[pytest.param(it, id="_".join(it), marks=pytest.mark.xdist_group("vm-" + "_".join(it))) for it in PAIRS],
)
def two(request: pytest.FixtureRequest) -> Iterator[Two]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(contextlib.closing(FakeHost()))
        engine = stack.enter_context(SwitchEngine(host, "ours", request.param, "ordinary"))
        booting = [engine.machine(index) for index in range(2)]
        for machine in booting:
            stack.callback(machine.close)
        for machine in booting:
            machine.ready()
        yield Two(engine, booting)
        assert engine.alive(), engine.output


@pytest.mark.parametrize("family", [4, 6])
def test_what_one_sends_the_other_takes(two: Two, family: int) -> None:
    """Both ways at once, large: superframes where a link has them."""
    one, other = two.machines
    other.do(f"vm_probe tcp-listen {PORT} /tmp/got /tmp/big")
    said = one.do(
        f"vm_probe tcp-ask {two.address(1, family)} {PORT} /tmp/big >/tmp/got && sha256sum </tmp/got", TRANSFER_LIMIT
    )
    assert said.split()[0] == two.files[1].digests["big"]
    assert finished(other) == two.files[0].digests["big"]


@pytest.mark.parametrize("family", [4, 6])
def test_datagrams_of_any_size(two: Two, family: int) -> None:
    one, other = two.machines
    other.do(f"vm_probe udp-listen {PORT} /tmp/got")
    one.do(f"vm_probe udp-connect {two.address(1, family)} {PORT} 1400 /tmp/medium", TRANSFER_LIMIT)
    assert finished(other) == two.files[0].digests["medium"]


@pytest.mark.parametrize("family", [4, 6])
def test_the_other_way_nothing_begins(two: Two, family: int) -> None:
    status, said = two.machines[1].run(f"vm_probe tcp-ask {two.address(0, family)} {PORT} /tmp/small")
    assert (status, said) == (1, "vm_probe: connect: Connection refused\n")


def test_both_reach_the_world(two: Two) -> None:
    for machine, files in zip(two.machines, two.files, strict=True):
        guest_connects(machine, two.engine.host.world, files, PUBLIC4, PUBLIC4, "medium")
