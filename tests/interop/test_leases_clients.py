"""Unmodified DHCP clients get their addresses from a pool, through the engine: a lease is what they may speak under.

Engine and test are one process and one loop: a test that waits lets the engine run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bucatini.base.address import pack, text
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import Verdict
from bucatini.engine.build import Loop, Parts, Translator
from bucatini.engine.leases import LeaseKeeper
from bucatini.forward.translate import Translation
from bucatini.guard.binding import LeaseState
from bucatini.host.resolvers import HostResolvers
from bucatini.links.tap import TapLink
from bucatini.services.address_plan import LeaseRange
from bucatini.services.dhcp import DhcpSettings
from bucatini.services.leases import LeaseRefusal
from bucatini.services.pool import PoolSettings
from bucatini.stack.settings import StackSettings
from support.tap_guest import DhcpClient, TapGuest

pytestmark = pytest.mark.root

NETWORK, GATEWAY, FIRST, SECOND = "10.9.0.0", "10.9.0.1", "10.9.0.2", "10.9.0.3"
MACS = ("02:00:00:00:00:0a", "02:00:00:00:00:0b")
GATEWAY_MAC = bytes.fromhex("020000000001")
PATIENCE = 15.0
POOL = PoolSettings((LeaseRange(pack(NETWORK), 24),))


class Place:
    """Guests that outlive the engine that serves them."""

    def __init__(self, settings: PoolSettings, file: Path | None, *, guard: bool = True) -> None:
        self.settings, self.file, self.guard = settings, file, guard
        self.said: list[str] = []
        self.shared: Loop | None = None
        self.guests = [TapGuest(mac, self.until) for mac in MACS]
        self.start()

    def start(self) -> None:
        self.shared = Loop.make()
        path = None if self.file is None else str(self.file)
        self.keeper = LeaseKeeper(self.shared, self.settings, path, say=self.said.append)
        self.translators = [self._translator(guest) for guest in self.guests]
        self.tenants = [
            self.keeper.join(translator, f"guest{number}") for number, translator in enumerate(self.translators)
        ]
        for translator in self.translators:
            translator.start()

    def _translator(self, guest: TapGuest) -> Translator:
        gateway = pack(GATEWAY)
        settings = StackSettings(
            bytes.fromhex(guest.mac.replace(":", "")), GATEWAY_MAC, None, None, gateway, None, 1500, True, True,
            ipv6=False, translation=Translation(host_loopback=(gateway,), ours=(gateway,)), echoes=(gateway,),
            dhcp=DhcpSettings(GATEWAY_MAC, gateway, bytes(4), 24, gateway, 1500),
        )  # fmt: skip
        parts = Parts(
            TapLink(os.dup(guest.tap.descriptor)), guest.tap.offloads, settings, lambda _: Verdict(True, "test"),
            guard=self.guard, leased=True, resolvers=HostResolvers(os.devnull),
        )  # fmt: skip
        return Translator(parts, self.shared)

    def stop(self) -> None:
        assert self.shared is not None
        for translator in self.translators:
            translator.close()
        self.keeper.close()
        self.shared.asyncio.close()

    def until(self, look: Callable[[], Any]) -> Any:
        """Let the engine run until `look` is true; its value."""

        async def wait() -> Any:
            end = time.monotonic() + PATIENCE
            while not (value := look()):
                assert time.monotonic() < end, [guest.client.log() for guest in self.guests]
                await asyncio.sleep(0.005)
            return value

        assert self.shared is not None
        return self.shared.asyncio.run_until_complete(wait())

    def run(self, guest: TapGuest, *words: str) -> int:
        """A command in the guest, to its end."""
        with guest.net.entered():
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.until(lambda: process.poll() is not None)
        return process.returncode

    def pings(self, guest: TapGuest, seconds: float = PATIENCE) -> bool:
        return self.run(guest, "ping", "-n", "-c", "1", "-W", str(seconds), GATEWAY) == 0

    def state(self, number: int) -> LeaseState:
        binding = self.translators[number].binding
        assert binding is not None
        return binding.state(time.monotonic())

    def drops(self, number: int, reason: DropReason) -> int:
        return self.translators[number].counters[reason]

    def close(self) -> None:
        self.stop()
        for guest in self.guests:
            guest.close()


@contextlib.contextmanager
def place(settings: PoolSettings = POOL, file: Path | None = None, **more: Any) -> Iterator[Place]:
    made = Place(settings, file, **more)
    try:
        yield made
        for translator in made.translators:
            assert translator.counters[DropReason.BUG] == 0
    finally:
        made.close()


def test_a_lease_its_renewal_its_release(tmp_path: Path) -> None:
    with place(file=tmp_path / "leases") as here:
        guest, other = here.guests
        assert not here.pings(guest, 0.2)
        assert guest.client.udhcpc().bound() == FIRST
        assert other.client.dhclient().bound() == SECOND
        assert here.pings(guest)
        assert here.pings(other)
        binding = here.translators[0].binding
        assert binding is not None
        until = binding.until
        assert guest.client.renew() == FIRST
        assert binding.until > until
        guest.client.release()
        here.until(lambda: here.state(0) is LeaseState.NONE)
        guest.net.ip(f"addr add {FIRST}/24 dev eth0")
        assert not here.pings(guest, 0.2), "the address is nobody's"
        assert here.state(1) is LeaseState.LEASED, "one guest's release ends nobody else's lease"
        assert guest.client.udhcpc().bound() == FIRST
        assert here.pings(guest)


def test_dhclient_gives_back() -> None:
    with place() as here:
        guest = here.guests[0]
        assert guest.client.dhclient().bound() == FIRST
        folder = guest.client.folder.name
        # dhclient writes the lease after its script has told us of it.
        here.until(lambda: Path(folder, "leases").read_text().rstrip().endswith("}"))
        guest.client.kill()
        files = ["-lf", f"{folder}/leases", "-pf", f"{folder}/pid", "-sf", "/bin/true"]
        assert here.run(guest, "dhclient", "-4", "-r", *files, "eth0") == 0
        here.until(lambda: here.state(0) is LeaseState.NONE)


def test_an_address_that_somebody_has_is_declined() -> None:
    with place() as here:
        guest = here.guests[0]
        guest.net.ip(
            "link set eth0 address 02:00:00:00:00:77\n"
            "link add br0 type bridge\nlink set br0 up\nlink set eth0 master br0\n"
            f"link add c0 address {MACS[0]} type veth peer name c1\nlink set c1 master br0 up\nlink set c0 up\n"
        )
        neighbour = TapGuest("02:00:00:00:00:66")
        guest.net.ip(f"link add n0 type veth peer name n1 netns {neighbour.net.path}\nlink set n0 master br0 up\n")
        neighbour.net.ip(f"link set n1 up\naddr add {FIRST}/24 dev n1\n")
        client = DhcpClient(guest.net, here.until, "c0")
        try:
            assert client.udhcpc("-a").bound() == SECOND
            assert here.tenants[0].lease is not None
            assert text(here.tenants[0].lease.address) == SECOND
            assert here.keeper.pool.holder_of(pack(FIRST)) is None
            # An address that is free is not declined: nobody says that it is in use.
            assert here.guests[1].client.udhcpc("-a").bound() == "10.9.0.4"
        finally:
            client.close()
            neighbour.close()


def test_a_lease_that_ends_and_another() -> None:
    with place(PoolSettings(POOL.ranges, lease=2)) as here:
        guest = here.guests[0]
        assert guest.client.udhcpc().bound() == FIRST
        guest.client.kill()
        assert here.pings(guest)
        here.until(lambda: here.state(0) is LeaseState.NONE)
        assert not here.pings(guest, 0.2)
        assert here.drops(0, DropReason.SOURCE_NOT_GUEST) + here.drops(0, DropReason.ARP_SPOOF) > 0
        assert guest.client.udhcpc().bound() == FIRST
        assert here.pings(guest)


def test_a_restart_breaks_no_promise(tmp_path: Path) -> None:
    with place(file=tmp_path / "leases") as here:
        first, second = here.guests
        assert second.client.udhcpc().bound() == FIRST
        second.client.kill()
        here.stop()
        here.start()
        assert here.pings(second), "who had an address has it without asking again"
        assert first.client.udhcpc().bound() == SECOND
        assert second.client.udhcpc().bound() == FIRST


def test_one_link_has_one_identity() -> None:
    with place(guard=False) as here:
        guest = here.guests[0]
        assert guest.client.udhcpc().bound() == FIRST
        guest.net.ip("link add link eth0 name other address 02:00:00:00:00:0c type macvlan\nlink set other up\n")
        client = DhcpClient(guest.net, here.until, "other")
        try:
            client.udhcpc()
            here.until(lambda: here.keeper.pool.counters[LeaseRefusal.IDENTITIES])
            assert "bound" not in client.log()
        finally:
            client.close()
        assert len(here.keeper.pool) == 1


def test_no_lease_while_the_disk_refuses(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with place(file=folder / "leases") as here:
        guest = here.guests[0]
        folder.rename(tmp_path / "elsewhere")
        guest.client.udhcpc()
        here.until(lambda: here.keeper.unwritten >= 2)
        assert "bound" not in guest.client.log()
        assert here.state(0) is LeaseState.NONE
        assert len(here.said) == 1
        assert "no new lease" in here.said[0]
        (tmp_path / "elsewhere").rename(folder)
        assert guest.client.bound() == FIRST
        assert here.pings(guest)
