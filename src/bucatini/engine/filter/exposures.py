"""`--expose`: ports of the host that lead to the guest for as long as its lease lasts.

Each port is reserved by a socket of ours that is bound and never listens: a port that somebody else has is noticed, and
nobody can have ours meanwhile. The kernel does the rest (`host.nftables`). What is wrong with one port costs that port
only: it is tried again every `RETRY` seconds, for as long as we live. Ports below 1024 are ours before privileges are
given up, or never.

`look` is asked at the end of every turn, busy or not, so a lease that ends, moves or begins is followed at once.
Changes that come faster than `PAUSE` are waited for, as a guest can cause them; the end of a lease never waits.

Does not: UDP, IPv6, or connections to the host's loopback.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from bucatini.base.address import text
from bucatini.base.errors import HostError
from bucatini.guard.binding import Binding, LeaseState

__all__ = ["PAUSE", "RETRY", "Exposures", "Translation"]

RETRY = 3.0
PAUSE = 0.1
"""Seconds."""
NEVER = float("inf")


class Translation(Protocol):
    """Who sends connections elsewhere."""

    def expose(self, wanted: Mapping[int, tuple[bytes, int]]) -> None:
        """From ports of the host to address and port; replaces all there was. Raises HostError."""


class Exposures:
    """`ports` are pairs, of the host and of the guest. `fixed` is where they lead while there is no lease; None:
    nowhere. `say` hears what begins and ends, `warn` what cannot be.
    """

    def __init__(
        self,
        ports: Sequence[tuple[int, int]],
        table: Translation,
        binding: Binding,
        fixed: bytes | None,
        say: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._ports = tuple(ports)
        self._table = table
        self._binding = binding
        self._fixed = fixed
        self.say = say
        self.warn = warn
        self._reserved: dict[int, socket.socket] = {}
        self._refused: dict[int, str] = {}
        """Ports that cannot be had, and what was said of it."""
        self._exposed: dict[int, tuple[bytes, int]] = {}
        self._revision = -1
        self._due = NEVER
        self._rest = -NEVER
        """Until when only ends of leases are followed."""
        self._reserve()

    @property
    def refused(self) -> Mapping[int, str]:
        """Ports of the host that cannot be had now, and why."""
        return self._refused

    def look(self, now: float) -> float:
        """Follow the lease. The instant by which to look again, if not before."""
        if self._binding.revision == self._revision and now < self._due:
            return self._due
        self._reserve()
        wanted = self._wanted(now)
        if now < self._rest:
            wanted = {port: to for port, to in wanted.items() if self._exposed.get(port) == to}
        self._due = self._next(now)
        if wanted != self._exposed:
            self._change(wanted, now)
        self._revision = self._binding.revision
        return self._due

    def _wanted(self, now: float) -> dict[int, tuple[bytes, int]]:
        is_leased = self._binding.state(now) == LeaseState.LEASED
        target = self._binding.leased if is_leased else self._fixed
        if target is None:
            return {}
        return {external: (target, internal) for external, internal in self._ports if external in self._reserved}

    def _next(self, now: float) -> float:
        due = self._binding.until if self._binding.state(now) == LeaseState.LEASED else NEVER
        if len(self._reserved) < len(self._ports):
            due = min(due, now + RETRY)
        return min(due, self._rest) if now < self._rest else due

    def _change(self, wanted: dict[int, tuple[bytes, int]], now: float) -> None:
        self._rest = now + PAUSE
        try:
            self._table.expose(wanted)
        except HostError as error:
            self.warn(f"--expose: {error}; next try in {RETRY:.0f} s")
            self._due = now + RETRY
            return
        for port, (address, internal) in wanted.items():
            if self._exposed.get(port) != (address, internal):
                self.say(f"--expose {port}:{internal}: leads to {text(address)}")
        for port in self._exposed.keys() - wanted.keys():
            self.say(f"--expose {port}:{self._exposed[port][1]}: leads nowhere")
        self._exposed = wanted

    def _reserve(self) -> None:
        for external, internal in self._ports:
            if external not in self._reserved:
                self._reserve_one(external, internal)

    def _reserve_one(self, external: int, internal: int) -> None:
        try:
            self._reserved[external] = _bound(external)
            self._refused.pop(external, None)
        except OSError as error:
            why = error.strerror or str(error)
            if self._refused.get(external) != why:
                self._refused[external] = why
                self.warn(f"--expose {external}:{internal}: cannot have port {external} of this host: {why}; trying on")

    def close(self) -> None:
        """Give the ports back. Idempotent."""
        for sock in self._reserved.values():
            sock.close()
        self._reserved.clear()


def _bound(port: int) -> socket.socket:
    """A port is free though old connections of it still wait (TIME-WAIT), and is not, once it is ours, for whoever
    says the same.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        sock.close()
        raise
    return sock
