"""Guests that many tests share: an engine in a fake host, and a machine on it that has configured itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from support.fakehost import RESOLVER4, FakeHost
from support.pasta_peers import name_server
from support.vm_engine import LINKS, ROUTER6, Network, VmEngine
from support.vm_machine import Machine
from support.vm_peers import Files

NAMED = "192.0.2.53"
"""The address of every name."""
MOST_FAILURES = 2
DHCP = "udhcpc -i eth0 -f -n -q -t 20 -T 1 -s /etc/udhcpc/script -O mtu"


class Combination(NamedTuple):
    """An engine, the kind of its link and who starts both ends."""

    kind: str
    link: str
    user: str

    @property
    def name(self) -> str:
        return "_".join(self)


COMBINATIONS = [
    Combination("debian", "stream", "ordinary"),
    *(Combination("ours", link, user) for link in LINKS for user in ("root", "ordinary")),
]


def configure(machine: Machine) -> None:
    """As a distribution does when it boots: DHCP, and addresses of IPv6 that come by themselves."""
    machine.do(DHCP)
    machine.wait("ip -6 route show default | grep via")
    machine.wait("! ip -6 address show dev eth0 | grep tentative")


def router_is_link_local(host: FakeHost) -> None:
    """That of IPv6, in this fake host."""
    host.world.ip(f"addr add {ROUTER6}/64 dev up1 nodad")
    host.net.ip(f"route replace default via {ROUTER6} dev up0")


class Served:
    """A guest and the engine that serves it. Both begin when they are first asked for."""

    def __init__(self, combination: Combination) -> None:
        self.combination = combination
        self._stack = contextlib.ExitStack()
        self._broken = True
        self._failures = 0

    def begin(self) -> None:
        """Boot, unless what there is works. What failed `MOST_FAILURES` times is not tried again."""
        if not self._broken:
            return
        assert self._failures < MOST_FAILURES, (
            "neither engine nor guest began when they were tried, see the tests before"
        )
        self.close()
        self._failures += 1
        host = self._stack.enter_context(contextlib.closing(FakeHost()))
        router_is_link_local(host)
        self._stack.enter_context(name_server(host.world, RESOLVER4, NAMED))
        kind, link, user = self.combination
        options = ["--allow", "host"] if kind == "ours" else []
        self.host, self.engine = host, VmEngine(host, kind, [link], user, options)
        self._stack.enter_context(self.engine)
        self.network: Network = self.engine.networks[0]
        self.boot()
        self._broken, self._failures = False, 0

    def boot(self) -> None:
        """A machine, from its switch to its addresses."""
        self.machine: Machine = self._stack.enter_context(self.engine.machine())
        self._configure()

    def reboot(self) -> None:
        """The same without the switch."""
        self.machine.reboot()
        self._configure()

    def _configure(self) -> None:
        self.files = Files(self.machine)
        configure(self.machine)

    @contextlib.contextmanager
    def checked(self) -> Iterator[Served]:
        """Both must be alive at the end, and the guest must answer."""
        self.begin()
        self._broken = True
        yield self
        print(self.engine.output[-2000:])
        assert self.engine.alive(), f"the engine ended: {self.engine.output}"
        self.machine.do("true")
        self._broken = False

    def close(self) -> None:
        """Both, and their host. Idempotent."""
        self._stack.close()
