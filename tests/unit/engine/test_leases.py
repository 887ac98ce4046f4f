"""The leases of several guests of one loop, with the clock handed in."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from bucatini.base.address import pack, text
from bucatini.base.errors import ConfigError, HostError
from bucatini.base.verdict import Verdict
from bucatini.engine.build import Loop, Parts, Translator
from bucatini.engine.leases import LeaseKeeper, Tenant, boot_clock
from bucatini.guard.binding import LeaseState
from bucatini.host.resolvers import HostResolvers
from bucatini.host.tap import Offloads
from bucatini.services.address_plan import LeaseRange
from bucatini.services.dhcp import DhcpSettings
from bucatini.services.leases import LeaseRefusal
from bucatini.services.pool import PoolSettings
from support.engines import QueueLink
from support.frames import GATEWAY_MAC, VNET, mac, settings

GATEWAY, FIRST, SECOND = "192.0.2.1", "192.0.2.2", "192.0.2.3"
A, B, C = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"
ACK = 5


class Place:
    """Guests on queues. `now` is the pool's time."""

    def __init__(self, path: Path | None = None, *, learns: bool = False, size: int = 24, lease: int = 600) -> None:
        self.now = 1_000_000.0
        self.said: list[str] = []
        self.shared = Loop.make()
        pool = PoolSettings((LeaseRange(pack("192.0.2.0"), size),), lease=lease)
        name = None if path is None else str(path)
        try:
            self.keeper = LeaseKeeper(self.shared, pool, name, say=self.said.append, clock=lambda: self.now)
        except BaseException:
            self.shared.asyncio.close()
            raise
        self.links: list[QueueLink] = []
        self.translators: list[Translator] = []
        self.tenants: list[Tenant] = []
        for each in (A, B):
            self._join(each, learns)

    def _join(self, address: str, learns: bool) -> None:
        gateway = pack(GATEWAY)
        dhcp = DhcpSettings(mac(GATEWAY_MAC), gateway, bytes(4), 24, gateway, 1500)
        own = settings(
            guest_mac=mac(address), guest_ipv4=None, guest_ipv6=None, gateway_ipv4=gateway, gateway_ipv6=None,
            ipv4=True, dhcp=dhcp,
        )  # fmt: skip
        link = QueueLink()
        parts = Parts(
            link, Offloads(), own, lambda _: Verdict(True, "test"), guard=True, leased=True, learns_mac=learns,
            resolvers=HostResolvers(os.devnull),
        )  # fmt: skip
        translator = Translator(parts, self.shared)
        self.links.append(link)
        self.translators.append(translator)
        self.tenants.append(self.keeper.join(translator, f"guest{len(self.tenants)}"))
        translator.start()

    def run(self, seconds: float = 0.0) -> None:
        """What is ready, and what becomes so in this time."""
        self.shared.reactor.turn(0)
        self.shared.asyncio.run_until_complete(asyncio.sleep(seconds))

    def ask(self, number: int, kind: str, source: str = A, ciaddr: str = "0.0.0.0", **options: str) -> list[Any]:
        """A DHCP message; the DHCP answers."""
        listed = [("message-type", kind), *((name, value) for name, value in options.items()), "end"]
        frame = (
            Ether(src=source, dst="ff:ff:ff:ff:ff:ff")
            / IP(src="0.0.0.0", dst="255.255.255.255")
            / UDP(sport=68, dport=67)
            / BOOTP(chaddr=mac(source), ciaddr=ciaddr, xid=7)
            / DHCP(options=listed)
        )
        self.links[number].put(VNET + bytes(frame))
        self.run()
        return self.answers(number)

    def answers(self, number: int) -> list[Any]:
        sent, self.links[number].sent = self.links[number].sent, []
        frames = [Ether(frame[12:]) for frame in sent]
        return [frame for frame in frames if DHCP in frame]

    def lease(self, number: int, source: str = A) -> str:
        """A whole conversation that is answered at once; the address."""
        offers = self.ask(number, "discover", source)
        if not offers:
            return ""
        acks = self.ask(number, "request", source, requested_addr=offers[0][BOOTP].yiaddr, server_id=GATEWAY)
        return str(acks[0][BOOTP].yiaddr) if acks and kind(acks[0]) == ACK else ""

    def until_written(self) -> None:
        end = time.monotonic() + 10
        while self.keeper.waiting:
            assert time.monotonic() < end
            self.run(0.005)

    def address(self, number: int) -> str:
        """That the guest may speak under."""
        binding = self.translators[number].binding
        assert binding is not None
        return text(binding.leased) if binding.leased is not None else ""

    def close(self) -> None:
        for translator in self.translators:
            translator.close()
        self.keeper.close()
        self.keeper.close()
        self.shared.asyncio.close()


