"""Automatic forwarding: once a second, what is bound on one side is listened for on the other (pasta's `auto`).

Two namespaces are looked at as far as asked for: the guest's for published ports, the host's for ports of the guest's
loopback. `forward.auto` decides what to open and close from what is bound there, leaving out what we ourselves listen
on there, so that nothing leads back to where it came from. A port that cannot be had is tried again 5 seconds later.

A scan is read a bounded part at a time (`host.port_scan`); where a namespace holds very many sockets the next turns
read on, and the next scan is a second after the end of the last. A scan that fails is counted in `failures`, and what
is open stays open.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from bucatini.base.errors import ConfigError, HostError
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.forward.auto import DEFAULT_LIMIT, plan
from bucatini.forward.portspec import Forward
from bucatini.host.port_scan import BoundPorts, PortScan

__all__ = ["INTERVAL", "Automatic"]

INTERVAL = 1.0
"""Seconds between scans."""
RETRY = 5.0
"""Seconds until a port that could not be had is tried again."""
TCP, UDP = 6, 17
NEVER = float("inf")
OPPOSITE = {INGRESS: EGRESS, EGRESS: INGRESS}


class Automatic:
    """Both directions of one guest. `publisher` is a `Publisher`; `scan_host` and `scan_guest` open the scans and raise
    HostError.
    """

    def __init__(self, publisher: Any, scan_host: Callable[[], PortScan], scan_guest: Callable[[], PortScan]) -> None:
        self._publisher = publisher
        self._openers = {INGRESS: scan_guest, EGRESS: scan_host}
        self._sides: dict[str, _Side] = {}
        self._started = False
        self.failures = 0
        """Scans that could not be read."""
        self.dropped = 0
        """Bound ports that were not forwarded the last time, since there were too many."""
        self.deadline = self.armed_at = NEVER

    def enable(self, protocol: int, direction: str) -> None:
        """Forward bound ports of `protocol` in `direction` too. Raises HostError when they cannot be listed."""
        side = self._sides.get(direction)
        if side is None:
            side = _Side(self._publisher, direction, self._openers[direction]())
            self._sides[direction] = side
        side.open.setdefault(protocol, set())

    def disable(self, protocol: int, direction: str) -> bool:
        """Follow bound ports no longer, and close what was opened for them. False when they were not followed."""
        side = self._sides.get(direction)
        if side is None or protocol not in side.open:
            return False
        side.leave(protocol)
        if not side.open:
            side.scan.close()
            del self._sides[direction]
        return True

    def holds(self, forward: Forward) -> bool:
        """Whether `forward` was opened here."""
        side = self._sides.get(forward.direction)
        return side is not None and forward.optional and forward.host_port in side.open.get(forward.protocol, ())

    def start(self) -> None:
        """Scan at once, and then every second."""
        self._started = True
        self._publisher.sink.deadlines.arm(self, self._publisher.sink.now)

    def due(self, now: float) -> None:
        """It is time for a scan, or to read on in one."""
        complete = True
        for side in self._sides.values():
            try:
                complete &= side.advance()
            except HostError:
                self.failures += 1
        self.dropped = sum(side.dropped for side in self._sides.values())
        if self._started and self._sides:
            self._publisher.sink.deadlines.arm(self, now + (INTERVAL if complete else 0.0))

    def close(self) -> None:
        """Look no more; what is open stays the publisher's. Idempotent."""
        self._started = False
        self.deadline = NEVER
        for side in self._sides.values():
            side.scan.close()
        self._sides.clear()


class _Side:
    """One direction: what is bound over there, and what is open here for it."""

    def __init__(self, publisher: Any, direction: str, scan: PortScan) -> None:
        self.publisher = publisher
        self.direction = direction
        self.scan = scan
        self.open: dict[int, set[int]] = {}
        """Ports that are open automatically, by protocol; a protocol that is not on has no entry."""
        self.dropped = 0
        self._failed: dict[tuple[int, int], float] = {}
        """Protocol and port that could not be had, and when to try again."""

    def advance(self) -> bool:
        """Begin a scan or read on in one; True when it is complete and applied. Raises HostError."""
        self.scan.begin()
        found = self.scan.advance()
        if found is not None:
            self.apply(found)
        return found is not None

    def apply(self, found: BoundPorts) -> None:
        """Do what follows from `found`."""
        publisher, there = self.publisher, OPPOSITE[self.direction]
        now = publisher.sink.now
        self._failed = {place: until for place, until in self._failed.items() if until > now}
        open_tcp, open_udp = self.open.get(TCP, set()), self.open.get(UDP, set())
        answer = plan(
            tcp_bound=found.tcp,
            udp_bound=found.udp,
            ours_tcp=publisher.ports(TCP, there),
            ours_udp=publisher.ports(UDP, there),
            open_tcp=frozenset(open_tcp),
            open_udp=frozenset(open_udp),
            tcp=TCP in self.open,
            udp=UDP in self.open,
            limit=DEFAULT_LIMIT,
        )
        self.dropped = answer.dropped
        for protocol, ports, closing, opening in (
            (TCP, open_tcp, answer.close_tcp, answer.open_tcp),
            (UDP, open_udp, answer.close_udp, answer.open_udp),
        ):
            for port in closing:
                publisher.remove(self._forward(protocol, port))
                ports.discard(port)
            for port in opening:
                if (protocol, port) not in self._failed and self._open(protocol, port):
                    ports.add(port)

    def leave(self, protocol: int) -> None:
        """Close what is open for `protocol`."""
        for port in self.open.pop(protocol):
            self.publisher.remove(self._forward(protocol, port))

    def _open(self, protocol: int, port: int) -> bool:
        opened = False
        with contextlib.suppress(ConfigError, HostError):  # no descriptors are left
            opened = self.publisher.open(self._forward(protocol, port), "auto")
        if not opened:
            self._failed[protocol, port] = self.publisher.sink.now + RETRY
        return opened

    def _forward(self, protocol: int, port: int) -> Forward:
        return Forward(protocol, None, port, port, self.direction, "", optional=True)
