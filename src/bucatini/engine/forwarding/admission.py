"""Who may come in by a forwarded port, where the guest is, and as whom the guest sees its peers.

Policy. INGRESS: the user asked for the port, a rule about the peer's address still decides. EGRESS: the user asked for
that hole to the host, so only an explicit `--deny` of the host or of loopback closes it.

Which address the guest has is looked up for each new flow, since the guest and the host's network may change.

At a bound (the flow table's) the new peer is refused and the old are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bucatini.base.address import Endpoint
from bucatini.base.events import FlowRefused, Refusal
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS, INGRESS, Request, Verdict
from bucatini.engine.forwarding.binding import LOOPBACK, is_loopback
from bucatini.forward.translate import Translation
from bucatini.stack.settings import StackSettings

__all__ = ["Admission"]

NAMES = {6: "tcp", 17: "udp"}
MAX_VERDICTS = 1024
OUTWARD_RULES = {6: "--tcp-ns", 17: "--udp-ns"}


class Admission:
    """What listeners ask. All attributes may be replaced at any time.

    `guests` gives the guest's addresses at this moment, of one family the one to reach first; None: those of
    `settings`. `translation` None: a peer that cannot be shown is shown as the gateway.
    """

    def __init__(
        self,
        sink: Any,
        settings: StackSettings,
        decide: Callable[[Request], Verdict],
        translation: Translation | None,
        guests: Callable[[], tuple[bytes, ...]] | None,
    ) -> None:
        self.sink = sink
        self.settings = settings
        self.decide = decide
        self.translation = translation
        self.guests = guests
        self._verdicts: dict[tuple[Any, ...], Verdict] = {}
        """By what was asked of `_decided`: connections of the same few peers come by the thousand."""
        self._decided = decide

    def admit(
        self, protocol: int, direction: str, guest: Endpoint, peer: Endpoint, target: Endpoint | None = None
    ) -> str | None:
        """Policy and room for one more: the rule that lets it in; None, reported, when it is refused.

        `guest` and `peer` as reports name them; `target` is where an outward flow leads on the host.
        """
        sink = self.sink
        verdict = self._verdict(protocol, guest.port, peer.address, target)
        reason = None
        if not verdict.allow:
            reason = Refusal.POLICY
            sink.counters.values[DropReason.POLICY_DENIED] += 1
        else:
            oldest = sink.table.oldest_waiting()
            if oldest is not None:
                sink.close(oldest, "closed")
            if sink.table.full():
                sink.table.refused += 1
                sink.counters.values[DropReason.FLOW_TABLE_FULL] += 1
                reason = Refusal.TABLE_FULL
        if reason is None:
            return verdict.rule
        sink.refused(FlowRefused(NAMES[protocol], direction, guest, peer, verdict.rule, reason))
        return None

    def policy_changed(self) -> None:
        """What `decide` said before means nothing any more."""
        self._verdicts.clear()

    def still_admits(self, flow: Any) -> bool:
        """Whether policy would let in a flow of a forwarded port, of either direction, now."""
        target = flow.host if flow.direction == EGRESS else None
        return self._verdict(flow.protocol, flow.guest.port, flow.peer.address, target).allow

    def _verdict(self, protocol: int, port: int, peer: bytes, target: Endpoint | None) -> Verdict:
        """What policy says about a peer at a port of the guest, or about the target of an outward flow."""
        if self._decided is not self.decide or len(self._verdicts) >= MAX_VERDICTS:
            self._decided = self.decide
            self._verdicts.clear()
        asked = (protocol, port, peer) if target is None else (protocol, target)
        verdict = self._verdicts.get(asked)
        if verdict is None:
            if target is None:
                verdict = self.decide(Request(INGRESS, protocol, peer, port))
            else:
                verdict = self._outward(protocol, target)
            self._verdicts[asked] = verdict
        return verdict

    def _outward(self, protocol: int, target: Endpoint) -> Verdict:
        """Only an explicit rule says no, about the host under any of the addresses that mean it."""
        length = len(target.address)
        gateway = self.settings.gateway_ipv4 if length == 4 else self.settings.gateway_ipv6
        for address in (gateway, LOOPBACK[length]):
            if address is not None:
                verdict = self.decide(Request(EGRESS, protocol, address, target.port))
                if not verdict.allow and verdict.rule.startswith("--deny"):
                    return verdict
        return Verdict(True, OUTWARD_RULES[protocol])

    def known(self) -> tuple[bytes, ...]:
        """The guest's addresses at this moment."""
        return self.settings.guests if self.guests is None else self.guests()

    def guest_address(self, length: int, link_local: bool = False) -> bytes | None:
        """Where the guest is reached over a family now: by preference under an address of the peer's own scope."""
        own = [address for address in self.known() if len(address) == length]
        return next((address for address in own if _is_link_local(address) == link_local), own[0] if own else None)

    def seen_as(self, protocol: int, peer: Endpoint, port: int, length: int) -> tuple[Endpoint, Endpoint] | None:
        """The guest's endpoint and the peer's as the guest sees it, for a flow; None, counted and reported, when there
        is none to show.
        """
        known = self.known()
        visible = self._visible(peer.address, known)
        guest = None if visible is None else self.guest_address(length, _is_link_local(visible))
        if visible is not None and guest is not None:
            return Endpoint(guest, port), Endpoint(visible, peer.port)
        reason = DropReason.PEER_UNEXPECTED if visible is None else DropReason.FAMILY_OFF
        self.sink.counters.values[reason] += 1
        nowhere = Endpoint(guest or bytes(length), port)
        self.sink.refused(FlowRefused(NAMES[protocol], INGRESS, nowhere, peer, "", Refusal.LOCAL))
        return None

    def _visible(self, peer: bytes, known: tuple[bytes, ...]) -> bytes | None:
        if self.translation is not None:
            return self.translation.inbound(peer, known)
        if peer not in known and not is_loopback(peer):
            return peer
        return self.settings.gateway_ipv4 if len(peer) == 4 else self.settings.gateway_ipv6


def _is_link_local(address: bytes) -> bool:
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80
