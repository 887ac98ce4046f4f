"""Addresses that somebody else's IPv6 network gives to a guest, learned by watching it: RFC 4862, RFC 8415.

Feed every IPv6 frame that was admitted. Two kinds of address become the guest's, as long as they are valid:

* *made of an announced prefix*: a router advertisement names a /64 in which hosts make their own addresses (RFC 4862
  5.5.3). The one that the guest's MAC address makes (RFC 4291 appendix A) cannot be another's, whoever else is there;
  any other can, so the guest does not have it. Of a lifetime that shrinks, hosts believe no more than two hours a
  time (5.5.3 e), and so does this.
* *leased*: an address in a REPLY to what this guest asked. Its own RELEASE and DECLINE end it at once.

Both are believed only from an address that the binding names as a gateway, and a REPLY only when this guest asked for
it not long before, under the same client identifier. The resolvers that either names are the guest's too. What a guest
might do to the server's lease and not to ours is kept from it as `snoop` does: nothing is given back while an answer is
awaited, a request for a shorter life shortens it here at once, associations that servers may read in another way do not
pass.

A server gives as many addresses as a guest invents names for itself: at most `MAXIMUM_IDENTITIES` identity associations
(RFC 8415 section 12) are let pass in ten minutes. The binding has a bound of its own for what is learned. And it gives
the address of another guest to whom says that one's name: a DUID that is made of a MAC address (section 11.2, 11.4)
must be made of the guest's own. Other DUIDs are anybody's who knows them.

Does not: take delegated prefixes (IA_PD), or addresses that guests choose at random (RFC 7217, RFC 8981): that nobody
else has one is known to who has seen all of the link (RFC 6620), and a port of an isolated bridge has not.
"""

from __future__ import annotations

import math

from bucatini.base.reasons import DropReason
from bucatini.guard.asked import DECLINED_SECONDS, Awaited, Identities
from bucatini.guard.binding import Binding
from bucatini.guard.frame import DHCPV6_REQUEST, ROUTER, SERVER, Frame
from bucatini.wire.dhcpv6 import (
    ADVERTISE,
    CLIENT_PORT,
    DECLINE,
    INFINITE,
    RELEASE,
    REPLY,
    SERVER_PORT,
    SOLICIT,
    Dhcp6Message,
    Dhcp6Option,
    parse_association,
    parse_dhcpv6,
)
from bucatini.wire.ndp import RDNSS, Prefix, RouterAdvertisement, parse_ndp

__all__ = ["Snoop6"]

MAXIMUM_RESOLVERS = 8
"""Believed of one message."""
TWO_HOURS = 7200.0

ASSOCIATIONS = frozenset((Dhcp6Option.IA_NA, Dhcp6Option.IA_TA, Dhcp6Option.IA_PD))
MAC_HEADS = {bytes((0, 1, 0, 1)): 8, bytes((0, 3, 0, 1)): 4}
"""DUIDs of an Ethernet address, with a time and without: how they begin, and where the address does."""

DHCP_SPOOF = int(DropReason.DHCP_SPOOF)
DHCP_STARVATION = int(DropReason.DHCP_STARVATION)


