"""Leases of somebody else's DHCP server, learned by watching it answer: RFC 2131 sections 3, 4.3 and 4.4.

Feed every frame that was admitted: `from_guest` for what the guest asks, `to_guest` for what it is told. An ACK with a
lease time becomes the binding's lease, whole; a NAK, and the guest's own RELEASE or DECLINE, end it at once, so that a
guest cannot go on using what the server may give to another. Everything else (OFFER, an ACK to INFORM, which has no
lease time) changes nothing. Renewal is one more ACK; expiry is the binding's.

An answer counts when all of this holds: it comes from a server that the binding names, and says so itself where it says
anything (option 54); it is for this client's hardware address, whether it was sent to its MAC or to all (RFC 2131 4.1:
clients that cannot take unicast yet); and this guest asked for it not long before. Each request is answered once, so a
neighbour that can forge the server's address still cannot make a lease unasked, nor stretch one.

A guest may want us to believe in a lease that the server has ended: what it can do about the server's, it must not be
able to do unseen. Requests are let through in an order that leaves no doubt: no RELEASE or DECLINE while an answer is
awaited, whose ACK would bind again what was given back; no more transactions at a time than are remembered; about one
address, the leased one. An ACK need not come past us (sent to an address for which the guest answers no ARP), so a
request for a shorter lease shortens it here at once. And DECLINE, which puts an address out of use, is let pass for the
leased address only, and for few of them.

A server that goes by client identifiers (RFC 4361) gives one guest as many leases as it invents names. At most
`MAXIMUM_IDENTITIES` are let pass in the time of a lease.
Such a server also takes the lease from whom it was given to, when another guest says the same name. An identifier that
is a MAC address (RFC 2132 section 9.14) must be the guest's own; a DUID is anybody's who knows it, and only a server
that goes by MAC addresses alone (dnsmasq: `dhcp-ignore-clid`) is safe from that.

Servers do not agree about an option that comes twice: RFC 3396 puts the parts together, dnsmasq and udhcpd believe the
first; nor about one of another length than it has. A request that says twice what decides it, or says it so, is two
requests, one for us and one for the server, and does not pass; neither does one that goes on in the fields for file
names, which no client needs, or that claims to have been relayed (RFC 3046, RFC 3011).

`faithful` learns as Softnet 0.19.0 does, for better or worse: only from what was sent to the guest's MAC, from the
gateway's address, without regard to transaction, hardware address or server, and nothing from the guest.

Does not decide what passes, except for identities, and has no clock. IPv6 is `snoop6`'s.
"""

from __future__ import annotations

from enum import IntEnum

from bucatini.base.reasons import DropReason
from bucatini.guard.asked import DECLINED_SECONDS, Awaited, Identities
from bucatini.guard.binding import Binding
from bucatini.guard.frame import DHCP_REQUEST, IPV4, SERVER, Frame
from bucatini.wire.dhcp import (
    ACK,
    BOOTREPLY,
    CLIENT_PORT,
    DECLINE,
    DISCOVER,
    FIXED_LENGTH,
    NAK,
    OFFER,
    RELEASE,
    REQUEST,
    SERVER_PORT,
    DhcpMessage,
    DhcpOption,
    parse_dhcp,
)

__all__ = ["Change", "Snoop"]

ETHERNET = b"\x01"
"""Type of a client identifier that is a MAC address."""
PAD, OVERLOAD, END = 0, 52, 255
RELAY_INFORMATION, SUBNET_SELECTION = 82, 118
NOT_OF_CLIENTS = frozenset((OVERLOAD, RELAY_INFORMATION, SUBNET_SELECTION))
DECISIVE = {
    DhcpOption.REQUESTED_ADDRESS: 4,
    DhcpOption.LEASE_TIME: 4,
    DhcpOption.MESSAGE_TYPE: 1,
    DhcpOption.SERVER_IDENTIFIER: 4,
    DhcpOption.CLIENT_IDENTIFIER: None,
    DhcpOption.RAPID_COMMIT: 0,
}
"""What servers go by, and how many bytes it has; None: any number."""

DHCP_SPOOF = int(DropReason.DHCP_SPOOF)
DHCP_STARVATION = int(DropReason.DHCP_STARVATION)


class Change(IntEnum):
    """What an answer did to the lease."""

    NONE = 0
    LEASED = 1
    """A new lease, or another address."""
    RENEWED = 2
    """The same address, until later."""
    WITHDRAWN = 3
    """NAK."""