def kind(frame: Any) -> int:
    return int(dict(option for option in frame[DHCP].options if isinstance(option, tuple))["message-type"])


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


@pytest.fixture
def learning() -> Iterator[Place]:
    """MAC addresses are those that are shown first."""
    made = Place(learns=True)
    yield made
    made.close()


@pytest.fixture
def filed(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "leases")
    yield made
    made.close()


def test_the_ack_binds(place: Place) -> None:
    assert place.ask(0, "discover")
    assert place.address(0) == ""
    assert place.translators[0].ingress.settings.guest_ipv4 == pack(FIRST), "nobody says that it is in use"
    assert place.lease(0) == FIRST
    assert place.address(0) == FIRST
    assert place.lease(1, B) == SECOND
    binding = place.translators[1].binding
    assert binding is not None
    assert 599 < binding.until - time.monotonic() <= 600


def test_a_release_unbinds_nobody_else(place: Place) -> None:
    place.lease(0)
    place.lease(1, B)
    place.ask(0, "release", ciaddr=SECOND, server_id=GATEWAY)
    assert (place.address(0), place.address(1)) == (FIRST, SECOND)
    before = place.translators[0].counters.total
    place.ask(0, "release", ciaddr=FIRST, server_id=GATEWAY)
    assert (place.address(0), place.address(1)) == ("", SECOND)
    assert place.translators[0].counters.total == before, "what is heeded and wants no answer is no drop"
    assert place.translators[0].ingress.settings.guest_ipv4 is None
    assert place.lease(0) == FIRST


def test_a_declined_address_is_nobodys(place: Place) -> None:
    place.lease(0)
    place.ask(0, "decline", requested_addr=FIRST, server_id=GATEWAY)
    assert place.address(0) == ""
    assert place.lease(0) == SECOND


def test_the_clock_ends_a_lease(place: Place) -> None:
    place.lease(0)
    place.now += 601
    place.keeper._expire()
    binding = place.translators[0].binding
    assert binding is not None
    assert binding.state(time.monotonic()) is LeaseState.NONE


def test_the_timer_is_for_the_first_end() -> None:
    place = Place(lease=1)
    try:
        place.lease(0)
        place.now += 1.5
        end = time.monotonic() + 10
        while place.address(0):
            assert time.monotonic() < end
            place.run(0.01)
    finally:
        place.close()


def test_one_timer_however_many_leases(place: Place) -> None:
    place.lease(0)
    timer = place.keeper._timer
    place.lease(1, B)
    assert place.keeper._timer is timer


def test_a_guest_that_is_unplugged_makes_room(learning: Place) -> None:
    assert learning.lease(0, A) == FIRST
    assert learning.lease(0, C) == "", "one link, one identity"
    learning.translators[0].link_joined()
    assert learning.lease(0, C) == SECOND
    assert learning.address(0) == SECOND
    assert learning.keeper.pool.holder_of(pack(FIRST)) == mac(A), "its lease lasts to its end"


def test_a_mac_address_has_its_lease_on_one_link(learning: Place) -> None:
    assert learning.lease(0, A) == FIRST
    assert learning.ask(1, "discover", A) == []
    assert learning.keeper.pool.counters[LeaseRefusal.OTHER_LINK] == 1
    assert learning.address(1) == ""


