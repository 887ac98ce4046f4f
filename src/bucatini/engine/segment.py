"""Several guests on one segment, each with a translator of its own, that reach each other only where a rule joins them.

There is no switch in the middle that learns and floods. What a guest sends is judged by its own translator, and first
of all by the `Member` here (`Ingress.neighbours`), behind the isolation filter: by then MAC and source address are the
guest's own. Only what is meant for another member, by its addresses, is taken out; no other way leads from one member
to another.

| what a guest sends | what becomes of it |
|---|---|
| ARP, NS for an address of a member that a rule joins it with | we answer with that member's MAC address |
| ARP, NS for any other address of the segment | silence |
| to a member's MAC and IP address | delivered, if the rules permit; else refused, or dropped where none joins the two |
| to the gateway's MAC and an address of the segment | the same, routed; refused as policy refuses, whoever has it |
| to a group | judged as with one guest: answered by us, never handed on |

**Whose what is.** A MAC address is the member's that is bound to it (`Translator.binding`), and no two have the same:
`claim` refuses the second. An IPv4 address is whose lease it is at this instant (`leases`). Of IPv6 each member has a
/64 of its own, so that it can make addresses in it as it likes. The link-local address that a MAC makes is that
member's; of any other the first who is seen with it, and nobody else may use it.

**Who may begin what** is said by the rules in force (`link_rules`): from one member to another, one protocol or any,
all ports or some. They open the way back for what was begun (`conversations`), and for ICMP errors about it, and
nothing else. Fragments cannot be told apart by ports, so they pass where everything may be begun, and are refused
elsewhere.

`change` puts others in their place, as a whole, between two packets: all answers below are read off the table of grants
that it makes. Conversations that may still be begun lose nothing, all others end with it, both ways.

The name `NAME.internal` of a member is answered to whom a rule lets begin something with it, with its addresses of now.

Whoever is refused hears it as from policy, at once, when it went by the gateway or to a member that a rule joins it
with. By the gateway an address that is nobody's is refused like one that is somebody else's. Only a TCP segment that
could be an answer to what we forgot when we were restarted is dropped without a word: its beginner's next one revives
it.

Does not: flood, or relay multicast between members.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from bucatini.base.address import Endpoint, link_local_of
from bucatini.base.events import FlowRefused, Refusal
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS
from bucatini.engine.conversations import Conversations, Said, read
from bucatini.engine.handover import hand_over
from bucatini.engine.identity import NOBODY
from bucatini.engine.link_rules import ANY, PROTOCOLS, LinkRule, joined
from bucatini.services.arp import ArpSettings, answer_arp
from bucatini.services.dns import HostNames
from bucatini.services.ndp import NdpSettings, answer_ndp
from bucatini.stack.classify import ARP, FRAGMENT, ICMP, Packet
from bucatini.wire.arp import REQUEST, parse_arp

if TYPE_CHECKING:
    from bucatini.engine.build import Translator
    from bucatini.engine.leases import LeaseKeeper, Tenant
    from bucatini.guard.binding import Binding

__all__ = ["Member", "MemberNames", "Segment"]

GO_ON = -1
"""The frame is for the translator."""
ETHERNET = 14
NEIGHBOR_SOLICITATION = 135
ZONE = b"internal"
RULE = "segment"
"""The name under which refusals are told."""
ALL_PORTS = ((0, 65535),)

FOREIGN_MAC = int(DropReason.FOREIGN_MAC)
ARP_NOT_OURS = int(DropReason.ARP_NOT_OURS)
NDP_NOT_OURS = int(DropReason.NDP_NOT_OURS)
POLICY_DENIED = int(DropReason.POLICY_DENIED)
NO_FLOW = int(DropReason.NO_FLOW)
FLOW_TABLE_FULL = int(DropReason.FLOW_TABLE_FULL)
SOURCE_NOT_GUEST = int(DropReason.SOURCE_NOT_GUEST)
FRAGMENT_REFUSED = int(DropReason.FRAGMENT_REFUSED)


class _Grant:
    """What one member may begin with another."""

    def __init__(self, rules: Iterable[LinkRule]) -> None:
        ranges: dict[str, list[tuple[int, int]]] = {protocol: [] for protocol in PROTOCOLS}
        self.everything = False
        for rule in rules:
            self.everything |= rule.protocol == ANY
            for protocol in PROTOCOLS if rule.protocol == ANY else (rule.protocol,):
                ranges[protocol] += rule.ports or ALL_PORTS
        self._edges = {protocol: _edges(each) for protocol, each in ranges.items()}

    def permits(self, protocol: str, port: int) -> bool:
        """Of an echo the port is 0."""
        return bool(bisect(self._edges[protocol], port) & 1)


def _edges(ranges: Iterable[tuple[int, int]]) -> list[int]:
    """Where ports begin to be among the ranges, and where they end to, in turn."""
    return [edge for first, last in joined(ranges) for edge in (first, last + 1)]


class Segment:
    """The members and what joins them. `network` is the IPv4 network, packed and prefix length; None without IPv4.
    `say` hears lines about what is refused for good.
    """

    def __init__(
        self,
        network: tuple[bytes, int] | None,
        keeper: LeaseKeeper | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.members: list[Member] = []
        self.rules: tuple[LinkRule, ...] = ()
        """Those in force."""
        self.keeper = keeper
        self.stolen = 0
        """Frames from a MAC address that is another member's."""
        self.say = say
        self._tenants: dict[Tenant, Member] = {}
        self._prefixes: dict[bytes, Member] = {}
        """By the upper half of their IPv6 addresses."""
        self._shift, self._base = 0, -1
        if network is not None:
            self._shift = 32 - network[1]
            self._base = int.from_bytes(network[0], "big") >> self._shift

    def join(self, translator: Translator, name: str, mac: bytes | None = None) -> Member:
        """Another member. `mac` is its MAC address where that is known; no other member may use it then."""
        member = Member(self, translator, name, mac)
        self.members.append(member)
        if self.keeper is not None:
            member.tenant = self.keeper.join(translator, name)
            self._tenants[member.tenant] = member
        prefix = translator.ingress.settings.guest_ipv6
        if prefix is not None:
            self._prefixes[prefix[:8]] = member
        translator.tenancy = member
        translator.ingress.neighbours = member.frame
        member.name_others()
        if hasattr(translator.link, "borrow"):
            translator.link.borrow = False  # what is judged must be what is handed on
        return member

    def change(self, rules: Iterable[LinkRule]) -> None:
        """Put `rules`, all between members, in force, and no others. What they would not let begin ends."""
        self.rules = tuple(dict.fromkeys(rules))
        named = {member.name: member for member in self.members}
        by_pair: dict[Member, dict[Member, list[LinkRule]]] = {member: {} for member in self.members}
        for rule in self.rules:
            by_pair[named[rule.source]].setdefault(named[rule.target], []).append(rule)
        for member, by_other in by_pair.items():
            member.grants = {other: _Grant(each) for other, each in by_other.items()}
            member.begun.keep(member.may_begin)

    # -- whose what is

    def has(self, address: bytes) -> bool:
        """Whether an address is one of the segment, somebody's or nobody's. Link-local ones are told apart by MAC."""
        if len(address) == 4:
            return int.from_bytes(address, "big") >> self._shift == self._base
        return address[:8] in self._prefixes

    def owner(self, address: bytes) -> Member | None:
        """Who has an address now, a link-local one included."""
        if len(address) == 4:
            tenant = None if self.keeper is None else self.keeper.owners.get(address)
            return None if tenant is None else self._tenants.get(tenant)
        if address[:8] in self._prefixes:
            return self._prefixes[address[:8]]
        if address[0] != 0xFE or address[1] & 0xC0 != 0x80:
            return None
        for member in self.members:
            if member.mac is not None and link_local_of(member.mac) == address:
                return member
        seen = [each for each in self.members if each.translator.addresses.link_local == address and each.mac]
        return seen[0] if len(seen) == 1 else None

    def at(self, mac: bytes) -> Member | None:
        """Who is bound to a MAC address."""
        return next((member for member in self.members if member.mac == mac), None)

    def is_free(self, mac: bytes, member: Member) -> bool:
        """Whether no other member has the MAC address, or will have it."""
        return all(mac not in (each.mac, each.reserved) for each in self.members if each is not member)


