"""A segment whose guests are queues, without DHCP: each has the lease that it would get."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self

from scapy.layers.l2 import Ether

from bucatini.base.address import pack
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import Verdict
from bucatini.engine.build import Loop, Parts, Translator
from bucatini.engine.leases import LeaseKeeper
from bucatini.engine.link_rules import LinkRule
from bucatini.engine.segment import Member, Segment
from bucatini.host.resolvers import HostResolvers
from bucatini.host.tap import Offloads
from bucatini.services.address_plan import LeaseRange
from bucatini.services.pool import PoolSettings
from bucatini.services.router import RouterSettings
from bucatini.wire.ndp import Prefix
from support.engines import QueueLink
from support.frames import GATEWAY_MAC, VNET, mac, settings

__all__ = ["GATEWAY4", "MACS", "A", "B", "Bench", "C", "address4", "address6", "link_local"]

GATEWAY4, NETWORK = "192.0.2.1", ("192.0.2.0", 24)
A, B, C = 0, 1, 2
MACS = ("02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c")
FOREVER = 0xFFFFFFFF


def address4(number: int) -> str:
    return f"192.0.2.{number + 2}"


def address6(number: int, host: str = "2") -> str:
    return f"fd00:{number}::{host}"


def link_local(number: int) -> str:
    return f"fe80::ff:fe00:{0xA + number:x}"


class Bench:
    """Guests a, b, c. `offloads` are those of their links, `header` what their frames begin with."""

    def __init__(
        self, *, offloads: Sequence[Offloads] = (Offloads(),) * 3, header: int = 12, learns: Sequence[int] = (),
        mtu: int = 1500, keeps: bool = True,
    ) -> None:  # fmt: skip
        self.now = 1_000_000.0
        self.said: list[str] = []
        self.events: list[Any] = []
        self.shared = Loop.make()
        pool = PoolSettings((LeaseRange(pack(NETWORK[0]), NETWORK[1]),))
        self.keeper = LeaseKeeper(self.shared, pool, clock=lambda: self.now) if keeps else None
        self.segment = Segment((pack(NETWORK[0]), NETWORK[1]), self.keeper, self.said.append)
        self.header = header
        self.links: list[QueueLink] = []
        self.translators: list[Translator] = []
        self.members: list[Member] = []
        for number, each in enumerate(offloads):
            self._join(number, each, number in learns, mtu)
        if keeps:
            for number in range(len(offloads)):
                if number not in learns:
                    self.lease(number)

    def _join(self, number: int, offloads: Offloads, learns: bool, mtu: int) -> None:
        gateway6 = f"fd00:{number}::1"
        prefix = Prefix(pack(f"fd00:{number}::"), 64, True, True, FOREVER, FOREVER)
        router = RouterSettings(mac(GATEWAY_MAC), pack("fe80::1"), (prefix,), mtu, (), ())
        own = settings(
            guest_mac=mac(MACS[number]), guest_ipv4=None, guest_ipv6=pack(address6(number)), ipv4=True, mtu=mtu,
            gateway_ipv4=pack(GATEWAY4), gateway_ipv6=pack(gateway6), router=router, tso4=offloads.tso4,
            tso6=offloads.tso6,
        )  # fmt: skip
        link = QueueLink()
        link.header = self.header
        parts = Parts(
            link, offloads, own, lambda _: Verdict(True, "test"), guard=True, leased=True, learns_mac=learns,
            listeners=(self,), resolvers=HostResolvers(os.devnull),
        )  # fmt: skip
        translator = Translator(parts, self.shared)
        self.links.append(link)
        self.translators.append(translator)
        self.members.append(self.segment.join(translator, "abc"[number], None if learns else mac(MACS[number])))
        translator.start()

    def on_event(self, event: Any, now: float) -> None:
        self.events.append(event)

    def lease(self, number: int) -> None:
        """What the guest would get by DHCP: `address4` of its number."""
        member = self.members[number]
        assert self.keeper is not None
        assert member.tenant is not None
        who = mac(MACS[number])
        offered = self.keeper.pool.offer(who, self.now, member.name, pack(address4(number)))
        assert offered.lease is not None
        granted = self.keeper.pool.request(who, offered.lease.address, self.now, member.name).lease
        assert granted is not None
        member.tenant.promised(granted)

    def allow(self, source: str, target: str, protocol: str = "any", ports: Sequence[tuple[int, int]] = ()) -> None:
        """One rule more."""
        self.segment.change((*self.segment.rules, LinkRule(source, target, protocol, tuple(ports))))

    def send(self, number: int, *frames: Any, header: bytes = VNET) -> None:
        """Frames of the guest, each judged."""
        self.links[number].put(*(header[: self.header] + bytes(frame) for frame in frames))
        while self.links[number].queue:
            self.shared.reactor.turn(0)
        assert all(each.counters[DropReason.BUG] == 0 for each in self.translators)

    def raw(self, number: int) -> list[bytes]:
        """What the guest got since, but what is said to all; virtio-net header first."""
        sent, self.links[number].sent = self.links[number].sent, []
        return [frame for frame in sent if not frame[12] & 1]

    def heard(self, number: int) -> list[Any]:
        return [Ether(frame[12:]) for frame in self.raw(number)]

    def drops(self, number: int) -> dict[str, int]:
        return self.translators[number].counters.snapshot()

    def close(self) -> None:
        for translator in self.translators:
            translator.close()
        if self.keeper is not None:
            self.keeper.close()
        self.shared.asyncio.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