class Snoop6:
    """Watches one guest's network, and is the only one that writes its binding's learned addresses."""

    __slots__ = ("_announced", "_associations", "_awaited", "_declined", "_replied", "binding")

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self._awaited = Awaited()
        """By number and client."""
        self._associations = Identities()
        """Kind, number and client of each identity association."""
        self._declined = Identities()
        """Addresses."""
        self._announced: tuple[bytes, ...] = ()
        self._replied: tuple[bytes, ...] = ()
        """Resolvers: of the last router advertisement, of the last REPLY."""

    def from_guest(self, frame: Frame, now: float) -> int:
        """An admitted frame of the guest. Returns 0, or the reason why it must not pass after all."""
        if frame.topic != DHCPV6_REQUEST:
            return 0
        request = parse_dhcpv6(frame.datagram()) if frame.udp_end else None
        if request is None or sum(code == Dhcp6Option.CLIENT_IDENTIFIER for code, _ in request.options) > 1:
            return DHCP_SPOOF
        client = request.first(Dhcp6Option.CLIENT_IDENTIFIER) or b""
        if client[:4] in MAC_HEADS and client[MAC_HEADS[client[:4]] :] != self.binding.mac:
            return DHCP_SPOOF
        for code, data in request.options:
            if code in ASSOCIATIONS and not self._associations.knows(bytes((code,)) + data[:4] + client, now):
                return DHCP_STARVATION
        leases = _leases(request)
        if leases is None:
            return DHCP_SPOOF
        if request.kind in (RELEASE, DECLINE):
            return self._give_back(request.kind, leases, now)
        # A SOLICIT is answered with an ADVERTISE, which gives nothing, unless it says otherwise (RFC 8415 21.14).
        is_answered = request.kind != SOLICIT or request.first(Dhcp6Option.RAPID_COMMIT) is not None
        if is_answered and not self._awaited.begin((request.transaction, client), now):
            return DHCP_STARVATION
        for address, valid in leases:
            if valid and is_answered:  # 0: the client does not mind
                self.binding.shorten_learned(address, _seconds(valid), now)
        return 0

    def to_guest(self, frame: Frame, now: float) -> None:
        """An admitted frame of the host's side, which may be an answer or an advertisement."""
        if frame.topic not in (ROUTER, SERVER) or frame.copy(frame.ip.source_at, 16) not in self.binding.gateways:
            return
        if frame.topic == ROUTER:
            self._hear_router(frame, now)
        elif frame.udp_end and frame.source_port == SERVER_PORT and frame.destination_port == CLIENT_PORT:
            self._hear_server(frame, now)

    # -- routers

    def _hear_router(self, frame: Frame, now: float) -> None:
        ip = frame.ip
        if ip.hop_limit != 255 or ip.fragment_header_at >= 0:  # RFC 4861 6.1.2, RFC 6980
            return
        heard = parse_ndp(frame.buf, ip.payload_at, ip.end)
        if not isinstance(heard, RouterAdvertisement):
            return
        for prefix in heard.prefixes:
            if prefix.autonomous and prefix.length == 64:
                self._take_prefix(prefix, now)
        options = [each.body for each in heard.others if each.kind == RDNSS and any(each.body[2:6])]
        if options:
            self._announced = _addresses(b"".join(body[6:] for body in options))
            self._name_resolvers()

    def _take_prefix(self, prefix: Prefix, now: float) -> None:
        """RFC 4862 5.5.3 d and e."""
        address = prefix.prefix[:8] + self.binding.link_local[8:]
        left = self.binding.until_of(address) - now
        valid = _seconds(prefix.valid)
        if valid <= TWO_HOURS and valid < left:
            valid = min(left, TWO_HOURS)
        if valid > 0:
            self.binding.learn(address, now + valid, now)

    # -- servers

    def _give_back(self, kind: int, leases: list[tuple[bytes, int]], now: float) -> int:
        """Addresses that the guest has, each by name."""
        if not leases or self._awaited.has_any(now):
            return DHCP_SPOOF
        if not all(now < self.binding.until_of(address) for address, _ in leases):
            return DHCP_SPOOF
        if kind == DECLINE and not all(self._declined.knows(address, now, DECLINED_SECONDS) for address, _ in leases):
            return DHCP_STARVATION
        for address, _ in leases:
            self.binding.unlearn(address)
        return 0

    def _hear_server(self, frame: Frame, now: float) -> None:
        answer = parse_dhcpv6(frame.datagram())
        if answer is None or answer.kind not in (ADVERTISE, REPLY):
            return
        transaction = answer.transaction, answer.first(Dhcp6Option.CLIENT_IDENTIFIER) or b""
        if answer.kind == ADVERTISE:  # to a SOLICIT that would have had a REPLY
            self._awaited.forget(transaction)
        if not self._awaited.has(transaction, now):
            return
        self._awaited.answered(transaction)
        for address, valid in _leases(answer) or ():
            if valid:
                self.binding.learn(address, now + max(0.0, _seconds(valid) - self.binding.margin), now)
            else:
                self.binding.unlearn(address)
        resolvers = answer.first(Dhcp6Option.DNS)
        if resolvers:
            self._replied = _addresses(resolvers)
            self._name_resolvers()

    def _name_resolvers(self) -> None:
        self.binding.name_resolvers((*self._announced, *self._replied))


def _leases(message: Dhcp6Message) -> list[tuple[bytes, int]] | None:
    """Addresses in the identity associations of a message, with how long they are valid, seconds. None when one cannot
    be read to its end.
    """
    found = []
    for code, data in message.options:
        if code not in ASSOCIATIONS:
            continue
        association = parse_association(code, data)
        if association is None:
            return None
        for kind, body in association.options:
            if kind != Dhcp6Option.IA_ADDRESS:
                continue
            if len(body) < 24:
                return None
            found.append((body[:16], int.from_bytes(body[20:24], "big")))
    return found


def _addresses(data: bytes) -> tuple[bytes, ...]:
    whole = [data[at : at + 16] for at in range(0, len(data) - 15, 16)]
    return tuple(whole[:MAXIMUM_RESOLVERS])


def _seconds(lifetime: int) -> float:
    return math.inf if lifetime == INFINITE else float(lifetime)
