"""One guest served from its TAP to its end: what `run`, `attach` and the compat commands have in common.

The guest's processes are forked by the caller, while this process is small and has one thread; then `serve` waits for
the TAP, builds the translator, binds forwarded ports and only then hands over to `wait`, which lets the guest go and
says how it ended. Whatever cannot be is an error before that.

While the guest runs, a change of the host's addresses, default route or resolvers makes a new network: `_Follower`
waits until the burst of messages is over and gives it to the translator, and to the guest's namespace where its
addresses are set by us. Datagram flows whose source address is gone end, whatever the guest's own addresses come from.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from bucatini.api.blueprint import Blueprint
from bucatini.base.errors import BucatiniError, HostError
from bucatini.base.reasons import Counters
from bucatini.base.verdict import Request, Verdict
from bucatini.config.derive import Network
from bucatini.config.services import stack_settings
from bucatini.engine.build import Loop, Parts, Ports, Translator, raise_descriptor_limit
from bucatini.host.factory import SocketFactory
from bucatini.host.settings import Route
from bucatini.host.sockets import check_outbound
from bucatini.host.tap import Offloads, Tap
from bucatini.host.watch import HostWatch, host_addresses
from bucatini.links.tap import TapLink
from bucatini.observe.observers import Observers
from bucatini.stack.settings import StackSettings
from bucatini.wire.dhcpv6 import duid_llt

__all__ = ["Handle", "Job", "Judge", "Plug", "new_duid", "serve", "serve_all", "settings_of"]

SETTLE = 0.2
"""Seconds after news from the host until it is read again: most changes come as several messages."""
LOOK = 1.0
"""Seconds between two looks at resolv.conf, where it is part of the network."""
DUID_EPOCH = 946684800
"""2000-01-01 UTC as seconds since 1970 (RFC 8415 section 11.2)."""
ANSWERED = 1.0
"""Seconds after which the guest's agent has said what it could not change."""
LOST_STATUS = 1


class Handle(Protocol):
    """A guest, launched or attached: see `host.guest.Guest` and `host.attach.Attached`."""

    notes: list[str]
    factory: SocketFactory

    def tap(self) -> Tap:
        """Wait for the TAP."""

    def reconfigure(
        self,
        addresses: tuple[tuple[bytes, int], ...],
        gateways: tuple[bytes, ...],
        routes: tuple[Route, ...],
    ) -> None:
        """Replace addresses and routes of the interface."""

    def collect(self) -> list[str]:
        """What could not be done of it, a line each, as far as it is known."""

    def close(self) -> None:
        """End it."""


class Judge(Protocol):
    """A guest's policy: `policy.decide.Policy`, or `guard.rule_policy.RulePolicy`."""

    def decide(self, request: Request) -> Verdict:
        """May this flow exist, and which rule says so."""


def new_duid(mac: bytes) -> bytes:
    """A DHCPv6 identifier from our MAC and the time of day."""
    return duid_llt(mac, max(int(time.time()) - DUID_EPOCH, 0))


class Job(NamedTuple):
    """What is to be served, and how."""

    blueprint: Blueprint
    network: Network
    gateway_mac: bytes
    build_policy: Callable[[tuple[bytes, ...]], Judge]
    """From the addresses that mean this host."""
    ports: tuple[Ports, ...]
    observers: Observers
    duid: bytes
    """Of the DHCPv6 server, the same for the whole session (RFC 8415 section 11)."""
    guard: bool = False
    """Whether the guest may only speak as itself."""
    control: Callable[[Translator], Any] | None = None
    """Makes a control socket, with `start` and `close`."""
    join: Callable[[Translator, Loop], Callable[[], None]] | None = None
    """Has the guest share a segment with others, and its IPv4 address a lease; returns what is to be called at the
    end.
    """