def test_a_link_that_ends_counts_for_nobody(place: Place) -> None:
    place.lease(0)
    place.links[0].end()
    place.run()
    assert place.keeper.owners == {}
    assert place.keeper.pool.lease_of(mac(A)) is not None
    assert place.lease(1, B) == SECOND


def test_no_address_left_is_said_once() -> None:
    place = Place(size=30)
    try:
        assert place.lease(0) == FIRST
        assert place.lease(1, B) == ""
        assert place.lease(1, B) == ""
        assert place.said == [f"guest1: no address is left for {B}"]
    finally:
        place.close()


def hold_disk(filed: Place) -> threading.Event:
    """Nothing is written until it is set."""
    going = threading.Event()
    file = filed.keeper._file
    assert file is not None
    write = file.write

    def slow(*what: Any, **more: Any) -> bool:
        assert going.wait(10)
        return write(*what, **more)

    file.write = slow  # type: ignore[method-assign]
    return going


def test_an_ack_waits_for_the_disk(filed: Place, tmp_path: Path) -> None:
    going = hold_disk(filed)
    assert filed.lease(0) == ""
    assert filed.address(0) == ""
    going.set()
    filed.until_written()
    assert filed.translators[0].counters.total == 0, "a request that is answered later is no drop"
    (ack,) = filed.answers(0)
    assert (kind(ack), ack[BOOTP].yiaddr) == (ACK, FIRST)
    assert filed.address(0) == FIRST
    assert FIRST in (tmp_path / "leases").read_text()
    assert filed.lease(0) == FIRST, "a renewal that the file covers does not wait"


def test_an_ack_whose_lease_is_over_is_not_sent(filed: Place) -> None:
    going = hold_disk(filed)
    filed.lease(0)
    filed.ask(0, "release", ciaddr=FIRST, server_id=GATEWAY)
    going.set()
    filed.until_written()
    assert filed.answers(0) == []
    assert filed.address(0) == ""


def test_acks_that_come_while_the_disk_writes(filed: Place) -> None:
    going = hold_disk(filed)
    filed.lease(0)
    filed.run(0.05)
    filed.lease(1, B)
    going.set()
    filed.until_written()
    assert (filed.address(0), filed.address(1)) == (FIRST, SECOND)


def test_a_disk_that_refuses_is_said_once_and_tried_again(filed: Place, tmp_path: Path) -> None:
    away = tmp_path.with_name("away")
    tmp_path.rename(away)
    for count in (1, 2):
        filed.lease(0)
        filed.until_written()
        assert filed.keeper.unwritten == count
        assert filed.answers(0) == []
    assert filed.address(0) == ""
    (line,) = filed.said
    assert "no new lease is given" in line
    away.rename(tmp_path)
    filed.lease(0)
    filed.until_written()
    assert len(filed.answers(0)) == 1


def test_a_restart(tmp_path: Path) -> None:
    first = Place(tmp_path / "leases")
    first.lease(1, B)
    first.until_written()
    first.close()
    second = Place(tmp_path / "leases")
    try:
        assert second.address(1) == FIRST, "bound to who has the MAC address"
        assert second.address(0) == ""
        second.lease(0)
        second.until_written()
        assert second.address(0) == SECOND
    finally:
        second.close()


def test_a_restart_where_macs_are_learned(tmp_path: Path) -> None:
    first = Place(tmp_path / "leases", learns=True)
    first.lease(1, C)
    first.until_written()
    first.close()
    second = Place(tmp_path / "leases", learns=True)
    try:
        assert second.address(0) == ""
        second.ask(0, "discover", C)
        assert second.address(0) == FIRST, "the guest that shows it, wherever it is plugged in now"
    finally:
        second.close()


def test_files_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "leases"
    path.write_text("not ours")
    with pytest.raises(ConfigError, match="not a lease file"):
        Place(path)
    assert path.read_text() == "not ours"
    with pytest.raises(HostError):
        Place(tmp_path / "nowhere" / "leases")


def test_the_clock_is_the_wall_clocks() -> None:
    clock = boot_clock()
    assert abs(clock() - time.time()) < 5
    before = clock()
    assert clock() >= before
