"""The composition root: from settings to a running translator, readable on one screen.

`Translator` owns what one guest's engine is made of and the order in which it begins and ends. Modes differ only in
what is put together here.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import resource
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from bucatini.base.address import Endpoint
from bucatini.base.events import Listener
from bucatini.base.reasons import Counters, DropReason
from bucatini.base.verdict import Request, Verdict
from bucatini.engine.dns import Forwarder
from bucatini.engine.guest_sockets import GuestSockets
from bucatini.engine.layout import ARENA_SIZE
from bucatini.engine.link_reader import LinkReader
from bucatini.engine.publish import Publisher
from bucatini.engine.reactor import Reactor
from bucatini.engine.sink import Sink
from bucatini.flows.table import FlowTable
from bucatini.host import sockets
from bucatini.host.resolvers import HostResolvers
from bucatini.host.tap import Offloads
from bucatini.native import Arena, checksum
from bucatini.observe.captured import CapturedLink
from bucatini.observe.pcapng import PcapngWriter
from bucatini.services.dns import HostNames
from bucatini.stack.classify import Packet
from bucatini.stack.egress import Egress
from bucatini.stack.gateway import Gateway
from bucatini.stack.ingress import Ingress
from bucatini.stack.settings import StackSettings

__all__ = ["Parts", "Translator", "raise_descriptor_limit"]

EPOLLIN = 1
DNS_PORT = 53
ISN_TICK = 4e-6
"""Seconds per count of the initial sequence number's clock (RFC 9293 section 3.4.1)."""


class Parts(NamedTuple):
    """What a translator is made from."""

    link: Any
    offloads: Offloads
    settings: StackSettings
    decide: Callable[[Request], Verdict]
    forwards: tuple[Any, ...] = ()
    factory: Any = None
    """`host.factory.SocketFactory` of the guest's namespace; None where there is none (a virtual machine)."""
    listeners: tuple[Listener, ...] = ()
    flow_events: bool = True
    """Whether a listener wants to hear of flows that are opened and closed."""
    capture: PcapngWriter | None = None
    end_of_turn: Callable[[], None] | None = None
    """Called after each turn: the observers' flush."""
    peek_offset: bool | None = None
    """Whether the kernel keeps peek offsets; None: find out. False forces the fallback."""
    resolv_conf: str = "/etc/resolv.conf"


class Translator:
    """One guest's network: frames of `link` on one side, host sockets on the other. Runs in the asyncio loop `loop`."""

    def __init__(self, parts: Parts) -> None:
        """Builds everything and binds published ports. Raises ConfigError when a port cannot be had; nothing is left
        then.
        """
        self.parts = parts
        self.counters = Counters()
        self.reactor = Reactor()
        self.loop = asyncio.SelectorEventLoop(self.reactor)
        self.arena = Arena(ARENA_SIZE)
        self.link = self._captured(parts)
        settings = parts.settings
        gateway = Gateway(settings, self.counters)
        table = FlowTable(settings.flow_limit)
        egress = Egress(self.arena.view, settings.guest_mac, settings.gateway_mac, parts.offloads.checksum, checksum)
        self.forwarder = Forwarder(self.loop, HostResolvers(parts.resolv_conf), HostNames(settings.gateways))
        keeps = sockets.keeps_peek_offset() if parts.peek_offset is None else parts.peek_offset
        trains = (parts.offloads.uso4, parts.offloads.uso6)
        self.sink = Sink(
            self.arena, self.link, egress, gateway, table, self.reactor, settings, self.counters,
            keeps, *trains, self._service_stream, self.forwarder.query,
        )  # fmt: skip
        self.sink.listeners.extend(parts.listeners)
        self.sink.flow_events = parts.flow_events
        isn = _initial_sequence_numbers()
        packet = Packet(
            self.arena.view, settings.gateway_mac, checksum,
            settings.guest_ipv4 is not None, settings.guest_ipv6 is not None, self.arena.copy,
        )  # fmt: skip
        ingress = Ingress(packet, table, settings, gateway, parts.decide, isn, self.sink)
        judged = self.link.judged if isinstance(self.link, CapturedLink) else None
        self.ended = asyncio.Event()
        self.reader = LinkReader(self.link, self.arena, ingress, self.sink, self.counters, judged, self._link_ended)
        self.guest_sockets = GuestSockets(parts.factory, self.reactor)
        self.publisher = Publisher(self.sink, settings, parts.decide, isn, self.guest_sockets, trains)
        self.reactor.attach(self.sink.end_of_turn if parts.end_of_turn is None else self._end_of_turn)
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
        for forward in parts.forwards:
            self.publisher.bind(forward)
        if parts.forwards and parts.factory is not None:
            for kind in _kinds(parts.forwards, parts.settings):
                self.guest_sockets.prepare(kind)

    def start(self) -> None:
        """Begin to serve the link and the published ports."""
        # What was made so far lives as long as we do: the collector need not look at it again.
        gc.freeze()
        self.reactor.watch(self.link.descriptor, self.reader.ready, EPOLLIN)
        self.publisher.start()

    def close(self) -> None:
        """End all flows, close all sockets and the link. Idempotent."""
        if self.loop.is_closed():
            return
        self.publisher.close()
        self.sink.now = time.monotonic()
        self.sink.stop()
        self.guest_sockets.close()
        self.forwarder.close()
        self.reactor.unwatch(self.link.descriptor)
        self.link.close()
        self.loop.close()

    def _end_of_turn(self, now: float) -> float:
        due = self.sink.end_of_turn(now)
        if self.parts.end_of_turn is not None:
            self.parts.end_of_turn()
        return due

    def _link_ended(self) -> None:
        self.reactor.unwatch(self.link.descriptor)
        self.ended.set()
        self.reactor.interrupt()

    def _service_stream(self, peer: Endpoint) -> socket.socket | None:
        """Our end of a stream to the resolver, for a TCP flow to the gateway's port 53; None for any other peer."""
        if peer.port != DNS_PORT or peer.address not in self.parts.settings.gateways:
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


def _initial_sequence_numbers() -> Callable[[bytes], int]:
    """RFC 6528: a clock plus a keyed hash of the conversation, so that numbers cannot be guessed from outside."""
    secret = os.urandom(16)

    def isn(key: bytes) -> int:
        offset = int.from_bytes(hashlib.blake2s(key, digest_size=4, key=secret).digest(), "big")
        return (offset + int(time.monotonic() / ISN_TICK)) & 0xFFFFFFFF

    return isn


def _kinds(forwards: Iterable[Any], settings: StackSettings) -> list[str]:
    """Kinds of sockets in the guest's namespace that loopback peers of these ports need."""
    kinds = set()
    for forward in forwards:
        name = "tcp" if forward.protocol == 6 else "udp"
        lengths = (4, 16) if forward.address is None else (len(forward.address),)
        for guest in settings.guests:
            if len(guest) in lengths:
                kinds.add(f"{name}{4 if len(guest) == 4 else 6}")
    return sorted(kinds)