class Member:
    """One guest of a segment. Is its translator's `Tenancy`."""

    def __init__(self, segment: Segment, translator: Translator, name: str, mac: bytes | None) -> None:
        self.segment = segment
        self.translator = translator
        self.name = name
        self.reserved = mac
        self.tenant: Tenant | None = None
        self.grants: dict[Member, _Grant] = {}
        """Whom it may begin something with, and what."""
        self.begun = Conversations()
        self._last = mac
        self._refused: bytes | None = None

    @property
    def mac(self) -> bytes | None:
        """Which the guest is bound to; None: it has not shown one."""
        binding = self.translator.binding
        return None if binding is None or binding.mac == NOBODY else binding.mac

    # -- engine.build.Tenancy

    def claim(self, mac: bytes) -> bool:
        """Nobody may have another member's MAC address."""
        if self.segment.is_free(mac, self):
            return True
        self.segment.stolen += 1
        if mac != self._refused and self.segment.say is not None:
            self.segment.say(f"{self.name}: MAC address {mac.hex(':')} is another guest's; its frames are dropped")
        self._refused = mac
        return False

    def bound(self, binding: Binding) -> None:
        """The guest has the MAC address of `binding`, and is another one if it had another before."""
        if binding.mac not in (NOBODY, self._last):
            self.begun.forget()
            self._last = binding.mac
        self._refused = None
        if self.tenant is not None:
            self.tenant.bound(binding)

    def ended(self) -> None:
        """The guest is gone for good."""
        self.begun.forget()
        if self.tenant is not None:
            self.tenant.ended()

    def name_others(self) -> None:
        """The guest may ask for those it may begin something with by name; again after `Translator.reconfigure`."""
        forwarder = self.translator.forwarder
        forwarder.names = MemberNames(self, (*forwarder.names.ipv4, *forwarder.names.ipv6))

    @property
    def addresses(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Where the guest is reached now, by family: its lease, and what it was seen with of IPv6."""
        lease = None if self.tenant is None else self.tenant.lease
        six = self.translator.addresses.seen(16)
        return () if lease is None else (lease.address,), () if six is None else (six,)

    # -- what the guest sends

    def frame(self, packet: Packet, now: float) -> int:
        """`stack.ingress.Ingress.neighbours`."""
        if packet.kind == ARP:
            return self._arp(packet)
        if packet.ip.version == 6 and self._is_anothers(packet):
            return SOURCE_NOT_GUEST
        if packet.kind == ICMP and packet.ip.version == 6 and packet.icmp.type == NEIGHBOR_SOLICITATION:
            return self._solicitation(packet)
        mac, destination = self._destination_mac(packet), packet.destination()
        if mac != packet.gateway_mac and not mac[0] & 1:
            other = self.segment.at(mac)
            if other is None or self.segment.owner(destination) is not other:
                return FOREIGN_MAC
            reason = self._judge(other, packet, now)
            if reason == POLICY_DENIED and self._is_joined_with(other):
                self._refuse(packet)
            return reason or hand_over(packet, other.translator, mac, packet.source_mac())
        if not self.segment.has(destination) or self._is_near(destination):
            return GO_ON
        if mac[0] & 1:
            return POLICY_DENIED  # to a group's MAC, to get around the gateway
        return self._routed(packet, destination, now)

    def _routed(self, packet: Packet, destination: bytes, now: float) -> int:
        """To another member by way of the gateway."""
        other = self.segment.owner(destination)
        reason = POLICY_DENIED if other is None or other.mac is None else self._judge(other, packet, now)
        if other is not None and other.mac is not None and not reason:
            return hand_over(packet, other.translator, other.mac, packet.gateway_mac)
        if reason == POLICY_DENIED:
            self._refuse(packet)
        return reason

    def _refuse(self, packet: Packet) -> None:
        """Tell the guest, and whoever watches, as of any destination that policy refuses."""
        said = read(packet)
        ingress = self.translator.ingress
        if said is None or not said.begins:
            return
        guest, peer = Endpoint(said.key[1], said.key[2]), Endpoint(said.key[3], said.key[4])
        ingress.out.refused(FlowRefused(said.protocol, EGRESS, guest, peer, RULE, Refusal.POLICY))
        if said.protocol == "tcp":
            ingress.out.transmit_frame(ingress.gateway.reset_for(packet))
        else:
            ingress.out.transmit_error(ingress.gateway.prohibited(packet))

    def _judge(self, other: Member, packet: Packet, now: float) -> int:
        """0, or why this packet may not reach `other`."""
        if packet.kind == FRAGMENT:
            return 0 if other in self.grants and self.grants[other].everything else FRAGMENT_REFUSED
        said = read(packet)
        if said is None:
            return NO_FLOW
        if said.quoted is not None:
            known = other.begun.has(said.quoted, now) or self.begun.has(_reversed(said), now)
            return 0 if known else NO_FLOW
        if not said.is_syn and other.begun.has(said.back, now):
            other.begun.answered(said, now)
            return 0
        if not said.begins and not self.begun.has(said.key, now):
            return NO_FLOW
        if not self.may_begin(other, said.protocol, said.port):
            may_answer = said.protocol == "tcp" and not said.is_syn and other.may_begin(self, "tcp", said.back[4])
            return NO_FLOW if may_answer else POLICY_DENIED
        return 0 if self.begun.go_on(said, other, now) else FLOW_TABLE_FULL

    def may_begin(self, other: Member, protocol: str, port: int) -> bool:
        """Whether a rule permits a conversation with `other`, to this port of it."""
        grant = self.grants.get(other)
        return grant is not None and grant.permits(protocol, port)

    def _is_joined_with(self, other: Member) -> bool:
        return other in self.grants or self in other.grants

    # -- who is at which MAC address

    def _arp(self, packet: Packet) -> int:
        otherwise = FOREIGN_MAC if self._is_foreign(packet) else GO_ON
        request = parse_arp(packet.memory, packet.ethernet_at + ETHERNET, packet.end)
        if request is None or request.operation != REQUEST:
            return otherwise
        target = request.target_address
        if not self.segment.has(target) or self._is_near(target) or target == request.sender_address:
            return otherwise
        other = self.segment.owner(target)
        if other is None or other.mac is None or not self._is_joined_with(other):
            return ARP_NOT_OURS
        return self._answer(answer_arp(_frame(packet), ArpSettings(other.mac, frozenset())), ARP_NOT_OURS)

    def _solicitation(self, packet: Packet) -> int:
        otherwise = FOREIGN_MAC if self._is_foreign(packet) else GO_ON
        if packet.ip.end - packet.icmp.payload_at < 16:
            return otherwise
        target = packet.copy(packet.icmp.payload_at, 16)
        other = self.segment.owner(target)
        if other is None or other is self or self._is_near(target):
            return otherwise
        if other.mac is None or not self._is_joined_with(other):
            return NDP_NOT_OURS
        return self._answer(answer_ndp(_frame(packet), NdpSettings(other.mac, frozenset(), router=False)), NDP_NOT_OURS)

    def _answer(self, reply: bytes | None, otherwise: int) -> int:
        if reply is None:
            return otherwise
        self.translator.sink.transmit_frame(reply)
        return 0

    def _is_near(self, address: bytes) -> bool:
        """Whether it is the guest's own, or ours on its link."""
        settings = self.translator.ingress.settings
        return (
            address in settings.own
            or address in settings.gateways
            or address in settings.translation.host_loopback
            or address in settings.resolvers
            or self.segment.owner(address) is self
        )

    def _is_anothers(self, packet: Packet) -> bool:
        """Whether the source is a link-local address that another member has: the binding cannot tell."""
        if packet.memory[packet.ip.source_at] != 0xFE:
            return False
        return self.segment.owner(packet.source()) not in (None, self)

    def _destination_mac(self, packet: Packet) -> bytes:
        return packet.copy(packet.ethernet_at, 6)

    def _is_foreign(self, packet: Packet) -> bool:
        mac = self._destination_mac(packet)
        return mac != packet.gateway_mac and not mac[0] & 1


class MemberNames(HostNames):
    """The names of the host and of the members that one of them may begin something with."""

    def __init__(self, member: Member, host: Iterable[bytes]) -> None:
        HostNames.__init__(self, host)
        self._member = member

    def match(self, labels: tuple[bytes, ...]) -> tuple[bytes, ...] | None:
        """See `HostNames`; a member's name stands for itself alone."""
        return labels if self._other(labels) is not None else HostNames.match(self, labels)

    def lacks(self, labels: tuple[bytes, ...]) -> bool:
        """`X.internal` is a member that this one may reach, or nobody, and below a member's name there is nothing; what
        else is in that zone (ICANN's, for private use) the host's resolvers may know.
        """
        if len(labels) < 2 or labels[-1] != ZONE:
            return False
        return len(labels) == 2 or any(each.name.encode() == labels[-2] for each in self._member.segment.members)

    def addresses(self, name: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """See `HostNames`."""
        other = self._other(name)
        return HostNames.addresses(self, name) if other is None else other.addresses

    def _other(self, labels: tuple[bytes, ...]) -> Member | None:
        if len(labels) != 2 or labels[1] != ZONE:
            return None
        return next((each for each in self._member.grants if each.name.encode() == labels[0]), None)


def _reversed(said: Said) -> tuple[str, bytes, int, bytes, int]:
    """The conversation whose answer an ICMP error quotes, as the sender of the error began it."""
    assert said.quoted is not None
    protocol, source, port, destination, to = said.quoted
    return protocol, destination, to, source, port


def _frame(packet: Packet) -> memoryview:
    return packet.memory[packet.ethernet_at : packet.end]
