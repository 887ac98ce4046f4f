"""The leases of several guests of one loop: the pool, its clock, its file, and what they mean for each guest's binding.

`services.pool` decides, `services.dhcp` reads and answers, `host.lease_file` writes. This stands between them and the
translators: a guest that is `join`ed has its DHCP answered from the pool from then on.

**A lease is the guest's address.** With the ACK that promises it, and not before, the guest's binding has the address,
and the translator knows the guest by it; with its release, decline or end by the clock both have it no more. The
pool's events say when, each about one MAC and address, so no guest can end another's. A lease that was read from the
file is bound when the guest that has its MAC address is: a guest that outlives us need not ask again.

**Not promised before it is written.** Where there is a file, an ACK that the file does not cover waits until a thread
has written and synced it, then leaves by the translator's sink. When the disk refuses, the waiting ACKs are dropped and
counted, the file says one line, and whoever asks again makes us try again. A guest waits with one ACK at most.

**Time** is the wall clock's at the start plus what CLOCK_BOOTTIME counted since, as the pool wants it. The end of a
lease comes by a timer of the loop. While the machine sleeps no timer runs: an end that was slept through is heard with
the first timer or DHCP message after it, which is before anybody else can have the address.

Who is gone for good (`Tenant.ended`), or was unplugged and came again under another MAC address, keeps his leases to
their ends, but they count against his link no more.

IPv4 only. A guest's IPv6 addresses are what its settings say: a /64 has room for a guest of every number, so there is
nothing to be taken in turns. Does not: run a server of DHCPv6 over a pool, or decide which MAC address a guest may
have (`segment` does).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from bucatini.engine.identity import NOBODY
from bucatini.host.lease_file import LeaseFile
from bucatini.services.dhcp import PoolAnswer
from bucatini.services.leases import INFINITE, Lease, LeaseDeclined, LeaseEvent, LeaseExpired, LeaseReleased
from bucatini.services.leases import PoolExhausted as Exhausted
from bucatini.services.pool import LeasePool, PoolSettings
from bucatini.stack.gateway import Leasing

if TYPE_CHECKING:
    from bucatini.engine.build import Loop, Translator
    from bucatini.guard.binding import Binding

__all__ = ["LeaseKeeper", "Tenant", "boot_clock"]

LONGEST_WAIT = 86400.0
"""Seconds of one timer: a lease may last for a century, and select(2) may not."""


def boot_clock() -> Callable[[], float]:
    """Seconds of the wall clock, which nobody sets from now on and which goes on while the machine sleeps."""
    start = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return lambda: start + time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseKeeper:
    """The leases of the guests of `shared`. Raises ConfigError for a pool that cannot be and for a file that is none
    of ours or in use, HostError for one that can be neither read nor made.
    """

    def __init__(
        self,
        shared: Loop,
        settings: PoolSettings,
        path: str | None = None,
        *,
        say: Callable[[str], None] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.pool = LeasePool(settings)
        self.now = clock or boot_clock()
        self.unwritten = 0
        """ACKs that were not sent because the disk refused."""
        self._loop = shared.asyncio
        self._reactor = shared.reactor
        self._hears = say
        self.owners: dict[bytes, Tenant] = {}
        """By address, who speaks under it."""
        self.waiting: dict[Tenant, tuple[Lease, bytes]] = {}
        """ACKs that are not on disk yet."""
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf
        self._writing = self._closed = False
        self._file: LeaseFile | None = None
        self._thread: ThreadPoolExecutor | None = None
        if path is not None:
            ahead = 0.0 if settings.lease == INFINITE else float(settings.lease)
            self._file = LeaseFile(path, ahead=ahead, on_failure=self._failed)
            self._thread = ThreadPoolExecutor(1, "leases")
            self.pool.restore(self._file.records, self.now())
            self.wake()

    def join(self, translator: Translator, link: str) -> Tenant:
        """Gives the guest of `translator` its leases; `link` is its name among the guests."""
        tenant = Tenant(self, translator, link)
        translator.ingress.gateway.leasing = Leasing(self.pool, link, self.now, partial(self._commit, tenant))
        translator.tenancy = tenant
        if translator.binding is not None:
            tenant.bound(translator.binding)
        return tenant

    def close(self) -> None:
        """Waits for what is being written, and lets go of the file. Idempotent."""
        self._closed = True
        self.waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is not None:
            self._thread.shutdown()
        if self._file is not None:
            self._file.close()

    # -- DHCP messages

    def _commit(self, tenant: Tenant, answer: PoolAnswer) -> bytes | None:
        """`stack.gateway.Leasing.commit`: empty for what is answered later, or by doing it."""
        self._hear(answer.events)
        self.wake()
        frame = None if answer.answer is None else answer.answer.frame
        if answer.lease is None or frame is None:
            if answer.answer is not None and answer.answer.event == "offer":
                tenant.expect(answer.answer.address)
            if frame is None and any(isinstance(event, LeaseReleased | LeaseDeclined) for event in answer.events):
                return b""
            return frame
        if self._file is None or self._file.covers(answer.lease):
            tenant.promised(answer.lease)
            return frame
        self.waiting[tenant] = answer.lease, frame
        self._write_soon()
        return b""

    def _hear(self, events: tuple[LeaseEvent, ...]) -> None:
        for event in events:
            if isinstance(event, LeaseReleased | LeaseDeclined | LeaseExpired):
                owner = self.owners.get(event.address)
                if owner is not None and owner.mac == event.mac:
                    owner.take_back()
            elif isinstance(event, Exhausted):
                self._say(f"{event.link}: no address is left for {event.mac.hex(':')}")

    # -- the clock

    def wake(self) -> None:
        """Have the next end of a lease heard when it comes."""
        deadline = self.pool.deadline
        if self._closed or deadline == inf or (self._timer is not None and self._due <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        self._timer = self._loop.call_later(min(max(0.0, deadline - self.now()), LONGEST_WAIT), self._expire)
        self._reactor.interrupt()

    def _expire(self) -> None:
        self._timer = None
        self._hear(self.pool.expire(self.now()))
        self.wake()

    # -- the file

    def _write_soon(self) -> None:
        if self._writing or self._closed or self._file is None:
            return
        self._writing = True
        now = time.monotonic()
        self._loop.call_later(self._file.due(now) - now, self._write)
        self._reactor.interrupt()

    def _write(self) -> None:
        if self._closed or self._file is None or self._thread is None:
            return
        shift = time.time() - self.now()
        done = self._thread.submit(
            self._file.write, self.pool.records(), time.monotonic(), shift=shift if abs(shift) > 1 else 0.0
        )
        done.add_done_callback(self._written_in_thread)

    def _written_in_thread(self, done: Future[bool]) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(self._written, done)

    def _written(self, done: Future[bool]) -> None:
        """Let go of the ACKs that are on disk now."""
        self._writing = False
        if self._closed or self._file is None:
            return
        if not done.result():
            self.unwritten += len(self.waiting)
            self.waiting.clear()
            return
        for tenant, (lease, frame) in list(self.waiting.items()):
            if self._file.covers(lease):
                del self.waiting[tenant]
                tenant.deliver(lease, frame)
        if self.waiting:
            self._write_soon()

    def _say(self, line: str) -> None:
        if self._hears is not None:
            self._hears(line)

    def _failed(self, line: str) -> None:
        """Called in the thread."""
        if not self._closed:
            self._loop.call_soon_threadsafe(self._say, line)


class Tenant:
    """One guest's part in the pool: what its translator asks and tells (`engine.build.Tenancy`)."""

    def __init__(self, keeper: LeaseKeeper, translator: Translator, link: str) -> None:
        self.link = link
        self.mac: bytes | None = None
        """Of the guest's binding; without one, of its latest lease."""
        self.lease: Lease | None = None
        """What the guest was promised."""
        self._keeper = keeper
        self._translator = translator
        self.settle: Callable[[Lease], None] = lambda lease: translator.give(lease.address)
        """Tells the translator which address the guest has."""

    # -- engine.build.Tenancy

    def claim(self, mac: bytes) -> bool:
        """The pool heeds one identity of a link; whose MAC address it is matters to nobody else."""
        return True

    def bound(self, binding: Binding) -> None:
        """The guest has the MAC address of `binding` from now on."""
        if binding.mac == NOBODY:
            return
        if self.mac not in (None, binding.mac):
            self.ended()
        self.mac = binding.mac
        lease = self._keeper.pool.lease_of(binding.mac)
        if lease is None or lease.link not in ("", self.link):
            return
        if self._keeper.owners.get(lease.address) in (None, self):
            self._have(lease, binding)

    def ended(self) -> None:
        """Whoever was at the link is gone for good."""
        self.take_back()
        self._keeper.waiting.pop(self, None)
        self._keeper.pool.detach(self.link, self._keeper.now())
        self._keeper.wake()

    # -- of the keeper

    def expect(self, address: bytes | None) -> None:
        """The guest may look whether the address it is offered is free: no one must say that it is not."""
        if self.lease is None and address is not None:
            self._translator.give(address)

    def promised(self, lease: Lease) -> None:
        """The ACK leaves."""
        if self.lease is not None and self.lease.address != lease.address:
            self.take_back()
        self.mac = lease.mac
        self._have(lease, self._translator.binding)

    def deliver(self, lease: Lease, frame: bytes) -> None:
        """Send an ACK that waited, if it still holds."""
        if self._keeper.pool.lease_of(lease.mac) == lease:
            self.promised(lease)
            self._translator.sink.transmit_frame(frame)

    def take_back(self) -> None:
        """The guest has its address no more."""
        lease, self.lease = self.lease, None
        if lease is None:
            return
        self._keeper.owners.pop(lease.address, None)
        binding = self._translator.binding
        if binding is not None and binding.leased == lease.address:
            binding.clear()
        self._translator.give(None)

    def _have(self, lease: Lease, binding: Binding | None) -> None:
        known, self.lease = self.lease, lease
        self._keeper.owners[lease.address] = self
        if binding is not None and binding.mac == lease.mac:
            binding.lease(lease.address, lease.until - self._keeper.now(), time.monotonic())
        if known is None or known[:4] != lease[:4]:
            self.settle(lease)
