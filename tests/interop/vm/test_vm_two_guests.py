"""One engine with two guests: each has its own network and reaches the world, neither reaches the other.

What shows that a guest is not reached is a listener in it that is called afterwards, once, from the host. What keeps
them apart knows nothing of links: two streams, which repeat what two unlike links show, are among the slow tests.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import vm_peers
from support.fakehost import HOST4, HOST6, PUBLIC4, PUBLIC6, FakeHost
from support.vm_engine import PUBLISHED, VmEngine
from support.vm_machine import Machine
from support.vm_peers import Files
from support.vm_served import configure

pytestmark = pytest.mark.root

PAIRS = {("stream", "stream"): [pytest.mark.slow], ("dgram", "vhost-user"): []}

GATEWAY_MAC = "02:6d:73:00:00:01"
"""Of the first guest."""


class Two:
    """Both guests, configured, with the rights that a guest has by default. The first one attacks."""

    def __init__(self, engine: VmEngine, machines: list[Machine]) -> None:
        self.engine, self.machines = engine, machines
        self.networks = engine.networks
        self.files = [Files(machine) for machine in machines]
        for machine in machines:
            configure(machine)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(pair, id="_".join(pair), marks=[pytest.mark.xdist_group("vm-" + "_".join(pair)), *marks])
        for pair, marks in PAIRS.items()
    ],
)
def two(request: pytest.FixtureRequest) -> Iterator[Two]:
    """One pair for all tests."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(contextlib.closing(FakeHost()))
        engine = stack.enter_context(VmEngine(host, "ours", request.param, "ordinary"))
        booting = [engine.machine(index) for index in range(2)]
        for machine in booting:
            stack.callback(machine.close)
        for machine in booting:
            machine.ready()
        yield Two(engine, booting)
        assert engine.alive(), engine.output


def test_each_has_its_network(two: Two) -> None:
    for machine, network in zip(two.machines, two.networks, strict=True):
        assert f"inet {network.address4}/{network.mask4} " in machine.do("ip -4 address show dev eth0")
        assert f"default via {network.gateway4} " in machine.do("ip -4 route show")
    assert len({network.address4 for network in two.networks}) == 2


def test_both_reach_the_world_at_once(two: Two) -> None:
    def work(index: int) -> None:
        public = (PUBLIC4, PUBLIC6)[index]
        world = two.engine.host.world
        vm_peers.guest_connects(two.machines[index], world, two.files[index], public, public, "big")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))


@pytest.mark.parametrize("index", [0, 1], ids=["first", "second"])
def test_published_port_leads_to_its_guest(two: Two, index: int) -> None:
    sock = two.engine.host.net.bound("127.0.0.1", kind=socket.SOCK_STREAM)
    port = PUBLISHED + index
    vm_peers.guest_is_called(two.machines[index], sock, two.files[index], ("127.0.0.1", port), port, "small")


WAYS = {
    "address4": lambda two: two.networks[1].address4,
    "address6": lambda two: two.networks[1].address6,
    "its_gateway4": lambda two: two.networks[1].gateway4,
    "its_gateway6": lambda two: two.networks[1].gateway6,
    "own_gateway4": lambda two: two.networks[0].gateway4,
    "own_gateway6": lambda two: two.networks[0].gateway6,
    "host4": lambda two: HOST4,
    "host6": lambda two: HOST6,
}


@pytest.mark.parametrize("way", WAYS)
def test_one_is_not_reached_by_the_other(two: Two, way: str) -> None:
    """By TCP at the port that is published, which policy does not let a guest use; and refused at once."""
    attacker, victim = two.machines
    port, to = PUBLISHED + 1, WAYS[way](two)
    victim.do(f"vm_probe tcp-listen {port} /tmp/got /tmp/small")
    status, said = attacker.run(f"vm_probe tcp-ask {to} {port} /tmp/small")
    assert (status, said) == (1, "vm_probe: connect: Connection refused\n")
    with two.engine.host.net.connect("127.0.0.1", port) as sock:
        vm_peers.converse(sock, vm_peers.payload("small"), first=True)
    assert vm_peers.finished(victim) == vm_peers.digest(vm_peers.payload("small"))


def test_arp_leads_to_the_gateway(two: Two) -> None:
    """All addresses are at the gateway, so that it decides; nobody else answers."""
    said = two.machines[0].run(f"arping -I eth0 -c 2 -w 2 {two.networks[1].address4}").output
    assert set(re.findall(r"reply from .* \[(\S+)\]", said)) == {GATEWAY_MAC}, said


def test_neighbour_discovery_leads_to_the_gateway(two: Two) -> None:
    for target in (two.networks[1].address6, link_local(two.machines[1])):
        said = two.machines[0].run(f"ndisc6 -m -q -r 1 -w 500 {target} eth0").output
        assert set(said.lower().split()) == {GATEWAY_MAC}, said


def test_frames_to_the_others_address_do_not_arrive(two: Two) -> None:
    """The attacker knows the other's MAC address and has it as a neighbour on its own link. The other counts echo
    requests, one of its own to begin with."""
    attacker, victim = two.machines
    network = two.networks[1]
    mac = victim.do("cat /sys/class/net/eth0/address").strip()
    before = echoes(victim)
    victim.do(f"ping -c 1 {network.address4} && ping -c 1 {link_local(victim)}%eth0")
    attacker.do(f"ip route add {network.address4} dev eth0; arp -i eth0 -s {network.address4} {mac}")
    for to in (network.address4, f"{link_local(victim)}%eth0"):
        assert "0 packets received" in attacker.run(f"ping -c 3 -i 0.1 -W 1 {to}").output
    assert [now - then for now, then in zip(echoes(victim), before, strict=True)] == [1, 1]


def link_local(machine: Machine) -> str:
    found = re.search(r"inet6 (fe80:\S+)/64", machine.do("ip -6 address show dev eth0"))
    assert found is not None
    return found[1]


def echoes(machine: Machine) -> list[int]:
    """How many echo requests of either family the guest has had."""
    names, values = re.findall(r"^Icmp: (.*)$", machine.do("cat /proc/net/snmp"), re.MULTILINE)
    four = dict(zip(names.split(), values.split(), strict=True))["InEchos"]
    return [int(four), int(machine.do("grep Icmp6InEchos /proc/net/snmp6").split()[1])]
