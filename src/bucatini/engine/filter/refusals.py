"""Tells observers whom policy keeps the guest from, and from whom it keeps others, never more often than they can hear.

A destination is a protocol, a direction, and address and port of who would have answered. The first packet to it is
told at once; those of the next `QUIET` seconds are only counted, and told together with the next one after, or at the
end. At most `DESTINATIONS` are known at a time: the one told longest ago makes room if it was told more than `QUIET`
ago, and else the packet is not told here. So a guest that scans costs a look-up a packet, and no memory.

Does not: tell of packets without ports that are no echo, nor know flows: a packet that its sender repeats counts twice.
"""

from __future__ import annotations

from collections.abc import Callable

from bucatini.base.address import Endpoint
from bucatini.base.events import ICMP, TCP, UDP, FlowRefused, Refusal
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import INGRESS
from bucatini.engine.drop_events import QUIET
from bucatini.guard.frame import PLAIN, Frame
from bucatini.guard.reach import readings
from bucatini.guard.rules import RuleTable

__all__ = ["DESTINATIONS", "NOT_OPEN", "Refusals"]

DESTINATIONS = 64
NOT_OPEN = "filter: not public"
"""In place of a rule, where none decided."""
PROTOCOLS = {6: TCP, 17: UDP}
ECHO = {(4, 1): (8, 0), (6, 58): (128, 129)}
"""Request and reply, by IP version and protocol: RFC 792, RFC 4443 section 4."""
REFUSALS = {
    int(DropReason.POLICY_DENIED): Refusal.POLICY,
    int(DropReason.FLOW_TABLE_FULL): Refusal.TABLE_FULL,
}

Destination = tuple[str, str, bytes, int]


class _Told:
    """What was last told of a destination, and how many packets came since."""

    __slots__ = ("event", "untold", "when")

    def __init__(self, event: FlowRefused, when: float) -> None:
        self.event = event
        self.when = when
        self.untold = 0


class Refusals:
    """`tell` hears each event and its instant."""

    def __init__(self, tell: Callable[[FlowRefused, float], None]) -> None:
        self._tell = tell
        self._told: dict[Destination, _Told] = {}
        """Those told longest ago first."""

    def refused(self, reason: int, direction: str, frame: Frame, rules: RuleTable, now: float) -> bool:
        """The frame parsed last ended for `reason`; whether that is told, or counted, here."""
        refusal = REFUSALS.get(reason)
        protocol = None if refusal is None or frame.topic != PLAIN or frame.bad else _protocol(frame)
        if refusal is None or protocol is None:
            return False
        source, destination = _ends(frame)
        guest, peer = (destination, source) if direction == INGRESS else (source, destination)
        key = protocol, direction, peer.address, guest.port if direction == INGRESS else peer.port
        known = self._told.get(key)
        if known is not None and now < known.when + QUIET:
            known.untold += 1
            return True
        if known is None and not self._has_room(now):
            return False
        rule = _rule(rules, direction, peer) if refusal is Refusal.POLICY else ""
        times = 1 if known is None else known.untold + 1
        self._told.pop(key, None)
        self._told[key] = told = _Told(FlowRefused(protocol, direction, guest, peer, rule, refusal, times), now)
        self._tell(told.event, now)
        return True

    def finish(self, now: float) -> None:
        """Tell what was only counted. Idempotent."""
        for told in self._told.values():
            self._tell_rest(told, now)
        self._told.clear()

    def _has_room(self, now: float) -> bool:
        if len(self._told) < DESTINATIONS:
            return True
        oldest = next(iter(self._told))
        if now < self._told[oldest].when + QUIET:
            return False
        self._tell_rest(self._told.pop(oldest), now)
        return True

    def _tell_rest(self, told: _Told, now: float) -> None:
        if told.untold:
            self._tell(told.event._replace(times=told.untold), now)


def _protocol(frame: Frame) -> str | None:
    """What a flow of this packet would be; None when it cannot be of any."""
    ip = frame.ip
    if ip.fragment_offset:
        return None
    kinds = ECHO.get((ip.version, frame.protocol))
    if kinds is not None and not ip.fragment:
        return ICMP if frame.buf[ip.payload_at] in kinds else None
    return PROTOCOLS.get(frame.protocol)


def _ends(frame: Frame) -> tuple[Endpoint, Endpoint]:
    ip = frame.ip
    source, destination = (frame.copy(at, ip.address_length) for at in (ip.source_at, ip.destination_at))
    return Endpoint(source, frame.source_port), Endpoint(destination, frame.destination_port)


def _rule(rules: RuleTable, direction: str, peer: Endpoint) -> str:
    found = (rules.find(direction, address, peer.port) for address in readings(peer.address))
    denying = next((rule for rule in found if rule is not None and not rule.allow), None)
    return NOT_OPEN if denying is None else str(denying)
