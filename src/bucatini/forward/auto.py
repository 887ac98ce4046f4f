"""Automatic forwarding: which ports to open and which to close so that what is bound on the far side can be reached.

A direction listens on its near side for what is bound on its far side. Host and guest are each other's far side, and
both directions may be automatic, so what is bound there includes listeners of our own. Forwarding one of those would
lead back to where it came from, so `ours_*`, what we listen on there for the opposite direction, is left out. Of a TCP
listener of ours the number is left out for UDP too: programs that keep a datagram port beside a stream port of the
same number would otherwise be joined in a circle. For such programs (iperf3) UDP follows TCP: the number of every bound
TCP port counts as a bound UDP port.

The look at the far side and `ours_*` must be of the same moment, and so should be both directions' plans. Should two
directions that were planned apart still come to listen on one number, each sees the other's listener in its next plan
and closes its own.

At `limit` ports of one protocol those that are open stay, then the lowest numbers come first; the rest is counted.

Does not: look at anything, open anything, or know whether a port is free; one that could not be opened is planned again
until the caller puts it into `excluded`.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DEFAULT_LIMIT", "Plan", "plan"]

DEFAULT_LIMIT = 4096
"""Ports of one protocol in one direction. Each is a socket or two."""


class Plan(NamedTuple):
    """What to do, in port order. Closing first frees descriptors for opening."""

    open_tcp: tuple[int, ...] = ()
    close_tcp: tuple[int, ...] = ()
    open_udp: tuple[int, ...] = ()
    close_udp: tuple[int, ...] = ()
    dropped: int = 0
    """Ports that are bound and not forwarded because of the limit, both protocols."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.open_tcp or self.close_tcp or self.open_udp or self.close_udp)


def plan(
    *,
    tcp_bound: frozenset[int],
    udp_bound: frozenset[int],
    ours_tcp: frozenset[int],
    ours_udp: frozenset[int],
    open_tcp: frozenset[int],
    open_udp: frozenset[int],
    excluded: frozenset[int] = frozenset(),
    tcp: bool,
    udp: bool,
    limit: int = DEFAULT_LIMIT,
) -> Plan:
    """The steps from what is open to what should be.

    `*_bound` are the ports bound on the far side (TCP: listening), ours included. `ours_*` are our own listeners there,
    automatic or not. `open_*` are the automatic ports of this direction that are open now. `excluded` is never opened.
    `tcp` and `udp` say whether the protocol is automatic in this direction; UDP follows TCP ports also where TCP itself
    is not.
    """
    foreign_tcp = tcp_bound - ours_tcp - excluded
    foreign_udp = (udp_bound | tcp_bound) - ours_udp - ours_tcp - excluded
    wanted_tcp, dropped_tcp = _bounded(foreign_tcp if tcp else frozenset(), open_tcp, limit)
    wanted_udp, dropped_udp = _bounded(foreign_udp if udp else frozenset(), open_udp, limit)
    return Plan(
        tuple(sorted(wanted_tcp - open_tcp)),
        tuple(sorted(open_tcp - wanted_tcp)),
        tuple(sorted(wanted_udp - open_udp)),
        tuple(sorted(open_udp - wanted_udp)),
        dropped_tcp + dropped_udp,
    )


def _bounded(wanted: frozenset[int], already: frozenset[int], limit: int) -> tuple[frozenset[int], int]:
    """At most `limit` of `wanted`, those open `already` before others; and how many that leaves out."""
    if len(wanted) <= limit:
        return wanted, 0
    ranked = sorted(wanted, key=lambda port: (port not in already, port))
    return frozenset(ranked[:limit]), len(wanted) - limit
