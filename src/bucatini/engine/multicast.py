"""Multicast of one guest: what it joins is joined on the host where policy allows, so that mDNS and SSDP work.

`services.membership` knows which groups the guest is in, `engine.groups` has the host's sockets; here is the policy
between them. A group is joined if the guest may send to it. A datagram for a group reaches the guest if it may talk to
the group and hear the peer; an answer to what the guest sent to a group comes back as a datagram to its port. Neither
makes a flow.
"""

from __future__ import annotations

import socket
from typing import Any

from bucatini.base.address import Endpoint
from bucatini.base.errors import HostError
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS, INGRESS, Request
from bucatini.engine.groups import Groups
from bucatini.host.watch import default_interface
from bucatini.services.membership import Join, Memberships, MembershipSettings, read_report
from bucatini.stack.settings import StackSettings

__all__ = ["Multicast"]

NEVER = float("inf")
IGMP, UDP = 2, 17
EXPIRY = 10.0
"""Seconds between two looks at sockets that nobody uses."""


class Multicast:
    """`ingress` holds settings and policy of the moment, `addresses` is the guest's `GuestAddresses`."""

    def __init__(self, sink: Any, ingress: Any, addresses: Any, settings: StackSettings) -> None:
        self.deadline = self.armed_at = NEVER
        self._sink = sink
        self._ingress = ingress
        self._addresses = addresses
        self.memberships = Memberships(_querier(settings))
        self._heard_on: dict[int, int] | None = None
        self.groups = Groups(sink.reactor, self._admit, self._to_guest, _never, self._interface, self._answer)

    def reconfigure(self, settings: StackSettings) -> None:
        """The network is another from now on: groups are heard where the host now is."""
        self.memberships.reconfigure(_querier(settings))
        self.host_changed()

    def host_changed(self) -> None:
        """The host's interfaces or routes may be others: hear groups where the default routes lead now."""
        before, self._heard_on = self._heard_on, None
        if self.groups.listening and self._places() != before:
            self.groups.renew()

    def _places(self) -> dict[int, int]:
        """Interface index by family: the mirrored interface, else where the default route leads. Looked up once after
        the host changed and not for each group: the route table may be long.
        """
        if self._heard_on is None:
            scope = self._sink.outbound.scope
            try:
                self._heard_on = {each: scope or default_interface(each) for each in (socket.AF_INET, socket.AF_INET6)}
            except HostError:
                return {}
        return self._heard_on

    def start(self, now: float) -> None:
        """Ask the guest for its groups with the next turn."""
        self._sink.deadlines.arm(self, now)

    def report(self, frame: bytes, now: float) -> int:
        """An IGMP or MLD message of the guest. Returns a `DropReason` or 0."""
        message = read_report(frame)
        if message is None:
            return int(DropReason.ICMP_TYPE)
        reason = 0
        for change in self.memberships.report(message, now):
            if not isinstance(change, Join):
                self.groups.leave(change.group)
            elif self._may(Request(EGRESS, IGMP, change.group, 0)):
                self.groups.join(change.group)
            else:
                reason = int(DropReason.POLICY_DENIED)
        self._sink.deadlines.arm(self, max(self.memberships.deadline, now))
        return reason

    def send(self, guest: Endpoint, group: Endpoint, payload: bytes, hop_limit: int) -> int:
        """A datagram of the guest to a group, which policy allowed. 0 or errno."""
        return self.groups.send(guest.port, group, payload, self._sink.now, hop_limit)

    def due(self, now: float) -> None:
        """Forget what is over, ask what is in doubt."""
        for change in self.memberships.due(now):
            self.groups.leave(change.group)
        for frame in self.memberships.query(now):
            self._sink.transmit_frame(frame)
        self.groups.expire(now)
        self._sink.deadlines.arm(self, min(self.memberships.deadline, now + EXPIRY))

    def close(self) -> None:
        """Leave everything."""
        self.deadline = NEVER
        self.groups.close()

    def _may(self, request: Request) -> bool:
        return bool(self._ingress.decide(request).allow)

    def _admit(self, peer: Endpoint, group: Endpoint) -> bool:
        return self._may(Request(EGRESS, UDP, group.address, group.port)) and self._may(
            Request(INGRESS, UDP, peer.address, group.port)
        )

    def _answer(self, peer: Endpoint, port: int, payload: bytes) -> None:
        address = self._addresses.of(len(peer.address))
        if address is not None:
            self._to_guest(peer, Endpoint(address, port), payload)

    def _to_guest(self, peer: Endpoint, destination: Endpoint, payload: bytes) -> None:
        visible = self._ingress.settings.translation.inbound(peer.address, self._addresses.all())
        if visible is not None:
            source = Endpoint(visible, peer.port)
            self._sink.transmit_frame(self._sink.gateway.datagram(source, destination, payload))

    def _interface(self, family: int) -> int:
        return self._places().get(family, 0)


def _querier(settings: StackSettings) -> MembershipSettings:
    link = settings.router.link_local if settings.router is not None else settings.gateway_ipv6
    return MembershipSettings(
        settings.gateway_mac, settings.gateway_ipv4 if settings.ipv4 else None, link if settings.ipv6 else None
    )


def _never(_peer: Endpoint) -> bool:
    """No flow carries datagrams to groups, so none has copies to know."""
    return False
