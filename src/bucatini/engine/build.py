"""The composition root: from settings to a running translator, readable on one screen.

`Translator` owns what one guest's engine is made of and the order in which it begins and ends. Modes differ only in
what is put together here.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import hashlib
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple, Protocol

from bucatini.base.address import LINK_LOCAL_PREFIX, Endpoint, link_local_of
from bucatini.base.events import Listener
from bucatini.base.reasons import Counters, DropReason
from bucatini.base.verdict import EGRESS, Request, Verdict
from bucatini.engine import identity
from bucatini.engine.advertiser import Advertiser
from bucatini.engine.dns import Forwarder
from bucatini.engine.drop_events import DropEvents
from bucatini.engine.forwarding import Publisher
from bucatini.engine.guest_sockets import GuestSockets
from bucatini.engine.identity import NOBODY
from bucatini.engine.layout import ARENA_SIZE
from bucatini.engine.link_reader import LinkReader
from bucatini.engine.multicast import Multicast
from bucatini.engine.reactor import Reactor
from bucatini.engine.sink import Sink
from bucatini.flows.table import FlowTable
from bucatini.forward.portspec import Forward
from bucatini.guard.binding import Binding
from bucatini.host import sockets
from bucatini.host.resolvers import HostResolvers, ResolverConfig
from bucatini.host.sockets import ANYHOW, Outbound
from bucatini.host.tap import Offloads
from bucatini.native import Arena, checksum
from bucatini.observe.captured import CapturedLink
from bucatini.observe.pcapng import PcapngWriter
from bucatini.services.dns import HostNames
from bucatini.services.router import RouterSettings, advertisement
from bucatini.stack.addresses import GuestAddresses
from bucatini.stack.classify import Packet
from bucatini.stack.egress import Egress
from bucatini.stack.gateway import Gateway
from bucatini.stack.ingress import Ingress
from bucatini.stack.settings import StackSettings

__all__ = ["Loop", "Parts", "Ports", "Tenancy", "Translator", "raise_descriptor_limit"]

DNS_PORT = 53
WITHDRAWN = 7200
"""Seconds a withdrawn prefix stays valid: hosts ignore less (RFC 4862 section 5.5.3)."""
MAX_WITHDRAWN = 4
ISN_TICK = 4e-6
"""Seconds per count of the initial sequence number's clock (RFC 9293 section 3.4.1)."""


class Ports(NamedTuple):
    """Forwarded ports of one option, see `forward.port_grammar`."""

    option: str
    """For errors."""
    forwards: tuple[Forward, ...] = ()
    automatic: tuple[int, str] | None = None
    """Protocol and direction in which bound ports are followed."""


class Parts(NamedTuple):
    """What a translator is made from."""

    link: Any
    offloads: Offloads
    settings: StackSettings
    decide: Callable[[Request], Verdict]
    ports: tuple[Ports, ...] = ()
    factory: Any = None
    """`host.factory.SocketFactory` of the guest's namespace; None where there is none (a virtual machine)."""
    listeners: tuple[Listener, ...] = ()
    flow_events: bool = True
    """Whether a listener wants to hear of flows that are opened and closed."""
    drop_events: bool = False
    """Whether a listener wants to hear of frames that are dropped."""
    guard: bool = False
    """Whether the isolation filter is in front of the guest: it speaks as itself or not at all."""
    leased: bool = False
    """Whether the guest's IPv4 address is a lease from a pool: it has none until somebody tells the binding."""
    capture: PcapngWriter | None = None
    end_of_turn: Callable[[], None] | None = None
    """Called after each turn: the observers' flush."""
    peek_offset: bool | None = None
    """Whether the kernel keeps peek offsets; None: find out. False forces the fallback."""
    resolvers: Callable[[], ResolverConfig] | None = None
    """The resolvers our name service asks; None: the host's, by /etc/resolv.conf."""
    outbound: Outbound = ANYHOW
    splice: bool = True
    freebind: bool = False
    learns_mac: bool = False
    """Whether the guest's MAC address is what its frames show: that of a virtual machine is its hypervisor's choice."""
    say: Callable[[str], None] | None = None
    """Hears lines about the link."""


class Tenancy(Protocol):
    """What guests share, and each has its part of."""

    def claim(self, mac: bytes) -> bool:
        """Whether the guest may be bound to a MAC address that it shows first."""

    def bound(self, binding: Binding) -> None:
        """The guest has another binding."""

    def ended(self) -> None:
        """The link ended, and the guest is gone with it."""


