"""Softnet's rules as the policy of a translating engine: `decide`, for each flow that wants to exist.

How one address is judged, egress
    1. The rules in force at this moment (`live_policy`), by `rules.RuleTable`. Two things an Allow opens only when it
       means them: this host's gateway (`@host`, or the single address) and loopback (127.0.0.0/8 or a part of it, ::1).
       Behind the gateway is the host's own loopback, which is more than Softnet's gateway was, so a wide CIDR that
       happens to hold it says nothing about it.
    2. Where no rule decides, Softnet's defaults: public addresses of both families, DNS at the gateway, ping of the
       gateway. Groups are not public here: they lead to the host's networks, not to a bridge of the guest's own.
    3. A guest of the type `host` reaches the gateway and nothing else, whatever the rules allow.

Ingress is an exposed port: allowed, unless a rule about that direction blocks the peer. The host's own loopback comes
in as the gateway, so `in @host` is about it.

Every one of an address's `readings` must be allowed. What a translator's prefix carries is never the gateway: it is an
address of the network behind the translator. Never allowed: the unspecified address, and port 0 of TCP and UDP.

Does not: follow flows. The engine does, so replies need no rule; and since a request says at which port of the guest a
peer asks, not from which of its own, a rule with ports for `in` is about no exposed port.
"""

from __future__ import annotations

from collections.abc import Iterable

from bucatini.base.verdict import INGRESS, NO_ADDRESS, NO_PORT, Request, Verdict
from bucatini.guard.live_policy import LivePolicy
from bucatini.guard.reach import is_public, readings
from bucatini.guard.rules import Rule

__all__ = ["RulePolicy"]

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
DNS_PORT = 53

EXPOSED = Verdict(True, "--expose")
PUBLIC = Verdict(True, "softnet: public")
DNS = Verdict(True, "softnet: dns")
PING = Verdict(True, "softnet: ping of the gateway")
GATEWAY = Verdict(False, "softnet: the gateway is this host")
NOT_PUBLIC = Verdict(False, "softnet: not public")
HOST_ONLY = Verdict(False, "softnet host: not the gateway")


class RulePolicy:
    """The policy of one guest. `gateways` are the packed addresses that mean the host, `dns` those of them at whose
    port 53 names are answered. `host_only`: the guest's network is of the type `host`.
    """

    __slots__ = ("_dns", "_gateways", "_host_only", "_live")

    def __init__(
        self, live: LivePolicy, gateways: Iterable[bytes] = (), dns: Iterable[bytes] = (), *, host_only: bool = False
    ) -> None:
        self._live = live
        self._gateways = tuple(gateways)
        self._dns = frozenset(dns)
        self._host_only = host_only

    def decide(self, request: Request) -> Verdict:
        """May this flow exist, and which rule says so. Total: any address of 4 or 16 bytes gets an answer."""
        if request.port == 0 and request.protocol in (TCP, UDP):
            return NO_PORT
        if not any(request.address):
            return NO_ADDRESS
        if request.direction == INGRESS:
            verdicts = [self._judge_in(each) for each in readings(self._shown(request.address))]
        else:
            first, *carried = readings(request.address)
            verdicts = [self._judge_out(request, first, first in self._gateways)]
            verdicts += [self._judge_out(request, each, False) for each in carried]
        return next((verdict for verdict in verdicts if not verdict.allow), verdicts[0])

    def _judge_out(self, request: Request, address: bytes, is_gateway: bool) -> Verdict:
        if self._host_only and not is_gateway:
            return HOST_ONLY
        rule = self._live.rules.find(request.direction, address, request.port)
        if rule is not None and not _is_too_wide(rule, address, is_gateway):
            return Verdict(rule.allow, str(rule))
        if is_gateway:
            if request.protocol in (ICMP, ICMPV6):
                return PING
            return DNS if request.port == DNS_PORT and address in self._dns else GATEWAY
        return PUBLIC if is_public(address) else NOT_PUBLIC

    def _judge_in(self, address: bytes) -> Verdict:
        rule = self._live.rules.find(INGRESS, address)
        return EXPOSED if rule is None else Verdict(rule.allow, str(rule))

    def _shown(self, address: bytes) -> bytes:
        """As whom the guest sees a peer."""
        if not _is_loopback(address):
            return address
        return next((each for each in self._gateways if len(each) == len(address)), address)


def _is_too_wide(rule: Rule, address: bytes, is_gateway: bool) -> bool:
    """Whether an Allow holds the address without meaning it."""
    prefix = rule.pattern.prefix
    if not rule.allow:
        return False
    if is_gateway:
        return prefix is not None and prefix.length < 8 * len(address)
    if _is_loopback(address):
        return prefix is None or prefix.length < (8 if len(address) == 4 else 128)
    return prefix is None


def _is_loopback(address: bytes) -> bool:
    """127.0.0.0/8 (RFC 1122 section 3.2.1.3) or ::1 (RFC 4291 section 2.5.3)."""
    return address[0] == 127 if len(address) == 4 else address == bytes(15) + b"\x01"