class Plug(NamedTuple):
    """How a guest is plugged in: its link, and what is known of its end of it."""

    link: Any
    offloads: Offloads
    mac: bytes
    """The guest's; with `learns_mac` what it is taken for until its frames show another."""
    name: str = ""
    """Of one of several guests, in what is said at the end; empty: nothing is."""
    say: Callable[[str], None] | None = None
    """Hears lines about who comes and goes; None: the observers do, if they want to."""
    learns_mac: bool = False
    ends: bool = False
    """Whether the link may end, and with it the guest."""
    factory: SocketFactory | None = None
    handle: Handle | None = None
    """Whoever changes addresses in the guest's namespace; None: nobody can."""


def serve(job: Job, guest: Handle, wait: Callable[[], Awaitable[int]]) -> int:
    """Serve `guest` on its TAP until `wait`, begun when everything is bound and built, says its status.

    Raises ConfigError or HostError before the guest goes.
    """
    tap = guest.tap()
    for note in guest.notes:
        job.observers.say(note)
    plug = Plug(TapLink(tap.descriptor), tap.offloads, tap.mac, factory=guest.factory, handle=guest)
    return serve_all(((job, plug),), wait)


def serve_all(guests: Sequence[tuple[Job, Plug]], wait: Callable[[], Awaitable[int]]) -> int:
    """Serve several guests, or one, in one loop until `wait` says its status, or, with status 0, until all links that
    may end have. The first job's observers are everybody's; links are closed whatever happens.

    Raises ConfigError or HostError before `wait` is begun.
    """
    observers = guests[0][0].observers
    with contextlib.ExitStack() as closing:
        for _, plug in guests:
            closing.callback(plug.link.close)
        raise_descriptor_limit()
        shared = Loop.make()
        closing.callback(shared.asyncio.close)
        counters = Counters()
        served: list[_Served] = []
        closing.callback(lambda: observers.finish(counters, stderr=sys.stderr) if served else None)
        made = [_Served(job, plug, shared, closing, counters) for job, plug in guests]
        served += made
        for each in served:
            each.translator.start()
        try:
            return shared.asyncio.run_until_complete(_run(served, wait))
        except HostError as error:
            if not shared.reactor.turns:
                raise
            # The guest ran: its status is lost, and this is no error of the options any more.
            observers.warn(str(error))
            return LOST_STATUS


class _Served:
    """One guest of a session: everything that is made for it, to be closed by `closing`."""

    def __init__(
        self, job: Job, plug: Plug, shared: Loop, closing: contextlib.ExitStack, counters: Counters
    ) -> None:
        check_outbound(job.network.outbound)
        self.plug = plug
        self.translator = Translator(_parts(job, plug), shared)
        closing.callback(counters.add, self.translator.counters)
        if plug.name:
            closing.callback(self._account, job.observers)
        closing.callback(self.translator.close)
        if job.join is not None:
            closing.callback(job.join(self.translator, shared))
        if job.control is not None:
            control = job.control(self.translator)
            closing.callback(control.close)
            control.start()
        self.follower = _Follower(job, plug, self.translator)
        closing.callback(self.follower.close)


    def _account(self, observers: Observers) -> None:
        """What the guest's link saw, a line for those who want to know."""
        translator = self.translator
        drops = ", ".join(f"{count} {label}" for label, count in translator.counters.snapshot().items())
        frames = f"{translator.reader.frames} frames from the guest, {translator.sink.sent_frames} to it"
        observers.say(f"{self.plug.name}: {frames}; dropped: {drops or 'none'}")


async def _run(served: Sequence[_Served], wait: Callable[[], Awaitable[int]]) -> int:
    for each in served:
        each.follower.start()
    waiting = asyncio.ensure_future(wait())
    ends = [asyncio.ensure_future(each.translator.ended.wait()) for each in served]
    if all(each.plug.ends for each in served):
        gone = asyncio.gather(*ends)
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            return 0
        gone.cancel()
    try:
        return await waiting
    finally:
        for end in ends:
            end.cancel()