class Snoop:
    """Watches one guest's DHCP, and is the only one that writes its binding's lease."""

    __slots__ = ("_awaited", "_declined", "_identities", "_lease_seconds", "binding", "faithful")

    def __init__(self, binding: Binding, faithful: bool = False) -> None:
        self.binding = binding
        self.faithful = faithful
        self._awaited = Awaited()
        """By number, and whether a DISCOVER asked for the ACK."""
        self._identities = Identities()
        """Client identifiers seen."""
        self._declined = Identities()
        """Addresses."""
        self._lease_seconds = 0.0

    def from_guest(self, frame: Frame, now: float) -> int:
        """An admitted frame of the guest. Returns 0, or the reason why it must not pass after all."""
        if self.faithful or frame.topic != DHCP_REQUEST:
            return 0
        data = frame.datagram()
        request = parse_dhcp(data)
        if request is None or (request.options and _is_ambiguous(data)):
            return DHCP_SPOOF
        kind = _kind(request)
        identity = request.options.get(DhcpOption.CLIENT_IDENTIFIER, b"")
        if len(identity) == 7 and identity[:1] == ETHERNET and identity[1:] != self.binding.mac:
            return DHCP_SPOOF
        if kind in (RELEASE, DECLINE):
            return self._give_back(request, kind, now)
        if not self._is_about_itself(request, now):
            return DHCP_SPOOF
        if not self._identities.knows(identity, now, self._lease_seconds):
            return DHCP_STARVATION
        # RFC 4039: an ACK without a REQUEST.
        if kind == REQUEST or (kind == DISCOVER and DhcpOption.RAPID_COMMIT in request.options):
            return self._ask(request, kind == DISCOVER, now)
        return 0

    def to_guest(self, frame: Frame, now: float) -> Change:
        """An admitted frame of the host's side, which may be an answer."""
        if frame.kind != IPV4 or not frame.udp_end:
            return Change.NONE
        if frame.source_port != SERVER_PORT and frame.destination_port != CLIENT_PORT:
            return Change.NONE
        if not (self._is_answer_faithful(frame) if self.faithful else self._may_be_answer(frame)):
            return Change.NONE
        answer = parse_dhcp(frame.datagram())
        if answer is None or not (self.faithful or self._is_for_guest(answer, now)):
            return Change.NONE
        return self._take(answer, now)

    # -- what the guest says

    def _is_about_itself(self, request: DhcpMessage, now: float) -> bool:
        """Whether the address that the guest says it has is its own, as far as we know of one."""
        said, leased = request.ciaddr, self.binding.leased
        return leased is None or said == leased or not any(said) or self.binding.holds(said, now)

    def _give_back(self, request: DhcpMessage, kind: int, now: float) -> int:
        """RFC 2131 4.4.4, 4.4.6 and table 5: RELEASE names its address in `ciaddr`, DECLINE in option 50."""
        given = request.ciaddr if kind == RELEASE else request.options.get(DhcpOption.REQUESTED_ADDRESS)
        if given is None or given != self.binding.leased or self._awaited.has_any(now):
            return DHCP_SPOOF
        if kind == DECLINE and not self._declined.knows(given, now, DECLINED_SECONDS):
            return DHCP_STARVATION
        self.binding.clear()
        return 0

    def _ask(self, request: DhcpMessage, rapid: bool, now: float) -> int:
        """A request that may be answered with a lease."""
        if not self._awaited.begin((request.xid, rapid), now):
            return DHCP_STARVATION
        seconds = request.options.get(DhcpOption.LEASE_TIME)
        if seconds is not None:
            self.binding.shorten(float(int.from_bytes(seconds, "big")), now)
        return 0

    # -- what the guest is told

    def _may_be_answer(self, frame: Frame) -> bool:
        """From a server, to the guest or to all; the rest is in the message."""
        if frame.topic != SERVER or frame.copy(frame.ip.source_at, 4) not in self.binding.servers:
            return False
        to = frame.copy(frame.at, 6)
        return to == self.binding.mac or to == b"\xff" * 6

    def _is_answer_faithful(self, frame: Frame) -> bool:
        from_gateway = frame.copy(frame.ip.source_at, 4) in self.binding.gateways
        return from_gateway and frame.copy(frame.at, 6) == self.binding.mac

    def _is_for_guest(self, answer: DhcpMessage, now: float) -> bool:
        if answer.op != BOOTREPLY or answer.htype != 1 or answer.hlen != 6 or answer.chaddr[:6] != self.binding.mac:
            return False
        server = answer.options.get(DhcpOption.SERVER_IDENTIFIER)
        if server is not None and server not in self.binding.servers:
            return False
        return self._awaited.has((answer.xid, False), now) or self._awaited.has((answer.xid, True), now)

    def _take(self, answer: DhcpMessage, now: float) -> Change:
        kind = _kind(answer)
        if kind == OFFER:
            self._awaited.forget((answer.xid, True))
        if kind == NAK:
            self._answered(answer, now)
            self.binding.clear()
            return Change.WITHDRAWN
        seconds = answer.options.get(DhcpOption.LEASE_TIME, b"")
        if kind != ACK or len(seconds) != 4 or (not self.faithful and not any(answer.yiaddr)):
            return Change.NONE
        self._answered(answer, now)
        self._lease_seconds = float(int.from_bytes(seconds, "big"))
        before = self.binding.leased
        resolvers = answer.options.get(DhcpOption.DNS, b"")
        dns = [resolvers[at : at + 4] for at in range(0, len(resolvers) - 3, 4)]
        self.binding.lease(answer.yiaddr, self._lease_seconds, now, dns)
        return Change.RENEWED if before == answer.yiaddr else Change.LEASED

    def _answered(self, answer: DhcpMessage, now: float) -> None:
        """Of the REQUEST, if there is one."""
        self._awaited.answered((answer.xid, not self._awaited.has((answer.xid, False), now)))


def _is_ambiguous(data: bytes) -> bool:
    """Whether a message that can be parsed says twice or in an odd length what decides it, may say more in fields that
    are not read by all, or says what only relays may.
    """
    seen: set[int] = set()
    at = FIXED_LENGTH + 4
    while at + 1 < len(data) and data[at] != END:
        code = data[at]
        if code == PAD:
            at += 1
            continue
        if code in NOT_OF_CLIENTS or code in seen:
            return True
        if code in DECISIVE:
            seen.add(code)
            if DECISIVE[code] not in (None, data[at + 1]):
                return True
        at += 2 + data[at + 1]
    return False


def _kind(message: DhcpMessage) -> int:
    """The message type, 0 for BOOTP and what has none."""
    kind = message.options.get(DhcpOption.MESSAGE_TYPE, b"")
    return kind[0] if len(kind) == 1 else 0