class Loop(NamedTuple):
    """What several guests of one process share."""

    reactor: Reactor
    asyncio: asyncio.SelectorEventLoop
    flow_numbers: Iterator[int]

    @classmethod
    def make(cls) -> Loop:
        """A reactor and the asyncio loop on it; the caller closes the latter."""
        reactor = Reactor()
        return cls(reactor, asyncio.SelectorEventLoop(reactor), count(1))


class Translator:
    """One guest's network: frames of `link` on one side, host sockets on the other. Runs in the asyncio loop `loop`.

    Is the link's `LinkOwner`.
    """

    def __init__(self, parts: Parts, shared: Loop | None = None) -> None:
        """Builds everything and binds published ports. Raises ConfigError when a port cannot be had; nothing is left
        then. `shared`: run in this loop, which stays the caller's.
        """
        self.parts = parts
        self.counters = Counters()
        self.drops = self.counters.values
        self._owns_loop = shared is None
        self._closed = False
        self.reactor, self.loop, flow_numbers = shared or Loop.make()
        self.arena = Arena(ARENA_SIZE)
        self.link = self._captured(parts)
        settings = parts.settings
        gateway = Gateway(settings, self.counters)
        table = FlowTable(settings.flow_limit, flow_numbers)
        self.egress = Egress(
            self.arena.view, settings.guest_mac, settings.gateway_mac, parts.offloads.checksum, checksum
        )
        link_local = link_local_of(settings.guest_mac) if settings.ipv6 else None
        self.addresses = GuestAddresses(settings.guest_ipv4, settings.guest_ipv6, link_local)
        self.forwarder = Forwarder(self.loop, parts.resolvers or HostResolvers(), _host_names(settings))
        keeps = sockets.keeps_peek_offset() if parts.peek_offset is None else parts.peek_offset
        trains = (parts.offloads.uso4, parts.offloads.uso6)
        self.sink = Sink(
            self.arena, self.link, self.egress, gateway, table, self.reactor, settings, self.counters,
            keeps, *trains, self._service_stream, self.forwarder.query,
        )  # fmt: skip
        self.sink.outbound = parts.outbound
        self.sink.listeners.extend(parts.listeners)
        self.sink.flow_events = parts.flow_events
        isn = _initial_sequence_numbers()
        packet = Packet(
            self.arena.view, settings.gateway_mac, checksum,
            settings.ipv4, settings.ipv6, self.arena.copy, self.link.header,
        )  # fmt: skip
        self.ingress = Ingress(packet, table, settings, gateway, parts.decide, isn, self.sink, self.addresses)
        self.tenancy: Tenancy | None = None
        """What the guest has in common with others; None: nothing."""
        if parts.learns_mac:
            self.sink.ask = self._ask
        if parts.guard:
            self.ingress.binding = identity.bind(settings, leased=parts.leased, unmet=parts.learns_mac)
            if parts.learns_mac:
                self.ingress.stranger = self._stranger
        elif parts.learns_mac:
            self.ingress.meet = self._meet
        judged = self.link.judged if isinstance(self.link, CapturedLink) else None
        self.ended = asyncio.Event()
        self.reader = LinkReader(
            self.link, self.arena, self.ingress, self.sink, self.counters, judged, self.link_ended
        )
        if parts.drop_events:
            self.reader.drop_events = DropEvents(self.sink.tell, self.arena.copy)
        self.frames_ready = self.reader.ready
        self.room_again = self.sink.room_again
        self.guest_sockets = GuestSockets(parts.factory, self.reactor)
        self.publisher = Publisher(
            self.sink, settings, parts.decide, isn, self.guest_sockets, trains,
            splice=parts.splice, freebind=parts.freebind, translation=settings.translation, guests=self.addresses.all,
        )  # fmt: skip
        self.advertiser = Advertiser(self.sink, gateway)
        self.sink.multicast = Multicast(self.sink, self.ingress, self.addresses, settings)
        self.publisher.elsewhere = lambda: self.sink.multicast.groups.ports
        if self.reactor.on_bug is None:
            self.reactor.on_bug = self.sink.bug
        self._turn_ends = self.sink.end_of_turn if parts.end_of_turn is None else self._end_of_turn
        self.reactor.attach(self._turn_ends)
        try:
            self._publish(parts)
        except BaseException:
            self.close()
            raise

    def _captured(self, parts: Parts) -> Any:
        if parts.capture is None:
            return parts.link
        return CapturedLink(parts.link, parts.capture, self._comment)

    def _comment(self, reason: int) -> str | None:
        if not reason:
            return None
        label = DropReason(reason).label  # type: ignore[call-arg]
        return f"{label}: {self.sink.last_refusal}" if reason == DropReason.POLICY_DENIED else label

    def _publish(self, parts: Parts) -> None:
        for ports in parts.ports:
            self.publisher.add_all(ports.forwards, ports.option)
            if ports.automatic is not None:
                self.publisher.automatic(*ports.automatic)

    def start(self) -> None:
        """Begin to serve the link and the published ports."""
        # What was made so far lives as long as we do: the collector need not look at it again.
        gc.freeze()
        self.link.start(self)
        self.publisher.start()
        self.advertiser.start(time.monotonic())
        self.sink.multicast.start(time.monotonic())

    def reconfigure(self, settings: StackSettings, decide: Callable[[Request], Verdict], outbound: Outbound) -> None:
        """The network is another from now on: new flows and new leases follow, flows that exist go on to their end.

        Of an IPv6 prefix that is gone the guest is told not to begin anything with it (RFC 4862 section 5.5.4).
        """
        now = self.ingress.settings
        settings = dataclasses.replace(settings, guest_mac=now.guest_mac, tso4=now.tso4, tso6=now.tso6)
        settings = self._withdraw(now.router, settings)
        if self.binding is not None and self.binding.mac != NOBODY:
            self.ingress.binding = self._bound_anew(settings, now)
        self.ingress.settings = self.sink.settings = self.publisher.settings = settings
        self.ingress.packet.ipv4, self.ingress.packet.ipv6 = settings.ipv4, settings.ipv6
        self.ingress.gateway.reconfigure(settings)
        self.ingress.decide = self.publisher.decide = decide
        self.publisher.translation = settings.translation
        self.forwarder.names = _host_names(settings)
        self.addresses.give(settings.guest_ipv4, settings.guest_ipv6)
        self.sink.outbound = outbound
        self.sink.multicast.reconfigure(settings)
        self.advertiser.start(time.monotonic())
        # The turn that is being waited for knows nothing of the new deadlines.
        self.reactor.hurry()

    @property
    def binding(self) -> Binding | None:
        """What the guest may call itself; None: whatever it likes. Another object after each change of its MAC address
        or network.
        """
        return self.ingress.binding

    def give(self, ipv4: bytes | None) -> None:
        """The guest was given this IPv4 address in place of the one it had; None: it has none."""
        settings = dataclasses.replace(self.ingress.settings, guest_ipv4=ipv4)
        self.ingress.settings = self.sink.settings = self.publisher.settings = settings
        self.ingress.gateway.reconfigure(settings)
        self.addresses.forget(4)
        self.addresses.give(ipv4, settings.guest_ipv6)

    def policy_changed(self, decide: Callable[[Request], Verdict] | None = None) -> None:
        """Policy answers otherwise from now on, or `decide` does in its place. Flows that it would not let begin end at
        once; all others go on undisturbed.
        """
        if decide is not None:
            self.ingress.decide = self.publisher.decide = decide
        self.publisher.policy_changed()
        self.sink.now = time.monotonic()
        for flow in self.sink.table.all():
            if not self._is_allowed(flow):
                self.sink.revoke(flow)
        self.reactor.hurry()

    def _is_allowed(self, flow: Any) -> bool:
        if flow.direction == EGRESS and flow.id not in self.sink.table.spliced:
            request = Request(EGRESS, flow.protocol, flow.peer.address, flow.peer.port)
            return self.ingress.decide(request).allow
        return self.publisher.still_admits(flow)

    def _withdraw(self, old: RouterSettings | None, settings: StackSettings) -> StackSettings:
        """`settings` whose router also says which of the `old` one's prefixes are gone; without a router that is said
        at once, and that there is none.
        """
        if old is None:
            return settings
        new = settings.router
        kept = {each.prefix for each in new.prefixes} if new is not None else set()
        gone = [each._replace(valid=WITHDRAWN, preferred=0) for each in old.prefixes if each.prefix not in kept]
        withdrawn = tuple(gone[-MAX_WITHDRAWN:])
        if new is None:
            last = dataclasses.replace(old, lifetime=0, prefixes=withdrawn)
            self.sink.transmit_frame(advertisement(last))
            return settings
        router = dataclasses.replace(new, prefixes=new.prefixes + withdrawn)
        return dataclasses.replace(settings, router=router)

    def close(self) -> None:
        """End all flows, close all sockets and the link. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.publisher.close()
        self.sink.multicast.close()
        self.sink.now = time.monotonic()
        self.sink.stop()
        self.guest_sockets.close()
        self.forwarder.close()
        self.link.close()
        self.reactor.detach(self._turn_ends)
        if self._owns_loop:
            self.loop.close()

    def _end_of_turn(self, now: float) -> float:
        due = self.sink.end_of_turn(now)
        if self.parts.end_of_turn is not None:
            self.parts.end_of_turn()
        return due

    # -- LinkOwner, see links.base

    def link_ended(self) -> None:
        """The guest is gone for good: nothing is read or sent any more."""
        self.link.close()
        if self.tenancy is not None:
            self.tenancy.ended()
        self.ended.set()
        self.reactor.interrupt()

    def offloads_changed(self, offloads: Offloads) -> None:
        """The guest's driver was asked anew, or another one has come: what is sent from now on is for it."""
        settings = dataclasses.replace(self.ingress.settings, tso4=offloads.tso4, tso6=offloads.tso6)
        self.ingress.settings = self.sink.settings = self.publisher.settings = settings
        self.egress.checksum_offload = offloads.checksum
        self.sink.direct = getattr(self.link, "pull", None) if offloads.checksum else None
        self.sink.datagrams.train4, self.sink.datagrams.train6 = offloads.uso4, offloads.uso6
        self.publisher.trains = (offloads.uso4, offloads.uso6)
        for flow in self.sink.table.tcp.values():
            flow.set_segmented(offloads.tso4 if len(flow.guest.address) == 4 else offloads.tso6)

    def say(self, line: str) -> None:
        """A line for people about the link."""
        if self.parts.say is not None:
            self.parts.say(line)

    def link_joined(self) -> None:
        """A guest is there, perhaps one that was served by an engine before us and sees no reason to say a word. It may
        have another MAC address than the one before it.
        """
        if self.parts.learns_mac and self.binding is not None:
            self.ingress.binding = identity.bind(self.ingress.settings, leased=self.parts.leased, unmet=True)
        self.addresses.forget(4)
        self.addresses.forget(16)
        if self.sink.ask is not None:
            for address in self.addresses.all():
                self._ask(address)
            self.sink.transmit_error(self.ingress.gateway.roll_call())

    def _ask(self, address: bytes) -> None:
        self.sink.transmit_error(self.ingress.gateway.who_has(address))

    def _stranger(self, mac: bytes) -> Binding | None:
        """The guest's binding to `mac`, if it may be known by that: the first it shows, until the link joins anew."""
        if self.binding is None or self.binding.mac != NOBODY:
            return None
        if mac[0] & 1 or not any(mac) or mac == self.ingress.settings.gateway_mac:
            return None
        if self.tenancy is not None and not self.tenancy.claim(mac):
            return None
        self._meet(mac)
        self.ingress.binding = self._bound_anew(self.ingress.settings)
        return self.ingress.binding

    def _bound_anew(self, settings: StackSettings, before: StackSettings | None = None) -> Binding:
        old = self.ingress.binding
        new = identity.bind(settings, leased=self.parts.leased, before=before)
        if old is not None and old.mac == new.mac:
            new.inherit(old)
        if self.tenancy is not None:
            self.tenancy.bound(new)
        return new

    def _meet(self, mac: bytes) -> None:
        """The guest's frames come from `mac`, which is not the address known so far. What was begun without knowing
        goes there as well; later changes are for what begins later, or a guest could keep us busy with them.
        """
        if self.sink.ask is not None:
            self.sink.ask = None
            for flow in self.sink.table.all():
                flow.template = mac + flow.template[len(mac) :]
        settings = dataclasses.replace(self.ingress.settings, guest_mac=mac)
        self.ingress.settings = self.sink.settings = self.publisher.settings = settings
        self.ingress.gateway.reconfigure(settings)
        self.egress.guest_mac = mac
        self.egress.templates.clear()
        if settings.ipv6:
            self.addresses.link_local = link_local_of(mac)

    def _service_stream(self, peer: Endpoint) -> socket.socket | None:
        """Our end of a stream to the resolver, for a TCP flow to the gateway's port 53; None for any other peer."""
        if peer.port != DNS_PORT or peer.address not in self.ingress.settings.resolvers:
            return None
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.forwarder.serve_stream(far)
        self.reactor.interrupt()
        return near


def raise_descriptor_limit() -> None:
    """Let the process have as many descriptors as the system allows it: each flow is one (setrlimit(2))."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _host_names(settings: StackSettings) -> HostNames:
    """The names of the host lead where its loopback is; a link-local address would need a zone, which DNS has not."""
    return HostNames(each for each in settings.translation.host_loopback if each[:2] != LINK_LOCAL_PREFIX[:2])


def _initial_sequence_numbers() -> Callable[[bytes], int]:
    """RFC 6528: a clock plus a keyed hash of the conversation, so that numbers cannot be guessed from outside."""
    secret = os.urandom(16)

    def isn(key: bytes) -> int:
        offset = int.from_bytes(hashlib.blake2s(key, digest_size=4, key=secret).digest(), "big")
        return (offset + int(time.monotonic() / ISN_TICK)) & 0xFFFFFFFF

    return isn