def _parts(job: Job, plug: Plug) -> Parts:
    observers = job.observers
    network = job.network
    options = job.blueprint.options
    return Parts(
        plug.link,
        plug.offloads,
        settings_of(job, network, plug),
        job.build_policy(network.hosts).decide,
        job.ports,
        plug.factory,
        (observers,),
        observers.wants_flows,
        observers.wants_drops,
        job.guard,
        job.join is not None,
        observers.capture,
        observers.flush if observers.buffers else None,
        resolvers=lambda: job.blueprint.upstream(network),
        outbound=network.outbound,
        splice=options.splice,
        freebind=options.freebind,
        learns_mac=plug.learns_mac,
        say=plug.say or observers.say,
    )


def settings_of(job: Job, network: Network, plug: Plug) -> StackSettings:
    """What the guest's translator has to know of `network`; an IPv4 address that is a lease is not there yet."""
    settings = stack_settings(
        job.blueprint.options,
        network,
        guest_mac=plug.mac,
        gateway_mac=job.gateway_mac,
        tso4=plug.offloads.tso4,
        tso6=plug.offloads.tso6,
        duid=job.duid,
    )
    if job.join is None:
        return settings
    given = tuple(address for address in settings.given if len(address) == 16)
    own, echoes = (tuple(filter(any, addresses)) for addresses in (settings.own, settings.echoes))
    return dataclasses.replace(settings, guest_ipv4=None, given=given, own=own, echoes=echoes)


class _Follower:
    """Compares what the host is with what the guest has, after each burst of news."""

    def __init__(self, job: Job, plug: Plug, translator: Translator) -> None:
        """Raises HostError when the kernel cannot tell of changes."""
        self._job = job
        self._plug = plug
        self._translator = translator
        self._last = self._network = job.network
        """What the host alone makes, and what holds: with addresses of before that the guest has in its files."""
        self._watch = HostWatch()
        self._timer: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin; inside the running loop."""
        self._translator.loop.add_reader(self._watch.fileno(), self._news)
        if self._job.blueprint.follows_host and not self._job.blueprint.own_dns:
            self._look = self._translator.loop.call_later(LOOK, self._look_again)

    def _look_again(self) -> None:
        self._news()
        self._look = self._translator.loop.call_later(LOOK, self._look_again)

    def _news(self) -> None:
        with contextlib.suppress(HostError):
            if self._watch.changed() and self._timer is None:
                self._timer = self._translator.loop.call_later(SETTLE, self._settled)

    def _settled(self) -> None:
        self._timer = None
        with contextlib.suppress(HostError):
            self._translator.sink.datagrams.leave_lost_addresses(host_addresses())
            self._translator.sink.multicast.host_changed()
        if not self._job.blueprint.follows_host:
            return
        try:
            network = self._job.blueprint.network()
        except BucatiniError:
            return  # in between two states; more news will come
        if network == self._last or not network.addresses:
            return
        self._job.observers.say("the host's network changed: new flows and leases follow")
        self._last = network
        network = self._network = network.after(self._network)
        policy = self._job.build_policy(network.hosts)
        settings = settings_of(self._job, network, self._plug)
        self._translator.reconfigure(settings, policy.decide, network.outbound)
        if self._job.blueprint.options.config_net and self._plug.handle is not None:
            try:
                self._plug.handle.reconfigure(network.addresses, network.gateways, network.routes)
                self._translator.loop.call_later(ANSWERED, self._collect)
            except (HostError, OSError) as error:
                self._job.observers.warn(f"the guest keeps its addresses: {error}")

    def _collect(self) -> None:
        for note in self._plug.handle.collect() if self._plug.handle is not None else ():
            self._job.observers.warn(note)

    def close(self) -> None:
        """Idempotent."""
        for timer in (self._timer, self._look):
            if timer is not None:
                timer.cancel()
        if not self._translator.loop.is_closed():
            self._translator.loop.remove_reader(self._watch.fileno())
        self._watch.close()
