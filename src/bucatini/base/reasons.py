"""Why a frame, packet or datagram ended here: one closed list for counters, captures and `explain`.

A malformed or unwanted frame is a value and never an exception (see `errors`): the code that ends it names one
member, which is counted and, when a capture runs, written beside the frame as its comment. Numbers index `Counters`,
are dense, and are private to one run; the stable thing is the `label`, which users meet in captures, summaries and
metrics.

Does not: count what went well (links and flows keep their own bytes and frames), nor say which rule denied
(`FlowRefused` does).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self

__all__ = ["Counters", "DropReason", "describe"]


class DropReason(IntEnum):
    """Closed set of reasons, in the order in which a frame meets them. `NONE` is 0 so that `if reason:` reads well."""

    description: str
    """One sentence fragment for people."""

    def __new__(cls, number: int, description: str) -> Self:
        """A member is its number and carries its sentence."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.description = description
        return member

    @property
    def label(self) -> str:
        """Stable short name: the member's name in lower case with hyphens, such as `flow-table-full`."""
        return self._name_.lower().replace("_", "-")

    NONE = 0, "not dropped"

    # Ethernet and the link's own header
    TRUNCATED = 1, "shorter than its own headers or length fields say"
    OVERSIZE = 2, "larger than the link or the stack takes"
    OFFLOAD = 3, "its virtio-net header asks for an offload that was not granted or contradicts the frame"
    FOREIGN_MAC = 4, "its destination MAC is neither the gateway's nor a group we serve"
    FOREIGN_SOURCE_MAC = 5, "its source MAC is not the guest's own"
    VLAN = 6, "tagged for a VLAN (802.1Q); the link has none"
    ETHERTYPE = 7, "neither ARP, IPv4 nor IPv6"
    FAMILY_OFF = 8, "its address family is switched off"

    # Internet layer
    IP_HEADER = 9, "bad IP version or header length"
    IP_LENGTH = 10, "the IP length field disagrees with the frame"
    IP_CHECKSUM = 11, "wrong IPv4 header checksum"
    IP_OPTION = 12, "malformed or too many IP options or extension headers"
    SOURCE_ROUTE = 13, "asks for source routing, which is refused (RFC 5095, RFC 7126)"
    OPTION_REFUSED = 14, "an IP option or extension header that the isolation filter does not let pass"
    HOP_LIMIT = 15, "time to live or hop limit is zero"
    SOURCE_UNSPECIFIED = 16, "its source is the unspecified address"
    SOURCE_LOOPBACK = 17, "its source is a loopback address"
    SOURCE_MULTICAST = 18, "its source is a multicast or broadcast address"
    SOURCE_NOT_GUEST = 19, "its source is an address the guest may not use"
    LEASE_EXPIRED = 20, "its source is an address whose lease has run out"
    DESTINATION_UNUSABLE = 21, "its destination is the unspecified address, loopback, or the guest itself"
    MULTICAST = 22, "its destination is a group or broadcast address that nothing here serves"
    FRAGMENT_REFUSED = 23, "a fragment, and reassembly does not apply to it"
    FRAGMENT_MALFORMED = 24, "a fragment with an impossible offset or length"
    FRAGMENT_OVERLAP = 25, "a fragment that overlaps another (RFC 5722)"
    FRAGMENT_TIMEOUT = 26, "the other fragments of its packet did not come in time"
    FRAGMENT_TOO_MANY = 27, "too many packets or bytes wait for reassembly"

    # Transport headers
    PROTOCOL = 28, "an IP protocol that is not translated"
    L4_CHECKSUM = 29, "wrong TCP, UDP or ICMP checksum"
    TCP_HEADER = 30, "malformed TCP header or impossible flags"
    UDP_HEADER = 31, "malformed UDP header"
    ICMP_HEADER = 32, "malformed ICMP or ICMPv6 message"
    PORT_ZERO = 33, "source or destination port is zero"

    # What a guest may not say about the link (guard)
    ARP_SPOOF = 34, "ARP in which the guest claims a MAC or IPv4 address that is not its own"
    ND_SPOOF = 35, "neighbour discovery in which the guest claims a MAC or IPv6 address that is not its own"
    ROGUE_RA = 36, "a router advertisement, or another message of routers, from a guest"
    ROGUE_REDIRECT = 37, "an ICMP or ICMPv6 redirect from a guest"
    ROGUE_QUERIER = 38, "a group membership query, or another message of multicast routers, from a guest"
    ROGUE_DHCP = 39, "a message of a DHCP server or relay from who is none"
    DHCP_SPOOF = 40, "a DHCP request in another client's name, or too short to tell"
    DHCP_STARVATION = 41, "DHCP requests under too many client identifiers"

    # What the gateway itself answers
    ARP_MALFORMED = 42, "malformed ARP packet"
    ARP_NOT_OURS = 43, "ARP that asks for nothing we answer"
    NDP_MALFORMED = 44, "malformed or off-link neighbour discovery message (RFC 4861 section 7.1)"
    NDP_NOT_OURS = 45, "neighbour discovery that asks for nothing we answer"
    ICMP_TYPE = 46, "an ICMP or ICMPv6 type that is not relayed"
    ICMP_RATE = 47, "an ICMP error not sent because too many were sent just before"
    DNS_MALFORMED = 48, "not a DNS query"
    DNS_TOO_MANY = 49, "too many DNS queries wait for an answer"

    # Flows
    NO_FLOW = 50, "belongs to no flow and cannot start one"
    OUT_OF_WINDOW = 51, "a TCP segment outside the receive window"
    BAD_STATE = 52, "a TCP segment that means nothing in the state of its flow"
    POLICY_DENIED = 53, "refused by policy"
    FLOW_TABLE_FULL = 54, "the flow table is full; old flows are kept"
    SOCKETS_EXHAUSTED = 55, "the host gives us no more sockets or ports"
    HOST_SEND_FAILED = 56, "the host's socket refused the datagram"
    HOST_BUFFER_FULL = 57, "the host's socket has no room for the datagram"

    # Towards the guest
    PEER_UNEXPECTED = 58, "came from a peer this flow does not talk to"
    EXCEEDS_MTU = 59, "a datagram for the guest that its MTU cannot carry"
    LINK_FULL = 60, "the link takes no more frames at the moment"
    LINK_WRITE_FAILED = 61, "writing to the link failed"

    SERVICE_OFF = 62, "asks for a service that is switched off, or that has no answer to this"

    RING_ADDRESS = 63, "a descriptor of the guest's driver points outside the guest's memory"
    RING_CHAIN = 64, "a chain of descriptors that loops, is too long, or has the wrong direction"
    RING_BROKEN = 65, "the driver claims more than a ring holds; that ring rests until it is set up anew"

    BUG = 66, "an error of ours, reported once on standard error; the flow it struck was ended"


def describe(reason: DropReason) -> str:
    """Label and sentence, as `vlan: tagged for a VLAN (802.1Q); the link has none`."""
    return f"{reason.label}: {reason.description}"


class Counters:
    """How often each reason struck: one Python integer per reason, monotonic, never reset.

    The hot path may write `counters.values[reason] += 1` itself; `values` is never replaced, so it can be bound once.
    """

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: list[int] = [0] * len(DropReason)

    def drop(self, reason: DropReason, times: int = 1) -> None:
        """Count `reason`, which must not be `NONE` (that slot stays 0)."""
        self.values[reason] += times

    def add(self, other: Counters) -> None:
        """Add what another guest's frames met."""
        self.values[:] = map(sum, zip(self.values, other.values, strict=True))

    def __getitem__(self, reason: DropReason) -> int:
        return self.values[reason]

    @property
    def total(self) -> int:
        """Sum over all reasons."""
        return sum(self.values)

    def snapshot(self, *, zeros: bool = False) -> dict[str, int]:
        """Counts by label in the order of the enum; those never struck only with `zeros`."""
        return {reason.label: self.values[reason] for reason in DropReason if reason and (zeros or self.values[reason])}
